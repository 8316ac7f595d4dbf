"""The emulator's settings and their validation."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ConfigError

_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the command line; times in seconds."""

    public_key_files: tuple[Path, ...]
    account: str
    user: str
    state_dir: Path
    host: str
    port: int
    database: str
    schema: str
    pipes: tuple[str, ...]
    commit_lag_seconds: float
    scoped_token_seconds: float
    limits: bool
    events_pipes: tuple[str, ...] = ()
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None

    def __post_init__(self) -> None:
        if self.host != "localhost" and not _is_loopback(self.host):
            # The control interface has no authentication.
            raise ConfigError(
                f"the emulator listens on loopback only, not on {self.host}", hint="Use --host 127.0.0.1."
            )
        if len(self.public_key_files) > _SLOTS:
            raise ConfigError(
                f"a user has at most {_SLOTS} public keys", hint="Give --public-key twice at most."
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ConfigError("--tls-cert and --tls-key belong together", hint="Give both, or none for HTTP.")

    @property
    def url_host(self) -> str:
        """The host as written in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
