"""A badge reader on a pseudo-terminal, for the machine under test: it has nothing but Python.

Its standard input takes lines of hex; each becomes the bytes of one message on the line. Its standard output
says `ready`, then `sent` after each message.
"""

import grp
import os
import sys
import tty
from pathlib import Path

device = Path(sys.argv[1])
master, slave = os.openpty()
tty.setraw(slave)
# As udev leaves a serial port.
os.chown(os.ttyname(slave), 0, grp.getgrnam("dialout").gr_gid)
Path(os.ttyname(slave)).chmod(0o660)
device.parent.mkdir(parents=True, exist_ok=True)
device.unlink(missing_ok=True)
device.symlink_to(os.ttyname(slave))
os.write(1, b"ready\n")
for line in sys.stdin:
    os.write(master, bytes.fromhex(line))
    os.write(1, b"sent\n")
