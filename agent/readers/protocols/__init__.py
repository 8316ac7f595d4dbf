"""The registry of wire protocols: a new protocol is a file in this folder and a line in this table."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from agent.keys.reader_keys import ReaderKeys
from agent.readers.framing.screening import COMMON_OPTIONS, ScreenedProtocol
from agent.readers.protocol import NO_OPTIONS, Option, OptionError, WireProtocol
from agent.readers.protocols.bits import Bits
from agent.readers.protocols.converter import Wg2Rs232, Wie232
from agent.readers.protocols.custom_line import Line
from agent.readers.protocols.elatec_bits import ElatecBits
from agent.readers.protocols.elatec_inditag import ElatecIndiTag
from agent.readers.protocols.em18 import Em18
from agent.readers.protocols.esphome import Esphome
from agent.readers.protocols.gwiot7941 import Gwiot7941
from agent.readers.protocols.gwiot7941w import Gwiot7941W
from agent.readers.protocols.id12la import Id12La
from agent.readers.protocols.idteck import Idteck
from agent.readers.protocols.longrfid import LongRfid
from agent.readers.protocols.maxiprox import MaxiProx
from agent.readers.protocols.monkeyboard import Monkeyboard
from agent.readers.protocols.osdp.line import OsdpLine
from agent.readers.protocols.osdp.reader import Osdp
from agent.readers.protocols.osdp.secure_channel import DEFAULT_KEY
from agent.readers.protocols.parallax import Parallax
from agent.readers.protocols.r200 import R200
from agent.readers.protocols.rdm6300 import Rdm6300
from agent.readers.protocols.rfideas import RfIdeas
from agent.readers.protocols.s4a import S4a
from agent.readers.protocols.sm130 import Sm130
from agent.readers.protocols.twn4 import Twn4
from agent.readers.protocols.twn4_simple import Twn4Simple
from agent.readers.protocols.uhfreader18 import UhfReader18
from agent.readers.protocols.wl134 import Wl134
from agent.readers.protocols.yaawl import Yaawl
from agent.readers.protocols.yhy import Yhy
from agent.settings import ReaderSettings

PROTOCOLS: Mapping[str, type[WireProtocol]] = MappingProxyType(
    {
        "bits": Bits,
        "elatec-bits": ElatecBits,
        "elatec-inditag": ElatecIndiTag,
        "em18": Em18,
        "esphome": Esphome,
        "gwiot7941": Gwiot7941,
        "gwiot7941w": Gwiot7941W,
        "id12la": Id12La,
        "idteck": Idteck,
        "line": Line,
        "longrfid": LongRfid,
        "maxiprox": MaxiProx,
        "monkeyboard": Monkeyboard,
        "osdp": Osdp,
        "parallax": Parallax,
        "r200": R200,
        "rdm6300": Rdm6300,
        "rfideas": RfIdeas,
        "s4a": S4a,
        "sm130": Sm130,
        "twn4": Twn4,
        "twn4-simple": Twn4Simple,
        "uhfreader18": UhfReader18,
        "wg2rs232": Wg2Rs232,
        "wie232": Wie232,
        "wl134": Wl134,
        "yaawl": Yaawl,
        "yhy": Yhy,
    }
)

_NO_KEYS = ReaderKeys()

STANDALONE: Mapping[str, type[WireProtocol]] = MappingProxyType(
    {name: protocol for name, protocol in PROTOCOLS.items() if protocol is not Osdp}
)
"""The protocols whose frames have a meaning by themselves; those of OSDP answer a command."""

# Modules that have no keys, readers of transponders other than cards, and readers whose keys are never cards.
WITHOUT_KEYS = frozenset(
    {
        *(
            "elatec-inditag",
            "em18",
            "gwiot7941",
            "gwiot7941w",
            "id12la",
            "longrfid",
            "parallax",
            "r200",
            "rdm6300",
            "sm130",
        ),
        *("osdp", "twn4", "twn4-simple", "uhfreader18", "wl134", "yhy"),
    }
)


def make_protocol(name: str, options: Mapping[str, object] = NO_OPTIONS) -> WireProtocol:
    """The protocol of that name with these options. Raises KeyError, or OptionError with every problem."""
    known = options_of(name)
    problems: dict[str, str] = {}
    for key, value in options.items():
        wrong = known[key].problem_with(value) if key in known else _unknown(key, name)
        if wrong:
            problems[key] = wrong
    if problems:
        raise OptionError(problems)
    # WireProtocol declares no constructor; `options` declares the keyword arguments.
    factory = cast("Callable[..., WireProtocol]", PROTOCOLS[name])
    own = {key: value for key, value in options.items() if key not in COMMON_OPTIONS}
    common = {key: value for key, value in options.items() if key in COMMON_OPTIONS}
    protocol = factory(**own)
    if all(value == COMMON_OPTIONS[key].default for key, value in common.items()):
        return protocol
    return cast("Callable[..., WireProtocol]", ScreenedProtocol)(protocol, **common)


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


def options_of(name: str) -> Mapping[str, Option]:
    """The options of a protocol, its own and those of every protocol. Raises KeyError."""
    return {**PROTOCOLS[name].options, **COMMON_OPTIONS}


def _unknown(key: str, name: str) -> str:
    known = sorted(options_of(name))
    close = difflib.get_close_matches(key, known, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown option{meant}; {name} knows {', '.join(known)}"
