from __future__ import annotations

import dataclasses
import json
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.loader import DEFAULT_CONFIG, find_config, load
from agent.errors import ConfigError
from agent.readers.protocols import PROTOCOLS
from agent.settings import (
    AgentSettings,
    ClockSettings,
    HeartbeatSettings,
    OutboxSettings,
    PrivacySettings,
    ReaderSettings,
    Settings,
    SnowflakeSettings,
    UploaderSettings,
)
from tests.support.paths import ROOT

EXAMPLE = ROOT / "config.example.toml"

SECTIONS = {
    "agent": AgentSettings,
    "readers": ReaderSettings,
    "snowflake": SnowflakeSettings,
    "outbox": OutboxSettings,
    "uploader": UploaderSettings,
    "clock": ClockSettings,
    "privacy": PrivacySettings,
    "heartbeat": HeartbeatSettings,
}

# What has no default, as section.key -> TOML.
REQUIRED: Mapping[str, str] = {
    "readers.id": '"RDR-101"',
    "readers.zone_id": '"ZONE-LOBBY-1"',
    "readers.port": '"/dev/ttyUSB0"',
    "readers.protocol": '"rdm6300"',
    "snowflake.account": '"MYORG-MYACCOUNT"',
    "snowflake.user": '"SFE_INGEST_USER"',
    "snowflake.database": '"SNOWFLAKE_EXAMPLE"',
    "snowflake.schema": '"RAW_INGESTION"',
    "snowflake.pipe": '"SFE_BADGE_EVENTS_PIPE"',
    "snowflake.private_key_file": '"rsa_key.p8"',
}
SECOND_READER = '[[readers]]\nid = "{id}"\nzone_id = "Z"\nport = "{port}"\nprotocol = "rdm6300"\n'


def document(changes: Mapping[str, str | None] | None = None) -> str:
    sections: dict[str, list[str]] = {}
    for name, value in {**REQUIRED, **(changes or {})}.items():
        section, key = name.split(".")
        lines = sections.setdefault(section, [])
        if value is not None:
            lines.append(f"{key} = {value}")
    return "".join(
        f"{'[[readers]]' if section == 'readers' else f'[{section}]'}\n" + "\n".join(lines) + "\n"
        for section, lines in sections.items()
    )


SNOWFLAKE = "".join(document().partition("[snowflake]")[1:])


def loaded(folder: Path, text: str) -> Settings:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return load(path)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return caught.value


def test_a_file_with_only_what_is_required_has_every_default(tmp_path: Path) -> None:
    settings = loaded(tmp_path, document())

    assert settings == Settings(
        agent=AgentSettings(id=socket.gethostname()),
        readers=(
            ReaderSettings(
                id="RDR-101",
                zone_id="ZONE-LOBBY-1",
                port=Path("/dev/ttyUSB0"),
                protocol="rdm6300",
                keypad="none",  # it has none
            ),
        ),
        cardholders_file=None,
        snowflake=SnowflakeSettings(
            account="MYORG-MYACCOUNT",
            user="SFE_INGEST_USER",
            database="SNOWFLAKE_EXAMPLE",
            schema="RAW_INGESTION",
            pipe="SFE_BADGE_EVENTS_PIPE",
            private_key_file=tmp_path / "rsa_key.p8",
            url="https://myorg-myaccount.snowflakecomputing.com",
        ),
        outbox=OutboxSettings(),
        uploader=UploaderSettings(),
        clock=ClockSettings(),
        privacy=PrivacySettings(),
        heartbeat=HeartbeatSettings(),
        path=tmp_path / "config.toml",
    )


def test_the_example_holds_every_key_there_is() -> None:
    example = tomllib.loads(EXAMPLE.read_text("utf-8"))

    keys = {name: set(table[0] if isinstance(table, list) else table) for name, table in example.items()}

    assert keys.pop("cardholders") == {"file"}
    assert keys == {name: {field.name for field in dataclasses.fields(SECTIONS[name])} for name in SECTIONS}


