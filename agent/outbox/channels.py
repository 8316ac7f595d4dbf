"""The part of the outbox that knows the channels its rows were sent to, and its generations."""

from __future__ import annotations

import dataclasses
from typing import Any

from agent.outbox import channel_use, generation
from agent.outbox.database import OutboxFile
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.state import OutboxState, write_record

_LONGEST_REASON = 200  # characters of the reason for a new outbox id in the state record


class OutboxChannels:
    """The state of an outbox, and its changes of channel: see channel_use. A base of Outbox only."""

    agent_id: str
    pipe: str
    _file: RecoveringFile

    @property
    def file(self) -> OutboxFile:
        """The file without recovery, for its counters and for tests."""
        return self._file.file

    @property
    def state(self) -> OutboxState:
        """The current state, an immutable value: read it once where several fields must agree."""
        return self._file.state

    @property
    def outbox_id(self) -> str:
        """The id of the newest generation; a damaged, restored or copied file gets a new one."""
        return self.state.outbox_id

    def _store(self, **changed: Any) -> None:  # noqa: ANN401 - members of the state record
        """Change members of the state record; on disk when it returns."""
        with self.file.write_lock:
            for attempt in self._file.writing_with_reserve():
                with attempt as connection:
                    # Inside: the state is another one if the file had to be opened again.
                    record = self.state.record._replace(**changed)
                    write_record(connection, record)
            self._file.state = dataclasses.replace(self.state, record=record)

    @property
    def is_switch_due(self) -> bool:
        """True if the next live rows go to another channel than the last ones: see channel_use."""
        return channel_use.is_switch_due(self.state, self.agent_id, self.pipe)

    def switch_channel(self, now_us: int) -> None:
        """Send live rows to the next channel, under a new outbox id if there is a reason for one; durable.

        The caller has fenced the channel used so far, and has marked committed what it committed.
        """
        # With the reserve: on a full disk only delivery makes rows purgeable.
        for attempt in self._file.changing_with_reserve():
            with attempt as connection:
                old = self.state
                why = channel_use.why_renewed(old, self.agent_id, self.pipe)
                channel_use.switch(
                    connection, old, agent_id=self.agent_id, pipe=self.pipe, why=why, now_us=now_us
                )
        if why:
            channel_use.log_renewed(old.outbox_id, self.state, self.state.record.channel, why)

    def record_channel(self, now_us: int) -> None:
        """Record the channel that live rows are sent to, if none is recorded; on disk when it returns."""
        record = self.state.record
        if not record.channel:
            self.switch_channel(now_us)
        elif self.pipe and not record.pipe:
            self._store(pipe=self.pipe)

    def record_replay_channel(self, name: str) -> None:
        """Record the channel that replays are sent to; on disk when it returns."""
        with self.file.write_lock:
            record = self.state.record
            if (record.replay_channel, record.replay_pipe) != (name, self.pipe):
                self._store(replay_channel=name, replay_pipe=self.pipe)

    def request_generation(self, why: str) -> None:
        """Make a switch due, and have it start a new generation; on disk when it returns.

        Where no channel was used yet, the generation starts immediately.
        """
        with self.file.write_lock:
            if self.state.record.channel:
                self._store(renewal=why[:_LONGEST_REASON])
            else:
                self.start_generation(why)

    def start_generation(self, why: str) -> None:
        """Take a new outbox id for the pending rows: seq from 1, the same event_id; one small write.

        For when another history may have been sent under the old id. Rows that were on their way
        may arrive twice, with the same event_id; none is lost.
        """
        with self._file.changing() as connection:
            old = self.state
            generation.renew(connection, old)
        channel_use.log_renewed(
            old.outbox_id, self.state, channel_use.name_of(self.agent_id, self.outbox_id), why
        )
