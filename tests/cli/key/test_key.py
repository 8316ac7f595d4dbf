from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main
from agent.keys.keypair import load_private_key

READER = '[[readers]]\nid = "R"\nzone_id = "Z"\nport = "/dev/ttyUSB0"\nprotocol = "rdm6300"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BADGE_AGENT_CONFIG", raising=False)
    return tmp_path


def config_file(folder: Path, key_file: Path, user: str = "DOOR_USER") -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'{READER}[snowflake]\naccount = "ORG-ACCOUNT"\nuser = "{user}"\ndatabase = "D"\nschema = "S"\n'
        f'pipe = "P"\nprivate_key_file = "{key_file}"\n'
    )
    return path


def test_a_new_key_comes_with_the_sql_that_registers_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["key", "generate", "--user", "SFE_INGEST_USER"])

    key = load_private_key(folder / "rsa_key.p8")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert f"fingerprint: {key.fingerprint}" in lines
    assert f"ALTER USER SFE_INGEST_USER SET RSA_PUBLIC_KEY='{key.public_key_line}';" in lines
    assert "DESC USER SFE_INGEST_USER;" in lines
    assert lines[-1].endswith("then: badge-agent check")


def test_the_configuration_says_where_the_key_goes_and_whose_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(folder, folder / "door.p8", user="svc@door")

    code = main(["--config", str(config), "key", "generate", "--json"])

    key = load_private_key(folder / "door.p8")
    assert code == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": f"{folder}/door.p8",
        "bits": 2048,
        "fingerprint": key.fingerprint,
        "public_key": key.public_key_line,
        "public_key_pem": key.public_key_pem,
        "alter_user": f"ALTER USER \"SVC@DOOR\" SET RSA_PUBLIC_KEY='{key.public_key_line}';",
        "describe_user": 'DESC USER "SVC@DOOR";',
    }


def test_a_key_without_a_configuration_leaves_the_user_to_fill_in(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.key.DEFAULT_CONFIG", folder / "config.toml")

    code = main(["key", "generate", "--config", str(folder / "config.toml")])

    assert code == 0
    assert "ALTER USER <user> SET RSA_PUBLIC_KEY=" in capsys.readouterr().out


def test_a_user_that_snowflake_cannot_have_gets_no_key(folder: Path) -> None:
    code = main(["key", "generate", "--out", str(folder / "rsa_key.p8"), "--user", "a\nb"])

    assert code == 2
    assert not (folder / "rsa_key.p8").exists()


def test_a_named_configuration_must_be_there_and_right(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["key", "generate", "--config", "none.toml"])

    assert code == 78
    assert f"error: {folder}/none.toml: no such configuration file" in capsys.readouterr().err
    assert not (folder / "rsa_key.p8").exists()


def test_an_existing_key_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rsa_key.p8").write_text("precious")

    code = main(["key", "generate", "--user", "U", "--out", "rsa_key.p8"])

    assert code == 78
    assert (folder / "rsa_key.p8").read_text() == "precious"
    assert "never overwritten" in capsys.readouterr().err


def test_the_fingerprint_alone_is_one_line(rsa_key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["key", "fingerprint", str(rsa_key_file)])

    assert code == 0
    assert capsys.readouterr().out == load_private_key(rsa_key_file).fingerprint + "\n"


def test_the_key_of_the_configuration_is_the_default(
    folder: Path, rsa_key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(folder, rsa_key_file)

    code = main(["key", "fingerprint", "--json", "--config", str(config)])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["file"] == str(rsa_key_file)
    assert answer["fingerprint"] == load_private_key(rsa_key_file).fingerprint


def test_the_public_half_is_one_line_or_pem_or_json_and_nothing_private(
    rsa_key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_private_key(rsa_key_file)

    outputs = []
    for options in ([], ["--pem"], ["--json"]):
        assert main(["key", "public", str(rsa_key_file), *options]) == 0
        outputs.append(capsys.readouterr().out)

    assert outputs[0] == key.public_key_line + "\n"
    assert outputs[1] == key.public_key_pem
    assert json.loads(outputs[2])["public_key"] == key.public_key_line
    assert "PRIVATE" not in "".join(outputs)
