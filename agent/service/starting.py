"""A start that takes long, because it has much to mend, is not a start that hangs."""

from __future__ import annotations

import os
import threading
import time
from typing import Self

from agent.service import notify

_LOOK_EVERY_S = 10.0
# Asked for at every look: several looks may pass in which a bad card lets nothing happen.
_MORE_S = 90.0
# Whoever reads through an outbox uses more of the processor than this between two looks.
_WORK_S = 0.02


class Starting:
    """While it lasts, the service manager is asked for more time whenever this process visibly works."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if os.environ.get("NOTIFY_SOCKET"):
            threading.Thread(target=self._ask, name="starting", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _ask(self) -> None:
        before = time.process_time()
        while not self._over.wait(_LOOK_EVERY_S):
            used = time.process_time()
            if used - before >= _WORK_S:
                notify.tell(
                    f"EXTEND_TIMEOUT_USEC={int(_MORE_S * 1e6)}", "STATUS=the outbox is opened, or mended"
                )
            before = used
