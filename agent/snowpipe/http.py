"""One HTTP session to one account; the only module that imports requests."""

from __future__ import annotations

import platform
import ssl
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from agent import __version__
from agent.errors import ConfigError, OutcomeUnknownError, SnowpipeError, UnreachableError
from agent.snowpipe.wire import Reply, Request

_CONNECT_S = 10.0
_READ_S = 30.0
# A server that sends its answer slowly must not block the uploader without limit.
_ANSWER_S = 60.0
# The sum of the timeouts of one request.
LONGEST_REQUEST_S = _CONNECT_S + _READ_S + _ANSWER_S
# The largest answer of the API is a channel status of about 1 kB.
_ANSWER_BYTES = 1 << 20

_HEADERS = {
    "User-Agent": f"badge-agent/{__version__} ({platform.system()} {platform.machine()})",
    "Accept": "application/json",  # without it the service answers 391902
    "Accept-Encoding": "identity",
}


class Http:
    """Sends requests over kept-alive connections. Not thread-safe."""

    def __init__(self, *, ca_file: Path | None) -> None:
        """`ca_file` has additional certificate authorities. Raises ConfigError if it cannot be used."""
        self._session = requests.Session()
        self._session.headers.update(_HEADERS)
        # urllib3 does so itself from 2.0 on; 1.26 leaves open connections to the garbage collector.
        weakref.finalize(self, self._session.close).atexit = False
        if ca_file is not None:
            self._session.mount("https://", _ExtraAuthorities(ca_file))

    def send(self, base_url: str, request: Request, *, token: str, token_type: str) -> Reply:
        """One try. Raises UnreachableError if nothing was sent, OutcomeUnknownError if no full answer came.

        An answer is returned whatever its status. Redirects are not followed: a token must not be sent
        to a host that the account did not name.
        """
        with _translated(request, base_url):
            response = self._session.request(
                request.method,
                base_url + request.path,
                params=list(request.query),
                headers={**request.headers, "X-Snowflake-Authorization-Token-Type": token_type},
                data=request.body,
                auth=_Bearer(token),
                timeout=(_CONNECT_S, _READ_S),
                allow_redirects=False,
                stream=True,
            )
            with response:
                return Reply(
                    response.status_code,
                    {name.lower(): value for name, value in response.headers.items()},
                    _read(response, request),
                )

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Bearer(requests.auth.AuthBase):
    """Sets the header through `auth`, so that a .netrc file of the machine cannot replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _ExtraAuthorities(HTTPAdapter):
    """Verifies servers against the system's authorities and those of one more file."""

    def __init__(self, ca_file: Path) -> None:
        # urllib3's own context: depending on its release, OpenSSL or urllib3 compares the host name.
        self._context = create_urllib3_context()
        self._context.load_default_certs()
        try:
            self._context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"snowflake.ca_file: {ca_file}: {error.strerror or 'holds no certificate'}",
                hint="name a PEM file with the certificate authority's certificate",
            ) from error
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - requests' own signature
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)


def _read(response: requests.Response, request: Request) -> bytes:
    deadline = time.monotonic() + _ANSWER_S
    body = b""
    for chunk in response.iter_content(65_536):
        body += chunk
        if len(body) > _ANSWER_BYTES or time.monotonic() > deadline:
            raise OutcomeUnknownError(f"{request.what}: the answer does not end", hint=_NETWORK_HINT)
    # urllib3 1.26 treats a broken connection as the end of the answer: half a token would be accepted.
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(body) < int(length) and "Content-Encoding" not in response.headers:
        raise OutcomeUnknownError(f"{request.what}: the answer was cut short", hint=_NETWORK_HINT)
    return body


@contextmanager
def _translated(request: Request, base_url: str) -> Iterator[None]:
    """Translate requests' exceptions into ours, by whether anything can have been sent."""
    try:
        yield
    except SnowpipeError:
        raise
    except requests.exceptions.SSLError as error:
        # A refused certificate ends the handshake; any other TLS fault may occur after the request was sent.
        unsent = any(words in str(error) for words in _UNTRUSTED)
        raise (UnreachableError if unsent else OutcomeUnknownError)(
            f"{request.what}: TLS with {base_url} failed: {_tls_reason(error)}", hint=_tls_hint(str(error))
        ) from error
    except requests.exceptions.ConnectTimeout as error:
        raise UnreachableError(
            f"{request.what}: no connection to {base_url} within {_CONNECT_S:.0f} s", hint=_NETWORK_HINT
        ) from error
    except requests.exceptions.ConnectionError as error:
        if _never_connected(error):
            raise UnreachableError(
                f"{request.what}: cannot connect to {base_url}", hint=_NETWORK_HINT
            ) from error
        raise OutcomeUnknownError(f"{request.what}: the connection broke", hint=_NETWORK_HINT) from error
    except requests.exceptions.Timeout as error:
        raise OutcomeUnknownError(
            f"{request.what}: no answer within {_READ_S:.0f} s", hint=_NETWORK_HINT
        ) from error
    except requests.exceptions.RequestException as error:
        raise OutcomeUnknownError(f"{request.what}: {type(error).__name__}", hint=_NETWORK_HINT) from error
    except OSError as error:  # what requests raises if it cannot find the CA bundle
        raise UnreachableError(
            f"{request.what}: {error}",
            hint="is there a file at $REQUESTS_CA_BUNDLE or $CURL_CA_BUNDLE? else install ca-certificates",
        ) from error


_NETWORK_HINT = "rows wait in the outbox; check the network at the door, then: badge-agent check"


def _never_connected(error: requests.exceptions.ConnectionError) -> bool:
    """True if urllib3 failed before it was connected (refused, no route, unknown name)."""
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", cause), NewConnectionError)


_UNTRUSTED = ("certificate verify failed", "hostname '")  # in OpenSSL's words, in those of urllib3 1.26


def _tls_reason(error: requests.exceptions.SSLError) -> str:
    text = str(error)
    start = max(map(text.find, _UNTRUSTED))
    return text[start : start + 120].partition(" (_ssl")[0] if start >= 0 else type(error).__name__


def _tls_hint(text: str) -> str:
    if "not yet valid" in text:
        # A certificate is issued before a server uses it, so this machine's clock is slow.
        return (
            f"the cause is this machine's clock, which shows {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: "
            "set it: sudo timedatectl set-ntp true; timedatectl"
        )
    if "has expired" in text:
        return f"is this machine's clock right? It shows {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; timedatectl"
    return (
        "is the host name right, and does a proxy replace certificates? [snowflake] ca_file adds an authority"
    )
