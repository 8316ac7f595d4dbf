"""Checks rows of doors: numbers without gaps, the chain from row to row, and the signed heartbeats.

The rows of an outbox id are a sequence: each chain follows from the one before it. The first one names the
chain that it continues (`chain_before`), so that the rows of several outbox ids of a door are one chain. A
heartbeat has the chain of the row with a seq, signed: only a person with the door's key can change the rows
up to the last heartbeat. How many of them Snowflake had confirmed is not signed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent import event_rows, rows
from agent.cli.verify.exported import Members
from agent.event_rows import HEARTBEAT, Anchor
from agent.keys.keypair import PublicKey

_OLD_DIGITS = 16  # of the chain of agents before 0.2, which is not recomputed
_SWIPES, _EVENTS = "swipes", "door events"
_COPIES = ("replay", "pipe_name", "channel_name", "offset_token", "ingestion_time")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about the rows of one outbox id; `problem` names the first row that does not fit."""

    agent_id: str
    outbox_id: str
    kind: str
    rows: int
    first_seq: int | None
    last_seq: int | None
    heartbeats: int
    problem: str | None
    notes: list[str]


@dataclass(slots=True)
class _Sequence:
    """The rows of one outbox id, and the heartbeats about them."""

    agent_id: str
    outbox_id: str
    kind: str
    rows: list[Members] = field(default_factory=list)
    anchors: list[Members] = field(default_factory=list)


def verdicts(exported: Iterable[Members], keys: Sequence[PublicKey]) -> list[Verdict]:
    """One verdict for each outbox id and kind of row, in the order in which they appear."""
    found: dict[tuple[str, str], _Sequence] = {}
    for row in exported:
        outbox_id = row.get("outbox_id")
        if outbox_id is None:
            continue  # of send-sample, or of another source
        kind = _EVENTS if row.get("kind", HEARTBEAT) != HEARTBEAT else _SWIPES
        known = found.setdefault(
            (str(outbox_id), kind), _Sequence(str(row.get("agent_id", "")), str(outbox_id), kind)
        )
        (known.anchors if row.get("kind") == HEARTBEAT else known.rows).append(row)
    chains = {row.get("chain") for one in found.values() for row in one.rows}
    return [_verdict(one, keys, chains) for one in found.values()]


def _verdict(one: _Sequence, keys: Sequence[PublicKey], chains: set[Any]) -> Verdict:
    notes: list[str] = []
    numbered, problem = _numbered(one.rows)
    problem = problem or _first_misfit(one, numbered, chains, notes)
    problem = problem or _anchor_problem(one, numbered, keys, notes)
    seqs = [row["seq"] for row in numbered]
    return Verdict(
        agent_id=one.agent_id,
        outbox_id=one.outbox_id,
        kind=one.kind,
        rows=len(numbered),
        first_seq=seqs[0] if seqs else None,
        last_seq=seqs[-1] if seqs else None,
        heartbeats=len(one.anchors),
        problem=problem,
        notes=notes,
    )


def _numbered(found: list[Members]) -> tuple[list[Members], str | None]:
    """The rows in order, each once; a problem if two rows with a seq are not copies of one."""
    numbered: dict[int, Members] = {}
    problem = None
    for row in found:
        if not isinstance(row.get("seq"), int) or not isinstance(row.get("chain"), str):
            return [], f"{_named(row)} has no seq or no chain"
        first = numbered.setdefault(row["seq"], row)
        if first is not row and _without_marks(first) != _without_marks(row):
            problem = problem or f"{_named(row)} is there twice, and the copies differ"
    return [numbered[seq] for seq in sorted(numbered)], problem


def _without_marks(row: Members) -> Members:
    return {name: value for name, value in row.items() if name not in _COPIES}


