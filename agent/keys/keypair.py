"""Key pairs: generate, read and write PEM; imports cryptography, as aes.py does and no other module."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from agent.atomic_file import sync
from agent.errors import KeyFileError, NotPermittedError
from agent.keys.secret_file import LARGEST_FILE_BYTES, is_credential, read_secret, read_secret_file

_KEY_BITS = 2048  # the minimum that Snowflake accepts, and the fastest to sign with on a Pi Zero

Algorithm = Literal["RS256", "ES256", "ES384", "ES512"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# Snowflake's "Using key-pair authentication": RSA from 2048 bits, or ECDSA over one of these curves.
_CURVES: Mapping[str, Algorithm] = MappingProxyType(
    {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
)

# A Snowflake user has two public keys, so that one can be replaced while the other is in use.
Slot = Literal["RSA_PUBLIC_KEY", "RSA_PUBLIC_KEY_2"]

# Metadata before the PEM block, where RFC 7468 (5.2) allows explanatory text.
_CREATED = re.compile(rb"^Created: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) by badge-agent\r?$", re.MULTILINE)
_SECOND_SLOT = b"Registered as: RSA_PUBLIC_KEY_2\n"

# The byte order marks of editors on Windows.
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"\xef\xbb\xbf": "utf-8"}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key as Snowflake registers it: `public_key_line` is the value of RSA_PUBLIC_KEY,
    `fingerprint` what DESC USER shows as RSA_PUBLIC_KEY_FP.

    `created_at` is from the clock of the machine that made it; None if unknown.
    """

    fingerprint: str
    bits: int = field(repr=False)
    public_key_line: str = field(repr=False)
    public_key_pem: str = field(repr=False)
    private_key: PrivateKey = field(repr=False, compare=False)
    algorithm: Algorithm = field(default="RS256", repr=False)  # of the signatures, RFC 7518
    created_at: datetime | None = field(default=None, repr=False, compare=False)
    slot: Slot = field(default="RSA_PUBLIC_KEY", repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The type and size in words."""
        return f"{self.bits}-bit {'RSA' if self.algorithm == 'RS256' else 'ECDSA'}"

    def sign(self, content: bytes) -> bytes:
        """A signature: RSASSA-PKCS1-v1_5 with SHA-256 (RS256), or ECDSA with SHA-256 in DER."""
        if isinstance(self.private_key, rsa.RSAPrivateKey):
            return self.private_key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        return self.private_key.sign(content, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a key, to verify what the door has signed. `fingerprint` as that of KeyPair."""

    fingerprint: str
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = field(repr=False)

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether KeyPair.sign() of this key made the signature of this content."""
        try:
            if isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file, or from the line that Snowflake registers. Raises KeyFileError."""
    try:
        content = path.read_bytes()[:LARGEST_FILE_BYTES]
    except OSError as error:
        raise KeyFileError(f"{path}: the public key cannot be read: {error.strerror}") from error
    text = b"".join(content.split(b"-----")[2 if b"-----" in content else 0].split())
    try:
        der = base64.b64decode(text, validate=True)
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_public_key(path) from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _no_public_key(path)
    return PublicKey(_fingerprint(der), key)


def _no_public_key(path: Path) -> KeyFileError:
    return KeyFileError(
        f"{path}: not a public key",
        hint="a PEM file, or the value of RSA_PUBLIC_KEY (DESC USER ...): badge-agent key public prints it",
    )


def load_private_key(path: Path, passphrase_file: Path | None = None) -> KeyPair:
    """Read a key from a PEM file. Raises KeyFileError or NotPermittedError, naming the file.

    A key without a `Created:` line gets the modification time of its file.
    """
    content, modified_at = read_secret_file(
        path,
        "private key",
        f"make a key: badge-agent key generate --out {_quoted(path)}; or correct the path",
    )
    key = parse_private_key(content, path, passphrase_file)
    # systemd creates a credential's file again at every start of the service.
    if key.created_at is None and not is_credential(path):
        return replace(key, created_at=modified_at)
    return key


def parse_private_key(content: bytes, path: Path, passphrase_file: Path | None = None) -> KeyPair:
    """Parse PEM text read from `path`. Raises KeyFileError."""
    content = _repaired(content)
    _refuse_other_kinds(path, content)
    # The comma: base64 text cannot match the header of an encrypted traditional key.
    encrypted = b"BEGIN ENCRYPTED" in content or b"4,ENCRYPTED" in content
    if encrypted and passphrase_file is None:
        raise KeyFileError(
            f"{path}: the private key is encrypted, and no passphrase file is set",
            hint="write the passphrase into a file of mode 0600 and name it in the configuration: "
            "[snowflake] private_key_passphrase_file",
        )
    passphrase = read_passphrase(passphrase_file) if encrypted and passphrase_file else None
    try:
        private_key = serialization.load_pem_private_key(content, passphrase)
    # Which of the three is raised differs between versions of the library.
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise KeyFileError(
                f"{path}: the private key cannot be decrypted with the passphrase in {passphrase_file}",
                hint="correct the passphrase; if it is right, convert the key to a supported encryption: "
                f"openssl pkcs8 -topk8 -v2 aes-256-cbc -in {_quoted(path)} -out new_key.p8",
            ) from error
        raise KeyFileError(
            f"{path}: the private key is damaged, or of a type that Snowflake does not accept",
            hint="copy it again, all lines from BEGIN to END; or make a new one: badge-agent key generate",
        ) from error
    header = content.partition(b"-----BEGIN")[0]
    slot: Slot = "RSA_PUBLIC_KEY_2" if _SECOND_SLOT in header else "RSA_PUBLIC_KEY"
    return replace(_key_pair(path, private_key), created_at=_created_at(header), slot=slot)


def read_passphrase(passphrase_file: Path) -> bytes:
    """Read a passphrase file, without its final newline. Raises KeyFileError or NotPermittedError."""
    return read_secret(passphrase_file, "passphrase")


def new_key(slot: Slot = "RSA_PUBLIC_KEY") -> KeyPair:
    """Generate a 2048-bit RSA key, in memory only."""
    private_key = rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS)
    # Recorded even before the clock is set: it is then too early, so the reminder to rotate comes early.
    return replace(_key_pair(Path(), private_key), created_at=datetime.now(UTC), slot=slot)


