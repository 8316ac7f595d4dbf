"""SQL statements for a user's public keys."""

from __future__ import annotations

from agent.keys.keypair import KeyPair, Slot
from agent.sql.names import user_identifier


def set_key(user: str | None, key: KeyPair) -> str:
    """The statement that registers a key in its slot."""
    return f"ALTER USER {_user(user)} SET {key.slot}='{key.public_key_line}';"


def unset_key(user: str, slot: Slot) -> str:
    """The statement that removes the key of a slot."""
    return f"ALTER USER {_user(user)} UNSET {slot};"


def describe(user: str | None) -> str:
    """The statement that shows the fingerprints of both keys, among other properties."""
    return f"DESC USER {_user(user)};"


def compare(user: str, key: KeyPair) -> str:
    """The statement that shows the fingerprint in the key's slot, with the expected value as a comment."""
    return f"{describe(user)}  -- {key.slot}_FP must be {key.fingerprint}"


def _user(user: str | None) -> str:
    return user_identifier(user) if user else "<user>"
