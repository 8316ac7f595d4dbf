"""The control interface under /_emulator/: sets faults, returns state; no part of the real API.

POST /_emulator/faults takes rules (agent.emulator.faults) and answers {"faults": [rules in force]}.
GET /_emulator/state answers

  channels        one object per channel: pipe, channel, status_code, offset_token, client_sequencer,
                  rows_inserted, rows_error_count, rows_uncommitted, appends, last_append_ns,
                  max_requests_per_second, max_bytes_per_second
  requests        per endpoint: count, max_per_second
  seen            the last requests, oldest first (agent.emulator.request_log)
  last_append_ns  when the headers of the last accepted append arrived, CLOCK_MONOTONIC
  faults          the rules in force
  accepting, commits_stalled, key_revoked
  public_keys     the fingerprints of the user's keys, by slot

Maxima are over any window of one second; bytes are uncompressed.
"""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from agent.emulator.channels import Channel, Invalid
from agent.emulator.commits import Commits
from agent.emulator.endpoints import Endpoints, Request
from agent.emulator.faults import CREDENTIAL_RULES, Rule, parse_rules
from agent.emulator.responses import Answer, RefusalError, json_answer, malformed

PREFIX = "/_emulator/"

_INVALID_CODE = "ERR_CHANNEL_MUST_BE_REOPENED"


class Gate(Protocol):
    """The listening socket, which can be closed for a while."""

    @property
    def accepting(self) -> bool:
        """Whether connections are accepted."""

    async def refuse(self, seconds: float | None) -> None:
        """Refuse connections for `seconds`, or until accept(), and close the open ones."""

    async def accept(self) -> None:
        """Accept connections again."""


class Control:
    """Carries out the rules, and reports what happened."""

    def __init__(self, service: Endpoints, commits: Commits, gate: Gate) -> None:
        self._service = service
        self._channels = service.channels
        self._credentials = service.credentials
        self._faults = service.faults
        self._request_log = service.request_log
        self._commits = commits
        self._gate = gate

    async def answer(self, request: Request) -> Answer:
        """The answer to a request under /_emulator/."""
        try:
            if (request.method, request.path) == ("GET", f"{PREFIX}state"):
                return json_answer(self._state())
            if (request.method, request.path) == ("POST", f"{PREFIX}faults"):
                return await self._take(await request.read())
            raise RefusalError(
                404, "ERR_NOT_FOUND", "There are GET /_emulator/state and POST /_emulator/faults."
            )
        except RefusalError as refusal:
            return refusal.answer()

    async def _take(self, body: bytes) -> Answer:
        try:
            rules = parse_rules(orjson.loads(body))
        except orjson.JSONDecodeError:
            raise malformed("The body is not valid JSON.") from None
        for rule in rules:
            await self._apply(rule)
        self._commits.rejects = self._faults.rejects()
        return json_answer({"faults": self._faults.as_json()})

    async def _apply(self, rule: Rule) -> None:
        match rule.do:
            case "refuse":
                await self._gate.refuse(rule.keys.get("seconds"))
            case do if do in CREDENTIAL_RULES:
                self._change_credentials(rule)
            case "late_errors":
                self._channels.errors_late_s = rule.keys["seconds"]
            case "move":
                await self._service.move(rule.keys["host"], rule.keys["old"])
            case "stall_commits" | "resume_commits":
                self._stall(rule.do == "stall_commits")
            case "invalidate_channel" | "delete_channel":
                await self._change_channels(rule)
            case "clear":
                await self._clear()
            case _:
                self._faults.add(rule)

    def _change_credentials(self, rule: Rule) -> None:
        match rule.do:
            case "expire_tokens":
                self._credentials.expire_scoped_tokens()
            case "set_key":
                self._credentials.set_key(rule.keys["slot"], rule.keys["public_key"])
            case "unset_key":
                self._credentials.unset_key(rule.keys["slot"])
            case "jwt_age":
                self._credentials.max_jwt_age_s = rule.keys["seconds"]
            case "refuse_role":
                self._credentials.takes_roles = False
            case do:
                self._credentials.key_revoked = do == "revoke_key"

    def _stall(self, stalled: bool) -> None:  # noqa: FBT001 - private, read at two places above and below
        self._commits.stalled = stalled
        self._commits.wake()

    async def _change_channels(self, rule: Rule) -> None:
        keys = rule.keys
        for channel in self._chosen(keys):
            if rule.do == "delete_channel":
                await self._service.delete(channel)
                continue
            channel.invalid = Invalid(
                code=keys.get("code", _INVALID_CODE),
                appends_accepted=keys.get("appends", "accepted") == "accepted",
                reopens=keys.get("reopens", 0),
            )
            await self._commits.discard(channel)

    async def _clear(self) -> None:
        self._faults.clear()
        self._credentials.restore()
        self._channels.errors_late_s = 0.0
        await self._service.move_back()
        self._stall(False)
        for channel in self._channels:
            channel.invalid = None
        await self._gate.accept()

    def _chosen(self, keys: dict[str, Any]) -> list[Channel]:
        """The channels with the name in a rule, in any pipe; all of them if it has none."""
        if "channel" not in keys:
            return list(self._channels)
        name = keys["channel"].upper()
        chosen = [channel for channel in self._channels if channel.record.channel_name.upper() == name]
        if not chosen:
            raise malformed("There is no such channel.")
        return chosen

    def _state(self) -> dict[str, Any]:
        appended = [channel.last_append_ns for channel in self._channels]
        return {
            "channels": [self._channel_state(channel) for channel in self._channels],
            "requests": self._request_log.counts(),
            "seen": self._request_log.seen(),
            "last_append_ns": max((at for at in appended if at is not None), default=None),
            "faults": self._faults.as_json(),
            "accepting": self._gate.accepting,
            "commits_stalled": self._commits.stalled,
            "key_revoked": self._credentials.key_revoked,
            "public_keys": self._credentials.fingerprints,
        }

    def _channel_state(self, channel: Channel) -> dict[str, Any]:
        record = channel.record
        return {
            "pipe": record.pipe_name,
            "channel": record.channel_name,
            "status_code": channel.status_code,
            "offset_token": record.offset_token,
            "client_sequencer": record.client_sequencer,
            "rows_inserted": record.rows_inserted,
            "rows_error_count": record.rows_error_count,
            "rows_uncommitted": self._commits.uncommitted_rows(channel),
            "appends": channel.appends,
            "last_append_ns": channel.last_append_ns,
            "max_requests_per_second": channel.request_peak.highest,
            "max_bytes_per_second": channel.byte_peak.highest,
        }
