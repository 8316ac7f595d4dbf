"""Faults on demand: the rules that a test or a demo gives the emulator.

POST /_emulator/faults takes one rule or a list of rules. A rule is a JSON object whose `do` names
what happens; the other keys are the ones listed with it here, a `?` marks those that may be left out.

On requests. `on` is the endpoint: hostname, token, pipe-info, open, append, status, drop, elastic,
file or any (the default). `times` is for how many requests it holds; without it, until clear. Every
rule that matches a request acts on it, in the order they were given.

  status       on? times? status code? message? retry_after? body?
                                       answer this without processing; `body` is json (the default), html
                                       or empty, as devices in between and load balancers answer
  drop_before  on? times?              close the connection without processing
  drop_after   on? times?              process, then close the connection without an answer
  delay        on? times? seconds      wait, then go on
  anything     on? times? seed share?  a generated answer (agent.emulator.anything) instead of the right one,
                                       for this share of the requests (default 1); some are processed first

On rows.

  reject_rows  rows | field value      the next N rows, or rows with this value, are skipped and counted
  refuse_rows  field value code?       400 for every append that holds such a row
  refuse_rows  max_rows | max_bytes    413 for every append with more rows, or more bytes on the wire

On the whole server, immediately.

  refuse       seconds?                accept no connection for so long, or until clear
  move         host old                the ingest host is named `host` from now on, every channel has to be
                                       opened again, and what is sent to the old name is answered with the
                                       status `old`; 0 closes the connection
  late_errors  seconds                 counts of rows that could not be loaded appear so long after the commit
  jwt_age      seconds                 key-pair tokens older than this are refused (394302)
  refuse_role                          a scope with a role is refused (400 invalid_scope)
  expire_tokens                        every scoped token issued so far counts as expired
  revoke_key, restore_key              the public keys are taken from the user, and given back
  set_key      slot public_key         ALTER USER ... SET: slot is RSA_PUBLIC_KEY or RSA_PUBLIC_KEY_2
  unset_key    slot                    ALTER USER ... UNSET
  stall_commits, resume_commits        nothing is committed in between
  invalidate_channel  channel? code? appends? reopens?
                                       the status is `code`, buffered rows are gone; appends are "accepted"
                                       (200, rows dropped; the default) or "refused" (409), for this many
                                       reopens more (default 0: the next one heals)
  delete_channel      channel?         the channel is gone with its offset token, as after 30 idle days
  clear                                forget every rule and undo what can be undone

Without `channel`, every channel is meant. While connections are refused, POST to the control address,
the second line the command prints. A restart forgets every rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.emulator import row_loader
from agent.emulator.anything import Generator
from agent.emulator.credentials import SLOTS
from agent.emulator.request_bodies import too_large
from agent.emulator.responses import RefusalError, malformed
from agent.emulator.routes import Endpoint

ANY = "any"
_MAX_RULES = 1000

REQUEST_RULES = frozenset({"status", "drop_before", "drop_after", "delay", "anything"})
CREDENTIAL_RULES = frozenset(
    {"expire_tokens", "revoke_key", "restore_key", "set_key", "unset_key", "jwt_age", "refuse_role"}
)

_Check = Callable[[Any], bool]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


# Every key that a rule may have, with what its value must be.
_KEYS: dict[str, _Check] = {
    "on": lambda value: value == ANY or value in list(Endpoint),
    "status": lambda value: _count(value) and 300 <= value <= 599,  # noqa: PLR2004 - all but success
    "body": lambda value: value in ("json", "html", "empty"),
    "seed": _count,
    "share": lambda value: _seconds(value) and value <= 1,
    "host": _text,
    "old": lambda value: _count(value) and (value == 0 or 300 <= value <= 599),  # noqa: PLR2004 - as status
    "code": _text,
    "message": _text,
    "retry_after": _seconds,
    "times": lambda value: _count(value) and value > 0,
    "seconds": _seconds,
    "channel": _text,
    "appends": lambda value: value in ("accepted", "refused"),
    "reopens": _count,
    "rows": lambda value: _count(value) and value > 0,
    "field": _text,
    "value": lambda _: True,
    "max_rows": _count,
    "max_bytes": _count,
    "slot": lambda value: value in SLOTS,
    "public_key": _text,
}

_REQUEST = frozenset({"on", "times"})
_NOTHING: frozenset[str] = frozenset()

# What can be done: each alternative as (keys it needs, optional keys).
_ACTIONS: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {
    "status": [(frozenset({"status"}), _REQUEST | {"code", "message", "retry_after", "body"})],
    "drop_before": [(_NOTHING, _REQUEST)],
    "drop_after": [(_NOTHING, _REQUEST)],
    "delay": [(frozenset({"seconds"}), _REQUEST)],
    "anything": [(frozenset({"seed"}), _REQUEST | {"share"})],
    "move": [(frozenset({"host", "old"}), _NOTHING)],
    "late_errors": [(frozenset({"seconds"}), _NOTHING)],
    "jwt_age": [(frozenset({"seconds"}), _NOTHING)],
    "refuse_role": [(_NOTHING, _NOTHING)],
    "reject_rows": [(frozenset({"rows"}), _NOTHING), (frozenset({"field", "value"}), _NOTHING)],
    "refuse_rows": [
        (frozenset({"field", "value"}), frozenset({"code"})),
        (frozenset({"max_rows"}), _NOTHING),
        (frozenset({"max_bytes"}), _NOTHING),
    ],
    "refuse": [(_NOTHING, frozenset({"seconds"}))],
    "expire_tokens": [(_NOTHING, _NOTHING)],
    "revoke_key": [(_NOTHING, _NOTHING)],
    "restore_key": [(_NOTHING, _NOTHING)],
    "set_key": [(frozenset({"slot", "public_key"}), _NOTHING)],
    "unset_key": [(frozenset({"slot"}), _NOTHING)],
    "stall_commits": [(_NOTHING, _NOTHING)],
    "resume_commits": [(_NOTHING, _NOTHING)],
    "invalidate_channel": [(_NOTHING, frozenset({"channel", "code", "appends", "reopens"}))],
    "delete_channel": [(_NOTHING, frozenset({"channel"}))],
    "clear": [(_NOTHING, _NOTHING)],
}


@dataclass(slots=True)
class Rule:
    """One checked rule; `left` counts down what `times` or `rows` allows, None is without end."""

    do: str
    keys: dict[str, Any]
    left: int | None = None
    generator: Generator | None = None

    def use(self) -> None:
        """Count one use."""
        if self.left is not None:
            self.left -= 1

    @property
    def spent(self) -> bool:
        """True if the rule is used up."""
        return self.left == 0

    def as_json(self) -> dict[str, Any]:
        """The rule as it was given, and what is left of it."""
        return {"do": self.do, **self.keys, "left": self.left}


def parse_rules(value: object) -> list[Rule]:
    """The rules of a POST: one object or a list of them. Raises RefusalError (400)."""
    return [_rule(item) for item in (value if isinstance(value, list) else [value])]


def _rule(item: object) -> Rule:
    if not isinstance(item, dict):
        raise malformed("A rule is a JSON object with the key do.")
    keys = dict(item)
    do = keys.pop("do", None)
    alternatives = _ACTIONS.get(do) if isinstance(do, str) else None
    if alternatives is None:
        raise malformed(f"do must be one of: {', '.join(_ACTIONS)}.")
    if not any(needed <= keys.keys() <= needed | optional for needed, optional in alternatives):
        wanted = " or ".join(
            f"({', '.join([*sorted(needed), *(f'{key}?' for key in sorted(optional))])})"
            for needed, optional in alternatives
        )
        raise malformed(f"{do} takes the keys {wanted}.")
    for key, given in keys.items():
        if not _KEYS[key](given):
            raise malformed(f"{do}: {key} has a value that cannot be used.")
    generator = Generator(keys["seed"], keys.get("share", 1.0)) if do == "anything" else None
    return Rule(do, keys, keys.get("times", keys.get("rows")), generator)


class Faults:
    """The rules on requests and rows that are in force."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Activate a rule on requests or rows. Raises RefusalError (400) if there are too many."""
        if len(self._rules) >= _MAX_RULES:
            raise malformed(f"There are {_MAX_RULES} rules already; clear them first.")
        self._rules.append(rule)

    def clear(self) -> None:
        """Remove every rule."""
        self._rules.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """The rules that can still act."""
        return [rule.as_json() for rule in self._rules if not rule.spent]

    def on_request(self, endpoint: Endpoint) -> list[Rule]:
        """The rules that act on this request, each counted as used once."""
        matching = [
            rule
            for rule in self._rules
            if rule.do in REQUEST_RULES
            and not rule.spent
            and rule.keys.get("on", ANY) in (ANY, endpoint.value)
        ]
        for rule in matching:
            rule.use()
        return matching

    def check_rows(self, wire_bytes: int, body: bytes) -> None:
        """Apply refuse_rows to an append. Raises RefusalError (400, 413)."""
        for rule in self._rules:
            if rule.do != "refuse_rows":
                continue
            keys = rule.keys
            if wire_bytes > keys.get("max_bytes", wire_bytes):
                raise too_large(f"more than {keys['max_bytes']} bytes")
            if "max_rows" in keys and row_loader.count(body) > keys["max_rows"]:
                raise too_large(f"more than {keys['max_rows']} rows")
            if "field" in keys and any(_has(record, keys) for record in row_loader.records(body)):
                raise RefusalError(
                    400, keys.get("code", "ERR_INVALID_ROW"), "A row of the request is refused."
                )

    def rejects(self) -> row_loader.Rejects | None:
        """The predicate of reject_rows for rows at their commit; None without such a rule."""
        rules = [rule for rule in self._rules if rule.do == "reject_rows" and not rule.spent]
        if not rules:
            return None

        def rejected(record: dict[str, Any]) -> bool:
            for rule in rules:
                if not rule.spent and ("rows" in rule.keys or _has(record, rule.keys)):
                    rule.use()
                    return True
            return False

        return rejected


def _has(record: dict[str, Any], keys: dict[str, Any]) -> bool:
    return keys["field"] in record and bool(record[keys["field"]] == keys["value"])
