"""The answers that `setup` needs, from options or prompts, validated as the configuration is."""

from __future__ import annotations

import copy
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import click

from agent.config.editor import Document
from agent.config.loader import settings_of
from agent.errors import ConfigError
from agent.readers.detect.own_uart import users_of
from agent.readers.port_names import is_shared, serial_devices
from agent.readers.protocols import PROTOCOLS
from agent.settings import Direction, Keypad

_NONE = "-"  # typed for "none of them"


@dataclass(frozen=True, slots=True)
class Question:
    """One setting to ask for; `suggestion` is the name that `badge-agent sql` uses."""

    option: str
    table: str
    key: str
    text: str
    suggestion: str | None = None
    optional: bool = False


QUESTIONS = (
    Question("account", "snowflake", "account", "Snowflake account, as ORGANIZATION-ACCOUNT"),
    Question("user", "snowflake", "user", "Snowflake user of the agent", "SFE_INGEST_USER"),
    Question(
        "role",
        "snowflake",
        "role",
        f"Role ({_NONE} for the user's own default)",
        "SFE_INGEST_ROLE",
        optional=True,
    ),
    Question("database", "snowflake", "database", "Database", "SNOWFLAKE_EXAMPLE"),
    Question("schema", "snowflake", "schema", "Schema", "RAW_INGESTION"),
    Question("pipe", "snowflake", "pipe", "Pipe", "SFE_BADGE_EVENTS_PIPE"),
    Question(
        "proxy",
        "snowflake",
        "proxy",
        f"HTTP proxy, as http://HOST:PORT ({_NONE} for none)",
        _NONE,
        optional=True,
    ),
    Question("agent_id", "agent", "id", "This door's name in Snowflake", socket.gethostname(), optional=True),
)

# The keys of --reader, and the settings they set.
READER_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "id": "id",
        "zone": "zone_id",
        "port": "port",
        "protocol": "protocol",
        "direction": "direction",
        "baudrate": "baudrate",
        "formats": "formats",
        "keypad": "keypad",
        "address": "address",
        "secure": "secure",
    }
)
# Keys of --reader that set options of the protocol.
_OPTION_KEYS = ("address", "secure")
_REQUIRED = ("id", "zone", "protocol", "port")

Reader = dict[str, Any]


