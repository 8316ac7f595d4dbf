"""An OSDP reader in Python, for what libosdp's reader cannot do: it repeats lost replies, and can be BUSY.

It shares no code with the agent; test_osdp_device.py compares it with recorded sessions.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections import deque

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ACK, NAK, PDID, PDCAP, LSTATR, RSTATR, COM, CCRYPT, RMAC_I, BUSY = (
    *(0x40, 0x41, 0x45, 0x46, 0x48, 0x4B, 0x54, 0x76, 0x78, 0x79),
)
RAW, FMT, KEYPAD = 0x50, 0x51, 0x53
POLL, ID, CAP, LSTAT, RSTAT, LED, BUZ, COMSET, KEYSET, CHLNG, SCRYPT = (
    *(0x60, 0x61, 0x62, 0x64, 0x67, 0x69, 0x6A, 0x6E, 0x75, 0x76, 0x77),
)
DEFAULT_KEY = bytes(range(0x30, 0x40))
IDENTITY = bytes.fromhex("5c0b3a020144332211030201")
CAPABILITIES = bytes.fromhex(
    "010102020101030100040401050201060101070000080100090100" + "0a00010c00000d01010e0000100200"
)
_FIXED = {
    ID: (PDID, IDENTITY),
    CAP: (PDCAP, CAPABILITIES),
    LSTAT: (LSTATR, b"\0\0"),
    RSTAT: (RSTATR, b"\0"),
}
_NEEDS_DATA = {ID, CAP, LED, BUZ, COMSET, KEYSET}


def raw(bits: int, value: int, kind: int = 1) -> tuple[int, bytes]:
    """The event of a card."""
    size = (bits + 7) // 8
    card = (value << 8 * size - bits).to_bytes(size, "big")
    return RAW, bytes([0, kind]) + bits.to_bytes(2, "little") + card


class OsdpDevice:
    """One reader at an address. reply() takes a command with or without MARK; it returns the reply."""

    def __init__(self, address: int = 1, *, key: bytes | None = None, random: bytes = bytes(8)) -> None:
        self.address, self.key, self.random = address, key, random
        self.requires_key = False
        self.with_crc: bool | None = None  # None: as the command
        self.events: deque[tuple[int, bytes]] = deque()
        self.outputs: list[tuple[int, bytes]] = []  # of LED and BUZ
        self.busy = 0  # how many commands are answered with BUSY
        self.silent = False
        self.refused: set[int] = set()
        self.refusal = b"\3"
        self.advances_after_nak = True
        self.commands: list[int] = []
        self.restart()

    def restart(self) -> None:
        """As after a power failure."""
        self.number = -1  # of the last command
        self.last = self.last_reply = b""
        self.mac: tuple[bytes, bytes, bytes] | None = None  # S-ENC, S-MAC1, S-MAC2 of a session
        self._pending: tuple[bytes, bytes, bytes] | None = None
        self.chain = bytes(16)

    @property
    def is_secure(self) -> bool:
        return self.mac is not None

    def reply(self, command: bytes) -> bytes:
        frame = command.lstrip(b"\xff")
        if self.silent or not frame or frame[0] != 0x53 or frame[1] not in (self.address, 0x7F):
            return b""
        if not _is_intact(frame):
            return b""
        if self.busy:
            self.busy -= 1
            return self._finished(frame, 0, BUSY, b"")
        number = frame[4] & 3
        if frame == self.last and number != 0:
            return self.last_reply
        if number == 0:
            self.restart()
        elif self.number < 0 or number != self.number % 3 + 1:
            expected = 0 if self.number < 0 else self.number % 3 + 1
            self.number = max(self.number, 0)
            return self._finished(frame, expected, NAK, b"\4")
        reply = self._process(frame, number)
        is_nak = reply[5:6] == bytes([NAK]) and not reply[4] & 8
        if not is_nak or self.advances_after_nak:
            self.number, self.last, self.last_reply = number, frame, reply
        return reply

    # --- one command ------------------------------------------------------------------------------

    def _process(self, frame: bytes, number: int) -> bytes:
        check = 2 if frame[4] & 4 else 1
        body, block = frame[5:-check], b""
        if frame[4] & 8:
            block, body = body[: body[0]], body[body[0] :]
        kind = block[1] if block else 0
        if kind == 0x11:
            return self._challenged(frame, number, block[2], body[1:])
        if kind == 0x13:
            return self._confirmed(frame, number, body[1:])
        if self.mac is None:
            if kind or (self.requires_key and body[0] not in (ID, CAP)):
                return self._finished(frame, number, NAK, b"\6")
            return self._finished(frame, number, *self._answer(body[0], body[1:], secure=False))
        if kind not in (0x15, 0x17) or self._mac(frame[: -check - 4], self.chain)[:4] != body[-4:]:
            self.mac = None
            return self._finished(frame, number, NAK, b"\6")
        enc = self.mac[0]
        command_mac = self._mac(frame[: -check - 4], self.chain)
        data = body[1:-4]
        if kind == 0x17:
            data = _cbc(enc, data, _inverse(self.chain), decrypt=True).rstrip(b"\0")[:-1]
        code, answer = self._answer(body[0], data, secure=True)
        return self._sealed(frame, number, code, answer, command_mac)

    def _answer(self, code: int, data: bytes, *, secure: bool) -> tuple[int, bytes]:
        self.commands.append(code)
        if code in self.refused:
            return NAK, self.refusal
        if (code in _NEEDS_DATA) != bool(data):
            return NAK, b"\2"
        if code in _FIXED:
            return _FIXED[code]
        if code == POLL:
            return self.events.popleft() if self.events else (ACK, b"")
        if code in (LED, BUZ):
            self.outputs.append((code, data))
            return ACK, b""
        if code == COMSET:
            self.address = data[0]
            return COM, data
        if code != KEYSET:
            return NAK, b"\3"
        if not secure:
            return NAK, b"\6"
        self.key = data[2:]
        return ACK, b""

    # --- the secure channel -----------------------------------------------------------------------

    def _challenged(self, frame: bytes, number: int, wanted: int, rnd_a: bytes) -> bytes:
        self.mac = None
        key = self.key or DEFAULT_KEY
        s_enc, s_mac1, s_mac2 = (
            _aes(key, start + rnd_a[:6] + bytes(8)) for start in (b"\1\x82", b"\1\1", b"\1\2")
        )
        self._pending = s_enc, s_mac1, s_mac2
        self._server = _aes(s_enc, self.random + rnd_a)
        client = IDENTITY[:2] + IDENTITY[3:4] + b"\0" + IDENTITY[5:9]
        data = client + self.random + _aes(s_enc, rnd_a + self.random)
        used = 1 if self.key else wanted & 0
        return self._finished(frame, number, CCRYPT, data, bytes([3, 0x12, used]))

    def _confirmed(self, frame: bytes, number: int, server: bytes) -> bytes:
        if self._pending is None or server != self._server:
            return self._finished(frame, number, NAK, b"\5")
        self.mac, self._pending = self._pending, None
        self.chain = _aes(self.mac[2], _aes(self.mac[1], server))
        return self._finished(frame, number, RMAC_I, self.chain, b"\3\x14\1")

    def _mac(self, signed: bytes, begin: bytes) -> bytes:
        assert self.mac is not None
        if len(signed) % 16:
            signed += b"\x80"
            signed += bytes(-len(signed) % 16)
        if len(signed) > 16:
            begin = _cbc(self.mac[1], signed[:-16], begin)[-16:]
        return _cbc(self.mac[2], signed[-16:], begin)

    def _sealed(self, frame: bytes, number: int, code: int, data: bytes, command_mac: bytes) -> bytes:
        assert self.mac is not None
        if data:
            data += b"\x80"
            data = _cbc(self.mac[0], data + bytes(-len(data) % 16), _inverse(command_mac))
        block = b"\2\x18" if data else b"\2\x16"
        head = self._head(frame, number, code, data, block, mac_bytes=4)
        self.chain = self._mac(head, command_mac)
        return _checked(head + self.chain[:4], with_crc=self._has_crc(frame))

    # --- frames -----------------------------------------------------------------------------------

    def _has_crc(self, frame: bytes) -> bool:
        return bool(frame[4] & 4) if self.with_crc is None else self.with_crc

    def _head(
        self, frame: bytes, number: int, code: int, data: bytes, block: bytes, mac_bytes: int = 0
    ) -> bytes:
        with_crc = self._has_crc(frame)
        body = block + bytes([code]) + data
        length = 5 + len(body) + mac_bytes + (2 if with_crc else 1)
        control = number | 4 * with_crc | 8 * bool(block)
        address = frame[1] | 0x80
        return bytes([0x53, address]) + length.to_bytes(2, "little") + bytes([control]) + body

    def _finished(self, frame: bytes, number: int, code: int, data: bytes, block: bytes = b"") -> bytes:
        head = self._head(frame, number, code, data, block)
        return _checked(head, with_crc=self._has_crc(frame))


def _is_intact(frame: bytes) -> bool:
    size = 2 if frame[4] & 4 else 1
    return _checked(frame[:-size], with_crc=size == 2) == frame


def _checked(body: bytes, *, with_crc: bool) -> bytes:
    if with_crc:
        return body + crc_hqx(body, 0x1D0F).to_bytes(2, "little")
    return body + bytes([-sum(body) % 256])


def _aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)  # noqa: S305 - single blocks


def _cbc(key: bytes, data: bytes, iv: bytes, *, decrypt: bool = False) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
    return (cipher.decryptor() if decrypt else cipher.encryptor()).update(data)


def _inverse(block: bytes) -> bytes:
    return bytes(255 - byte for byte in block)
