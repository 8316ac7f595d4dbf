"""Decodes the raw credentials of a reader with its enabled formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.readers.cards.card_format import CardFormat
from agent.readers.cards.formats import CARD_BITS, FORMATS
from agent.readers.events import (
    KEY_BITS,
    CredentialKind,
    Key,
    Noise,
    NoiseReason,
    Outcome,
    RawCredential,
    raw_hex,
)
from agent.settings import DEFAULT_FORMATS, Keypad, ParityPolicy, UnknownLengths
from agent.swipe import CardCheck, CardRead

__all__ = [
    "CARD_BITS",
    "FORMATS",
    "KEY_BITS",
    "Decoder",
    "decode",
    "encode",
]


# Module names, because looking up an enumeration member takes as long as decoding a field.
_DATA, _ID, _IDENTIFIER = CredentialKind.DATA, CredentialKind.ID, CredentialKind.IDENTIFIER
_NO_CHECK, _PARITY = CardCheck.NONE, CardCheck.PARITY
_BYTE_BITS = 8
_NIBBLE = 0xF
_NIBBLE_BITS = 4
_HIGHEST_KEY = 0xB  # 0-9, then * and #
_PAD_NUMBER_BITS = 16  # of the card number under which a pad with "card26" sends a PIN
_DATA_BITS_26, _DATA_BITS_34 = 24, 32  # of the words of pads that send a PIN as one word
_DIGITS = frozenset("0123456789")


class Decoder:
    """Decodes raw credentials into cards, keys or noise.

    Nothing is padded, truncated or guessed: a card has fields only if exactly one enabled format
    of its length is valid. `keypad` is the configured one; with "card26" the credentials of
    `pin_facility_code` are PINs, with "pin26" and "pin34" the numbers of at most `pin_digits` digits.
    `unknown_lengths` is about Wiegand words of lengths that no enabled format has; None: cards with
    the default formats, noise with others. Raises KeyError for a name that is not in FORMATS.
    """

    def __init__(
        self,
        formats: Iterable[str],
        *,
        parity: ParityPolicy = "reject",
        keypad: Keypad = "none",
        pin_facility_code: int = 0,
        pin_digits: int = 6,
        unknown_lengths: UnknownLengths | None = None,
    ) -> None:
        formats = tuple(formats)
        enabled = [FORMATS[name] for name in dict.fromkeys(formats)]
        self._whole = _by_length((known.bits, known) for known in enabled)
        self._stripped = _by_length((known.data_bits, known) for known in enabled)
        self._flagged = parity == "flag"
        self._keypad = keypad
        self._has_keys = keypad not in _NO_KEYPAD
        self._pin_facility_code = pin_facility_code
        self._pins_end: int = 10**pin_digits
        if unknown_lengths is None:
            unknown_lengths = "raw" if set(formats) in (set(), set(DEFAULT_FORMATS)) else "reject"
        self._other_bits = CARD_BITS if unknown_lengths == "raw" else frozenset[int]()

    def __call__(self, credential: RawCredential) -> Outcome:  # noqa: C901 - a call less for each card
        """The outcome of one credential. Never raises."""
        bits, value, check, form, _, _, _ = credential
        if bits in KEY_BITS:
            return _key(credential)
        # First: a typed PIN must not reach any other code.
        if self._has_keys and self._is_typed(credential):
            return Key()
        if not value or value == (1 << bits) - 1:
            return Noise(NoiseReason.NULL)
        if form is _DATA:
            return self._decode_stripped(credential)
        if form is _IDENTIFIER:
            return _raw_card(credential, check)
        enabled = self._whole.get(bits)
        if enabled:
            matches = []
            for known in enabled:
                if known.holds(value):
                    matches.append(known)  # noqa: PERF401 - a comprehension is one more call per card
            if matches:
                return _card(credential, _parity_or(credential, matches), matches, value)
        if form is _ID:
            return _raw_card(credential, check)
        if not enabled:
            return _raw_card(credential, check) if bits in self._other_bits else Noise(NoiseReason.LENGTH)
        if any(known.holds(value ^ (1 << bits) - 1) for known in enabled):
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
        if bits in self._stripped or bits in self._other_bits or bits + 2 in self._other_bits:
            return _raw_card(credential, credential.check)
        return Noise(NoiseReason.LENGTH)

    def _is_typed(self, credential: RawCredential) -> bool:
        """True for a credential that the configured keypad sent or may have sent."""
        if credential.maybe_pin:
            return True
        if self._keypad in _KEYS_OF_BURST:
            return _KEYS_OF_BURST[self._keypad](credential)
        number = _number_of_pad(credential, _DATA_BITS_34 if self._keypad == "pin34" else _DATA_BITS_26)
        if number is None:
            return False
        if self._keypad == "card26":
            return number >> _PAD_NUMBER_BITS == self._pin_facility_code
        if self._keypad == "pin26bcd":
            return _DIGITS.issuperset(f"{number:X}")
        return number < self._pins_end


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


def _are_bytes_of_keys(credential: RawCredential) -> bool:
    """True if every byte is a key of an 8-bit keypad: keys pressed too fast to be separate words."""
    return credential.bits % _BYTE_BITS == 0 and all(
        byte >> 4 ^ byte & _NIBBLE == _NIBBLE
        for byte in credential.value.to_bytes(credential.bits // _BYTE_BITS, "big")
    )


def _are_nibbles_of_keys(credential: RawCredential) -> bool:
    """The same for a 4-bit keypad. One card in ten with 32 bits consists of such nibbles too, and is
    lost: a PIN must not become a card. Frames with a checksum hold no keys.
    """
    return (
        credential.bits % _NIBBLE_BITS == 0
        and credential.check is not CardCheck.CHECKSUM
        and all(int(digit, 16) <= _HIGHEST_KEY for digit in raw_hex(credential.bits, credential.value))
    )


_NO_KEYPAD = frozenset({"unknown", "none"})
_KEYS_OF_BURST: Mapping[Keypad, Callable[[RawCredential], bool]] = {
    "burst4": _are_nibbles_of_keys,
    "burst8": _are_bytes_of_keys,
}


def _number_of_pad(credential: RawCredential, data_bits: int) -> int | None:
    """The number in these data bits if a keypad may have sent the credential: as a whole word, without
    parity bits, or as a plain number of a converter. The parity is not checked: a damaged PIN is
    still a PIN.
    """
    bits, value, check, form, _, _, _ = credential
    if form is CredentialKind.WIEGAND:
        return value >> 1 & (1 << data_bits) - 1 if bits == data_bits + 2 else None
    if form is _DATA:
        return value if bits == data_bits else None
    return value if check is CardCheck.NONE and not value >> data_bits else None


def _parity_or(credential: RawCredential, matches: Sequence[CardFormat]) -> CardCheck:
    """The check of a credential with valid formats: the parity, unless a stronger one was made."""
    check = credential.check
    if check is not _NO_CHECK or credential.unpadded:
        return check
    for known in matches:
        if not known.parities:
            return _NO_CHECK
    return _PARITY


def _card(credential: RawCredential, check: CardCheck, matches: Sequence[CardFormat], value: int) -> CardRead:
    """A card with valid formats; it has the fields of `value` if only one format is valid."""
    bits, signal_strength = credential.bits, credential.signal_strength
    raw = raw_hex(bits, credential.value)
    if len(matches) == 1:
        name = matches[0].name
        facility_code, number, issue, oem = matches[0].read(value)
        return CardRead(bits, raw, check, name, facility_code, number, issue, oem, (name,), signal_strength)
    names = tuple([known.name for known in matches])
    return CardRead(bits, raw, check, None, None, None, None, None, names, signal_strength)


def _raw_card(credential: RawCredential, check: CardCheck) -> CardRead:
    """A card without fields."""
    bits, value, signal_strength = credential.bits, credential.value, credential.signal_strength
    return CardRead(bits, raw_hex(bits, value), check, None, None, None, None, None, (), signal_strength)