def reader_options(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[Reader, ...]:
    """Parse each `id=RDR-101,zone=ZONE-1,...` to a [[readers]] table. Raises click.BadParameter."""
    return tuple(map(_reader_of, texts))


def _reader_of(text: str) -> Reader:
    reader: Reader = {}
    for part in text.split(","):
        word, equals, value = part.partition("=")
        if not equals or word not in READER_KEYS or READER_KEYS[word] in reader:
            raise click.BadParameter(
                f"found {part!r}; must be KEY=VALUE, each of these once: {', '.join(READER_KEYS)}"
            )
        reader[READER_KEYS[word]] = _typed(word, value)
    if options := {key: reader.pop(key) for key in _OPTION_KEYS if key in reader}:
        reader["options"] = options
    return reader


def filled(document: Document, options: Mapping[str, str | None], readers: Sequence[Reader]) -> Document:
    """The document with these answers, without prompts. Raises click.UsageError with all missing ones."""
    document = copy.deepcopy(document)
    missing = []
    for question in QUESTIONS:
        table = document.setdefault(question.table, {})
        given = options[question.option]
        if given is not None:
            _set(table, question, given)
        elif question.key not in table and question.option == "agent_id":
            table[question.key] = (
                question.suggestion
            )  # stored, so that a changed host name does not rename the door
        elif question.key not in table and not question.optional:
            missing.append(f"--{question.option}")
    document["readers"] = [_merged(document, reader) for reader in readers] or document.get("readers", [])
    missing += _missing_of_readers(document["readers"])
    missing += [f"another port: {text}" for text in map(_shared_problem, document["readers"]) if text]
    if missing:
        raise click.UsageError("--yes, but these are missing:\n  " + "\n  ".join(missing))
    return document


def asked(document: Document, options: Mapping[str, str | None], readers: Sequence[Reader]) -> Document:
    """The document with these answers, prompting for the missing ones."""
    document = copy.deepcopy(document)
    for question in QUESTIONS:
        table = document.setdefault(question.table, {})
        given = options[question.option]
        if given is not None:
            _set(table, question, given)
        else:
            _ask(document, question)
    present: list[Reader] = document.get("readers", [])
    given_readers = [_merged(document, reader) for reader in readers]
    document["readers"] = []
    if present and not given_readers and _keep(present):
        document["readers"] = present
        return document
    for reader in given_readers:
        _ask_reader(document, reader)
    while not document["readers"] or (not given_readers and click.confirm("Another reader?", default=False)):
        _ask_reader(document, {})
    return document


def _keep(readers: Sequence[Reader]) -> bool:
    if problems := [text for text in map(_shared_problem, readers) if text]:
        click.echo("\n".join(problems))
        return False
    for reader in readers:
        click.echo(f"Reader {reader.get('id')}: {reader.get('protocol')} at {reader.get('port')}")
    return click.confirm("Keep these readers?", default=True)


def problem_with(document: Document, place: str) -> str | None:
    """The problem that loading the configuration reports for one value, or None."""
    try:
        settings_of(document, Path("/etc/badge-agent/config.toml"))
    except ConfigError as error:
        about = (f"{place}: ", f"{place}[")
        return next((text.partition(": ")[2] for text in error.problems if text.startswith(about)), None)
    return None


# --- one value --------------------------------------------------------------------------------


def _set(table: dict[str, Any], question: Question, answer: str) -> None:
    if question.optional and answer in ("", _NONE):
        table.pop(question.key, None)
    else:
        table[question.key] = answer


def _ask(document: Document, question: Question) -> None:
    table = document[question.table]

    def checked(answer: str) -> str:
        trial = {**document, question.table: dict(table)}
        _set(trial[question.table], question, answer)
        _refuse(trial, f"{question.table}.{question.key}")
        return answer

    default = table.get(question.key, question.suggestion)
    _set(table, question, click.prompt(question.text, default=default, value_proc=checked))


def _refuse(trial: Document, place: str) -> None:
    if problem := problem_with(trial, place):
        raise click.BadParameter(problem)


# --- readers ----------------------------------------------------------------------------------


def _typed(word: str, text: str) -> object:
    if word == "formats":
        return text.split("+")
    if word in ("baudrate", "address") and text.isdecimal():
        return int(text)
    return text


def _merged(document: Document, given: Reader) -> Reader:
    """The given keys over those configured for the reader with this id."""
    present: list[Reader] = document.get("readers", [])
    before = next((old for old in present if old.get("id") == given.get("id")), {})
    reader = {**before, **given}
    if "options" in before and "options" in given:
        reader["options"] = {**before["options"], **given["options"]}
    devices = serial_devices()
    if "port" not in reader and len(devices) == 1:
        reader["port"] = devices[0]
    return reader


def _shared_problem(reader: Reader) -> str | None:
    """The problem with a port whose name several adapters claim: it is another one after a replugging."""
    port = str(reader.get("port", ""))
    if not is_shared(port):
        return None
    return f"several adapters claim {port}; name the socket instead: ls -l /dev/serial/by-path/"


def _missing_of_readers(readers: Sequence[Reader]) -> list[str]:
    if not readers:
        return ["--reader " + ",".join(f"{word}=..." for word in _REQUIRED)]
    missing = []
    for number, reader in enumerate(readers, start=1):
        words = [word for word in _REQUIRED if READER_KEYS[word] not in reader]
        if words:
            which = f" {reader['id']}" if "id" in reader else f" number {number}" if len(readers) > 1 else ""
            line = f"--reader{which}: " + ", ".join(f"{word}=" for word in words)
            found = serial_devices() if "port" in words else None
            missing.append(line if found is None else f"{line} ({_found(found)})")
    return missing


def _found(devices: Sequence[str]) -> str:
    return f"found: {', '.join(devices)}" if devices else "no serial port found"


def _ask_reader(document: Document, reader: Reader) -> None:
    """Prompt for the missing keys of a reader, and add it to the document."""
    index = len(document["readers"])
    reader = dict(reader)

    def ask(word: str, text: str, default: str | None, meaning: Callable[[str], Any] = str) -> None:
        key = READER_KEYS[word]

        def checked(answer: str) -> object:
            value = meaning(answer)
            if key == "port" and (problem := _shared_problem({"port": value})):
                raise click.BadParameter(problem)
            shared = _of_osdp_line(document, value) if key == "port" else {}
            trial = {**document, "readers": [*document["readers"], {**shared, **reader, key: value}]}
            _refuse(trial, f"readers[{index}].{key}")
            return value

        if key not in reader:
            reader[key] = click.prompt(text, default=default, value_proc=checked)

    taken = [old["port"] for old in document["readers"]]
    osdp_lines = [old["port"] for old in document["readers"] if old["protocol"] == "osdp"]
    devices = [name for name in serial_devices() if name not in taken or name in osdp_lines]
    if "port" not in reader:
        click.echo(
            "Serial ports:"
            if devices
            else "No serial port found: plug the reader in, or enter a device name."
        )
        for number, device in enumerate(devices, start=1):
            click.echo(f"  {number}  {device}")
    ask("port", "The reader's port, a number or a name", "1" if devices else None, _one_of(devices))
    reader = {**_of_osdp_line(document, reader["port"]), **reader}
    for user in users_of(reader["port"]):
        click.echo(f"  {user.text}\n    -> {user.next}")
    if "protocol" not in reader:
        port = shlex.quote(reader["port"])
        click.echo(f"Protocols: {', '.join(PROTOCOLS)}\n  to detect it: badge-agent identify --port {port}")
    ask("protocol", "Its protocol", None)
    _ask_osdp(document, reader)
    ask("id", "Its id", f"RDR-{101 + index}")
    ask("zone", "Its zone", None)
    ask("direction", f"Direction, {' or '.join(get_args(Direction))} ({_NONE} for none)", _NONE, _upper)
    kinds = ", ".join(kind for kind in get_args(Keypad) if kind not in ("unknown", "none"))
    ask("keypad", f"Keypad: does this reader have keys? none, or how they are sent: {kinds}", "none")
    ask("formats", f"Card formats ({_NONE} for the common one of each length)", _NONE, _words)
    # Empty values are defaults and are not written.
    document["readers"].append({key: value for key, value in reader.items() if value not in ("", [])})


def _of_osdp_line(document: Document, port: object) -> Reader:
    """What a further reader on the line of an OSDP reader has in common with it; nothing for another port."""
    shared = ("protocol", "baudrate")
    for other in document["readers"]:
        if other.get("protocol") == "osdp" and other.get("port") == port:
            return {key: other[key] for key in shared if key in other}
    return {}


def _ask_osdp(document: Document, reader: Reader) -> None:
    """Prompt for the address, the line speed and the encryption of an OSDP reader."""
    if reader["protocol"] != "osdp":
        return
    reader.setdefault("keypad", "none")  # its keys come as keys, whatever it has
    index, options = len(document["readers"]), reader.setdefault("options", {})

    def ask(table: Reader, key: str, text: str, default: object, meaning: Callable[[str], Any]) -> None:
        def checked(answer: str) -> object:
            value = meaning(answer)
            trial = {**reader, "options": dict(options)}
            (trial if table is reader else trial["options"])[key] = value
            place = key if table is reader else f"options.{key}"
            _refuse({**document, "readers": [*document["readers"], trial]}, f"readers[{index}].{place}")
            return value

        if key not in table:
            table[key] = click.prompt(text, default=default, value_proc=checked)

    ask(reader, "baudrate", "Its line speed", "9600", _number)
    ask(options, "address", "Its address on the line, 0 to 126", "0", _number)
    how = "Encryption: required, with a key that is made now; none, for a reader without the secure channel"
    ask(options, "secure", how, "required", str)


def _number(answer: str) -> object:
    return int(answer) if answer.isdecimal() else answer


def _one_of(devices: Sequence[str]) -> Callable[[str], str]:
    def device(answer: str) -> str:
        is_number = answer.isdecimal() and 0 < int(answer) <= len(devices)
        return devices[int(answer) - 1] if is_number else answer

    return device


def _upper(answer: str) -> str:
    return "" if answer == _NONE else answer.upper()


def _words(answer: str) -> list[str]:
    return [] if answer == _NONE else answer.replace(",", " ").split()