def test_the_example_shows_the_defaults_where_there_are_any(tmp_path: Path) -> None:
    example, defaults = load(EXAMPLE), loaded(tmp_path, document({"agent.id": '"hq-lobby-1"'}))

    assert example.agent == defaults.agent
    # Shown as examples; without them a reader has no direction, its protocol's line settings, and the
    # lengths that follow from the formats.
    assert example.readers[0] == dataclasses.replace(
        defaults.readers[0],
        port=example.readers[0].port,
        direction="ENTRY",
        baudrate=9600,
        data_bits=8,
        line_parity="none",
        stop_bits=1,
        unknown_lengths="raw",
    )
    assert example.snowflake == dataclasses.replace(
        defaults.snowflake, private_key_file=EXAMPLE.parent / "rsa_key.p8", role="SFE_INGEST_ROLE"
    )
    assert example.outbox == defaults.outbox
    assert example.uploader == defaults.uploader
    assert example.clock == defaults.clock


def test_every_problem_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    text = document(
        {
            "agent.log_level": '"verbose"',
            "readers.baudrate": '"9600"',
            "readers.directoin": '"ENTRY"',
            "snowflake.user": None,
            "uploader.max_request_bytes": "4_000_001",
        }
    )

    error = refused(tmp_path, text)

    assert error.exit_code == 78
    assert str(error) == f"{tmp_path}/config.toml: 5 problems"
    assert error.hint == (
        f"correct the file, then: badge-agent check --offline --config {tmp_path}/config.toml"
    )
    assert sorted(error.problems) == [
        "agent.log_level: found 'verbose'; allowed: debug, error, info, warning",
        "readers[0].baudrate: found '9600'; must be a whole number from 50 to 4000000",
        (
            "readers[0].directoin: unknown key (did you mean direction?); known: badge_id, baudrate, "
            "data_bits, direction, expect_traffic_within, formats, hold_off_ms, id, keypad, line_parity, "
            "options, parity, pin_digits, pin_facility_code, port, protocol, rs485, stop_bits, "
            "unknown_lengths, zone_id"
        ),
        "snowflake.user: missing; it has no default and must be set",
        "uploader.max_request_bytes: found 4000001; must be a whole number from 10000 to 4000000",
    ]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("agent.id", '"a|b"', "agent.id: found 'a|b'; must be 1 to 50 of"),
        ("agent.id", f'"{"a" * 51}"', "agent.id: found 'aaaa"),
        ("agent.id", "true", "agent.id: found true; must be text"),
        ("agent.id", "1979-05-27", "agent.id: found a date or time; must be text"),
        ("agent.state_dir", "5", "agent.state_dir: found a number that cannot be one"),
        ("readers.id", '"-x"', "readers[0].id: found '-x'"),
        ("readers.zone_id", f'"{"z" * 51}"', "readers[0].zone_id: found 'zzz"),
        ("readers.zone_id", '"a\\nb"', "readers[0].zone_id: found 'a\\nb'"),
        ("readers.port", '"ttyUSB0"', "readers[0].port: found 'ttyUSB0'; must be the full name"),
        ("readers.protocol", '"rdm630"', "readers[0].protocol: found 'rdm630' (did you mean rdm6300?)"),
        ("readers.direction", '"entry"', "readers[0].direction: found 'entry' (did you mean ENTRY?)"),
        ("readers.baudrate", "true", "readers[0].baudrate: found true"),
        ("readers.baudrate", "9600.0", "readers[0].baudrate: found 9600.0"),
        ("readers.formats", '"H10301"', "readers[0].formats: found 'H10301'; must be a list"),
        ("readers.formats", '["h10301"]', "readers[0].formats[0]: found 'h10301' (did you mean H10301?)"),
        ("readers.formats", '["H10301", "H10301"]', "readers[0].formats[1]: found 'H10301' twice"),
        ("readers.formats", "[[]]", "readers[0].formats[0]: found a list; allowed"),
        (
            "readers.pin_facility_code",
            "256",
            "readers[0].pin_facility_code: found 256; must be a whole number",
        ),
        ("readers.options", "5", "readers[0].options: found a number; must be a table"),
        (
            "readers.options",
            "{ bits = 24 }",
            "readers[0].options.bits: unknown option; rdm6300 knows bit_order, byte_order, confirm_reads",
        ),
        ("readers.hold_off_ms", "-1", "readers[0].hold_off_ms: found -1"),
        ("readers.badge_id", '"{card}"', "readers[0].badge_id: found '{card}': there is no field {card}"),
        ("snowflake.account", '"xy12345"', "snowflake.account: found 'xy12345', which looks like"),
        ("outbox.retention_days", "nan", "outbox.retention_days: found nan; must be a number"),
        ("outbox.retention_days", "0", "outbox.retention_days: found 0"),
        ("outbox.reserve_bytes", "2_000_000_000", "outbox.reserve_bytes: found 2000000000; must be less"),
        ("uploader.max_requests_per_second", "10.5", "uploader.max_requests_per_second: found 10.5"),
        ("uploader.max_bytes_per_second", "20_000_001", "uploader.max_bytes_per_second: found 20000001"),
        ("clock.trust", "{}", "clock.trust: found a table; allowed: always, auto"),
        ("reader.id", '"X"', "reader: unknown key (did you mean readers?)"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_what_is_allowed(
    tmp_path: Path, key: str, value: str, problem: str
) -> None:
    error = refused(tmp_path, document({key: value}))

    assert len(error.problems) == 1
    assert error.problems[0].startswith(problem)


def test_the_options_of_a_protocol_are_kept(tmp_path: Path) -> None:
    text = document({"readers.protocol": '"rfideas"', "readers.options": '{ bits = 24, prefix = "" }'})

    settings = loaded(tmp_path, text)

    assert settings.readers[0].options == {"bits": 24}


@pytest.mark.parametrize(
    ("protocol", "options", "problems"),
    [
        (
            "rfideas",
            '{ bit = 24, digits = "roman", facility_bits = true }',
            [
                (
                    "readers[0].options.bit: unknown option (did you mean bits?); rfideas knows bit_order, "
                    "bits, byte_order, confirm_reads, delimiter, digits, facility_bits, length, prefix, "
                    "suffix"
                ),
                "readers[0].options.digits: must be one of decimal, hex",
                "readers[0].options.facility_bits: must be a whole number from 1 to 64",
            ],
        ),
        (
            "rfideas",
            '{ delimiter = "-" }',
            ["readers[0].options.bits: must be more than facility_bits, for there is a delimiter"],
        ),
        ("line", "{}", ["readers[0].options.pattern: must be a regular expression of 1 to 200 characters"]),
        (
            "line",
            "{ pattern = '(?P<hex>.+)*' }",
            [
                (
                    "readers[0].options.pattern: repeats a group at character 12; only a character or a "
                    "class can be repeated"
                )
            ],
        ),
    ],
)
def test_wrong_options_of_a_protocol_are_named_with_their_paths(
    tmp_path: Path, protocol: str, options: str, problems: list[str]
) -> None:
    error = refused(tmp_path, document({"readers.protocol": f'"{protocol}"', "readers.options": options}))

    assert sorted(error.problems) == problems


def test_a_section_of_the_wrong_shape_is_named_once(tmp_path: Path) -> None:
    error = refused(tmp_path, f'agent = 5\nreaders = "x"\n{SNOWFLAKE}')

    assert error.problems == (
        "agent: found a number; must be a table headed [agent]",
        "readers: found text; each one must be headed [[readers]], with two brackets",
    )


@pytest.mark.parametrize("readers", ["", "readers = []\n"])
def test_a_door_without_readers_is_refused(tmp_path: Path, readers: str) -> None:
    error = refused(tmp_path, readers + SNOWFLAKE)

    assert error.problems == ("readers: missing; there must be at least one, headed [[readers]]",)


def test_two_readers_of_one_id_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, document() + SECOND_READER.format(id="RDR-101", port="/dev/ttyUSB1"))

    assert error.problems == ("readers[1].id: found 'RDR-101', already used by readers[0]",)


