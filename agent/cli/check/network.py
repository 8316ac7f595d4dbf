"""Checks of the connection to a host: name resolution, TCP, certificate."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from agent.cli.console import Finding
from agent.errors import UnreachableError
from agent.snowpipe.account_url import is_loopback
from agent.snowpipe.http import Http

_CONNECT_S = 10.0
_FEW_DAYS = 7
_HTTP_PORT, _HTTPS_PORT = 80, 443


def resolve_host(name: str, url: SplitResult) -> Iterator[Finding]:
    """Resolve a URL's host, or the proxy used for it. Raises UnreachableError."""
    host = url.hostname or ""
    if is_loopback(host):
        yield Finding(name, "ok", f"{host} is this machine")
        return
    proxy = _proxy_for(url)
    if proxy:
        host = urlsplit(proxy).hostname or ""
    try:
        found = socket.getaddrinfo(host, url.port or _HTTPS_PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot encode
        raise UnreachableError(
            f"no address for {host}: {getattr(error, 'strerror', None) or 'not a host name'}",
            hint=f"check the network and the spelling of the account: getent hosts {host}; ip route",
        ) from error
    through = f"through the proxy {host}, " if proxy else f"{host} is "
    yield Finding(name, "ok", through + str(found[0][4][0]))


def check_certificate(name: str, url: SplitResult, ca_file: Path | None) -> Iterator[Finding]:
    """Verify a URL's certificate. Raises UnreachableError; ConfigError for an unusable `ca_file`."""
    if url.scheme == "http":
        _connect(url).close()
        yield Finding(name, "ok", f"plain HTTP, which never leaves this machine ({url.netloc})")
        return
    if _proxy_for(url):
        yield Finding(name, "ok", "connected through the proxy; the next step verifies the certificate")
        return
    context = ssl.create_default_context()
    if ca_file is not None:
        Http(ca_file=ca_file).close()  # raises ConfigError with the exact problem
        context.load_verify_locations(cafile=ca_file)
    days = _days_left(url, context)
    if days < _FEW_DAYS:
        text = f"the certificate of {url.hostname} ends in {days:.1f} days"
        yield Finding(name, "warning", text, "ask the operator of the server or the proxy to renew it")
    else:
        text = f"certificate of {url.hostname} verified, valid for {days:.0f} more days"
        yield Finding(name, "ok", text)


def _days_left(url: SplitResult, context: ssl.SSLContext) -> float:
    host, port = url.hostname or "", url.port or _HTTPS_PORT
    connection = _connect(url)
    try:
        with connection, context.wrap_socket(connection, server_hostname=host) as secure:
            certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        early = "not yet valid" in error.verify_message
        clock = "set this machine's clock:" if early else "check the clock:"
        raise UnreachableError(
            f"the certificate of {host} cannot be verified: {error.verify_message}",
            hint=f"{clock} timedatectl\n"
            "with a proxy that inspects TLS, set [snowflake] ca_file to its authority\n"
            f"issuer: openssl s_client -connect {host}:{port} </dev/null | openssl x509 -noout -issuer",
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no certificate can contain
        raise UnreachableError(
            f"{host} port {port} answers, but not with TLS: {getattr(error, 'reason', None) or error}",
            hint=f"check [snowflake] url, and for a captive portal: curl -v https://{host}:{port}/",
        ) from error
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400


def _connect(url: SplitResult) -> socket.socket:
    host, port = url.hostname or "", url.port or (_HTTP_PORT if url.scheme == "http" else _HTTPS_PORT)
    try:
        return socket.create_connection((host, port), timeout=_CONNECT_S)
    except OSError as error:
        hint = f"check the firewall: curl -v {url.scheme}://{host}:{port}/"
        if is_loopback(host):
            hint = "check that the emulator runs on this port: badge-agent emulator --help"
        raise UnreachableError(
            f"no connection to {host} port {port}: {error.strerror or 'no answer'}", hint=hint
        ) from error


def _proxy_for(url: SplitResult) -> str:
    """The proxy of the agent's requests, from the environment; empty for none."""
    host = url.hostname or ""
    return "" if proxy_bypass(host) else getproxies().get(url.scheme, "")
