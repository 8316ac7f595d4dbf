"""Decodes the raw credentials of a reader with its enabled formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from agent.readers.cards.card_format import CardFormat
from agent.readers.cards.formats import CARD_BITS, FORMATS
from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, Outcome, RawCredential, raw_hex
from agent.settings import Keypad, ParityPolicy
from agent.swipe import CardCheck, CardRead

__all__ = [
    "CARD_BITS",
    "FORMATS",
    "KEY_BITS",
    "Decoder",
    "decode",
    "encode",
]


KEY_BITS = frozenset({4, 6, 8})  # one keypad key, in the three encodings of keypads

# Module names, because looking up an enumeration member takes as long as decoding a field.
_DATA, _ID = CredentialKind.DATA, CredentialKind.ID
_PARITIES = attrgetter("parities")
_BYTE_BITS = 8
_NIBBLE = 0xF
_HIGHEST_KEY = 0xB  # 0-9, then * and #
_PAD_BITS = 26  # a keypad that sends PINs as cards sends H10301
_PAD_DATA_BITS = 24
_PAD_NUMBER_BITS = 16


class Decoder:
    """Decodes raw credentials into cards, keys or noise.

    Nothing is padded, truncated or guessed: a card has fields only if exactly one enabled format
    of its length is valid. `keypad` is the configured one; with "card26" the credentials of
    `pin_facility_code` are PINs. Raises KeyError for a name that is not in FORMATS.
    """

    def __init__(
        self,
        formats: Iterable[str],
        *,
        parity: ParityPolicy = "reject",
        keypad: Keypad = "none",
        pin_facility_code: int = 0,
    ) -> None:
        enabled = [FORMATS[name] for name in dict.fromkeys(formats)]
        self._whole = _by_length((known.bits, known) for known in enabled)
        self._stripped = _by_length((known.data_bits, known) for known in enabled)
        self._flagged = parity == "flag"
        self._keypad = keypad
        self._pin_facility_code = pin_facility_code

    def __call__(self, credential: RawCredential) -> Outcome:
        """The outcome of one credential. Never raises."""
        bits, value, check, form, _, _ = credential
        if bits in KEY_BITS:
            return _key(credential)
        # First: a typed PIN must not reach any other code.
        if self._keypad != "none" and self._is_typed(credential):
            return Key()
        ones = (1 << bits) - 1
        if not value or value == ones:
            return Noise(NoiseReason.NULL)
        if form is _DATA:
            return self._decode_stripped(credential)
        enabled = self._whole.get(bits)
        if enabled:
            matches = [known for known in enabled if known.holds(value)]
            if matches:
                return _card(credential, _parity_or(check, matches), matches, value)
        if form is _ID:
            return _raw_card(credential, check)
        if not enabled:
            return _raw_card(credential, check) if bits in CARD_BITS else Noise(NoiseReason.LENGTH)
        if any(known.holds(value ^ ones) for known in enabled):
            return Noise(NoiseReason.SWAPPED)
        return _raw_card(credential, CardCheck.FAILED) if self._flagged else Noise(NoiseReason.PARITY)

    def _decode_stripped(self, credential: RawCredential) -> Outcome:
        """Without parity bits, every format with this number of data bits is valid."""
        bits, value = credential.bits, credential.value
        matches: list[CardFormat] = []
        whole = value
        for known in self._stripped.get(bits, ()):
            # Shifted to its place between the parity bits, if the format has any.
            between = value << 1 if known.parities else value
            if known.holds_without_parity(between):
                matches.append(known)
                whole = between
        if matches:
            return _card(credential, credential.check, matches, whole)
        if bits in CARD_BITS or bits + 2 in CARD_BITS:
            return _raw_card(credential, credential.check)
        return Noise(NoiseReason.LENGTH)

    def _is_typed(self, credential: RawCredential) -> bool:
        """True for a credential that the configured keypad sent or may have sent."""
        if credential.maybe_pin:
            return True
        if self._keypad == "burst8":
            return _are_keys(credential)
        return self._keypad == "card26" and _facility_code_of_pad(credential) == self._pin_facility_code


def decode(credential: RawCredential, formats: Iterable[str], *, parity: ParityPolicy = "reject") -> Outcome:
    """The outcome of one credential with these formats. Raises KeyError for a name that is not in FORMATS."""
    return Decoder(formats, parity=parity)(credential)


def encode(
    name: str,
    facility_code: int | None,
    card_number: int | None,
    issue: int | None = None,
    oem: int | None = None,
) -> int:
    """The value of a card, the inverse of a Decoder; None for a field the format does not have.

    Raises ValueError for a number that does not fit the format, KeyError for an unknown format.
    """
    return FORMATS[name].write((facility_code, card_number, issue, oem))


def _by_length(formats: Iterable[tuple[int | None, CardFormat]]) -> dict[int, tuple[CardFormat, ...]]:
    lengths: dict[int, tuple[CardFormat, ...]] = {}
    for bits, known in formats:
        if bits is not None:
            lengths[bits] = (*lengths.get(bits, ()), known)
    return lengths


def _key(credential: RawCredential) -> Key | Noise:
    """A key, or noise if the byte is an inverted key. A byte is the complement of the key, then the
    key (HID Wiegand PINpad 7393760); the highest key is #.
    """
    high, low = credential.value >> 4, credential.value & _NIBBLE
    if credential.bits == _BYTE_BITS and high ^ low == _NIBBLE and low > _HIGHEST_KEY:
        return Noise(NoiseReason.SWAPPED)
    return Key()


def _are_keys(credential: RawCredential) -> bool:
    """True if every byte is a key of an 8-bit keypad: keys pressed too fast to be separate.

    Not for 4-bit keypads: any number consists of valid keys, so cards would be lost.
    """
    return credential.bits % _BYTE_BITS == 0 and all(
        byte >> 4 ^ byte & _NIBBLE == _NIBBLE
        for byte in credential.value.to_bytes(credential.bits // _BYTE_BITS, "big")
    )


def _facility_code_of_pad(credential: RawCredential) -> int | None:
    """The facility code if the credential may be a keypad's 26 bits: whole, without parity bits, or
    as a plain number of a converter. The parity is not checked: a damaged PIN is still a PIN.
    """
    if credential.form is CredentialKind.WIEGAND:
        return credential.value >> _PAD_NUMBER_BITS + 1 & 0xFF if credential.bits == _PAD_BITS else None
    if credential.form is CredentialKind.DATA:
        return credential.value >> _PAD_NUMBER_BITS if credential.bits == _PAD_DATA_BITS else None
    return credential.value >> _PAD_NUMBER_BITS if credential.check is CardCheck.NONE else None


def _parity_or(check: CardCheck, matches: Sequence[CardFormat]) -> CardCheck:
    """The check of a credential with valid formats: the parity, unless a stronger one was made."""
    if check is not CardCheck.NONE:
        return check
    return CardCheck.PARITY if all(map(_PARITIES, matches)) else CardCheck.NONE


def _card(credential: RawCredential, check: CardCheck, matches: Sequence[CardFormat], value: int) -> CardRead:
    """A card with valid formats; it has the fields of `value` if only one format is valid."""
    bits, signal_strength = credential.bits, credential.signal_strength
    raw = raw_hex(bits, credential.value)
    if len(matches) == 1:
        only = matches[0]
        return CardRead(bits, raw, check, only.name, *only.read(value), (only.name,), signal_strength)
    names = tuple([known.name for known in matches])
    return CardRead(bits, raw, check, None, None, None, None, None, names, signal_strength)


def _raw_card(credential: RawCredential, check: CardCheck) -> CardRead:
    """A card without fields."""
    bits, value, _, _, _, signal_strength = credential
    return CardRead(bits, raw_hex(bits, value), check, None, None, None, None, None, (), signal_strength)