def test_one_name_for_two_readers_is_refused(tmp_path: Path) -> None:
    text = document({"readers.port": '"/dev/ttyUSB0"'}) + SECOND_READER.format(id="B", port="/dev//ttyUSB0")

    error = refused(tmp_path, text)

    assert error.problems == (
        (
            "readers[1].port: is that of readers[0], too; each reader needs its own serial line, "
            "or the same port as the other: OSDP readers with an address each, or options.select in both, "
            "for lines that name the reader"
        ),
    )


def osdp_line(address: int, other_address: int, more: str = "") -> str:
    """Two OSDP readers on one port."""
    tables = [
        f"""[[readers]]
id = "{name}"
zone_id = "Z"
port = "/dev/ttyUSB0"
protocol = "osdp"
{keys}
options = {{ address = {each} }}
"""
        for name, each, keys in (("A", address, ""), ("B", other_address, more))
    ]
    return "".join(tables) + SNOWFLAKE


def test_osdp_readers_share_a_port_with_an_address_each(tmp_path: Path) -> None:
    readers = loaded(tmp_path, osdp_line(1, 2)).readers

    assert [reader.options["address"] for reader in readers] == [1, 2]
    assert {reader.keypad for reader in readers} == {"none"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (osdp_line(1, 1), "options.address: must be another one than that of readers[0], on the same line"),
        (osdp_line(1, 2, "baudrate = 38400"), "baudrate: must be as in readers[0], which has the same port"),
        (osdp_line(1, 127), "options.address: must be a whole number from 0 to 126"),
    ],
)
def test_osdp_readers_that_cannot_share_a_line_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert f"readers[1].{problem}" in refused(tmp_path, text).problems


