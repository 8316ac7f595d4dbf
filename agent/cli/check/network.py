"""Checks of the connection to a host: proxy, name resolution, TCP, certificate, as the agent connects."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from urllib.parse import SplitResult

from agent.cli.console import Finding
from agent.errors import UnreachableError
from agent.snowpipe.account_url import is_loopback
from agent.snowpipe.connection import Dialer, Limits, TlsSocket, address_of, via

_CONNECT_S = 30.0
_FEW_DAYS = 7
# What curl and other programs read, so that they may reach Snowflake where the agent does not.
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def check_proxy(dialer: Dialer) -> Iterator[Finding]:
    """Report the configured proxy, and variables of the environment that have no effect."""
    names = ", ".join(name for name in _PROXY_VARIABLES if os.environ.get(name))
    if dialer.proxy is not None:
        yield Finding("proxy", "ok", f"[snowflake] proxy = {dialer.proxy.url}")
    elif names:
        yield Finding(
            "proxy",
            "warning",
            f"{names} is set, but the agent ignores the environment; no proxy is configured",
            'if a proxy is needed here: [snowflake] proxy = "http://HOST:PORT"',
        )


def resolve_host(name: str, url: SplitResult, dialer: Dialer) -> Iterator[Finding]:
    """Resolve a URL's host, or the proxy used for it. Raises UnreachableError."""
    host, port = address_of(url)
    if is_loopback(host):
        yield Finding(name, "ok", f"{host} is this machine")
        return
    proxy = dialer.proxy_for(url)
    if proxy:
        host, port = proxy.address
    try:
        found = dialer.resolve(host, port, Limits(time.monotonic() + _CONNECT_S))
    except UnreachableError as error:
        error.hint = _name_hint(host, is_proxy=proxy is not None) or error.hint
        raise
    through = f"through the proxy {host}, " if proxy else f"{host} is "
    yield Finding(name, "ok", through + str(found[0][3][0]))


def _name_hint(host: str, *, is_proxy: bool) -> str:
    if is_proxy:
        return f"check the spelling of [snowflake] proxy: getent hosts {host}"
    if ".privatelink." in host:
        return (
            "PrivateLink needs a private DNS record for this host, the ingest host's is one of its own; "
            "SYSTEM$ALLOWLIST_PRIVATELINK() may not list it"
        )
    return ""


def check_certificate(name: str, url: SplitResult, dialer: Dialer) -> Iterator[Finding]:
    """Connect as the agent does and verify the certificate. Raises UnreachableError or ConfigError."""
    dialer.context()  # raises ConfigError for an unusable ca_file
    try:
        connection = dialer.connect(url, Limits(time.monotonic() + _CONNECT_S))
    except UnreachableError as error:
        if is_loopback(url.hostname or "") and dialer.proxy is None and url.scheme == "http":
            error.hint = "check that the emulator runs on this port: badge-agent emulator --help"
        raise
    with connection:
        if not isinstance(connection, TlsSocket):
            yield Finding(name, "ok", f"plain HTTP, which never leaves this machine ({url.netloc})")
            return
        certificate = connection.getpeercert() or {}
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400
    if days < _FEW_DAYS:
        text = f"the certificate of {url.hostname} ends in {days:.1f} days"
        yield Finding(name, "warning", text, "ask the operator of the server or the proxy to renew it")
    else:
        through = via(dialer.proxy_for(url))
        text = f"certificate of {url.hostname}{through} verified, valid for {days:.0f} more days"
        yield Finding(name, "ok", text)
