"""The registry of wire protocols: a new one is a file in this folder and a line in this table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agent.readers.protocol import WireProtocol
from agent.readers.protocols.bits import Bits
from agent.readers.protocols.id12la import Id12La
from agent.readers.protocols.parallax import Parallax
from agent.readers.protocols.rdm6300 import Rdm6300

PROTOCOLS: Mapping[str, type[WireProtocol]] = MappingProxyType(
    {
        "bits": Bits,
        "id12la": Id12La,
        "parallax": Parallax,
        "rdm6300": Rdm6300,
    }
)