def shared_port(select: str, other_select: str, more: str = "") -> str:
    """Two readers on one device, with the option `select` where it is given."""
    tables = [
        f"""[[readers]]
id = "{name}"
zone_id = "Z"
port = "/dev/ttyUSB0"
protocol = "monkeyboard"
{keys}
{f'options = {{ select = "{selected}" }}' if selected else ""}
"""
        for name, selected, keys in (("A", select, ""), ("B", other_select, more))
    ]
    return "".join(tables) + SNOWFLAKE


@pytest.mark.parametrize("names", [("cardReader", "keypadReader"), ("Reader1", "Reader11")])
def test_readers_whose_lines_name_them_share_a_device(tmp_path: Path, names: tuple[str, str]) -> None:
    settings = loaded(tmp_path, shared_port(*names))

    assert [reader.options["select"] for reader in settings.readers] == list(names)


@pytest.mark.parametrize(
    ("names", "more", "problem"),
    [
        (("A", ""), "", "readers[1].port: is that of readers[0], too"),
        (("A", "A"), "", "readers[1].options.select: must be another name than that of readers[0]"),
        (("Gate", "Gate in"), "", "readers[1].options.select: must be another name than that of readers[0]"),
        (("A", "B"), "baudrate = 19200", "readers[1].baudrate: must be as in readers[0]"),
        (("A", "B"), "rs485 = true", "readers[1].rs485: must be as in readers[0]"),
    ],
)
def test_readers_that_cannot_share_a_device_are_refused(
    tmp_path: Path, names: tuple[str, str], more: str, problem: str
) -> None:
    error = refused(tmp_path, shared_port(*names, more))

    assert len(error.problems) == 1
    assert error.problems[0].startswith(problem)


def test_rs485_is_true_or_false(tmp_path: Path) -> None:
    assert loaded(tmp_path, document({"readers.rs485": "true"})).readers[0].rs485
    assert refused(tmp_path, document({"readers.rs485": '"yes"'})).problems == (
        "readers[0].rs485: found 'yes'; must be true or false, without quotes",
    )


def test_two_names_that_are_one_device_at_present_are_no_fault_of_the_file(tmp_path: Path) -> None:
    device, link = tmp_path / "ttyUSB0", tmp_path / "by-id"
    link.symlink_to(device)
    path = tmp_path / "config.toml"
    path.write_text(
        document({"readers.port": json.dumps(str(device))}) + SECOND_READER.format(id="B", port=link)
    )

    assert len(load(path).readers) == 2


def test_what_may_be_a_secret_is_never_shown(tmp_path: Path) -> None:
    text = document(
        {
            "snowflake.private_key_file": '"""-----BEGIN PRIVATE KEY-----\nhunter2\n"""',
            "snowflake.private_key_passphrase_file": '["hunter2"]',
            "snowflake.url": '"https://me:hunter2@localhost"',
            "snowflake.private_key_passphrase": '"hunter2"',
        }
    )

    error = refused(tmp_path, text)

    assert len(error.problems) == 4
    assert "hunter2" not in " ".join(error.problems)


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(
        document(
            {
                "agent.state_dir": '"state"',
                "cardholders.file": '"c.csv"',
                "snowflake.ca_file": '"/etc/ca.pem"',
            }
        )
    )
    monkeypatch.chdir(tmp_path)

    settings = load(Path("config.toml"))

    assert settings.agent.state_dir == tmp_path / "state"
    assert settings.cardholders_file == tmp_path / "c.csv"
    assert settings.snowflake.ca_file == Path("/etc/ca.pem")


