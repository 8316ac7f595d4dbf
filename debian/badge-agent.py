#!/usr/bin/python3 -I
"""Launcher of the packaged command; `agent` is too common a name for the system's module path."""

import sys

sys.path.insert(0, "/usr/share/badge-agent")

from agent.cli import main

sys.exit(main())
