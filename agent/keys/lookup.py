"""Where the agent's private key comes from, for the agent itself and for the commands that help it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.atomic_file import replace_file
from agent.clock.reading import ClockReading
from agent.errors import KeyFileError
from agent.keys import systemd_creds
from agent.keys.keypair import KeyPair, load_private_key, parse_private_key, pem
from agent.settings import Settings

# What rotation hands to the running agent: systemd renews a credential at the next start only. The runtime
# directory goes when the service stops, and with it this file.
HANDED_OVER = "private_key"

OLD_AFTER = timedelta(days=90)
ROTATE = "sudo badge-agent key rotate"


def load_key(settings: Settings) -> KeyPair:
    """The agent's key. Raises KeyFileError or NotPermittedError."""
    return find_key(settings)[1]


def find_key(settings: Settings) -> tuple[Path, KeyPair]:
    """The configured file's key, else the one handed over, else the credential's; and where it lies.

    Raises KeyFileError or NotPermittedError.
    """
    snowflake = settings.snowflake
    if snowflake.private_key_file is not None:
        path = snowflake.private_key_file
        return path, load_private_key(path, snowflake.private_key_passphrase_file)
    handed_over = settings.agent.runtime_dir / HANDED_OVER
    passed_on = systemd_creds.passed_on()
    if is_handed_over(settings.agent.runtime_dir):
        return handed_over, load_private_key(handed_over)
    if passed_on is not None and _is_there(passed_on):
        return passed_on, load_private_key(passed_on)
    stored = systemd_creds.find() if passed_on is None else None
    if stored is None:
        raise KeyFileError(
            "no private key: [snowflake] private_key_file is not set, and no key is stored for the service",
            hint="sudo badge-agent setup makes one; for an agent run by hand: badge-agent key generate",
        )
    return stored.path, parse_private_key(systemd_creds.read(stored), stored.path)


def hand_over(runtime_dir: Path, key: KeyPair) -> None:
    """Give the running agent this key, in memory and for it alone. Raises OSError."""
    owner = runtime_dir.stat()
    replace_file(runtime_dir / HANDED_OVER, pem(key), mode=0o600, owner=(owner.st_uid, owner.st_gid))


def is_handed_over(runtime_dir: Path) -> bool:
    """Whether the running agent was given a key that is not the one it was started with."""
    return _is_there(runtime_dir / HANDED_OVER)


def age_of(created_at: datetime | None, now: ClockReading) -> timedelta | None:
    """How old a key of that birth date is; None where nobody knows, or where the clock cannot tell."""
    if created_at is None or not now.trusted:
        return None
    return datetime.fromtimestamp(now.wall_us / 1e6, UTC) - created_at


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False
