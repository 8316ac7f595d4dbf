"""What must be right on the way to a host: its name, the route, its certificate."""

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


def look_up(name: str, url: SplitResult) -> Iterator[Finding]:
    """The address of a URL's host, or of the proxy on the way to it. Raises UnreachableError."""
    host = url.hostname or ""
    if is_loopback(host):
        yield Finding(name, "ok", f"{host} is this machine")
        return
    proxy = _proxy_for(url)
    if proxy:
        host = urlsplit(proxy).hostname or ""
    try:
        found = socket.getaddrinfo(host, url.port or _HTTPS_PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter from a name that IDNA cannot encode
        raise UnreachableError(
            f"no address for {host}: {getattr(error, 'strerror', None) or 'not a host name'}",
            hint=f"is the network up, and the account spelled right? getent hosts {host}; ip route",
        ) from error
    through = f"through the proxy {host}, " if proxy else f"{host} is "
    yield Finding(name, "ok", through + str(found[0][4][0]))


def look_at_certificate(name: str, url: SplitResult, ca_file: Path | None) -> Iterator[Finding]:
    """A URL's certificate, verified. Raises UnreachableError; ConfigError for a `ca_file` of no use."""
    if url.scheme == "http":
        _connect(url).close()
        yield Finding(name, "ok", f"plain HTTP, which never leaves this machine ({url.netloc})")
        return
    if _proxy_for(url):
        yield Finding(name, "ok", "left to the proxy's connection; the next step shows whether it holds")
        return
    context = ssl.create_default_context()
    if ca_file is not None:
        Http(ca_file=ca_file).close()  # tells better what is wrong with the file
        context.load_verify_locations(cafile=ca_file)
    days = _days_left(url, context)
    if days < _FEW_DAYS:
        text = f"the certificate of {url.hostname} ends in {days:.1f} days"
        yield Finding(name, "warning", text, "whoever runs that server, or the proxy before it, renews it")
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
        clock = "the cause is this machine's clock:" if early else "is the clock right?"
        raise UnreachableError(
            f"the certificate of {host} is not to be trusted: {error.verify_message}",
            hint=f"{clock} timedatectl\n"
            "is it a proxy that inspects TLS? [snowflake] ca_file names its authority\n"
            f"whose is it? openssl s_client -connect {host}:{port} </dev/null | openssl x509 -noout -issuer",
        ) from error
    except (OSError, ValueError) as error:  # the latter from a name that no certificate can hold
        raise UnreachableError(
            f"{host} port {port} answers, but not with TLS: {getattr(error, 'reason', None) or error}",
            hint=f"is [snowflake] url right, and is a captive portal in between? curl -v https://{host}:{port}/",
        ) from error
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400


def _connect(url: SplitResult) -> socket.socket:
    host, port = url.hostname or "", url.port or (_HTTP_PORT if url.scheme == "http" else _HTTPS_PORT)
    try:
        return socket.create_connection((host, port), timeout=_CONNECT_S)
    except OSError as error:
        hint = f"does a firewall keep it? curl -v {url.scheme}://{host}:{port}/"
        if is_loopback(host):
            hint = "is the emulator running, on this port? badge-agent emulator --help"
        raise UnreachableError(
            f"no connection to {host} port {port}: {error.strerror or 'no answer'}", hint=hint
        ) from error


def _proxy_for(url: SplitResult) -> str:
    """The proxy that the agent's requests take, from the environment; empty for none."""
    host = url.hostname or ""
    return "" if proxy_bypass(host) else getproxies().get(url.scheme, "")
