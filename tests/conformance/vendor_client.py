"""The vendor's SDK as a client, in a process of its own: it reads SSL_CERT_FILE when it is loaded.

    vendor_client.py ANSWER_FILE URL KEY_FILE CONTROL_URL rows COUNT
    vendor_client.py ANSWER_FILE URL KEY_FILE CONTROL_URL faults RULE...
    vendor_client.py ANSWER_FILE URL KEY_FILE CONTROL_URL table

The answer goes to a file, as JSON: stdout is where the SDK's threads log.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from snowflake.ingest.streaming import StreamingIngestClient

DATABASE, SCHEMA, PIPE, TABLE = (
    "SNOWFLAKE_EXAMPLE",
    "RAW_INGESTION",
    "SFE_BADGE_EVENTS_PIPE",
    "RAW_BADGE_EVENTS",
)

# A batch of more than 1 MiB would be uploaded to cloud storage instead.
ROWS_PER_FLUSH = 3000
PATIENCE_S = 30


def row(number: int) -> dict[str, object]:
    return {
        "badge_id": f"BADGE-{number:05d}",
        "user_id": "USR-001",
        "zone_id": "ZONE-LOBBY-1",
        "reader_id": "RDR-101",
        "event_timestamp": "2026-11-20T10:00:00.123456Z",
        "signal_strength": -65.5,
        "direction": "entry",
        "seq": number,
    }


def client(url: str, key_file: str) -> Any:  # noqa: ANN401 - the SDK has no types
    return StreamingIngestClient("client", DATABASE, SCHEMA, PIPE, properties=properties(url, key_file))


def properties(url: str, key_file: str) -> dict[str, str]:
    return {
        "account": "MYORG-MYACCOUNT",
        "user": "SFE_INGEST_USER",
        "role": "SFE_INGEST_ROLE",
        "private_key_file": key_file,
        "url": url,
    }


def committed(channel: Any, token: str) -> str | None:  # noqa: ANN401 - as above
    """The committed token, once it is this one or patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := channel.get_latest_committed_offset_token()) != token and time.monotonic() < deadline:
        time.sleep(0.05)
    return str(found)


def send_rows(streaming: Any, count: int) -> dict[str, object]:  # noqa: ANN401 - as above
    channel, _ = streaming.open_channel("vendor-rows")
    for number in range(1, count + 1):
        channel.append_row(row(number), str(number))
        if number % ROWS_PER_FLUSH == 0:
            channel.wait_for_flush(timeout_seconds=PATIENCE_S)
    channel.wait_for_flush(timeout_seconds=PATIENCE_S)
    token = committed(channel, str(count))
    status = channel.get_channel_status()
    streaming.drop_channel("vendor-rows")
    return {
        "committed": token,
        "rows_inserted": status.rows_inserted_count,
        "rows_error_count": status.rows_error_count,
    }


def meet_faults(streaming: Any, control_url: str, rules: list[str]) -> list[dict[str, str]]:  # noqa: ANN401 - as above
    """For each rule a channel of its own, named by its place: what becomes of a row, and of the next."""
    answers = []
    for place, rule in enumerate(rules):
        channel, _ = streaming.open_channel(f"vendor-fault-{place}")
        urllib.request.urlopen(f"{control_url}/_emulator/faults", data=rule.encode()).read()  # noqa: S310 - loopback
        answers.append({"first": outcome(channel, "1"), "next": outcome(channel, "2")})
    return answers


def outcome(channel: Any, token: str) -> str:  # noqa: ANN401 - as above
    """`flushed`, or the name of the error that the SDK gives."""
    try:
        channel.append_row(row(1), token)
        channel.wait_for_flush(timeout_seconds=PATIENCE_S)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the answer
        return str(error).partition(":")[0]
    return "flushed"


def send_to_table(url: str, key_file: str) -> dict[str, object]:
    streaming = StreamingIngestClient.from_table(
        "client", DATABASE, SCHEMA, TABLE, properties=properties(url, key_file)
    )
    channel, _ = streaming.open_channel("vendor-table")
    channel.append_row(row(1), "1")
    channel.wait_for_flush(timeout_seconds=PATIENCE_S)
    answer: dict[str, object] = {"committed": committed(channel, "1"), "pipe": streaming.pipe_name}
    streaming.close()
    return answer


def main() -> None:
    answer_file, url, key_file, control_url, what, *words = sys.argv[1:]
    answer: object
    if what == "table":
        answer = send_to_table(url, key_file)
    else:
        streaming = client(url, key_file)
        answer = (
            send_rows(streaming, int(words[0]))
            if what == "rows"
            else meet_faults(streaming, control_url, words)
        )
        streaming.close()
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
