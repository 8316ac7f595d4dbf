from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

from agent.service.inspector import Inspector
from tests.support.outbox_rig import opened


def test_a_stop_at_the_beginning_of_a_step_ends_it(tmp_path: Path) -> None:
    """The step clears the event that the stop has set."""
    with closing(opened(tmp_path)) as outbox:
        inspector = Inspector(outbox, recovered=lambda: None)

        def busy(is_busy: bool) -> None:  # noqa: FBT001 - the signature of Busy
            if is_busy:
                inspector.stop()

        thread = threading.Thread(target=inspector.run, args=(busy,), daemon=True)
        thread.start()
        thread.join(10.0)
        ended = not thread.is_alive()
        outbox.needs_inspection.set()
        thread.join(10.0)

    assert ended
