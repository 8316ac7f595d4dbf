"""The lines of SQL about a user's public keys."""

from __future__ import annotations

from agent.keys.keypair import KeyPair, Slot
from agent.sql.names import user_identifier


def set_key(user: str | None, key: KeyPair) -> str:
    """Registers a key in its slot."""
    return f"ALTER USER {_user(user)} SET {key.slot}='{key.public_key_line}';"


def unset_key(user: str, slot: Slot) -> str:
    """Removes the key in a slot."""
    return f"ALTER USER {_user(user)} UNSET {slot};"


def describe(user: str | None) -> str:
    """Shows, among much else, the fingerprints of both keys."""
    return f"DESC USER {_user(user)};"


def compare(user: str, key: KeyPair) -> str:
    """Shows what is registered in the key's slot, and says what it must be."""
    return f"{describe(user)}  -- {key.slot}_FP must be {key.fingerprint}"


def _user(user: str | None) -> str:
    return user_identifier(user) if user else "<user>"
