"""`python -m agent` is `badge-agent`."""

import sys

from agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
