"""A client of the streaming API as plain HTTP requests."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, make_key

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_numbers = itertools.count(1)


def row(**changes: object) -> dict[str, object]:
    """A good row; a change to None leaves the field out."""
    fields: dict[str, object] = {
        "badge_id": "123-25519",
        "user_id": "UNKNOWN",
        "zone_id": "ZONE-LOBBY-1",
        "reader_id": "RDR-101",
        "event_timestamp": "2026-11-20T10:00:00.123456Z",
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def ndjson(rows: Sequence[object]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in rows)


def fingerprint(key: RSAPrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def key_pair_jwt(
    claims: Mapping[str, object] | None = None,
    *,
    key: RSAPrivateKey | None = None,
    unit: float = 1,
    signed_by: RSAPrivateKey | None = None,
) -> str:
    """A valid JWT, with changes; times in the given unit of seconds; a claim of None is omitted."""
    key = key or make_key()
    now = time.time()
    usual: dict[str, object] = {
        "iss": f"{ACCOUNT}.{USER}.{fingerprint(key)}",
        "sub": f"{ACCOUNT}.{USER}",
        "iat": int(now / unit),
        "exp": int((now + 3540) / unit),
    }
    chosen = {name: value for name, value in (usual | dict(claims or {})).items() if value is not None}
    return jwt.encode(chosen, signed_by or key, algorithm="RS256")


class EmulatorRig:
    """One client with a channel of its own; every call gives the raw reply."""

    def __init__(self, url: str, *, channel: str = "", pipe: str = PIPE, verify: str | bool = True) -> None:
        self.url = url
        self.channel = channel or f"door-{next(_numbers)}"
        self.pipe = pipe
        self.session = requests.Session()
        weakref.finalize(self, self.session.close)  # urllib3 does so itself only from 2.0 on
        self.session.trust_env = False
        self.session.verify = verify
        self.session.headers["Accept"] = "application/json"
        self.continuation_token = ""
        self._scoped = ""

    @property
    def pipe_path(self) -> str:
        return f"/v2/streaming/databases/{DATABASE}/schemas/{SCHEMA}/pipes/{self.pipe}"

    @property
    def channel_path(self) -> str:
        return f"{self.pipe_path}/channels/{quote(self.channel, safe='')}"

    @property
    def rows_path(self) -> str:
        return self.channel_path.replace("/v2/streaming/", "/v2/streaming/data/", 1) + "/rows"

    @property
    def scoped(self) -> str:
        """A scoped token, requested once."""
        if not self._scoped:
            reply = self.exchange(key_pair_jwt())
            assert reply.status_code == 200, reply.text
            self._scoped = reply.text
        return self._scoped

    def call(self, method: str, path: str, *, token: str = "", **request: Any) -> requests.Response:  # noqa: ANN401 - as requests takes it
        headers = {"Authorization": f"Bearer {token or self.scoped}"} | request.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, timeout=30, **request)

    def exchange(
        self, token: str, *, scope: str = "127.0.0.1", grant_type: str = GRANT_TYPE
    ) -> requests.Response:
        form = {"grant_type": grant_type, "scope": scope}
        return self.call("POST", "/oauth/token", token=token, data=form)

    def open(self, **body: object) -> requests.Response:
        reply = self.call("PUT", self.channel_path, json=body)
        if reply.status_code == 200:
            self.continuation_token = reply.json()["next_continuation_token"]
        return reply

    def opened(self) -> EmulatorRig:
        reply = self.open()
        assert reply.status_code == 200, reply.text
        return self

    def append(
        self,
        rows: Sequence[object] | bytes,
        offset_token: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> requests.Response:
        """Append with the current continuation token, unless the query names another."""
        parameters = {"continuationToken": self.continuation_token, "requestId": str(uuid.uuid4())} | query
        if offset_token is not None:
            parameters |= {"startOffsetToken": offset_token, "endOffsetToken": offset_token}
        body = rows if isinstance(rows, bytes) else ndjson(rows)
        sent = {"Content-Type": "application/x-ndjson"} | dict(headers or {})
        reply = self.call("POST", self.rows_path, params=parameters, data=body, headers=sent)
        if reply.status_code == 200:
            self.continuation_token = reply.json()["next_continuation_token"]
        return reply

    def bulk_status(self, *names: str) -> dict[str, dict[str, Any]]:
        reply = self.call("POST", f"{self.pipe_path}:bulk-channel-status", json={"channel_names": names})
        assert reply.status_code == 200, reply.text
        statuses: dict[str, dict[str, Any]] = reply.json()["channel_statuses"]
        return statuses

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.bulk_status(self.channel)[self.channel]
        return status

    def committed(self, offset_token: str) -> dict[str, Any]:
        """The status once this offset token is committed."""
        status: dict[str, Any] = wait_for(
            self.status, lambda status: status["last_committed_offset_token"] == offset_token
        )
        return status

    def drop(self, **body: object) -> requests.Response:
        return self.call("DELETE", self.channel_path, json=body)


def wait_for(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - any value
    """Poll until the condition holds; fail after 10 s."""
    for _ in range(1000):
        found = look()
        if good(found):
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain, last seen: {found}")


def error_code(reply: requests.Response) -> tuple[int, str]:
    """Status and code of an error body, which must have both spellings of the code and a message."""
    body = reply.json()
    assert body["code"] == body["error_code"]
    assert body["message"]
    return reply.status_code, body["code"]
