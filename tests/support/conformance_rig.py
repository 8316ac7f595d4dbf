"""Comparison of clients: an emulator over HTTPS, and the shapes of the requests it receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.emulator_process import EmulatorProcess

Vendor = Callable[..., Any]
Shape = dict[str, Any]


@dataclass(frozen=True)
class ConformanceRig:
    """An emulator, and the CA of its certificate."""

    emulator: EmulatorProcess
    ca_file: Path

    def seen(self, channel: str | None = None) -> list[dict[str, Any]]:
        """The requests in the order they came; only those for one channel, if it is named."""
        seen: list[dict[str, Any]] = self.emulator.state()["seen"]
        return [one for one in seen if channel is None or one["channel"] == channel]


def shapes(seen: Sequence[dict[str, Any]]) -> dict[str, Shape]:
    """Per endpoint: method, path, the names in the query in their order, the names of headers, media types.

    Headers are those of any of the requests. What is no endpoint of the emulator's is left out.
    """
    found: dict[str, Shape] = {}
    for one in seen:
        if one["endpoint"] is None:
            continue
        shape = found.setdefault(one["endpoint"], {"headers": []})
        shape |= {name: one[name] for name in ("method", "path", "query", "content_type", "content_encoding")}
        shape["headers"] = sorted({*shape["headers"], *one["headers"]})
    return found