def pem(key: KeyPair, passphrase: bytes | None = None) -> bytes:
    """The private key as PKCS#8 PEM, preceded by its metadata lines. The result is a secret."""
    header = b""
    if key.created_at is not None:
        header += f"Created: {key.created_at:%Y-%m-%dT%H:%M:%SZ} by badge-agent\n".encode()
    if key.slot == "RSA_PUBLIC_KEY_2":
        header += _SECOND_SLOT
    return header + key.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )


def generate_key(path: Path) -> KeyPair:
    """Generate a 2048-bit RSA key into a new PKCS#8 PEM file of mode 0600, durable on return.

    Raises KeyFileError if the file exists or cannot be written, NotPermittedError without permission.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            key = new_key()
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem(key))
                file.flush()
                os.fsync(file.fileno())
            sync(path.parent)
        except BaseException:
            path.unlink()
            raise
    except FileExistsError as error:
        raise KeyFileError(
            f"{path}: the file exists; a key is never overwritten",
            hint=f"use it (badge-agent key fingerprint {_quoted(path)}), or name a new file with --out",
        ) from error
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: this user may not create files in {path.parent}",
            hint="run the same command with sudo, or choose another directory with --out",
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"{path}: the key cannot be written: {error.strerror}",
            hint=f"check the directory: ls -ld {_quoted(path.parent)}; df -h {_quoted(path.parent)}",
        ) from error
    return key


def _created_at(header: bytes) -> datetime | None:
    match = _CREATED.search(header)
    try:
        return datetime.fromisoformat(match[1].decode()) if match else None
    except ValueError:  # not a date
        return None


def _repaired(content: bytes) -> bytes:
    """PEM text out of what editors and copied settings make of it; any other content as it is.

    Known: UTF-16, a byte order mark, backslash and n for line ends, base64 without first and last line.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            content = content.removeprefix(mark).decode(encoding, "replace").encode()
    if rb"\n" in content and b"BEGIN" in content:
        content = content.replace(rb"\r", b"").replace(rb"\n", b"\n").strip(b"\"' \n\r") + b"\n"
    text = b"".join(content.split())
    # The shortest key of Snowflake, P-256, has 138 bytes.
    return _armoured(text) or content if len(text) > 160 and _BASE64.fullmatch(text) else content  # noqa: PLR2004


