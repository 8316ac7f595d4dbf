"""Fuzzes every wire protocol and the decoder for a number of seconds: `make fuzz`."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from agent.readers.cards.formats import FORMATS
from agent.readers.events import RawCredential, ReaderEvent

try:
    import atheris
except ImportError:
    sys.exit("make fuzz needs atheris, which is not installed. Install it: .venv/bin/pip install atheris")

with atheris.instrument_imports():
    from agent.readers.cards.decoder import Decoder
    from agent.readers.framing.line_framer import LONGEST_LINE_BYTES, LONGEST_PADDING_BYTES
    from agent.readers.framing.noise import LONGEST_RUN_BYTES
    from agent.readers.protocol import WireProtocol
    from agent.readers.protocols import STANDALONE, make_protocol
    from agent.readers.protocols.osdp.reader import Osdp


_FRAMES_FILE = Path(__file__).parent.parent / "tests" / "data" / "frames.csv"
_OSDP_FILE = _FRAMES_FILE.with_name("osdp-vectors.csv")
# Kept between runs, so that each continues the previous one.
_CORPUS = Path(__file__).parent / ".corpus"
_OPTIONS = {"line": {"pattern": r".*CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)"}}
_NAMES = (*STANDALONE, "osdp")
_DECODERS = (
    Decoder(FORMATS, keypad="burst8"),
    Decoder(FORMATS, parity="flag", keypad="card26"),
    Decoder(()),
)
_LONGEST_INPUT = 2048
_OSDP_PIECE_S = 0.1  # some of them after the time for a reply


def check(data: bytes) -> None:
    """Check one input: a protocol, the length of the pieces, and the stream. Raises AssertionError."""
    if len(data) < 2:  # noqa: PLR2004 - the two bytes below
        return
    name, cut, stream = _NAMES[data[0] % len(_NAMES)], data[1] + 1, data[2:]
    if name == "osdp":
        _check_osdp([stream[start : start + cut] for start in range(0, len(stream), cut)])
        return
    whole, cut_up = _make(name), _make(name)
    expected = [*_receive(whole, stream), *whole.handle_timeout(math.inf)]
    pieces = [stream[start : start + cut] for start in range(0, len(stream), cut)]
    frames = [
        *(frame for piece in pieces for frame in _receive(cut_up, piece)),
        *cut_up.handle_timeout(math.inf),
    ]
    _expect(frames == expected, f"{name}: other frames come out when the stream is cut every {cut} bytes")
    _expect(not whole.handle_timeout(math.inf), f"{name}: something is left after silence")
    for frame in expected:
        if isinstance(frame, RawCredential):
            for decoder in _DECODERS:
                decoder(frame)


def _check_osdp(pieces: Sequence[bytes]) -> None:
    """Each piece is received after a command, in clear text and in a session."""
    for key in (None, bytes(16)):
        wire = Osdp(secure="none", random=bytes)
        if key is not None:
            wire.use_key(key)
        for number, piece in enumerate(pieces):
            now = number * _OSDP_PIECE_S
            wire.data_to_send(now)
            events = [*wire.receive_data(piece, now), *wire.handle_timeout(now)]
            cards = [event for event in events if isinstance(event, RawCredential)]
            _expect(not cards or key is None, "osdp: a card without the key of its session")
            for card, decoder in product(cards, _DECODERS):
                decoder(card)


def _make(name: str) -> WireProtocol:
    return make_protocol(name, _OPTIONS.get(name, {}))


def _receive(wire: WireProtocol, stream: bytes) -> list[ReaderEvent]:
    frames = wire.receive_data(stream, 0.0)
    noise = vars(wire)["_noise"]
    buffers = [*vars(wire).values(), *vars(noise).values()]
    held = sum(len(buffer) for buffer in buffers if isinstance(buffer, bytearray))
    _expect(
        held <= LONGEST_LINE_BYTES + LONGEST_RUN_BYTES + LONGEST_PADDING_BYTES + 1,
        f"{type(wire).__name__} holds {held} bytes",
    )
    return frames


def _expect(holds: bool, promise: str) -> None:  # noqa: FBT001 - as assert, which python -O would drop
    if not holds:
        raise AssertionError(promise)


def _write_seeds(folder: Path) -> None:
    """Write known frames as the first inputs: random bytes hardly ever have a valid checksum."""
    for number, row in enumerate(csv.DictReader(_FRAMES_FILE.read_text().splitlines())):
        if json.loads(row["options"] or "{}") == _OPTIONS.get(row["protocol"], {}):
            head = bytes([_NAMES.index(row["protocol"]), number % 7])
            (folder / str(number)).write_bytes(head + bytes.fromhex(row["bytes"]))
    head = bytes([_NAMES.index("osdp"), 0xFF])
    for row in csv.DictReader(_OSDP_FILE.read_text().splitlines()):
        if row["direction"] in ("pd>cp", "rx"):
            (folder / f"osdp-{row['id']}").write_bytes(head + bytes.fromhex(row["hex"]))


def main(seconds: int) -> None:
    """Fuzz for this many seconds; exit code 0 if nothing was found."""
    _CORPUS.mkdir(exist_ok=True)
    _write_seeds(_CORPUS)
    limits = [f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}"]
    report = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={_CORPUS.parent}/.found-"]
    atheris.Setup([sys.argv[0], *limits, *report, str(_CORPUS)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]))