def test_an_empty_text_is_as_good_as_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(("snowflake.role", "snowflake.url", "snowflake.ca_file", "readers.direction"), '""')

    settings = loaded(tmp_path, document(empty))

    assert settings == loaded(tmp_path, document())


def test_without_a_key_file_the_key_is_the_services_credential(tmp_path: Path) -> None:
    settings = loaded(tmp_path, document({"snowflake.private_key_file": None}))

    assert settings.snowflake.private_key_file is None


def test_the_option_wins_over_the_environment_over_the_default() -> None:
    environ = {"BADGE_AGENT_CONFIG": "/env.toml"}

    assert find_config(Path("/option.toml"), environ) == Path("/option.toml")
    assert find_config(None, environ) == Path("/env.toml")
    assert find_config(None, {"BADGE_AGENT_CONFIG": ""}) == DEFAULT_CONFIG
    assert find_config(None, {}) == DEFAULT_CONFIG


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file") as caught:
        load(tmp_path / "none.toml")

    assert "sudo badge-agent setup" in caught.value.hint


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.usefixtures("unprivileged")
def test_an_unreadable_file_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as caught:
        load(Path("/etc/shadow"))

    assert "ls -l /etc/shadow" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [('[agent]\nid = "a"\nlog_level =\n', "at line 3"), (f"[outbox]\nmax_bytes = {'9' * 5000}\n", "digits")],
)
def test_broken_toml_is_named_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    error = refused(tmp_path, text)

    assert "not valid TOML" in str(error)
    assert words in str(error)


def test_other_encodings_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'[agent]\nid = "a"\nstate_dir = "caf\xe9"\n')

    with pytest.raises(ConfigError, match=r"not UTF-8 text \(line 3\)"):
        load(path)


def test_a_byte_order_mark_of_a_windows_editor_is_no_problem(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "\ufeff" + document().replace("\n", "\r\n"))

    assert settings.readers[0].id == "RDR-101"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/",
        "http://localhost:8080",
        "http://127.0.0.1:1",
        "http://127.9.9.9",
        "http://[::1]:8080",
    ],
)
def test_https_anywhere_and_http_to_loopback_are_allowed(tmp_path: Path, url: str) -> None:
    settings = loaded(tmp_path, document({"snowflake.url": json.dumps(url)}))

    assert settings.snowflake.url == url.rstrip("/")


TOML_VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    ),
    lambda inner: st.lists(inner, max_size=3),
)
KEYS = sorted(
    f"{section}.{field.name}"
    for section, settings in SECTIONS.items()
    for field in dataclasses.fields(settings)
)


@given(key=st.sampled_from(KEYS), value=TOML_VALUES)
def test_any_value_anywhere_loads_or_is_named_by_its_path(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    section, name = key.split(".")
    path = f"readers[0].{name}" if section == "readers" else key

    try:
        loaded(tmp_path_factory.getbasetemp(), document({key: json.dumps(value)}))
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ()

    # reserve_bytes is also wrong when max_bytes leaves it no room.
    assert all(problem.startswith((path, "outbox.reserve_bytes")) for problem in problems)


@pytest.mark.parametrize(("protocol", "keypad"), [("rdm6300", "none"), ("bits", "unknown")])
def test_the_keypad_is_known_only_of_readers_that_have_none(
    tmp_path: Path, protocol: str, keypad: str
) -> None:
    assert loaded(tmp_path, document({"readers.protocol": f'"{protocol}"'})).readers[0].keypad == keypad


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data_bits", "9", "found 9; must be a whole number from 7 to 8"),
        ("line_parity", '"mark"', "found 'mark'; allowed: even, none, odd"),
        ("stop_bits", "3", "found 3; must be a whole number from 1 to 2"),
        ("unknown_lengths", '"drop"', "found 'drop'; allowed: raw, reject"),
        ("pin_digits", "9", "found 9; must be a whole number from 1 to 8"),
        ("keypad", '"pin27"', "found 'pin27' (did you mean pin26?); allowed: burst4"),
    ],
)
def test_a_wrong_line_setting_or_keypad_is_reported(tmp_path: Path, key: str, value: str, said: str) -> None:
    (problem,) = refused(tmp_path, document({f"readers.{key}": value})).problems

    assert problem.startswith(f"readers[0].{key}: {said}")


