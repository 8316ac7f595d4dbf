"""What happens to the network and to the service."""

from __future__ import annotations

import contextlib
import shutil
from random import Random

from agent.emulator.anything import Generator
from agent.errors import OutboxError
from tests.simulation.history import History
from tests.simulation.kinds import LATE_COUNTS_S, event, extent
from tests.simulation.service import card, swipes

_MOST_BAD = 6
# A row that is refused for an hour is a suspect; for 300 s after a trial in which a row was accepted.
_UNSUSPECTED_S = 250.0


@event
def network_down(history: History, draw: Random) -> bool:
    network = history.network
    network.is_down = True
    history.window(extent(draw), lambda: setattr(network, "is_down", False))
    return True


@event
def network_slow(history: History, draw: Random) -> bool:
    network = history.network
    network.bytes_per_s, network.way_s = 10 ** draw.uniform(2.3, 5), 10 ** draw.uniform(-2, 1)

    def end() -> None:
        network.bytes_per_s, network.way_s = 1e7, 0.02

    history.window(extent(draw), end)
    return True


@event
def network_breaks_large(history: History, draw: Random) -> bool:
    network = history.network
    network.takes_bytes = int(10 ** draw.uniform(3.1, 4.5))
    history.window(extent(draw), lambda: setattr(network, "takes_bytes", 1 << 40))
    return True


@event
def network_loses(history: History, draw: Random) -> bool:
    network, share = history.network, draw.choice((0.1, 0.4, 0.9))
    chances = Random(draw.random())

    def lost() -> str:
        return chances.choice(("before", "after", "after")) if chances.random() < share else ""

    network.loses = lost
    history.window(extent(draw), lambda: setattr(network, "loses", str))
    return True


@event
def network_drops_idle(history: History, draw: Random) -> bool:
    history.network.drops_idle = True
    history.window(extent(draw), lambda: setattr(history.network, "drops_idle", False))
    return True


@event
def any_answer(history: History, draw: Random) -> bool:
    service = history.service
    names = draw.sample(("hostname", "token", "open", "append", "status"), draw.randint(1, 5))
    drawn = {name: Generator(draw.getrandbits(32), draw.choice((0.1, 0.5, 0.9))) for name in names}
    service.generators |= drawn

    def end() -> None:
        for name in drawn:
            service.generators.pop(name, None)

    history.window(extent(draw), end)
    return True


