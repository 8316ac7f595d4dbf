"""The URL of an account, and validation of account identifiers, URLs and proxies."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from agent.errors import quoted

_ACCOUNT = re.compile(r"[A-Za-z][A-Za-z0-9]*-[A-Za-z][A-Za-z0-9_]*")


_ASK_ACCOUNT = "SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME();"


def account_url(account: str) -> str:
    """The control host of an account; an underscore, not allowed in host names, is a hyphen there."""
    return f"https://{account.lower().replace('_', '-')}.snowflakecomputing.com"


def account_problem(account: str) -> str | None:
    """What is wrong with an account identifier, ORGANIZATION-ACCOUNT; None if nothing."""
    if _ACCOUNT.fullmatch(account):
        return None
    must = f"must be ORGANIZATION-ACCOUNT, as returned by: {_ASK_ACCOUNT}"
    return f"found {quoted(account)}, {_taken_for(account)}; {must}"


def _taken_for(account: str) -> str:
    if account.lower().endswith(".privatelink"):
        host = f"{account.lower().replace('_', '-')}.snowflakecomputing.com"
        return f'which is a PrivateLink address: set url = "https://{host}", and the account without its end'
    if "/" in account or account.lower().endswith("snowflakecomputing.com"):
        return "which is an address, not an account"
    if "." in account:
        return "which looks like an account locator with its region, or has a dot for the hyphen"
    if "-" not in account:
        return "which looks like an account locator"
    if account.count("-") > 1:
        return "which has more than one hyphen (an underscore of the name is a hyphen in addresses only)"
    return "which has a character that no organization or account name has"


def url_problem(url: str) -> str | None:
    """What is wrong with a control host URL; None if nothing. Never quotes it: it may have a password."""
    wrong = _address_problem(url)
    return wrong and f"{wrong}; must be https://HOST or https://HOST:PORT, nothing after it"


def heartbeat_url_problem(url: str) -> str | None:
    """What is wrong with the URL of a heartbeat; None if nothing. Never quotes it: its path is a secret."""
    wrong = _address_problem(url, may_have_path=True)
    return wrong and f"{wrong}; must be https://HOST/PATH"


def _address_problem(url: str, *, may_have_path: bool = False) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "found an address that cannot be read"
    if parts.scheme not in {"https", "http"} or not host or " " in url or port == 0:
        return "found no https address"
    if "@" in parts.netloc:
        return "found a user name or password in it"
    if "#" in url or (not may_have_path and (parts.path not in {"", "/"} or "?" in url)):
        return "found more than scheme, host and port"
    if not url.isascii():
        return "found a character that is not ASCII"
    if parts.scheme == "http" and not is_loopback(host):
        secret = "its path" if may_have_path else "tokens"
        return (
            f"found http to {quoted(host)}, which would send {secret} in the clear "
            "(http is for loopback only)"
        )
    return None


def proxy_problem(proxy: str) -> str | None:
    """What is wrong with a proxy's URL; None if nothing. Never quotes it: it may have a password."""
    wrong = _proxy_problem(proxy)
    return wrong and f"{wrong}; must be http://HOST:PORT, nothing after it"


def _proxy_problem(proxy: str) -> str | None:
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "found an address that cannot be read"
    if "@" in proxy:
        return "found a login in it, which belongs in proxy_login_file"
    if "://" not in proxy:
        return "found no scheme"
    if parts.scheme != "http":
        return f"found the scheme {quoted(parts.scheme)}, only HTTP proxies are supported"
    if not host or " " in proxy or not port:
        return "found no host with a port"
    if parts.path not in {"", "/"} or "?" in proxy or "#" in proxy:
        return "found more than scheme, host and port"
    return None


def is_loopback(host: str) -> bool:
    """True for an address of the loopback interface and for `localhost`; no name is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
