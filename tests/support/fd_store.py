"""Keeps a port open between two sessions, as a service manager does between two processes."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class MemoryFdStore:
    """Duplicates each descriptor, as sending it to another process does."""

    def __init__(self) -> None:
        self.fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def take(self) -> int | None:
        return os.dup(self.fd) if self.fd is not None else None

    def put(self, fd: int) -> None:
        self.clear()
        self.fd = os.dup(fd)

    def clear(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
