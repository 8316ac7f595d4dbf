"""A simulated disk that loses what was not flushed: replays a recording up to a power cut."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

SECTOR = 512
_HEAD = struct.Struct("=cQQQ")


class Record(NamedTuple):
    """One line of a recording; see recorder.c for the kinds."""

    kind: str
    inode: int
    at: int
    bytes: bytes


def read_recording(path: Path) -> Iterator[Record]:
    """Every record of a recording, oldest first."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        kind, inode, at, length = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        yield Record(kind.decode(), inode, at, content[place : place + length])
        place += length


@dataclass(frozen=True)
class Piece:
    """Bytes of one sector, or (`bytes` is None) a new size, on the way to a file."""

    at: int
    bytes: bytes | None


@dataclass(eq=False)
class File:
    """One file: its content on the disk, and the writes that are only in the cache, oldest first."""

    flushed: bytearray = field(default_factory=bytearray)
    cached: list[Piece] = field(default_factory=list)

    def write(self, at: int, content: bytes) -> None:
        """Write to the cache, sector by sector: a disk writes a sector atomically and nothing larger."""
        end = at + len(content)
        while at < end:
            upto = min(end, (at // SECTOR + 1) * SECTOR)
            self.cached.append(Piece(at, content[len(content) - (end - at) : len(content) - (end - upto)]))
            at = upto

    def flush(self) -> None:
        """Flush: move everything from the cache to the disk."""
        self.flushed = self.with_only(self.cached)
        self.cached = []

    def with_only(self, survivors: list[Piece]) -> bytearray:
        """The content if only these writes reached the disk."""
        content = bytearray(self.flushed)
        for piece in survivors:
            if piece.bytes is None:
                del content[piece.at :]
                content.extend(bytes(piece.at - len(content)))
            else:
                content.extend(bytes(max(0, piece.at - len(content))))
                content[piece.at : piece.at + len(piece.bytes)] = piece.bytes
        return content


class NameChange(NamedTuple):
    """A change of a directory entry: the name refers to another file, or (None) is removed."""

    changes: tuple[tuple[str, File | None], ...]


class Disk:
    """A directory on a disk. Names are changed in order, as a journal does, but late, until flushed."""

    def __init__(self, content: dict[str, tuple[int, bytes]]) -> None:
        """What is on the disk at the beginning: by name, the inode and the bytes."""
        self._flushed = {name: File(bytearray(data)) for name, (_, data) in content.items()}
        self._names = dict(self._flushed)
        self._name_changes: list[NameChange] = []
        self._by_inode = {inode: self._flushed[name] for name, (inode, _) in content.items()}

    def apply(self, record: Record) -> None:
        """One more change by the recorded process."""
        match record.kind:
            case "C":
                # A new file, even where the inode served another one before.
                self._by_inode[record.inode] = file = File()
                self._rename(((record.bytes.decode(), file),))
            case "R":
                old, new = record.bytes.decode().split("/")
                self._rename(((new, self._names[old]), (old, None)))
            case "U":
                self._rename(((record.bytes.decode(), None),))
            case "W":
                self._by_inode[record.inode].write(record.at, record.bytes)
            case "T":
                self._by_inode[record.inode].cached.append(Piece(record.at, None))
            case "S":
                self._by_inode[record.inode].flush()
            case "D":
                self._flushed, self._name_changes = dict(self._names), []

    def _rename(self, changes: tuple[tuple[str, File | None], ...]) -> None:
        self._name_changes.append(NameChange(changes))
        _change(self._names, changes)

    def after_cut(self, damage: Damage, random: Random) -> dict[str, bytes]:
        """What the directory holds when the power comes back."""
        names = dict(self._flushed)
        for change in damage.of_names(self._name_changes, random):
            _change(names, change.changes)
        files = set(names.values())
        survivors = damage.of_files([file for file in self._names.values() if file in files], random)
        return {name: bytes(survivors.get(file, file.flushed)) for name, file in names.items()}


def _change(names: dict[str, File], changes: tuple[tuple[str, File | None], ...]) -> None:
    for name, file in changes:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class Damage(NamedTuple):
    """One way in which a cache can be lost."""

    name: str
    of_names: Callable[[list[NameChange], Random], list[NameChange]]
    of_files: Callable[[list[File], Random], dict[File, bytearray]]


def _none_of_names(_changes: list[NameChange], _random: Random) -> list[NameChange]:
    return []


def _all_names(changes: list[NameChange], _random: Random) -> list[NameChange]:
    return changes


def _first_names(changes: list[NameChange], random: Random) -> list[NameChange]:
    return changes[: random.randint(0, len(changes))]


def _no_bytes(_files: list[File], _random: Random) -> dict[File, bytearray]:
    return {}


def _all_bytes(files: list[File], _random: Random) -> dict[File, bytearray]:
    return {file: file.with_only(file.cached) for file in files}


def _first_bytes(files: list[File], random: Random) -> dict[File, bytearray]:
    return {file: file.with_only(file.cached[: random.randint(0, len(file.cached))]) for file in files}


def _some_bytes(files: list[File], random: Random) -> dict[File, bytearray]:
    share = random.random()
    return {
        file: file.with_only([piece for piece in file.cached if random.random() < share]) for file in files
    }


def _some_bytes_and_noise(files: list[File], random: Random) -> dict[File, bytearray]:
    """The sector that was being written is random bytes, also where it held older data."""
    survivors = _some_bytes(files, random)
    in_flight = [(file, piece) for file in files for piece in file.cached if piece.bytes is not None]
    if in_flight:
        file, piece = random.choice(in_flight)
        content = survivors[file]
        start = piece.at // SECTOR * SECTOR
        content.extend(bytes(max(0, start - len(content))))
        content[start : start + SECTOR] = random.randbytes(SECTOR)
    return survivors


NOTHING = Damage("nothing unflushed", _none_of_names, _no_bytes)
EVERYTHING = Damage("everything", _all_names, _all_bytes)
PREFIX = Damage("what was written first", _first_names, _first_bytes)
SUBSET = Damage("some sectors, torn", _first_names, _some_bytes)
NOISE = Damage("some sectors, one of them noise", _first_names, _some_bytes_and_noise)
DAMAGES = (NOTHING, EVERYTHING, PREFIX, SUBSET, NOISE)
