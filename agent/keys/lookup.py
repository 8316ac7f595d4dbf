"""Finds the agent's private key, for the agent and for the commands."""

from __future__ import annotations

from pathlib import Path

from agent.atomic_file import replace_file
from agent.errors import KeyFileError, NotPermittedError
from agent.guarded_file import read_guarded
from agent.keys import systemd_creds
from agent.keys.keypair import KeyPair, load_private_key, parse_private_key, pem
from agent.keys.secret_file import LARGEST_FILE_BYTES
from agent.settings import Settings

# Written by a rotation for the running agent: systemd updates a credential only at the next start. The file
# is removed with the runtime directory when the service stops.
HANDED_OVER = "private_key"


def load_key(settings: Settings) -> KeyPair:
    """The agent's key. Raises KeyFileError or NotPermittedError."""
    return find_key(settings)[1]


def find_key(settings: Settings) -> tuple[Path, KeyPair]:
    """The key and its path: of the configured file, else handed over by a rotation, else the credential.

    Raises KeyFileError or NotPermittedError.
    """
    snowflake = settings.snowflake
    if snowflake.private_key_file is not None:
        path = snowflake.private_key_file
        return path, load_private_key(path, snowflake.private_key_passphrase_file)
    handed_over = settings.agent.runtime_dir / HANDED_OVER
    credential = systemd_creds.credential_path()
    if is_handed_over(settings.agent.runtime_dir):
        return handed_over, _read_handed_over(handed_over)
    if credential is not None and _exists(credential):
        if systemd_creds.is_absent(credential):
            raise KeyFileError(
                "the service has no private key: none is stored, or this machine cannot decrypt it",
                hint="systemctl status badge-agent-key; if the SD card was moved or "
                "/var/lib/systemd/credential.secret was lost, make a new key: "
                "sudo rm /etc/credstore.encrypted/badge-agent.*; sudo badge-agent setup",
            )
        return credential, load_private_key(credential)
    stored = systemd_creds.find() if credential is None else None
    if stored is None:
        raise KeyFileError(
            "no private key: [snowflake] private_key_file is not set, and no key is stored for the service",
            hint="make one: sudo badge-agent setup; for an agent started by hand: badge-agent key generate",
        )
    return stored.path, parse_private_key(systemd_creds.read(stored), stored.path)


def hand_over(runtime_dir: Path, key: KeyPair) -> None:
    """Write the key for the running agent, in its runtime directory (tmpfs), mode 0600. Raises OSError.

    To be called as the agent's user.
    """
    replace_file(runtime_dir / HANDED_OVER, pem(key), mode=0o600)


def is_handed_over(runtime_dir: Path) -> bool:
    """Whether a rotation gave the running agent another key than the one it started with."""
    return _exists(runtime_dir / HANDED_OVER)


def _read_handed_over(path: Path) -> KeyPair:
    try:
        return parse_private_key(read_guarded(path, LARGEST_FILE_BYTES), path)
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: {error.strerror}", hint="run the same command with sudo, or as the agent's user"
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"{path}: {error.strerror}", hint="sudo systemctl restart badge-agent makes the directory again"
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False
