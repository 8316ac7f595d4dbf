"""The identifier of an FDX-B transponder (ISO 11784), which readers print as country and national number."""

from __future__ import annotations

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.swipe import CardCheck

_COUNTRY_BITS, _NUMBER_BITS = 10, 38
_CHECKSUM, _IDENTIFIER = CardCheck.CHECKSUM, CredentialKind.IDENTIFIER


def identifier(country: int, number: int) -> RawCredential | NoiseReason:
    """Both in 48 bits, the country first, of a frame whose checksum is right; noise if one has more bits."""
    if number >> _NUMBER_BITS or country >> _COUNTRY_BITS:
        return NoiseReason.LENGTH
    value = country << _NUMBER_BITS | number
    if not value:
        return NoiseReason.NULL
    return RawCredential(_COUNTRY_BITS + _NUMBER_BITS, value, _CHECKSUM, _IDENTIFIER)
