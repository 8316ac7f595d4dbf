"""The state of a door as metrics, in the text format that node_exporter's textfile collector reads.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters, moments as
`_timestamp_seconds`. No sample has a timestamp: the collector refuses files with timestamps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from agent.readers.events import Condition
from agent.uploader.uploader import State

METRICS_FILE = "metrics.prom"
_PREFIX = "badge_agent_"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Value = float | bool | None


class Sample(NamedTuple):
    """One value; one that is None is left out."""

    value: Value
    labels: Mapping[str, str] = {}


def text_of(status: dict[str, Any]) -> str:
    """The metrics of a running agent, from the object that `status --json` prints."""
    families = (*_of_agent(status), *_of_outbox(status["outbox"]), *_of_readers(status["readers"]))
    return "".join(line + "\n" for family in families for line in family)


def _of_agent(status: dict[str, Any]) -> Iterator[Iterator[str]]:
    uploader, clock, disk = status["uploader"], status["clock"], status["disk"]
    labels = {"agent_id": status["agent_id"], "version": status["version"]}
    yield _gauge("info", "The agent and its version; always 1.", Sample(1, labels))
    yield _gauge("start_timestamp_seconds", "When the agent was started.", _moment(status["started_at"]))
    states = (Sample(state == uploader["state"], {"state": state}) for state in get_args(State))
    yield _gauge(
        "uploader_state", "1 for the present state of the uploader: holding needs an operator.", *states
    )
    failures = Sample(uploader["consecutive_failures"])
    yield _gauge(
        "uploader_consecutive_failures", "Requests that failed since the last one that did not.", failures
    )
    yield _counter(
        "committed_swipes_total", "Swipes that Snowflake confirmed.", Sample(uploader["rows_committed"])
    )
    committed = _moment(uploader["last_commit_at"])
    yield _gauge(
        "last_commit_timestamp_seconds", "When Snowflake last confirmed swipes since the start.", committed
    )
    yield _gauge("clock_synchronised", "1 if the clock is trusted.", Sample(clock["trusted"]))
    ahead = Sample(clock["ahead_seconds"])
    yield _gauge("clock_ahead_seconds", "Wall clock minus Snowflake's clock.", ahead)
    refused = Sample(status["door_events"]["problem"] is not None)
    yield _gauge("door_events_refused", "1 while Snowflake takes swipes but no door events.", refused)
    key = _moment(status["key"]["created_at"])
    yield _gauge("key_created_timestamp_seconds", "When the private key was made.", key)
    yield _counter("disk_flushes_total", "Flushes of the outbox.", Sample(disk["flushes"]))
    written = Sample(disk["bytes_written"])
    yield _counter("disk_written_bytes_total", "Bytes that the agent caused to be written to disks.", written)


def _of_outbox(outbox: dict[str, Any]) -> Iterator[Iterator[str]]:
    waited_s = outbox["oldest_pending_seconds"]
    oldest = Sample(None if waited_s is None else time.time() - waited_s)
    held = (Sample(outbox[kind], {"kind": kind}) for kind in ("rejected", "set_aside"))
    yield _gauge("outbox_usable", "1 if the outbox can be read and written.", Sample(outbox["ok"]))
    yield _gauge("pending_swipes", "Swipes that Snowflake has not confirmed yet.", Sample(outbox["pending"]))
    yield _gauge("oldest_pending_timestamp_seconds", "When the oldest pending swipe was read.", oldest)
    yield _gauge("kept_swipes", "Confirmed swipes that are stored for a replay.", Sample(outbox["kept"]))
    yield _gauge("held_rows", "Rows that wait for an operator, see badge-agent outbox list.", *held)
    lost = Sample(outbox["unreadable"])
    yield _gauge("unreadable_swipes", "Swipes of damaged outbox files that could not be read.", lost)
    yield _gauge("outbox_size_bytes", "Size of the outbox file.", Sample(outbox["bytes"]))
    free = Sample(outbox["disk_free_bytes"])
    yield _gauge("disk_free_bytes", "Free space on the disk of the outbox.", free)


def _of_readers(readers: list[dict[str, Any]]) -> Iterator[Iterator[str]]:
    def each(member: str) -> list[Sample]:
        return [Sample(reader[member], {"reader": reader["id"]}) for reader in readers]

    def of_kinds(member: str, label: str) -> list[Sample]:
        return [
            Sample(count, {"reader": reader["id"], label: kind})
            for reader in readers
            for kind, count in (reader[member] or {}).items()
        ]

    is_open = (Sample(reader["state"] == "open", {"reader": reader["id"]}) for reader in readers)
    yield _gauge("reader_open", "1 while the port of the reader is open.", *is_open)
    conditions = (
        Sample(condition in reader["conditions"], {"reader": reader["id"], "condition": condition})
        for reader in readers
        for condition in (Condition if reader["osdp"] is not None else ())
    )
    yield _gauge("reader_condition", "1 while a two-way reader reports this fault.", *conditions)
    yield _gauge("reader_silent", "1 without data for expect_traffic_within.", *each("silent"))
    yield _gauge("reader_noisy", "1 while much of the data is no card.", *each("noisy"))
    yield _gauge("reader_flooding", "1 while it sends more swipes than people can make.", *each("flooding"))
    yield _counter("reader_swipes_total", "Swipes that were stored.", *each("swipes"))
    yield _counter("reader_repeats_total", "Reads of a held card, which are no swipes.", *each("repeats"))
    noise = of_kinds("noise_reasons", "reason")
    yield _counter("reader_noise_total", "Frames that are no card.", *noise)
    yield _counter("reader_line_errors_total", "Damaged bytes on the line.", *of_kinds("line_errors", "kind"))
    yield _counter(
        "reader_keys_discarded_total", "Keypad keys, which are not stored.", *each("keys_discarded")
    )
    yield _gauge("reader_waiting_swipes", "Swipes in memory that could not be stored yet.", *each("unkept"))
    yield _counter("reader_lost_swipes_total", "Swipes that found no room.", *each("lost"))
    refused = each("flood_refused")
    yield _counter(
        "reader_refused_swipes_total", "Swipes of a flood on a disk that is short of space.", *refused
    )
    last = (_moment(reader["last_swipe_at"], reader=reader["id"]) for reader in readers)
    yield _gauge("reader_last_swipe_timestamp_seconds", "When the last swipe was read.", *last)


def _gauge(name: str, about: str, *samples: Sample) -> Iterator[str]:
    return _family(name, "gauge", about, samples)


def _counter(name: str, about: str, *samples: Sample) -> Iterator[str]:
    return _family(name, "counter", about, samples)


def _family(
    name: str, kind: Literal["gauge", "counter"], about: str, samples: Iterable[Sample]
) -> Iterator[str]:
    """The lines of one metric; none without a value."""
    present = [sample for sample in samples if sample.value is not None]
    if present:
        yield f"# HELP {_PREFIX}{name} {about}"
        yield f"# TYPE {_PREFIX}{name} {kind}"
    for value, labels in present:
        shown = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels.items())
        yield f"{_PREFIX}{name}{f'{{{shown}}}' if shown else ''} {float(value or 0)!r}"


def _moment(moment: str | None, **labels: str) -> Sample:
    """A moment in ISO 8601 as seconds since 1970."""
    at = None if moment is None else datetime.fromisoformat(moment).timestamp()
    return Sample(at, labels)