_STATUSES = (400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 429, 429, 500, 502, 503, 503, 504)
_CODES = (
    *("", "", "4", "390101", "390422", "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "STALE_PIPE_CACHE"),
    *("ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", "ERR_CHANNEL_MUST_BE_REOPENED", "ERR_MALFORMED_REQUEST"),
)


@event
def endpoint_fails(history: History, draw: Random) -> bool:
    service = history.service
    names = draw.sample(("hostname", "token", "open", "append", "status"), draw.randint(1, 2))
    answer = draw.choice(_STATUSES), draw.choice(_CODES), draw.choice((None, None, 0, 3, 5_000))
    lasts_s = extent(draw)
    # Of the requests, or less than half of them: a row that is refused for hours while others are accepted is
    # rightly set aside.
    share = draw.choice((1.0, 1.0, 0.3))
    for name in names:
        service.endpoint_fails[name] = (*answer, share)

    def end() -> None:
        for name in names:
            service.endpoint_fails.pop(name, None)

    history.window(lasts_s, end)
    return True


@event
def appends_refused(history: History, draw: Random) -> bool:
    """Some appends are refused for no row's sake, for less time than makes a row a suspect."""
    service = history.service
    if service.refused or "append" in service.endpoint_fails:
        return False  # a pipe that has refused single rows needs less time
    service.endpoint_fails["append"] = draw.choice((400, 422)), "ERR_ROWS", None, draw.choice((0.3, 0.6))

    def end() -> None:
        service.endpoint_fails.pop("append", None)

    history.window(min(extent(draw), _UNSUSPECTED_S), end)
    return True


@event
def pipe_moves(history: History, draw: Random) -> bool:
    """To another host; the old one may answer otherwise after a while."""
    service = history.service
    service.move()
    service.old_host_status, later = draw.choices((410, 410, 404, 401, 403, 503), k=2)
    history.window(extent(draw), lambda: setattr(service, "old_host_status", later))
    return True


@event
def tokens_expire(history: History, _: Random) -> bool:
    history.service.expire_tokens()
    return True


@event
def channel_invalid(history: History, _: Random) -> bool:
    history.service.invalidate()
    return bool(history.service.channels)


@event
def commits_slow(history: History, draw: Random) -> bool:
    service = history.service
    service.lag_s = draw.choice((2.0, 50.0, 700.0, 5_000.0))
    history.window(extent(draw), lambda: setattr(service, "lag_s", 0.3))
    return True


@event
def commits_stall(history: History, draw: Random) -> bool:
    service = history.service
    service.is_stalled = True
    history.window(extent(draw), lambda: setattr(service, "is_stalled", False))
    return True


@event
def other_writer(history: History, draw: Random) -> bool:
    names = [name for name in history.service.channels if not name.endswith("-replay")]
    if not names:
        return False
    history.service.other_writer(draw.choice(names))
    return True


@event
def other_history(history: History, draw: Random) -> bool:
    """Another writer moves the channel: what was in flight may come again."""
    names = sorted(history.service.channels)
    if not names or history.door.agent is None or history.went_back:
        return False  # the token is all that shows that the server went back
    mark_in_flight(history)
    token = f"{draw.randint(1, 400)}-{draw.getrandbits(128):032x}"
    history.service.other_writer(draw.choice(names), token)
    history.had_other_history = True
    return True


def mark_in_flight(history: History) -> None:
    """What the door does not know to be committed may arrive twice, or is in the table already."""
    for swiped in history.swiped.values():
        swiped.may_be_doubled = True


@event
def channels_of_another_history(history: History, draw: Random) -> bool:
    """Every channel that is opened has a token of another history."""
    service = history.service
    if history.went_back:
        return False  # the token is all that shows that the server went back
    mark_in_flight(history)
    history.had_other_history = True
    service.foreign_token = f"{draw.randint(1, 400)}-{draw.getrandbits(128):032x}"
    before = len(history.swiped)

    def end() -> None:
        service.foreign_token = None
        for number in range(before + 1, len(history.swiped) + 1):  # in flight when another fault reopened it
            history.swiped[number].may_be_doubled = True

    history.window(extent(draw), end)
    return True


@event
def server_goes_back(history: History, draw: Random) -> bool:
    """The last committed rows of a channel are no longer in the table, and its token is an earlier one."""
    service, door = history.service, history.door
    if door.agent is None or door.agent.outbox.state.recoveries or history.had_other_history:
        return False
    name = f"{door.agent_id}-{door.agent.outbox.state.sending.outbox_id}"
    rows = [landed for landed in service.landed if landed.channel == name]
    channel = service.channels.get(name)
    if channel is None or not rows or channel.committed is None:
        return False
    oldest: int | None = None
    file = door.agent.outbox.file
    with history.disk.healthy(), contextlib.suppress(OutboxError), file.reading() as connection:
        (oldest,) = connection.execute("SELECT min(n) FROM swipes").fetchone()
    base = door.agent.outbox.state.base
    is_known = base + int(channel.committed.partition("-")[0]) < door.agent.outbox.state.committed_n
    if is_known or door.agent.uploader._live._open_at is not None:
        return False  # the door is about to open at its own position, which hides that it went back again
    lost = rows[-draw.randint(1, 6) :]
    if oldest is None or base + lost[0].row["seq"] < oldest or len(lost) == len(rows):
        return False
    before = rows[-len(lost) - 1].row
    service.landed = [landed for landed in service.landed if landed not in lost]
    channel.committed = f"{before['seq']}-{before['chain']}"
    channel.buffered.clear()
    channel.is_invalid = True
    history.went_back = True
    for row in swipes(lost):
        history.swiped[card(row)].went_back = True
    return True


@event
def channels_deleted(history: History, _: Random) -> bool:
    """After 30 idle days: everything was committed, and the door knows, also of late errors."""
    door, service = history.door, history.service
    if service.bookkeeping or "status" in service.generators:
        return False  # what it counts as errors is hidden
    history.pass_until(history.now_s + LATE_COUNTS_S)
    if door.agent is None or door.agent.outbox.pending or door.agent.outbox.state.recoveries:
        return False
    with contextlib.suppress(OutboxError):
        if door.agent.uploader.final_n < door.agent.outbox.state.committed_n:
            return False
    channels = service.channels.values()
    if channels and not any(one.buffered or one.is_invalid for one in channels):
        service.forget_channel()
        history.disk.write_back()
        return True
    return False


def _bad(history: History, draw: Random, kind: str) -> bool:
    service = history.service
    if len(service.guilty_cards) >= _MOST_BAD:
        return False
    for ahead in range(draw.randint(1, 3)):
        number = len(history.swiped) + 1 + ahead * draw.randint(1, 3)
        service.bad_cards[number] = kind
        service.guilty_cards.add(number)
    return True


@event
def rows_refused(history: History, draw: Random) -> bool:
    history.service.refusal_status = draw.choice((400, 400, 413, 422, 403))
    return _bad(history, draw, "refused")


@event
def rows_not_loaded(history: History, draw: Random) -> bool:
    history.service.errors_count_after_s = draw.choice((0.0, 1.0, 100.0))
    history.service.had_late_counts |= history.service.errors_count_after_s > 0
    return _bad(history, draw, "not loaded")


@event
def pipe_repaired(history: History, _: Random) -> bool:
    is_news = bool(history.service.bad_cards)
    history.service.bad_cards.clear()
    return is_news


@event
def requests_too_large(history: History, draw: Random) -> bool:
    service = history.service
    service.takes_bytes = int(10 ** draw.uniform(2.9, 4))
    history.window(extent(draw), lambda: setattr(service, "takes_bytes", 4_000_000))
    return True


@event
def zstd_refused(history: History, draw: Random) -> bool:
    service = history.service
    service.refused_encoding = draw.choice(("zstd", "gzip"))
    history.window(extent(draw), lambda: setattr(service, "refused_encoding", ""))
    return True


@event
def odd_status(history: History, draw: Random) -> bool:
    service = history.service
    service.status_code = draw.choice(("SUCCESS", "ACTIVE", "ERR_CHANNEL_MUST_BE_REOPENED", "STALE", ""))
    odd = (None, "3", 3.5, 2**63, -1, "\ud800", [1])
    names = ("created_on_ms", "rows_error_count", "last_error_offset_upper_bound", "last_error_message")
    service.bookkeeping = {name: draw.choice(odd) for name in draw.sample(names, draw.randint(0, 3))}

    def end() -> None:
        service.status_code, service.bookkeeping = "SUCCESS", {}

    history.window(extent(draw), end)
    return True


@event
def interim_answers(history: History, draw: Random) -> bool:
    service = history.service
    service.interim = draw.randint(1, 5)
    history.window(extent(draw), lambda: setattr(service, "interim", 0))
    return True


@event
def date_off(history: History, draw: Random) -> bool:
    """A device in between answers with its own time, as long as the network is up."""
    service = history.service
    service.date_off_s = draw.choice((-7_200.0, -90.0, 90.0, 7_200.0, 1e9))
    history.is_time_void = True
    history.window(extent(draw), lambda: setattr(service, "date_off_s", 0.0))
    return True


@event
def key_rotated(history: History, draw: Random) -> bool:
    """The file is replaced, the account has the new key, and the agent is reloaded, or not."""
    history.key_number = 1 - history.key_number
    shutil.copy(history.keys.files[history.key_number], history.key_file)
    new = history.keys.keys[history.key_number].fingerprint
    old_too = draw.random() < 0.5
    history.service.fingerprints = {new} | (history.service.fingerprints if old_too else set())
    if draw.random() < 0.5 and history.door.agent is not None:
        history.door.agent.client.reload_key()
        history.door.agent.uploader.retry_now()
    return True
