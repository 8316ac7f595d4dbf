from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.errors import KeyFileError, NotPermittedError
from agent.keys.keypair import KeyPair, generate_key, load_private_key, new_key, parse_private_key, pem
from agent.snowpipe.jwt import mint
from tests.support.needs import OPENSSL, needs


@pytest.fixture(scope="session")
def key(rsa_key_file: Path) -> KeyPair:
    return load_private_key(rsa_key_file)


def secret_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def encrypted_key_file(path: Path, key: KeyPair, passphrase: bytes, form: PrivateFormat) -> Path:
    encryption = serialization.BestAvailableEncryption(passphrase)
    return secret_file(path, key.private_key.private_bytes(Encoding.PEM, form, encryption))


def test_a_generated_key_is_a_private_pkcs8_file_that_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "rsa_key.p8"

    made = generate_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert b"\n-----BEGIN PRIVATE KEY-----\n" in path.read_bytes()
    assert load_private_key(path) == made
    assert made.bits == 2048


def test_the_fingerprint_is_that_of_the_registered_line(key: KeyPair) -> None:
    der = base64.b64decode(key.public_key_line, validate=True)

    assert key.fingerprint == "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
    assert (
        serialization.load_pem_public_key(key.public_key_pem.encode()).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        == der
    )


def test_a_printed_key_shows_its_fingerprint_only(key: KeyPair) -> None:
    assert repr(key) == f"KeyPair(fingerprint={key.fingerprint!r})"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "rsa_key.p8", b"precious")

    with pytest.raises(KeyFileError, match="the file exists; a key is never overwritten"):
        generate_key(path)

    assert path.read_bytes() == b"precious"


def test_a_dangling_link_is_not_followed_to_write_a_key(tmp_path: Path) -> None:
    path = tmp_path / "rsa_key.p8"
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(KeyFileError, match="the file exists"):
        generate_key(path)

    assert not (tmp_path / "elsewhere").exists()


def test_a_key_for_a_missing_directory_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be written: No such file or directory") as caught:
        generate_key(tmp_path / "none" / "rsa_key.p8")

    assert f"ls -ld {tmp_path}/none" in caught.value.hint


@pytest.mark.usefixtures("unprivileged")
def test_a_key_where_one_may_not_write_is_not_permitted() -> None:
    with pytest.raises(NotPermittedError, match="may not create files in /etc") as caught:
        generate_key(Path("/etc/badge-agent-test.p8"))

    assert caught.value.exit_code == 77


def test_a_key_that_cannot_be_finished_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rsa_key.p8"

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(KeyFileError, match="cannot be written: No space left on device"):
        generate_key(path)

    assert not path.exists()


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such private key file") as caught:
        load_private_key(tmp_path / "rsa key.p8")

    assert caught.value.exit_code == 78
    assert f"badge-agent key generate --out '{tmp_path}/rsa key.p8'" in caught.value.hint


def test_a_directory_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: Is a directory"):
        load_private_key(tmp_path)


@pytest.mark.usefixtures("unprivileged")
def test_an_unreadable_key_is_not_permitted() -> None:
    with pytest.raises(NotPermittedError, match="may not read the private key file") as caught:
        load_private_key(Path("/etc/shadow"))

    assert "sudo chown badge-agent /etc/shadow" in caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o611, 0o644])
def test_a_key_open_to_others_is_refused_with_the_chmod_line(
    tmp_path: Path, rsa_key_file: Path, mode: int
) -> None:
    path = secret_file(tmp_path / "rsa_key.p8", rsa_key_file.read_bytes(), mode)

    with pytest.raises(KeyFileError, match=rf"accessible to other users \(mode {mode:04o}\)") as caught:
        load_private_key(path)

    assert caught.value.hint == f"chmod 600 {path}"


