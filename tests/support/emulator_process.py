"""The emulator as a real process, for tests that need a Snowflake server."""

from __future__ import annotations

import datetime as dt
import ipaddress
import signal
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.preloaded import Forked

ACCOUNT = "MYORG-MYACCOUNT"
USER = "SFE_INGEST_USER"
DATABASE = "SNOWFLAKE_EXAMPLE"
SCHEMA = "RAW_INGESTION"
PIPE = "SFE_BADGE_EVENTS_PIPE"
TABLE = "RAW_BADGE_EVENTS"

_END_SECONDS = 60


_keys: defaultdict[str, rsa.RSAPrivateKey] = defaultdict(
    lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
)


def make_key(name: str = "user") -> rsa.RSAPrivateKey:
    """One RSA key per name and test run: making one takes a tenth of a second."""
    return _keys[name]


def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_certificate(
    directory: Path, *, begins_in_hours: int = -1, has_key_identifiers: bool = True
) -> tuple[Path, Path, Path]:
    """Files of a private CA and of a certificate for 127.0.0.1: (CA, certificate, its key)."""
    ca_key, server_key = make_key("ca"), make_key("server")
    ca_name = x509.Name.from_rfc4514_string("CN=test CA")
    ca = _certificate(
        ca_name,
        ca_name,
        ca_key,
        ca_key,
        x509.BasicConstraints(ca=True, path_length=None),
        has_key_identifiers=has_key_identifiers,
    )
    server = _certificate(
        x509.Name.from_rfc4514_string("CN=127.0.0.1"),
        ca_name,
        server_key,
        ca_key,
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]),
        begins_in_hours,
        has_key_identifiers=has_key_identifiers,
    )
    paths = directory / "ca.pem", directory / "server.pem", directory / "server.key"
    for path, pem in zip(
        paths,
        (ca.public_bytes(Encoding.PEM), server.public_bytes(Encoding.PEM), private_pem(server_key)),
        strict=True,
    ):
        path.write_bytes(pem)
    return paths


_USES = {
    is_authority: x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
    for is_authority in (False, True)
}


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    issuer_key: rsa.RSAPrivateKey,
    extension: x509.ExtensionType,
    begins_in_hours: int = -1,
    *,
    has_key_identifiers: bool = True,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(hours=begins_in_hours))
        .not_valid_after(now + dt.timedelta(hours=max(begins_in_hours, 0) + 24))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        # Python 3.13 verifies strictly: a CA certificate needs the key usage keyCertSign.
        .add_extension(_USES[isinstance(extension, x509.BasicConstraints)], critical=True)
    )
    if has_key_identifiers:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own_id, critical=False).add_extension(issuer_id, critical=False)
    return builder.sign(issuer_key, SHA256())


def is_append_of_swipes(seen: Mapping[str, Any]) -> bool:
    """Whether a request that the emulator saw is an append of swipes, and not of door events."""
    return seen["endpoint"] == "append" and not str(seen["channel"]).endswith("-events")


class EmulatorProcess:
    """`badge-agent emulator` on a free port of this machine, with its state under `directory`.

    It makes a key pair (`private_key_file`) unless the caller brings the public key. A restart keeps
    port and state. `options` are further words for the command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        public_key_file: Path | None = None,
        commit_lag_seconds: float = 0.05,
        tls: tuple[Path, Path] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.state_dir = directory / "state"
        self.private_key_file = directory / "rsa_key.p8"
        self._public_key_file = public_key_file or directory / "rsa_key.pub"
        if public_key_file is None:
            directory.mkdir(parents=True, exist_ok=True)
            self.private_key_file.touch(mode=0o600)
            self.private_key_file.write_bytes(private_pem(make_key()))
            self._public_key_file.write_bytes(public_pem(make_key()))
        self._options = [f"--commit-lag-seconds={commit_lag_seconds}", *options]
        if tls is not None:
            self._options += [f"--tls-cert={tls[0]}", f"--tls-key={tls[1]}"]
        self._port = 0
        self._process: Forked | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self.url = ""
        self.control_url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()
        self._session.close()

    def start(self) -> None:
        """Start; on return it listens."""
        process = self._process = Forked(
            [
                *("emulator", f"--port={self._port}", f"--public-key={self._public_key_file}"),
                *(f"--account={ACCOUNT}", f"--user={USER}", f"--state-dir={self.state_dir}", *self._options),
            ]
        )
        lines = [process.stdout.readline().strip() for _ in range(2)]
        assert lines[0].startswith("listening on "), f"the emulator did not start: exit {self._ended()}"
        self.url = lines[0].removeprefix("listening on ")
        self.control_url = lines[1].removeprefix("control on ")
        self._port = int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._ended()

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same port and state."""
        if self._process is not None:
            self.stop()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def fault(self, do: str, **keys: object) -> list[dict[str, Any]]:
        """Add a fault rule. Returns the active rules."""
        reply = self._session.post(
            f"{self.control_url}/_emulator/faults", json={"do": do, **keys}, timeout=10
        )
        assert reply.status_code == 200, reply.text
        rules: list[dict[str, Any]] = reply.json()["faults"]
        return rules

    def alter_user(self, slot: str, line: str | None) -> None:
        """ALTER USER ... SET a public key as its line says, or UNSET it."""
        if line is None:
            self.fault("unset_key", slot=slot)
        else:
            self.fault("set_key", slot=slot, public_key=line)

    def state(self) -> dict[str, Any]:
        """The emulator's reported state."""
        state: dict[str, Any] = self._session.get(f"{self.control_url}/_emulator/state", timeout=10).json()
        return state

    def channel_state(self, channel: str) -> Mapping[str, Any]:
        """The reported state of one channel."""
        return next(item for item in self.state()["channels"] if item["channel"] == channel)

    def rows(self, table: str = TABLE) -> list[dict[str, Any]]:
        """The rows of a table or view, in the order they were committed."""
        with closing(sqlite3.connect(self.state_dir / "snowflake.db")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608 - our names

    def _ended(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        try:
            return process.wait(timeout=_END_SECONDS)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            raise
        finally:
            process.close()
