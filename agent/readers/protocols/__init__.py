"""The registry of wire protocols: a new protocol is a file in this folder and a line in this table.

A module is imported when its protocol is asked for: a door has one or two of them, and starts sooner without
the others.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import cast

from agent.readers.framing.screening import COMMON_OPTIONS, ScreenedProtocol
from agent.readers.protocol import NO_OPTIONS, Option, OptionError, WireProtocol

# The class of each protocol by its module in this folder.
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "bits": "bits.Bits",
        "elatec-bits": "elatec_bits.ElatecBits",
        "elatec-inditag": "elatec_inditag.ElatecIndiTag",
        "em18": "em18.Em18",
        "esphome": "esphome.Esphome",
        "gwiot7941": "gwiot7941.Gwiot7941",
        "gwiot7941w": "gwiot7941w.Gwiot7941W",
        "id12la": "id12la.Id12La",
        "idteck": "idteck.Idteck",
        "line": "custom_line.Line",
        "longrfid": "longrfid.LongRfid",
        "maxiprox": "maxiprox.MaxiProx",
        "monkeyboard": "monkeyboard.Monkeyboard",
        "osdp": "osdp.reader.Osdp",
        "parallax": "parallax.Parallax",
        "r200": "r200.R200",
        "rdm6300": "rdm6300.Rdm6300",
        "rfideas": "rfideas.RfIdeas",
        "s4a": "s4a.S4a",
        "sm130": "sm130.Sm130",
        "twn4": "twn4.Twn4",
        "twn4-simple": "twn4_simple.Twn4Simple",
        "uhfreader18": "uhfreader18.UhfReader18",
        "wg2rs232": "converter.Wg2Rs232",
        "wie232": "converter.Wie232",
        "wl134": "wl134.Wl134",
        "yaawl": "yaawl.Yaawl",
        "yhy": "yhy.Yhy",
    }
)


class _Protocols(Mapping[str, type[WireProtocol]]):
    """The classes of a part of the table, each imported when it is read."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = classes

    def __getitem__(self, name: str) -> type[WireProtocol]:
        return _imported(self._classes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._classes  # Mapping's own would import it

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


@cache
def _imported(path: str) -> type[WireProtocol]:
    module, _, name = path.rpartition(".")
    return cast("type[WireProtocol]", getattr(importlib.import_module(f"{__name__}.{module}"), name))


PROTOCOLS: Mapping[str, type[WireProtocol]] = _Protocols(_CLASSES)

STANDALONE: Mapping[str, type[WireProtocol]] = _Protocols(
    {name: path for name, path in _CLASSES.items() if name != "osdp"}
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


def options_of(name: str) -> Mapping[str, Option]:
    """The options of a protocol, its own and those of every protocol. Raises KeyError."""
    return {**PROTOCOLS[name].options, **COMMON_OPTIONS}


def _unknown(key: str, name: str) -> str:
    known = sorted(options_of(name))
    close = difflib.get_close_matches(key, known, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown option{meant}; {name} knows {', '.join(known)}"
