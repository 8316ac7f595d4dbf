#!/usr/bin/python3 -I
"""The command, for the package: `agent` is too common a name for the system's own module path."""

import sys

sys.path.insert(0, "/usr/share/badge-agent")

from agent.cli import main

sys.exit(main())
