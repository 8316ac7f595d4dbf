"""The holders of badges: a CSV file of badge_id,user_id, reloaded when it changes."""

from __future__ import annotations

import csv
import logging
import threading
from pathlib import Path

from agent.errors import AgentError
from agent.log.message_ids import MessageId, fields
from agent.swipe import LONGEST_NAME

_log = logging.getLogger(__name__)

UNKNOWN = "UNKNOWN"  # the column USER_ID is NOT NULL
_HEADER = ["badge_id", "user_id"]


class CardholdersError(AgentError):
    """The file cannot be used; the holders of the last valid one stay in use."""

    exit_code = 78


def read(path: Path) -> dict[str, str]:
    """The user id of each badge id. Raises CardholdersError, which names line and fault but no badge."""
    holders: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            if [name.strip() for name in next(lines, [])] != _HEADER:
                raise CardholdersError(f"{path}: line 1 must be: badge_id,user_id")
            for line in lines:
                if line:
                    badge, user = _pair(line, path, lines.line_num)
                    holders[badge] = user
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 CSV text"
        raise CardholdersError(
            f"{path}: {reason}", hint="[cardholders] file names a CSV file with the header badge_id,user_id"
        ) from error
    return holders


def _pair(line: list[str], path: Path, number: int) -> tuple[str, str]:
    badge, user = (cell.strip() for cell in line) if len(line) == len(_HEADER) else ("", "")
    if not 1 <= len(badge) <= LONGEST_NAME or not 1 <= len(user) <= LONGEST_NAME:
        raise CardholdersError(
            f"{path}: line {number} must be badge_id,user_id, each of 1 to {LONGEST_NAME} characters"
        )
    return badge, user


class Cardholders:
    """The user ids of badges; thread-safe."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        # Held while the file is read: other readers wait for its content instead of using the old one.
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._holders: dict[str, str] = {}

    def user_of(self, badge_id: str) -> str:
        """The badge's user id, `UNKNOWN` where the file names none. Never raises."""
        with self._lock:
            if self._path is not None:
                self._refresh(self._path)
            return self._holders.get(badge_id, UNKNOWN)

    def _refresh(self, path: Path) -> None:
        try:
            stat = path.stat()
            state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = (0, 0, 0)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._holders = read(path)
        except CardholdersError as error:
            _log.warning(
                "cardholders: %s; the holders known before stay in use",
                error,
                extra=fields(MessageId.CARDHOLDERS_UNREADABLE, error=error),
            )
        else:
            _log.info("cardholders: %d badges read from %s", len(self._holders), path)
