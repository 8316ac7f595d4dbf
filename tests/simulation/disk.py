"""The disk below the state directory: faults, room, and what a power cut leaves. Controls disk.c."""

from __future__ import annotations

import ctypes
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from agent.outbox.database import PAGE_BYTES
from tests.support.recorded_disk import DAMAGES, File, Piece

KINDS = "rwfoml"
_ALL = 2**60
_Each = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.c_longlong,
    ctypes.c_longlong,
    ctypes.c_void_p,
    ctypes.c_longlong,
    ctypes.c_void_p,
    ctypes.c_longlong,
    ctypes.c_int,
)


class Disk:
    """The one disk of this process, which has to run with the library of disk.c preloaded."""

    def __init__(self) -> None:
        self._library = library = ctypes.CDLL(None)
        library.disk_count.argtypes = library.disk_fired.argtypes = (ctypes.c_char,)
        library.disk_count.restype = library.disk_fired.restype = ctypes.c_longlong
        library.disk_slept_s.restype = ctypes.c_double
        library.disk_freeze_after.argtypes = library.disk_set_room.argtypes = (ctypes.c_longlong,)
        text, number = ctypes.c_char_p, ctypes.c_longlong
        library.disk_rule.argtypes = (text, text, text, number, number, number, number, ctypes.c_int)
        library.disk_unflushed.restype = ctypes.c_size_t
        self.may_fail = False  # since the last recover()
        self.has_room = True

    def use(self, directory: Path) -> None:
        """From now on the files of this directory are those that count; those of another are forgotten."""
        self._library.disk_use(str(directory).encode())

    def fail(
        self, kinds: str, code: int, *, begins: str = "", name: str = "*", skip: int = 0, count: int = -1,
        first: int = 0, last: int = _ALL,
    ) -> None:  # fmt: skip
        """Add a rule; see disk.c. `count` -1: until recover(). `begins`: of other kinds is the first one."""
        self.may_fail = True
        kinds_of_first = (begins or kinds).encode()
        self._library.disk_rule(kinds_of_first, kinds.encode(), name.encode(), skip, count, first, last, code)

    def write_back(self) -> None:
        """What was not flushed is on the medium: the kernel writes it half a minute later."""
        self._library.disk_write_back()

    @contextmanager
    def healthy(self) -> Iterator[None]:
        """Inside, nothing fails: for what only the simulation reads."""
        self._library.disk_pause(1)
        try:
            yield
        finally:
            self._library.disk_pause(0)

    def recover(self) -> None:
        """No operation fails, and there is room."""
        self.may_fail = False
        self._library.disk_clear_rules()
        self.set_room(-1)

    def set_room(self, size: int) -> None:
        """So many bytes are left for files to grow; -1: enough."""
        self.has_room = size < 0
        self._library.disk_set_room(size)

    def freeze_after(self, operations: int) -> None:
        """The process dies before the change of the disk that follows so many others; -1: it does not."""
        self._library.disk_freeze_after(operations)

    @property
    def is_frozen(self) -> bool:
        """Whether the process should be dead."""
        return bool(self._library.disk_is_frozen())

    @property
    def flushes(self) -> int:
        """How many there were."""
        return int(self._library.disk_count(b"f"))

    def slept_s(self) -> float:
        """For how long SQLite has waited for locks since the last call."""
        return float(self._library.disk_slept_s())

    def fired(self) -> Counter[str]:
        """Operations that failed, by kind; `n`: no room."""
        return Counter({kind: int(self._library.disk_fired(kind.encode())) for kind in (*KINDS, "n")})

    def copy(self, directory: Path, to: Path) -> None:
        """The files as another process finds them, without the index of the WAL, which SQLite makes again."""
        to.mkdir()
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.name.endswith("-shm"):
                shutil.copyfile(path, to / path.name)

    def cut_power(self, directory: Path, to: Path, draw: Random) -> str:
        """As copy(), but of what was not flushed only a part is there. Returns the kind of damage."""
        self.copy(directory, to)
        files: dict[str, File] = {}
        unflushed = list(self._unflushed())
        for name, at, size_before, old, new, is_lost in reversed(unflushed):
            if is_lost:
                continue
            path = to / name
            if name not in files:
                files[name] = File(bytearray(path.read_bytes() if path.exists() else b""))
            content = files[name].flushed
            del content[size_before:]
            content.extend(bytes(size_before - len(content)))
            content[at : at + len(old)] = old
            files[name].cached.insert(0, Piece(at, new))
        for name, at, _, old, new, is_lost in unflushed:
            if is_lost and new:
                path = to / name
                file = files.setdefault(name, File(bytearray(path.read_bytes() if path.exists() else b"")))
                end = min(at + len(new), len(file.flushed))
                file.flushed[at:end] = old.ljust(len(new), b"\0")[: max(0, end - at)]
        for file in files.values():
            pieces, file.cached = file.cached, []
            for piece in pieces:
                if piece.bytes is None:
                    file.cached.append(piece)
                else:
                    file.write(piece.at, piece.bytes)  # by sectors
        damage = draw.choice(DAMAGES)
        survivors = damage.of_files(list(files.values()), draw)
        for name, file in files.items():
            (to / name).write_bytes(survivors.get(file, file.flushed))
        return damage.name

    def _unflushed(self) -> Iterator[tuple[str, int, int, bytes, bytes | None, bool]]:
        found: list[tuple[str, int, int, bytes, bytes | None, bool]] = []

        def each(
            name: bytes,
            at: int,
            size_before: int,
            old: int,
            old_size: int,
            new: int,
            new_size: int,
            lost: int,
        ) -> None:
            content = None if new_size < 0 else ctypes.string_at(new, new_size)
            piece = name.decode(), at, size_before, ctypes.string_at(old, old_size), content, lost != 0
            found.append(piece)

        self._library.disk_unflushed(_Each(each))
        return iter(found)


def overwrite_page(path: Path, draw: Random) -> None:
    """Overwrite the begin of a page of a file, if there is one: how its rows are found, not the rows."""
    pages = path.stat().st_size // PAGE_BYTES if path.exists() else 0
    if pages:
        with path.open("r+b") as file:
            file.seek(draw.randrange(pages) * PAGE_BYTES)
            file.write(draw.choice((bytes, draw.randbytes))(draw.choice((8, 100))))


def flip_bits(path: Path, draw: Random, count: int) -> bool:
    """Flip so many bits of a file; False if there are none."""
    used = path.stat().st_size if path.exists() else 0
    if not used:
        return False
    with path.open("r+b") as file:
        for _ in range(count):
            at = draw.randrange(used)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << draw.randrange(8)]))
    return True