def _first_misfit(one: _Sequence, numbered: list[Members], chains: set[Any], notes: list[str]) -> str | None:
    """The first row that does not follow from the row before it."""
    if not numbered:
        return None
    seq, unchecked = numbered[0]["seq"] - 1, 0
    before = _chain_before(one, numbered[0], chains, notes)
    for row in numbered:
        if row["seq"] != seq + 1:
            return f"seq {seq + 1} is missing: {_named(row)} follows seq {seq}"
        if len(row["chain"]) == _OLD_DIGITS:
            unchecked += 1
        elif before is not None and row["chain"] != _chain(one.kind, before, row):
            return f"{_named(row)} is altered, or does not follow the row before it"
        seq, before = row["seq"], row["chain"]
    if unchecked:
        notes.append(f"{unchecked:,} rows of an older agent are not checked")
    return None


def _chain_before(one: _Sequence, first: Members, chains: set[Any], notes: list[str]) -> str | None:
    """The chain that the first row continues; None if it cannot be checked."""
    if first["seq"] != 1:
        notes.append(f"begins with seq {first['seq']}: rows before it are not in these files")
        return None
    before: str = first.get("chain_before") or one.outbox_id  # rows of older agents do not name it
    if before == rows.UNKNOWN_LINK:
        notes.append("says that damage has taken the chain before its first row, which is not checked")
        return None
    if before not in {one.outbox_id, *chains}:
        notes.append("continues rows of an outbox id that is not in these files")
    return before


def _chain(kind: str, before: str, row: Members) -> str:
    try:
        if kind == _EVENTS:
            return event_rows.chain_hash(before, row)
        return rows.chain_hash(before, row)
    except KeyError:
        return ""  # a member is missing


def _anchor_problem(
    one: _Sequence, numbered: list[Members], keys: Sequence[PublicKey], notes: list[str]
) -> str | None:
    """The first heartbeat that is not signed by one of the keys, or says something else than the rows."""
    if one.kind == _EVENTS:
        return None
    chains = {row["seq"]: row["chain"] for row in numbered}
    last_seq, confirmed = max(chains, default=0), 0
    for row in sorted(one.anchors, key=lambda row: str(row.get("at", ""))):
        problem = _contradiction(one, row, chains, keys)
        if problem is not None:
            return problem
        confirmed = max(confirmed, row["details"]["seq"] if row["details"]["seq"] in chains else 0)
    count = f"{len(one.anchors):,} heartbeats"
    if not one.anchors:
        notes.append("no heartbeat: the chain alone has no secret, so who changes rows can compute it again")
    elif not keys:
        notes.append(f"{count}, whose signatures are not checked: give --public-key")
    else:
        notes.append(f"{count} with a valid signature; they confirm the rows up to seq {confirmed}")
        if confirmed < last_seq:
            notes.append(f"{last_seq - confirmed:,} rows after that are not confirmed yet")
    return None


def _contradiction(
    one: _Sequence, row: Members, chains: dict[int, str], keys: Sequence[PublicKey]
) -> str | None:
    """What is wrong with a heartbeat, or with the rows that it speaks of."""
    details = row.get("details")
    if not isinstance(details, dict) or not isinstance(details.get("seq"), int):
        return f"{_named(row)} has no seq"
    seq, pending, last_seq = details["seq"], details.get("pending", 0), max(chains, default=0)
    anchor = Anchor(one.outbox_id, seq, str(details.get("chain")), str(row.get("at")))
    if keys and not _is_signed(anchor, details, keys):
        return f"{_named(row)} has no valid signature of a given key; it names {details.get('key')}"
    if chains.get(seq, anchor.chain) != anchor.chain:
        return f"seq {seq} has another chain than in the heartbeat of {anchor.at}"
    if chains and isinstance(pending, int) and seq - pending > last_seq:
        return f"seq {last_seq + 1} is missing: the heartbeat of {anchor.at} reports it as confirmed"
    return None


def _is_signed(anchor: Anchor, details: Members, keys: Sequence[PublicKey]) -> bool:
    try:
        signature = base64.b64decode(str(details.get("signature", "")), validate=True)
    except (binascii.Error, ValueError):
        return False
    return any(key.has_signed(anchor.signed_bytes, signature) for key in keys)


def _named(row: Members) -> str:
    """A row in a message, without what it says about a person."""
    if row.get("kind") == HEARTBEAT:
        return f"the heartbeat {row.get('event_id')}"
    return f"seq {row.get('seq')} (event_id {row.get('event_id')})"