def test_group_read_is_fine_in_the_credentials_of_a_service(
    tmp_path: Path, rsa_key_file: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = secret_file(tmp_path / "private_key", rsa_key_file.read_bytes(), 0o440)

    assert load_private_key(path) == key

    path.chmod(0o444)
    with pytest.raises(KeyFileError, match="accessible to other users"):
        load_private_key(path)


def test_a_damaged_or_unknown_key_is_told_from_a_missing_one(tmp_path: Path, rsa_key_file: Path) -> None:
    lines = rsa_key_file.read_bytes().splitlines(keepends=True)
    unknown_algorithm = base64.b64encode(bytes.fromhex("30 0E 020100 3005 0603 2A0304 0402 0500"))
    cases = (
        b"".join(lines[:5] + lines[9:]),
        b"-----BEGIN PRIVATE KEY-----\n" + unknown_algorithm + b"\n-----END PRIVATE KEY-----\n",
        rsa_key_file.read_bytes()[:1000],
    )

    for content in cases:
        path = secret_file(tmp_path / "rsa_key.p8", content)
        with pytest.raises(KeyFileError, match="is damaged, or of a type") as caught:
            load_private_key(path)
        assert "badge-agent key generate" in caught.value.hint


def test_other_things_than_a_private_key_in_pem_are_named(tmp_path: Path, key: KeyPair) -> None:
    private, public = key.private_key, key.private_key.public_key()
    cases = {
        "a public key": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "a public key;": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "a DER file": private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "a key in OpenSSH's own format": private.private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ),
        "no PEM private key": b"rsa_key.p8\n",
    }

    for words, content in cases.items():
        path = secret_file(tmp_path / "rsa_key.p8", content)
        with pytest.raises(KeyFileError, match=f"holds {words}") as caught:
            load_private_key(path)
        assert caught.value.hint


