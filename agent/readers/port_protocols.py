"""The protocols of the readers of one port, which may share a line."""

from __future__ import annotations

from collections.abc import Sequence

from agent.keys.reader_keys import ReaderKeys
from agent.readers.framing.screening import ScreenedProtocol
from agent.readers.protocol import WireProtocol
from agent.readers.protocols import make_protocol
from agent.readers.protocols.osdp.line import OsdpLine
from agent.readers.protocols.osdp.reader import Osdp
from agent.readers.protocols.osdp.secure_channel import DEFAULT_KEY
from agent.settings import ReaderSettings

_NO_KEYS = ReaderKeys()


def make_protocols(readers: Sequence[ReaderSettings], keys: ReaderKeys = _NO_KEYS) -> list[WireProtocol]:
    """The protocol of each reader of one port, with the line that they share. Raises as make_protocol()."""
    protocols = [make_protocol(reader.protocol, reader.options) for reader in readers]
    line: OsdpLine | None = None
    for reader, protocol in zip(readers, protocols, strict=True):
        if (osdp := osdp_of(protocol)) is None:
            continue
        line = line or OsdpLine(osdp.line.of(reader).baudrate)
        osdp.join(line)
        if (key := keys.of(reader.id)) not in (None, DEFAULT_KEY):  # of a file that was written by hand
            osdp.use_key(key)
        elif keys.are_unreadable:
            osdp.do_not_ask()
    return protocols


def osdp_of(protocol: WireProtocol) -> Osdp | None:
    """The OSDP reader, if this is one."""
    inner = protocol.inner if isinstance(protocol, ScreenedProtocol) else protocol
    return inner if isinstance(inner, Osdp) else None