def _armoured(text: bytes) -> bytes | None:
    """A PEM block of base64 text; None if it is no key."""
    try:
        der = base64.b64decode(text, validate=True)
        private_key = serialization.load_der_private_key(der, None)
    except TypeError:  # encrypted: a password is needed
        return _block(b"ENCRYPTED PRIVATE KEY", text)
    except (ValueError, UnsupportedAlgorithm):
        # An ASN.1 SEQUENCE that is no private key: in all likelihood the line of RSA_PUBLIC_KEY.
        return _block(b"PUBLIC KEY", text) if text.startswith(b"MII") else None
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _block(label: bytes, text: bytes) -> bytes:
    lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, lines, label)


def _refuse_other_kinds(path: Path, content: bytes) -> None:
    kind, hint = "no PEM private key", "make a key: badge-agent key generate"
    if b"BEGIN OPENSSH PRIVATE KEY" in content:
        kind, hint = "a key in OpenSSH's own format", f"convert it: ssh-keygen -p -m PKCS8 -f {_quoted(path)}"
    elif b"PRIVATE KEY-----" in content:
        return
    elif b"PUBLIC KEY-----" in content or content.startswith(b"ssh-"):
        kind, hint = "a public key", "name the private key that belongs to it, often called rsa_key.p8"
    elif content.startswith(b"\x30"):  # an ASN.1 SEQUENCE
        kind, hint = "a DER file", f"convert it: openssl pkey -inform DER -in {_quoted(path)} -out rsa_key.p8"
    raise KeyFileError(f"{path}: holds {kind}; a private key in PEM format is needed", hint=hint)


def _key_pair(path: Path, private_key: object) -> KeyPair:
    if isinstance(private_key, rsa.RSAPrivateKey) and private_key.key_size >= _KEY_BITS:
        return _described(private_key, "RS256")
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.name in _CURVES:
        return _described(private_key, _CURVES[private_key.curve.name])
    found = "neither"
    if isinstance(private_key, rsa.RSAPrivateKey):
        found = f"{private_key.key_size} bits"
    elif isinstance(private_key, ec.EllipticCurvePrivateKey):
        found = f"of the curve {private_key.curve.name}"
    raise KeyFileError(
        f"{path}: Snowflake accepts RSA keys of at least {_KEY_BITS} bits and ECDSA keys over P-256, P-384 "
        f"and P-521, this one is {found}",
        hint="make a new one: badge-agent key generate",
    )


def _described(private_key: PrivateKey, algorithm: Algorithm) -> KeyPair:
    public_key = private_key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = public_key.public_bytes(serialization.Encoding.DER, form)
    return KeyPair(
        fingerprint=_fingerprint(der),
        bits=private_key.key_size,
        public_key_line=base64.b64encode(der).decode("ascii"),
        public_key_pem=public_key.public_bytes(serialization.Encoding.PEM, form).decode("ascii"),
        private_key=private_key,
        algorithm=algorithm,
    )


def _fingerprint(der: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode("ascii")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
