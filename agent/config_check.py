"""What makes one configured value unusable: each check gives a sentence for the installer, or None."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from urllib.parse import urlsplit

from agent.config.toml_table import shown
from agent.loopback import is_loopback

# The agent's id is a part of the channel name, a reader's of the text that the chain is made
# over, with "|" between its fields: neither may hold anything that could be taken for more.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")

_ACCOUNT = re.compile(r"[A-Za-z][A-Za-z0-9]*-[A-Za-z][A-Za-z0-9_]*")
_ASK_ACCOUNT = "SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME();"

# A 26-bit card, to try templates on.
_SAMPLE_CARD: Mapping[str, int | str] = MappingProxyType(
    {
        "bits": 26,
        "raw": "2F657AE",
        "decimal": 49_698_734,
        "facility_code": 123,
        "card_number": 11_223,
        "issue": 0,
    }
)
_TELLS_CARDS_APART = frozenset({"raw", "decimal", "card_number"})
_LONGEST_BADGE_ID = 50  # the column BADGE_ID


def wrong_with_id(value: str) -> str | None:
    """An agent's or a reader's id."""
    if _ID.fullmatch(value):
        return None
    return (
        f"found {shown(value)}; must be 1 to 50 of A-Z, a-z, 0-9, '.', '_' and '-', "
        "the first one a letter or digit"
    )


def wrong_with_port(value: str) -> str | None:
    """The device of a serial port."""
    if value.startswith("/"):
        return None
    return (
        f"found {shown(value)}; must be the full name of a device, best the one that stays the same "
        "after replugging: ls -l /dev/serial/by-id/"
    )


def wrong_with_badge_id(template: str) -> str | None:
    """A format template over the fields of a card."""
    wrong = _wrong_with_template(template)
    return wrong and f"found {shown(template)}: {wrong}; fields: {', '.join(_SAMPLE_CARD)}"


def _wrong_with_template(template: str) -> str | None:
    try:
        parts = [(name, spec or "") for _, name, spec, _ in Formatter().parse(template) if name is not None]
        fields = {name for name, _ in parts}
        unknown = sorted(fields - _SAMPLE_CARD.keys())
        if unknown:
            return f"there is no field {{{unknown[0]}}}"
        if not fields & _TELLS_CARDS_APART:
            return "without {card_number}, {raw} or {decimal} different cards would be one badge"
        # Checked before rendering: a width of nine digits would take that much memory.
        if any("{" in spec or re.search(r"[1-9]\d\d", spec) for _, spec in parts):
            return "a width must be a number of at most two digits"
        badge_id = template.format_map(_SAMPLE_CARD)
    except (ValueError, OverflowError) as error:
        return f"not a template ({error})"
    if len(badge_id) > _LONGEST_BADGE_ID:
        return f"a badge_id has at most {_LONGEST_BADGE_ID} characters, this makes {len(badge_id)}"
    return None


def account_url(account: str) -> str:
    """The control host of an account; an underscore, not allowed in host names, is a hyphen there."""
    return f"https://{account.lower().replace('_', '-')}.snowflakecomputing.com"


def wrong_with_account(account: str) -> str | None:
    """An account identifier, ORGANIZATION-ACCOUNT."""
    if _ACCOUNT.fullmatch(account):
        return None
    must = f"must be ORGANIZATION-ACCOUNT, which Snowflake tells: {_ASK_ACCOUNT}"
    return f"found {shown(account)}, {_taken_for(account)}; {must}"


def _taken_for(account: str) -> str:
    if "/" in account or account.lower().endswith("snowflakecomputing.com"):
        return "which is an address, not an account"
    if "." in account:
        return "which looks like an account locator with its region, or has a dot for the hyphen"
    if "-" not in account:
        return "which looks like an account locator"
    if account.count("-") > 1:
        return "which has more than one hyphen (an underscore of the name is a hyphen in addresses only)"
    return "which has a character that no organization or account name has"


def wrong_with_url(url: str) -> str | None:
    """The address of the control host; never shown whole, because it might carry a password."""
    wrong = _wrong_with_address(url)
    return wrong and f"{wrong}; must be https://HOST or https://HOST:PORT, nothing after it"


def _wrong_with_address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "found an address that cannot be read"
    if parts.scheme not in {"https", "http"} or not host or " " in url or port == 0:
        return "found no https address"
    if "@" in parts.netloc:
        return "found a user name or password in it"
    if parts.path not in {"", "/"} or "?" in url or "#" in url:
        return "found more than scheme, host and port"
    if parts.scheme == "http" and not is_loopback(host):
        return (
            f"found http to {shown(host)}, which would send tokens in the clear (http is for loopback only)"
        )
    return None
