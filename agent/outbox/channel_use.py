"""Which channel rows are sent to, and the change to another one.

Theory of operation

The state record has the last channel that rows were sent to (`channel`, `pipe`, `channel_first_n`): the only
one that can hold rows of ours whose outcome is unknown. Rows go to another one only after a switch:

    1. a switch is due: another name (agent id, generation), another pipe, or a renewal is requested
    2. the sender opens the old channel, which fences it and discards what it had not committed
    3. the committed token of the old channel is adopted if it names a row of ours with its chain
    4. switch(), one small transaction: a new generation after the committed row, the new name recorded

A restart between two of these steps begins with step 1 again. Storing swipes needs no generation: it goes on
meanwhile, also offline.
"""

from __future__ import annotations

import logging
import sqlite3

from agent.log.message_ids import MessageId, fields
from agent.outbox import generation
from agent.outbox.state import OutboxState, write_record

_log = logging.getLogger(__name__)


def name_of(agent_id: str, outbox_id: str) -> str:
    """The name of a live channel."""
    return f"{agent_id}-{outbox_id}"


def is_switch_due(state: OutboxState, agent_id: str, pipe: str) -> bool:
    """True if the next rows go to another channel than the last ones.

    Not while rows are withheld: the committed position of the old channel may be that of a row not yet moved.
    """
    record = state.record
    if not record.channel or state.is_withheld:
        return False
    is_other = record.channel != name_of(agent_id, state.sending.outbox_id) or is_other_pipe(
        record.pipe, pipe
    )
    return is_other or bool(record.renewal)


def is_other_pipe(known: str, pipe: str) -> bool:
    """True if both are known and differ: files of earlier versions do not name their pipe."""
    return bool(known and pipe) and known != pipe


def why_renewed(state: OutboxState, agent_id: str, pipe: str) -> str:
    """Why the switch starts a new generation; "" if it goes to a generation that is there already."""
    record, sending = state.record, state.sending
    if record.renewal:
        return record.renewal
    if record.agent_id not in {"", agent_id}:
        return f"the agent id was {record.agent_id}"
    if is_other_pipe(record.pipe, pipe):
        return "another pipe is configured"
    is_partly_sent = (
        sending.outbox_id != _outbox_id_in(record.channel) and sending.first_n <= state.committed_n
    )
    return f"rows of it were committed through {record.channel}" if is_partly_sent else ""


def switch(
    connection: sqlite3.Connection, state: OutboxState, *, agent_id: str, pipe: str, why: str, now_us: int
) -> None:
    """Record the next channel, after a new generation if there is a reason for one.

    Runs within the caller's transaction, with the state as stored.
    """
    record = state.record
    if record.channel:
        _return_adopted(connection, state)
    if why:
        generation.renew(connection, OutboxState.read(connection))
    sending = OutboxState.read(connection).sending
    write_record(
        connection,
        record._replace(
            agent_id=agent_id,
            channel=name_of(agent_id, sending.outbox_id),
            pipe=pipe,
            channel_first_n=sending.first_n,
            renewal="",
            switches=record.switches + 1 if record.channel else 0,
            switched_us=now_us,
        ),
    )


def log_went_back(channel: str, consequence: str) -> None:
    """Report that the server has lost rows that it had confirmed."""
    _log.error(
        "channel %s: Snowflake went back to an earlier position: %s",
        channel,
        consequence,
        extra=fields(MessageId.POSITION_WENT_BACK, channel=channel),
    )


def log_renewed(old_id: str, state: OutboxState, channel: str, why: str) -> None:
    """Report a new outbox id."""
    _log.error(
        "outbox: %s is now %s, because %s; %d pending swipes are sent with it",
        old_id,
        state.outbox_id,
        why,
        state.pending,
        extra=fields(MessageId.OUTBOX_RENEWED, channel=channel),
    )


def _return_adopted(connection: sqlite3.Connection, state: OutboxState) -> None:
    """Rows committed through the old channel are of its generation, also if a rebuild began another."""
    first_n, old_id = state.record.channel_first_n, _outbox_id_in(state.record.channel)
    for one in state.generations:
        if first_n < one.first_n <= state.committed_n:
            connection.execute("DELETE FROM generation WHERE first_n = ?", (one.first_n,))
        elif first_n == one.first_n <= state.committed_n and one.outbox_id != old_id:
            generation.add(connection, one._replace(outbox_id=old_id))


def _outbox_id_in(channel: str) -> str:
    return channel.rpartition("-")[2]
