"""The OSDP frames of tests/data: single ones with their meaning, and recorded sessions."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.support.paths import DATA


@dataclass(frozen=True)
class Vector:
    id: str
    direction: str
    data: bytes
    meaning: str


@cache
def vectors() -> tuple[Vector, ...]:
    with (DATA / "osdp-vectors.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Vector(row["id"], row["direction"], bytes.fromhex(row["hex"]), row["meaning"])
            for row in csv.DictReader(file)
        )


@dataclass(frozen=True)
class Frame:
    direction: str
    data: bytes
    meaning: str
    plain: bytes | None  # of an encrypted one


@dataclass(frozen=True)
class Recording:
    name: str
    addresses: tuple[int, ...]
    keys: dict[str, bytes]
    frames: tuple[Frame, ...]


@cache
def recordings() -> tuple[Recording, ...]:
    lines = (DATA / "osdp-sessions.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_recording(json.loads(line)) for line in lines)


def _recording(session: dict[str, Any]) -> Recording:
    return Recording(
        name=session["session"],
        addresses=tuple(device["address"] for device in session["pds"]),
        keys={name: bytes.fromhex(key) for name, key in session["keys"].items()},
        frames=tuple(
            Frame(
                each["dir"],
                bytes.fromhex(each["hex"]),
                each["meaning"],
                bytes.fromhex(each["plain"]) if "plain" in each else None,
            )
            for each in session["frames"]
        ),
    )
