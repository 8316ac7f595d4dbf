from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError, UnreachableError
from agent.keys.keypair import load_private_key
from agent.snowpipe.jwt import CachedToken, Token, mint

NOW = 1_760_000_000.7


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Issues tokens of an hour less a minute; fails while `failing` is set."""

    def __init__(self) -> None:
        self.issued: list[Token] = []
        self.tries = 0
        self.failing: Exception | None = None
        self.lifetime = 3540.0

    def __call__(self) -> Token:
        self.tries += 1
        if self.failing:
            raise self.failing
        # A wall clock that has nothing to do with the age clock.
        token = Token(f"token-{len(self.issued)}", issued_at=-5.0, expires_at=self.lifetime - 5.0)
        self.issued.append(token)
        return token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def cache(issuer: Issuer, clock: Clock) -> CachedToken:
    return CachedToken(issuer, age_clock=clock)


def test_a_day_of_calls_mints_once_per_hour_and_not_per_call(rsa_key_file: Path, clock: Clock) -> None:
    key = load_private_key(rsa_key_file)
    minted: list[Token] = []

    def renew() -> Token:
        minted.append(mint(key, "ORG-ACCOUNT", "U", NOW + clock.now))
        return minted[-1]

    cache = CachedToken(renew, age_clock=clock)

    for _second in range(0, 86_400, 10):
        clock.now += 10
        assert NOW + clock.now < cache.get().expires_at

    assert len(minted) == 27  # 1440 minutes, 54 each


def test_a_token_is_renewed_five_minutes_before_it_ends(
    cache: CachedToken, issuer: Issuer, clock: Clock
) -> None:
    first = cache.get()

    clock.now += 3540 - 300.1
    assert cache.get() is first
    clock.now += 0.2
    assert cache.get() is issuer.issued[1]


def test_a_token_shorter_than_that_is_not_renewed_at_every_call(
    cache: CachedToken, issuer: Issuer, clock: Clock
) -> None:
    issuer.lifetime = 60

    for _ in range(100):
        cache.get()
        clock.now += 1

    assert len(issuer.issued) == 4


def test_the_end_of_the_token_is_known_for_status(cache: CachedToken) -> None:
    assert cache.expires_at is None

    token = cache.get()

    assert cache.expires_at == token.expires_at


def test_the_old_token_serves_while_renewal_fails_and_tries_are_paced(
    cache: CachedToken, issuer: Issuer, clock: Clock
) -> None:
    first = cache.get()
    issuer.failing = UnreachableError("no route")
    clock.now += 3540 - 299

    for _second in range(61):
        assert cache.get() is first
        clock.now += 1

    assert issuer.tries == 1 + 3
    assert cache.failure is issuer.failing
    issuer.failing = None
    clock.now += 30
    assert cache.get() is issuer.issued[1]
    assert cache.failure is None


def test_without_a_valid_token_the_failure_is_the_callers(
    cache: CachedToken, issuer: Issuer, clock: Clock
) -> None:
    cache.get()
    issuer.failing = ConfigError("key gone")
    clock.now += 3540

    with pytest.raises(ConfigError, match="key gone"):
        cache.get()

    issuer.failing = None
    assert cache.get() is issuer.issued[1]


def test_a_bug_in_a_renewal_does_not_block_the_next(cache: CachedToken, issuer: Issuer) -> None:
    issuer.failing = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cache.get()
    issuer.failing = None

    token = cache.get()

    assert token is issuer.issued[0]


def test_a_token_refused_twice_is_renewed_once(cache: CachedToken, issuer: Issuer) -> None:
    refused = cache.get()

    cache.invalidate(refused)
    renewed = cache.get()
    cache.invalidate(refused)

    assert cache.get() is renewed
    assert len(issuer.issued) == 2


def test_after_a_discard_the_next_call_renews(cache: CachedToken, issuer: Issuer) -> None:
    cache.get()

    cache.discard()

    assert cache.expires_at is None
    assert cache.get() is issuer.issued[1]


def test_a_token_that_was_being_issued_at_a_discard_is_given_to_its_caller_alone(clock: Clock) -> None:
    asked, go_on = threading.Event(), threading.Event()
    tokens = [Token("by the old key", 0.0, 3540.0), Token("by the new key", 0.0, 3540.0)]

    def slowly() -> Token:
        asked.set()
        assert go_on.wait(10)
        return tokens.pop(0)

    cache = CachedToken(slowly, age_clock=clock)

    with ThreadPoolExecutor() as pool:
        early = pool.submit(cache.get)
        assert asked.wait(10)
        cache.discard()
        go_on.set()

        assert early.result().text == "by the old key"
    assert cache.get().text == "by the new key"


@given(steps=st.lists(st.tuples(st.floats(0, 4000), st.booleans(), st.booleans()), max_size=60))
def test_no_token_is_ever_served_past_its_end(steps: list[tuple[float, bool, bool]]) -> None:
    clock, issuer = Clock(), Issuer()
    cache = CachedToken(issuer, age_clock=clock)
    issued_at: dict[Token, float] = {}

    for seconds, failing, refused in steps:
        clock.now += seconds
        issuer.failing = UnreachableError("down") if failing else None
        try:
            token = cache.get()
        except UnreachableError:
            assert failing
            continue
        age = clock.now - issued_at.setdefault(token, clock.now)
        assert age < 3540
        if refused:
            cache.invalidate(token)


def in_threads(count: int, work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result(timeout=30)


def test_eight_threads_across_an_expiry_renew_once_and_never_wait_for_it(clock: Clock) -> None:
    issuer = Issuer()
    renewing, others_done = threading.Event(), threading.Semaphore(0)
    hold = False

    def renew() -> Token:
        if hold:
            renewing.set()
            for _ in range(7):
                assert others_done.acquire(timeout=30)
        return issuer()

    cache = CachedToken(renew, age_clock=clock)
    first = cache.get()
    hold = True
    clock.now += 3540 - 60

    def hammer() -> None:
        token = cache.get()
        if token is not first:
            return  # the one that renewed
        assert renewing.is_set()
        for _ in range(1000):
            assert cache.get() is first
        others_done.release()

    in_threads(8, hammer)

    assert len(issuer.issued) == 2
    assert cache.get() is issuer.issued[1]


def test_eight_threads_without_a_token_wait_for_one_renewal() -> None:
    issuer, clock_read = Issuer(), threading.Semaphore(0)

    def age_clock() -> float:
        clock_read.release()
        return 0.0

    def renew() -> Token:
        # Each thread reads the clock before it waits, the one that renews once more.
        for _ in range(9):
            assert clock_read.acquire(timeout=30)
        return issuer()

    cache = CachedToken(renew, age_clock=age_clock)
    got: list[Token] = []

    in_threads(8, lambda: got.append(cache.get()))

    assert got == [issuer.issued[0]] * 8
    assert issuer.tries == 1


def test_threads_that_waited_for_a_failed_renewal_share_its_failure() -> None:
    clock_read, finish = threading.Semaphore(0), threading.Event()
    tries = 0

    def age_clock() -> float:
        clock_read.release()
        return 0.0

    def renew() -> Token:
        nonlocal tries
        tries += 1
        assert finish.wait(timeout=30)
        raise UnreachableError("no route")

    cache = CachedToken(renew, age_clock=age_clock)

    def get() -> None:
        with pytest.raises(UnreachableError):
            cache.get()

    with ThreadPoolExecutor(4) as pool:
        getting = [pool.submit(get) for _ in range(4)]
        # Each reads the clock once before it waits, the one that renews once more.
        for _ in range(5):
            assert clock_read.acquire(timeout=30)
        finish.set()
        for done in getting:
            done.result(timeout=30)

    assert tries == 1


def test_threads_hammering_a_moving_clock_never_get_an_expired_token() -> None:
    clock, issuer = Clock(), Issuer()
    issued_at: dict[str, float] = {}

    def renew() -> Token:
        token = issuer()
        issued_at[token.text] = clock.now
        return token

    cache = CachedToken(renew, age_clock=clock)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            asked_at = clock.now
            token = cache.get()
            assert asked_at < issued_at[token.text] + 3540

    with ThreadPoolExecutor(8) as pool:
        hammering = [pool.submit(hammer) for _ in range(8)]
        for _step in range(2000):
            clock.now += 9
        stop.set()
        for done in hammering:
            done.result(timeout=30)

    assert len(issuer.issued) <= 2000 * 9 / (3540 - 300) + 1
