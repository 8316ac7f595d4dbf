"""AES-128 of one key, for the secure channel of OSDP readers: single blocks, and CBC over whole blocks."""

from __future__ import annotations

BLOCK_BYTES = 16


class Aes128:
    """The two directions of AES with one key, which no repr() shows.

    The contexts are kept: to make one takes twenty times as long as a block, and CBC is an XOR beside it.
    """

    def __init__(self, key: bytes) -> None:
        # Imported here: `badge-agent status` loads every protocol, and no key.
        from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.ciphers.algorithms import AES  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.ciphers.modes import ECB  # noqa: PLC0415 - see above

        # ECB as the primitive of single blocks; the chaining is below.
        cipher = Cipher(AES(key), ECB())  # noqa: S305 - see above
        self._encryptor = cipher.encryptor()
        self._decryptor = cipher.decryptor()

    def encrypt(self, block: bytes) -> bytes:
        """One block."""
        return self._encryptor.update(block)

    def encrypt_cbc(self, data: bytes, iv: bytes) -> bytes:
        """Whole blocks, chained from `iv`."""
        encrypted, previous = b"", iv
        for start in range(0, len(data), BLOCK_BYTES):
            previous = self._encryptor.update(_xor(data[start : start + BLOCK_BYTES], previous))
            encrypted += previous
        return encrypted

    def decrypt_cbc(self, data: bytes, iv: bytes) -> bytes:
        """The inverse of encrypt_cbc()."""
        plain, previous = b"", iv
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            plain += _xor(self._decryptor.update(block), previous)
            previous = block
        return plain


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(BLOCK_BYTES, "big")
