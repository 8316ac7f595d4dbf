"""Request bodies: decompressed within a limit, read as JSON or as a form."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qsl

import orjson
import zstandard

from agent.emulator.responses import RefusalError, malformed

# "4 MB per request on the wire": the hard limit, counted after compression.
MAX_WIRE_BYTES = 4 * 1024 * 1024

# Not a limit of the service: a bound on what 4 MiB on the wire may decompress to in this process. Badge
# rows compress about tenfold, so regular requests stay far below it.
MAX_UNCOMPRESSED_BYTES = 128 * 1024 * 1024

# Small, so that the limit above is noticed before much more is decompressed: 1 KiB of the most
# repetitive zstd is 32 MiB.
_PIECE_BYTES = 1024


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _zstd() -> _Decoder:
    return zstandard.ZstdDecompressor(max_window_size=MAX_UNCOMPRESSED_BYTES).decompressobj()


_DECODERS: dict[str, Callable[[], _Decoder]] = {"gzip": _gzip, "zstd": _zstd}


def too_large(what: str) -> RefusalError:
    """413: the client has to send smaller requests."""
    return RefusalError(413, "ERR_REQUEST_TOO_LARGE", f"The request is too large: {what}.")


def decompressed(body: bytes, encoding: str) -> bytes:
    """The decompressed body. Raises RefusalError (400 broken, 413 too large, 415 unknown)."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    make = _DECODERS.get(encoding)
    if make is None:
        raise RefusalError(415, "ERR_UNSUPPORTED_CONTENT_ENCODING", "Content-Encoding must be gzip or zstd.")
    try:
        return _unfold(body, make)
    except (zlib.error, zstandard.ZstdError):
        raise malformed(f"The body is not valid {encoding}.") from None


def _unfold(body: bytes, make: Callable[[], _Decoder]) -> bytes:
    decoder = make()
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        while piece:
            if decoder.eof:  # a body may be several frames, one after the other
                decoder = make()
            part = decoder.decompress(piece)
            size += len(part)
            if size > MAX_UNCOMPRESSED_BYTES:
                raise too_large(f"more than {MAX_UNCOMPRESSED_BYTES} bytes uncompressed")
            parts.append(part)
            piece = decoder.unused_data if decoder.eof else b""
    if not decoder.eof:
        raise malformed("The compressed body ends early.")
    return b"".join(parts)


def json_object(body: bytes) -> dict[str, object]:
    """The JSON object of a body; an empty body is an empty object. Raises RefusalError (400)."""
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise malformed("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise malformed("The body must be a JSON object.")
    return value


def form(body: bytes) -> dict[str, str]:
    """The fields of a form body. Raises RefusalError (400)."""
    try:
        return dict(parse_qsl(body.decode("ascii"), strict_parsing=True))
    except ValueError:
        raise malformed("The body is not a form.") from None
