"""Several readers on one serial port: which may share it, and which do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.readers.framing.reader_name import names_reader
from agent.settings import ReaderSettings

# One open port has one of each, and one protocol.
_COMMON = ("protocol", "baudrate", "data_bits", "line_parity", "stop_bits", "rs485")


def by_port(readers: Iterable[ReaderSettings]) -> list[tuple[ReaderSettings, ...]]:
    """The readers of each port, in the order of the configuration."""
    ports: dict[str, tuple[ReaderSettings, ...]] = {}
    for reader in readers:
        ports[str(reader.port)] = (*ports.get(str(reader.port), ()), reader)
    return list(ports.values())


def one_of_each_port(readers: Iterable[ReaderSettings]) -> tuple[ReaderSettings, ...]:
    """The first reader of each port."""
    return tuple(first for first, *_ in by_port(readers))


def sharing_problems(reader: ReaderSettings, other: ReaderSettings, other_path: str) -> Mapping[str, str]:
    """Why a reader cannot share the device with another one: a sentence for each key, empty if it can.

    `other_path` is the other's place in the configuration, as readers[0].
    """
    if reader.protocol == other.protocol == "osdp" and reader.port == other.port:
        if _address(reader) == _address(other):
            return {"options.address": f"must be another one than that of {other_path}, on the same line"}
        return _differences(reader, other, other_path)
    select, others = str(reader.options.get("select", "")), str(other.options.get("select", ""))
    if not (select and others) or reader.port != other.port:
        return {
            "port": f"is that of {other_path}, too; each reader needs its own serial line, "
            "or the same port as the other: OSDP readers with an address each, or options.select in both, "
            "for lines that name the reader"
        }
    if names_reader(select, others) or names_reader(others, select):
        return {"options.select": f"must be another name than that of {other_path}, which has the same port"}
    return _differences(reader, other, other_path)


def _address(reader: ReaderSettings) -> object:
    return reader.options.get("address", 0)


def _differences(reader: ReaderSettings, other: ReaderSettings, other_path: str) -> Mapping[str, str]:
    return {
        key: f"must be as in {other_path}, which has the same port"
        for key in _COMMON
        if getattr(reader, key) != getattr(other, key)
    }
