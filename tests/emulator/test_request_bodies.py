"""Request bodies: compressed, too large, truncated, or of another format."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.emulator.request_bodies import MAX_UNCOMPRESSED_BYTES, MAX_WIRE_BYTES, decompressed
from agent.emulator.responses import RefusalError
from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, key_pair_jwt, ndjson, row

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
    "identity": bytes,
}
MALFORMED = (400, "ERR_MALFORMED_REQUEST")
TOO_LARGE = (413, "ERR_REQUEST_TOO_LARGE")


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity", "ZSTD"])
def test_rows_may_be_compressed(door: EmulatorRig, encoding: str) -> None:
    door.opened()

    door.append(
        COMPRESS[encoding.lower()](ndjson([row(), row()])), "2", headers={"Content-Encoding": encoding}
    )

    assert door.committed("2")["rows_inserted"] == 2


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("spoil", [lambda body: body[:-3], lambda _: b"nothing of the kind", lambda _: b""])
def test_a_broken_compressed_body_is_400_and_uses_up_no_token(
    door: EmulatorRig, encoding: str, spoil: Callable[[bytes], bytes]
) -> None:
    body = spoil(COMPRESS[encoding](ndjson([row()])))
    door.opened()

    reply = door.append(body, "1", headers={"Content-Encoding": encoding})

    assert error_code(reply) == MALFORMED
    assert door.append([row()], "1").status_code == 200


def test_an_unknown_compression_is_415(door: EmulatorRig) -> None:
    door.opened()

    reply = door.append(b"", "1", headers={"Content-Encoding": "br"})

    assert error_code(reply) == (415, "ERR_UNSUPPORTED_CONTENT_ENCODING")


def test_four_mebibytes_on_the_wire_are_taken_and_one_byte_more_is_413(door: EmulatorRig) -> None:
    door.opened()
    full = b" " * (MAX_WIRE_BYTES - 1) + b"\n"

    taken = door.append(full, "1")
    refused = door.append(full + b"\n", "2")
    chunked = door.call(
        "POST",
        door.rows_path,
        params={"continuationToken": door.continuation_token},
        data=iter([full, b"\n"]),
    )

    assert taken.status_code == 200
    assert (error_code(refused), error_code(chunked)) == (TOO_LARGE, TOO_LARGE)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_small_body_that_unfolds_without_end_is_413(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(MAX_UNCOMPRESSED_BYTES + 1))

    with pytest.raises(RefusalError) as refusal:
        decompressed(bomb, encoding)

    assert refusal.value.status == 413


@given(
    parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    encoding=st.sampled_from(["gzip", "zstd"]),
)
def test_what_was_compressed_in_any_number_of_frames_comes_back(parts: list[bytes], encoding: str) -> None:
    compress = COMPRESS[encoding]

    found = decompressed(b"".join(map(compress, parts)), encoding)

    assert found == b"".join(parts)


@given(body=st.binary(max_size=3000), encoding=st.sampled_from(["gzip", "zstd"]), cut=st.integers(1, 10))
def test_a_truncated_body_is_never_taken_for_whole(body: bytes, encoding: str, cut: int) -> None:
    packed = COMPRESS[encoding](body)

    with pytest.raises(RefusalError):
        decompressed(packed[:-cut], encoding)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"text"', b"\xff", b'{"offset_token": 5}', b'{"fail_on_uncommitted_rows": "yes"}']
)
def test_an_open_with_a_malformed_body_is_400(door: EmulatorRig, body: bytes) -> None:
    reply = door.call("PUT", door.channel_path, data=body)

    assert error_code(reply) == MALFORMED


@pytest.mark.parametrize("body", [b"", b"{}", b'{"channel_names": "one"}', b'{"channel_names": [1]}'])
def test_a_status_request_without_a_list_of_names_is_400(door: EmulatorRig, body: bytes) -> None:
    reply = door.call("POST", f"{door.pipe_path}:bulk-channel-status", data=body)

    assert error_code(reply) == MALFORMED


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "ERR_NOT_FOUND")),
        ("GET", "/oauth/token", (405, "ERR_METHOD_NOT_ALLOWED")),
        ("POST", "/telemetry/send/sessionless", (404, "ERR_NOT_FOUND")),
        ("GET", "/_emulator/faults", (404, "ERR_NOT_FOUND")),
    ],
)
def test_what_is_not_there_is_said_to_be_not_there(
    door: EmulatorRig, method: str, path: str, expected: tuple[int, str]
) -> None:
    reply = door.call(method, path)

    assert error_code(reply) == expected


def test_a_token_request_that_is_no_form_is_400(door: EmulatorRig) -> None:
    replies = [
        door.call("POST", "/oauth/token", token=key_pair_jwt(), data=body) for body in (b"{}", b"\xff=1")
    ]

    assert [error_code(reply) for reply in replies] == [MALFORMED, MALFORMED]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(["open", "append", "status", "token", "pipe-info", "drop", "faults"]),
    body=st.binary(max_size=60)
    | st.sampled_from([b"{}", b"[]", b'{"do": 1}', b'{"do": "status", "status": 999}']),
    encoding=st.sampled_from(["", "gzip", "zstd", "identity", "x"]),
    query=st.text(st.characters(codec="ascii", exclude_characters="#"), max_size=20),
)
def test_no_body_makes_the_emulator_fail(
    door: EmulatorRig, which: str, body: bytes, encoding: str, query: str
) -> None:
    method, path = {
        "open": ("PUT", door.channel_path),
        "append": ("POST", door.rows_path),
        "status": ("POST", f"{door.pipe_path}:bulk-channel-status"),
        "token": ("POST", "/oauth/token"),
        "pipe-info": ("POST", f"{door.pipe_path}:pipe-info"),
        "drop": ("DELETE", door.channel_path),
        "faults": ("POST", "/_emulator/faults"),
    }[which]
    token = key_pair_jwt() if which == "token" else door.scoped

    reply = door.call(
        method, f"{path}?{query}", token=token, data=body, headers={"Content-Encoding": encoding}
    )

    assert reply.status_code < 500
    if reply.status_code != 200:
        assert error_code(reply)


def raw_exchange(emulator: EmulatorProcess, sent: bytes, until: bytes) -> bytes:
    """Bytes to the port; what comes back up to these bytes, or until the connection ends."""
    address = urlsplit(emulator.url)
    received = b""
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
        connection.sendall(sent)
        while until not in received and (part := connection.recv(65536)):
            received += part
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 not http at all\r\n\r\n",
        b"GET /v2/streaming/hostname HTTP/1.1\r\nbroken header\r\n\r\n",
        b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_bytes_that_are_no_http_get_a_400(door: EmulatorRig, emulator: EmulatorProcess, sent: bytes) -> None:
    received = raw_exchange(emulator, sent, until=b"\r\n\r\n")

    assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert door.open().status_code == 200


def test_a_client_that_waits_for_100_continue_gets_it(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    body = ndjson([row()])
    head = (
        f"POST {door.rows_path}?continuationToken={door.continuation_token}&offsetToken=1 HTTP/1.1\r\n"
        f"Host: x\r\nAccept: */*\r\nAuthorization: Bearer {door.scoped}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )

    received = raw_exchange(emulator, head.encode() + body, until=b"next_continuation_token")

    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    door.committed("1")


def test_an_upload_that_ends_early_leaves_nothing_behind(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()
    address = urlsplit(emulator.url)
    head = (
        f"POST {door.rows_path}?continuationToken={door.continuation_token}&offsetToken=1 HTTP/1.1\r\n"
        f"Host: x\r\nAccept: */*\r\nAuthorization: Bearer {door.scoped}\r\nContent-Length: 5000\r\n\r\n"
    )

    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
        connection.sendall(head.encode() + ndjson([row()]))

    assert emulator.channel_state(door.channel)["appends"] == 0
    assert door.append([row()], "1").status_code == 200
