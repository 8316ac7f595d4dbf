"""How many rows and bytes go into one append: from the settings, and learned from refusals."""

from __future__ import annotations

from agent.settings import UploaderSettings

MAX_ROWS = 20_000
# Several requests fit into one second's bytes, so that the byte rate can be used in full.
_BATCHES_PER_SECOND = 6
_BATCH_BYTES = 4_000_000  # uncompressed; bounds the memory, whatever the size of the backlog
# Never learn a smaller limit than this: no known proxy refuses requests of this size for good.
_LEAST_REQUEST_BYTES = 65_536


class RequestSize:
    """Limits of one request. `body_bytes` counts compressed bytes, `plain_bytes` uncompressed ones."""

    def __init__(self, settings: UploaderSettings) -> None:
        self.plain_bytes = min(settings.max_bytes_per_second // _BATCHES_PER_SECOND, _BATCH_BYTES)
        self.body_bytes = settings.max_request_bytes

    def was_too_large(self, body_bytes: int) -> None:
        """A body of this size was refused: a proxy allows less than Snowflake, and will do so again."""
        self.body_bytes = max(body_bytes // 2, _LEAST_REQUEST_BYTES)