def test_a_key_that_snowflake_would_not_take_is_refused(tmp_path: Path) -> None:
    cases: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
        "of the curve secp256k1": ec.generate_private_key(ec.SECP256K1()),
        "neither": ed25519.Ed25519PrivateKey.generate(),
        "1024 bits": rsa.generate_private_key(65_537, 1024),  # noqa: S505 - to be refused
    }

    for words, private in cases.items():
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = secret_file(tmp_path / "rsa_key.p8", pem)
        with pytest.raises(KeyFileError, match=f"at least 2048 bits and .* this one is {words}"):
            load_private_key(path)


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [(ec.SECP256R1(), "ES256"), (ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_other_keys_that_snowflake_takes_are_loaded_and_sign(
    tmp_path: Path, curve: ec.EllipticCurve, algorithm: str
) -> None:
    private = ec.generate_private_key(curve)
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    key = load_private_key(secret_file(tmp_path / "ec_key.p8", content))
    token = mint(key, "ORG-ACC", "U", 1_760_000_000).text

    assert key.algorithm == algorithm
    assert (
        jwt.decode(token, private.public_key(), [algorithm], options={"verify_exp": False})["sub"]
        == "ORG-ACC.U"
    )


def test_a_key_is_read_in_the_forms_that_editors_and_settings_give_it(
    tmp_path: Path, rsa_key_file: Path, key: KeyPair
) -> None:
    text = rsa_key_file.read_text()
    block = text[text.index("-----BEGIN") :]
    base64_text = "".join(block.splitlines()[1:-1])
    private = key.private_key
    pkcs1 = private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    forms = {
        "UTF-16, as PowerShell writes it": text.encode("utf-16"),
        "UTF-16, big end first": b"\xfe\xff" + text.encode("utf-16-be"),
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "line ends of Windows": text.replace("\n", "\r\n").encode(),
        "backslash and n": block.replace("\n", "\\n").encode(),
        "in quotes": f'"{block}"'.replace("\n", "\\n").encode(),
        "without its first and last line": base64_text.encode(),
        "PKCS#1 without its lines": base64.encodebytes(pkcs1),
    }

    for form, content in forms.items():
        path = secret_file(tmp_path / "rsa_key.p8", content)
        assert load_private_key(path) == key, form


def test_the_line_of_a_public_key_is_named_as_one(tmp_path: Path, key: KeyPair) -> None:
    path = secret_file(tmp_path / "rsa_key.p8", key.public_key_line.encode())

    with pytest.raises(KeyFileError, match="holds a public key"):
        load_private_key(path)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_opens_with_its_passphrase_file(
    tmp_path: Path, key: KeyPair, form: PrivateFormat
) -> None:
    path = encrypted_key_file(tmp_path / "rsa_key.p8", key, b"open sesame ", form)
    passphrase_file = secret_file(tmp_path / "passphrase", b"open sesame \r\n")

    assert load_private_key(path, passphrase_file) == key


def test_a_passphrase_file_does_no_harm_to_a_key_without_passphrase(
    tmp_path: Path, rsa_key_file: Path, key: KeyPair
) -> None:
    assert load_private_key(rsa_key_file, tmp_path / "none") == key


def test_an_encrypted_key_without_its_passphrase_says_what_is_missing(tmp_path: Path, key: KeyPair) -> None:
    path = encrypted_key_file(tmp_path / "rsa_key.p8", key, b"open sesame", PrivateFormat.PKCS8)
    wrong = secret_file(tmp_path / "wrong", b"open barley\n")
    empty = secret_file(tmp_path / "empty", b"\n")
    bare = secret_file(tmp_path / "bare", b"open sesame", 0o644)
    cases = {
        "is encrypted, and no passphrase file is set": None,
        f"cannot be decrypted with the passphrase in {wrong}": wrong,
        f"{empty}: the passphrase file is empty": empty,
        f"{bare}: the passphrase file is accessible to other users": bare,
        f"{tmp_path}/none: no such passphrase file": tmp_path / "none",
    }

    for words, passphrase_file in cases.items():
        with pytest.raises(KeyFileError) as caught:
            load_private_key(path, passphrase_file)
        assert words in str(caught.value)
        assert caught.value.hint
        assert "open" not in caught.value.hint.replace("openssl", "").replace(str(tmp_path), "")


def test_a_cipher_that_this_machine_lacks_says_how_to_convert(tmp_path: Path) -> None:
    pem = (
        b"-----BEGIN RSA PRIVATE KEY-----\n"
        b"Proc-Type: 4,ENCRYPTED\n"
        b"DEK-Info: ROT13-CBC,00000000000000000000000000000000\n\n"
        + base64.b64encode(bytes(64))
        + b"\n-----END RSA PRIVATE KEY-----\n"
    )
    path = secret_file(tmp_path / "rsa_key.p8", pem)
    passphrase_file = secret_file(tmp_path / "passphrase", b"x")

    with pytest.raises(KeyFileError) as caught:
        load_private_key(path, passphrase_file)

    assert "openssl pkcs8 -topk8" in caught.value.hint


# --- metadata of a key ------------------------------------------------------------------------


def test_a_key_carries_its_birth_date_and_its_slot_through_its_file(tmp_path: Path) -> None:
    made = new_key("RSA_PUBLIC_KEY_2")

    read = load_private_key(secret_file(tmp_path / "rsa_key.p8", pem(made)))

    assert made.created_at is not None
    assert read.created_at == made.created_at.replace(microsecond=0)
    assert datetime.now(UTC) - made.created_at < timedelta(hours=1)
    assert (read, read.slot) == (made, "RSA_PUBLIC_KEY_2")


def test_a_key_that_tells_no_date_is_as_old_as_its_file(tmp_path: Path, key: KeyPair) -> None:
    bare = key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = secret_file(tmp_path / "rsa_key.p8", bare)
    os.utime(path, (0, 1_700_000_000))

    assert load_private_key(path).created_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert load_private_key(path).slot == "RSA_PUBLIC_KEY"


def test_the_age_of_a_credential_is_not_that_of_its_file(
    tmp_path: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    bare = key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    assert load_private_key(secret_file(tmp_path / "private_key", bare)).created_at is None


def test_a_date_that_cannot_be_is_no_date(key: KeyPair) -> None:
    content = b"Created: 2026-02-31T00:00:00Z by badge-agent\n" + pem(key).partition(b"\n")[2]

    assert parse_private_key(content, Path("rsa_key.p8")).created_at is None


def test_an_encrypted_key_tells_its_date_too(tmp_path: Path) -> None:
    made = new_key()
    path = secret_file(tmp_path / "rsa_key.p8", pem(made, b"open sesame"))
    passphrase_file = secret_file(tmp_path / "passphrase", b"open sesame\n")

    read = load_private_key(path, passphrase_file)

    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert read == made
    assert read.created_at is not None


def test_openssl_reads_a_key_that_tells_of_itself(tmp_path: Path) -> None:
    needs(OPENSSL)
    path = secret_file(tmp_path / "rsa_key.p8", pem(new_key("RSA_PUBLIC_KEY_2")))

    checked = subprocess.run(
        ["openssl", "pkey", "-in", path, "-noout", "-check"], capture_output=True, check=False
    )

    assert checked.returncode == 0
