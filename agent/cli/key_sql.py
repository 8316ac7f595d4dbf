"""The lines of SQL about a user's public keys."""

from __future__ import annotations

import re

from agent.snowpipe.key import KeyPair, Slot


def set_key(user: str | None, key: KeyPair) -> str:
    """Registers a key in its slot."""
    return f"ALTER USER {_identifier(user)} SET {key.slot}='{key.public_key_line}';"


def unset_key(user: str, slot: Slot) -> str:
    """Removes the key in a slot."""
    return f"ALTER USER {_identifier(user)} UNSET {slot};"


def describe(user: str | None) -> str:
    """Shows, among much else, the fingerprints of both keys."""
    return f"DESC USER {_identifier(user)};"


def _identifier(user: str | None) -> str:
    """The user in SQL; quoted in upper case, as the token names it, where it needs quotes."""
    if not user:
        return "<user>"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", user):
        return user
    return '"' + user.upper().replace('"', '""') + '"'
