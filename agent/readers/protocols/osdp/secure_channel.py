"""The secure channel of OSDP: handshake, session keys and the chain of MACs (IEC 60839-11-5, annex D)."""

from __future__ import annotations

from hmac import compare_digest

from agent.keys.aes import BLOCK_BYTES, Aes128
from agent.readers.protocols.osdp.codes import Command, Reply
from agent.readers.protocols.osdp.frame import MAC_BYTES, Frame, finished, unsigned_command

DEFAULT_KEY = bytes(range(0x30, 0x40))
"""SCBK-D, which is public: for readers in install mode, and only to set another one."""

KEY_BYTES = 16
RANDOM_BYTES = 8
_CLIENT_ID_BYTES = 8
_CCRYPT_BYTES = _CLIENT_ID_BYTES + RANDOM_BYTES + BLOCK_BYTES
_PADDING = b"\x80"
_INVERTED = bytes(byte ^ 0xFF for byte in range(256))
# Types of security blocks: the handshake, then commands and replies without and with data.
_SCS_CHLNG, _SCS_CCRYPT, _SCS_SCRYPT, _SCS_RMAC_I = range(0x11, 0x15)
_SCS_COMMAND, _SCS_REPLY, _SCS_COMMAND_DATA, _SCS_REPLY_DATA = range(0x15, 0x19)


class Handshake:
    """Begins a session with one reader: CHLNG, CCRYPT, SCRYPT, RMAC_I. Its frames have no MAC.

    `random` is RND.A: 8 bytes, new for each handshake, the same while CHLNG is repeated.
    """

    def __init__(self, key: bytes, random: bytes) -> None:
        self._random = random
        self._kind = bytes([key != DEFAULT_KEY])
        block = Aes128(key)
        # Only six bytes of RND.A enter the keys, and none of the reader's random number.
        self._enc, self._mac1, self._mac2 = (
            Aes128(block.encrypt(kind + random[:6] + bytes(8))) for kind in (b"\1\x82", b"\1\1", b"\1\2")
        )
        self._server_cryptogram = b""

    def challenge(self, address: int, *, with_crc: bool) -> bytes:
        """The frame of CHLNG."""
        block = bytes([_SCS_CHLNG]) + self._kind
        return finished(
            unsigned_command(address, 0, Command.CHLNG, self._random, security=block, with_crc=with_crc)
        )

    def accepts(self, reply: Frame) -> bool:
        """Whether this is the CCRYPT of a reader that has the key."""
        if reply.code != Reply.CCRYPT or reply.security_type != _SCS_CCRYPT:
            return False
        if len(reply.data) != _CCRYPT_BYTES:
            return False
        random = reply.data[_CLIENT_ID_BYTES:-BLOCK_BYTES]
        # The block's key kind is not compared: some readers have it wrong, and the cryptogram proves the key.
        expected = self._enc.encrypt(self._random + random)
        self._server_cryptogram = self._enc.encrypt(random + self._random)
        return compare_digest(reply.data[-BLOCK_BYTES:], expected)

    def response(self, address: int, number: int, *, with_crc: bool) -> bytes:
        """The frame of SCRYPT, after an accepted CCRYPT."""
        block = bytes([_SCS_SCRYPT]) + self._kind
        return finished(
            unsigned_command(
                address, number, Command.SCRYPT, self._server_cryptogram, security=block, with_crc=with_crc
            )
        )

    def finish(self, reply: Frame) -> SecureChannel | None:
        """The session, if this is the RMAC_I of a reader that accepted the server cryptogram."""
        first = self._mac2.encrypt(self._mac1.encrypt(self._server_cryptogram))
        is_accepted = (
            reply.code == Reply.RMAC_I
            and reply.security_type == _SCS_RMAC_I
            and compare_digest(reply.data, first)
        )
        return SecureChannel(self._enc, self._mac1, self._mac2, first) if is_accepted else None


class SecureChannel:
    """A session: signs and encrypts commands, verifies and decrypts replies.

    The MAC of each frame begins with that of the frame before it in the other direction. A command without
    a reply is repeated as it is: seal() is called once for each command that is answered.
    """

    def __init__(self, enc: Aes128, mac1: Aes128, mac2: Aes128, reply_mac: bytes) -> None:
        self._enc, self._mac1, self._mac2 = enc, mac1, mac2
        self._reply_mac = reply_mac
        self._command_mac = bytes(BLOCK_BYTES)

    def seal(self, address: int, number: int, code: int, data: bytes, *, with_crc: bool) -> bytes:
        """The frame of a command."""
        kind = _SCS_COMMAND
        if data:
            kind, data = _SCS_COMMAND_DATA, self._enc.encrypt_cbc(_padded(data), _inverse(self._reply_mac))
        command = unsigned_command(address, number, code, data, security=bytes([kind]), with_crc=with_crc)
        self._command_mac = self._mac(command, self._reply_mac)
        return finished(command, self._command_mac)

    def open(self, reply: Frame) -> bytes | None:
        """The data of the reply to the last command; None ends the session: the reply is not part of it."""
        if reply.security_type not in (_SCS_REPLY, _SCS_REPLY_DATA):
            return None
        mac = self._mac(reply.signed, self._command_mac)
        if not compare_digest(mac[:MAC_BYTES], reply.mac):
            return None
        if len(reply.data) % BLOCK_BYTES or (reply.data and reply.security_type == _SCS_REPLY):
            return None
        self._reply_mac = mac
        # Some readers send type 18 without data, others with nothing but padding.
        if not reply.data:
            return b""
        return _unpadded(self._enc.decrypt_cbc(reply.data, _inverse(self._command_mac)))

    def _mac(self, signed: bytes, begin: bytes) -> bytes:
        if len(signed) % BLOCK_BYTES:
            signed = _padded(signed)
        if len(signed) > BLOCK_BYTES:
            begin = self._mac1.encrypt_cbc(signed[:-BLOCK_BYTES], begin)[-BLOCK_BYTES:]
        return self._mac2.encrypt_cbc(signed[-BLOCK_BYTES:], begin)


def _padded(data: bytes) -> bytes:
    """Whole blocks: data that is some already gets one more."""
    padded = data + _PADDING
    return padded + bytes(-len(padded) % BLOCK_BYTES)


def _unpadded(data: bytes) -> bytes | None:
    """The inverse of _padded(); None if there is no padding."""
    stripped = data.rstrip(b"\0")
    return stripped[:-1] if stripped.endswith(_PADDING) else None


def _inverse(block: bytes) -> bytes:
    return block.translate(_INVERTED)