def test_line_settings_are_those_of_the_protocol_unless_configured(tmp_path: Path) -> None:
    text = document({"readers.data_bits": "7", "readers.line_parity": '"even"', "readers.stop_bits": "2"})
    reader = loaded(tmp_path, text).readers[0]

    assert str(PROTOCOLS["rdm6300"].line.of(reader)) == "9600 7E2"
    assert str(PROTOCOLS["idteck"].line.of(dataclasses.replace(reader, stop_bits=None))) == "9600 7E2"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("proxy:3128", "found no scheme"),
        ("10.0.0.1:3128", "found no scheme"),
        ("https://proxy:3128", "found the scheme 'https', only HTTP proxies are supported"),
        ("htpp://proxy:3128", "found the scheme 'htpp'"),
        ("socks5://proxy:1080", "found the scheme 'socks5'"),
        ("http://me:hunter2@proxy:3128", "found a login in it, which belongs in proxy_login_file"),
        ("http://proxy", "found no host with a port"),
        ("http://:3128", "found no host with a port"),
        ("http://proxy:99999", "found an address that cannot be read"),
        ("http://proxy:3128/pac", "found more than scheme, host and port"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_named_without_its_password(
    tmp_path: Path, proxy: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, document({"snowflake.proxy": json.dumps(proxy)}))

    (problem,) = caught.value.problems
    assert problem.startswith(f"snowflake.proxy: {words}")
    assert problem.endswith("must be http://HOST:PORT, nothing after it")
    assert "hunter2" not in problem


def test_a_proxy_and_its_login_file_are_loaded(tmp_path: Path) -> None:
    changes = {"snowflake.proxy": '"http://proxy:3128/"', "snowflake.proxy_login_file": '"login"'}

    snowflake = loaded(tmp_path, document(changes)).snowflake

    assert (snowflake.proxy, snowflake.proxy_login_file) == ("http://proxy:3128", tmp_path / "login")
    assert loaded(tmp_path, document({"snowflake.proxy": '""'})).snowflake.proxy is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hc-ping.com/my-secret", "found no https address"),
        ("http://monitor.example/my-secret", "found http to 'monitor.example', which would send its path in"),
        ("https://me:my-secret@monitor.example/", "found a user name or password in it"),
        ("https://monitor.example/my-secret#x", "found more than scheme, host and port"),
        ("https://monitor.example/my-secret/é", "found a character that is not ASCII"),
    ],
)
def test_a_heartbeat_url_that_cannot_be_one_is_named_without_its_secret(
    tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, document({"heartbeat.url": json.dumps(url)}))

    (problem,) = caught.value.problems
    assert problem.startswith(f"heartbeat.url: {words}")
    assert "my-secret" not in problem


def test_a_heartbeat_url_is_loaded_and_not_shown(tmp_path: Path) -> None:
    settings = loaded(tmp_path, document({"heartbeat.url": '"https://hc-ping.com/my-secret"'}))

    assert settings.heartbeat.url == "https://hc-ping.com/my-secret"
    assert "my-secret" not in repr(settings)
    assert loaded(tmp_path, document({})).heartbeat.url is None


def test_a_privatelink_address_as_account_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, document({"snowflake.account": '"myorg-my_acc.privatelink"'}))

    assert 'set url = "https://myorg-my-acc.privatelink.snowflakecomputing.com"' in caught.value.problems[0]


@pytest.mark.parametrize("name", ["agent", "cardholders", "snowflake", "outbox", "uploader", "clock"])
def test_a_table_that_is_text_is_named_also_if_it_is_empty(tmp_path: Path, name: str) -> None:
    others = "".join(
        part for part in re.split(r"(?m)^(?=\[)", document({})) if not part.startswith(f"[{name}]")
    )

    error = refused(tmp_path, f'{name} = ""\n{others}')

    assert f"{name}: found text; must be a table headed [{name}]" in error.problems
