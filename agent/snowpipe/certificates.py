"""TLS certificates: the one context for every connection, and what is wrong with a certificate."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import ConfigError


def context(ca_file: Path | None) -> ssl.SSLContext:
    """Python's own settings, which verify strictly from 3.13 on; `ca_file` adds authorities.

    Raises ConfigError if `ca_file` cannot be used.
    """
    made = ssl.create_default_context()
    made.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            made.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            why = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError(
                f"snowflake.ca_file: {ca_file}: {why}",
                hint="name a PEM file with the certificate authority's certificate",
            ) from error
    return made


def reason(error: Exception) -> str:
    """Why a handshake failed, in OpenSSL's words for certificates, which contain no text of the peer."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate cannot be verified: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS ({error.reason or type(error).__name__})"
        case TimeoutError():
            return "no answer"
        case OSError():
            return error.strerror or "the connection broke"
        case _:
            return "not a host name"


# What OpenSSL reports under VERIFY_X509_STRICT, the default since Python 3.13, and older releases ignore.
_STRICT = (
    "Missing Authority Key Identifier",
    "Missing Subject Key Identifier",
    "Basic Constraints of CA cert not marked critical",
    "CA cert does not include key usage extension",
    "Key usage",
)


def hint(error: Exception, host: str, port: int) -> str:
    """The next step after a failed handshake with a host."""
    message = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    show = f"openssl s_client -connect {host}:{port} </dev/null | openssl x509 -noout -issuer -dates"
    if "not yet valid" in message:
        # A certificate is issued before a server uses it, so this machine's clock is slow.
        return (
            f"the cause is this machine's clock, which shows {now}: "
            "set it: sudo timedatectl set-ntp true; timedatectl"
        )
    if "has expired" in message:
        return f"is this machine's clock right? It shows {now}; check the clock: timedatectl; then: {show}"
    if any(words in message for words in _STRICT):
        return (
            "the certificate breaks RFC 5280, which Python verifies strictly from 3.13 on: the operator of "
            "the proxy or server has to issue it, or its authority's certificate, with the missing extension"
        )
    if message:
        return (
            "is the host name right? with a proxy that inspects TLS, [snowflake] ca_file adds its authority; "
            f"issuer: {show}"
        )
    return f"is this an https address? for a captive portal: curl -v https://{host}:{port}/"
