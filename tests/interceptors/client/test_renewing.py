"""One renewal for everybody who waits, ahead of expiry, with rest after failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import rpz_auth
from rpz_auth.client.renewing import FRESH_SECONDS, Obtained, RenewingToken
from rpz_auth.errors import RenewalFailed, SignInRequired

LIFETIME = 7200.0
WAIT = 30.0


class Source(RenewingToken):
    """Renews from what the test says, by the test's clock."""

    def __init__(self) -> None:
        self.time = 1000.0
        super().__init__(clock=lambda: self.time)
        self.asked = 0
        self.lifetime = LIFETIME
        self.failure: BaseException | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def _obtain(self) -> Obtained:
        self.asked += 1
        asked_at, number = self.time, self.asked
        self.meanwhile()
        if self.failure is not None:
            raise self.failure
        return Obtained(f"token-{number}", asked_at, self.lifetime)


class CountedEvent(threading.Event):
    """Says when so many threads wait for it."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._missing = expected
        self._counting = threading.Lock()
        self.all_wait = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        with self._counting:
            self._missing -= 1
            if not self._missing:
                self.all_wait.set()
        return super().wait(timeout)


def held_renewal(source: Source, waiting: int) -> Callable[[], None]:
    """Make the next renewal last until so many others wait for it."""

    def hold() -> None:
        source.meanwhile = lambda: None
        assert source._flight is not None
        source._flight.landed = counted = CountedEvent(waiting)
        begun.set()
        assert counted.all_wait.wait(WAIT)

    begun = threading.Event()
    source.meanwhile = hold

    def wait_until_it_begins() -> None:
        assert begun.wait(WAIT)

    return wait_until_it_begins


def test_a_token_is_kept_for_most_of_its_life_and_renewed_before_it_ends() -> None:
    for _ in range(50):
        source = Source()
        assert source.access_token() == "token-1"
        source.time += LIFETIME * 0.7 - 1
        assert source.access_token() == "token-1"
        source.time += LIFETIME * 0.2 + 1
        assert source.access_token() == "token-2"


def test_renewals_of_many_clients_spread() -> None:
    held = []
    for _ in range(100):
        source = Source()
        source.access_token()
        assert source._held is not None
        held.append(source._held.renew_at - source.time)
    assert LIFETIME * 0.7 <= min(held) < LIFETIME * 0.75 < LIFETIME * 0.85 < max(held) <= LIFETIME * 0.9


def test_life_is_counted_from_the_question_and_not_from_a_slow_answer() -> None:
    source = Source()

    def slow() -> None:
        source.time += LIFETIME * 0.95

    source.meanwhile = slow
    assert source.access_token() == "token-1"
    assert source.peek() is None
    source.meanwhile = lambda: None
    assert source.access_token() == "token-2"


def test_twenty_threads_wait_for_one_renewal() -> None:
    source = Source()
    begun = held_renewal(source, waiting=19)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(source.access_token)
        begun()
        others = [pool.submit(source.access_token) for _ in range(19)]
        assert {each.result(WAIT) for each in (first, *others)} == {"token-1"}
    assert source.asked == 1


def test_while_one_renews_ahead_the_others_go_on_with_what_is_good() -> None:
    source = Source()
    source.access_token()
    source.time += LIFETIME * 0.92
    renewing, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        renewing.set()
        assert go_on.wait(WAIT)

    source.meanwhile = hold
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(source.access_token)
        assert renewing.wait(WAIT)
        assert source.access_token() == "token-1"
        go_on.set()
        assert first.result(WAIT) == "token-2"
    assert source.access_token() == "token-2"


def test_a_failure_ahead_of_expiry_costs_no_call_and_is_not_repeated_at_once() -> None:
    source = Source()
    source.access_token()
    source.time += LIFETIME * 0.92
    source.failure = RenewalFailed("down")
    assert [source.access_token() for _ in range(5)] == ["token-1"] * 5
    assert source.asked == 2
    source.time += 0.5
    assert source.access_token() == "token-1"
    assert source.asked == 3
    source.failure = None
    source.time += 1.0
    assert source.access_token() == "token-4"


def test_without_a_token_a_failure_is_everybodys_and_rests_longer_each_time() -> None:
    source = Source()
    source.failure = RenewalFailed("down")
    pauses = []
    for _ in range(12):
        with pytest.raises(RenewalFailed, match="down"):
            source.access_token()
        asked = source.asked
        pauses.append(source._resting_until - source.time)
        with pytest.raises(RenewalFailed, match="down"):
            source.access_token()
        assert source.asked == asked
        source.time = source._resting_until
    assert 0.25 <= pauses[0] <= 0.5
    assert 15.0 <= pauses[-1] <= 30.0
    source.failure = None
    assert source.access_token().startswith("token-")
    source.time += LIFETIME
    source.failure = RenewalFailed("down")
    with pytest.raises(RenewalFailed):
        source.access_token()
    assert source._resting_until - source.time <= 0.5


def test_the_authority_says_how_long_to_rest() -> None:
    source = Source()
    source.failure = RenewalFailed("asked too often", retry_after=120.0)
    with pytest.raises(RenewalFailed):
        source.access_token()
    source.failure = None
    source.time += 119.0
    with pytest.raises(RenewalFailed) as again:
        source.access_token()
    assert again.value.retry_after == 120.0
    source.time += 1.0
    assert source.access_token() == "token-2"


def test_those_who_wait_get_the_failure_too_each_an_exception_of_its_own() -> None:
    source = Source()
    source.failure = SignInRequired()
    begun = held_renewal(source, waiting=3)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(source.access_token)
        begun()
        others = [pool.submit(source.access_token) for _ in range(3)]
        failures = [each.exception(WAIT) for each in (first, *others)]
    assert {type(failure) for failure in failures} == {SignInRequired}
    assert len({id(failure) for failure in failures}) == 4
    assert source.asked == 1


def test_a_fault_is_not_swallowed_and_leaves_nobody_waiting() -> None:
    source = Source()
    source.failure = ZeroDivisionError("fault")
    begun = held_renewal(source, waiting=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(source.access_token)
        begun()
        other = pool.submit(source.access_token)
        assert isinstance(first.exception(WAIT), ZeroDivisionError)
        assert isinstance(other.exception(WAIT), RenewalFailed)
    source.failure = None
    source.time += 1.0
    assert source.access_token() == "token-2"


def test_an_ended_grant_is_told_until_there_is_another() -> None:
    source = Source()
    source.check()
    source.failure = SignInRequired()
    with pytest.raises(SignInRequired):
        source.access_token()
    with pytest.raises(SignInRequired):
        source.check()
    source.failure = None
    source.time += 0.5
    source.access_token()
    source.check()


def test_a_refused_token_is_replaced_unless_it_is_new() -> None:
    source = Source()
    token = source.access_token()
    source.time += FRESH_SECONDS - 1
    assert not source.replace(token)
    assert source.asked == 1
    source.time += 1
    assert source.replace(token)
    assert source.access_token() == "token-2"
    # Somebody else was refused with the one before: it has been replaced already.
    assert source.replace(token)
    assert source.asked == 2


def test_a_refused_token_is_kept_when_there_is_no_other() -> None:
    source = Source()
    token = source.access_token()
    source.time += 60.0
    source.failure = RenewalFailed("down")
    assert not source.replace(token)
    assert not source.replace(token)
    assert source.asked == 2
    assert source.access_token() == token


def test_twenty_refused_calls_cause_one_renewal() -> None:
    source = Source()
    token = source.access_token()
    source.time += 60.0
    begun = held_renewal(source, waiting=19)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(source.replace, token)
        begun()
        others = [pool.submit(source.replace, token) for _ in range(19)]
        assert [each.result(WAIT) for each in (first, *others)] == [True] * 20
    assert source.asked == 2


def test_without_a_clock_of_its_own_a_token_goes_by_this_machines() -> None:
    class Real(RenewingToken):
        def _obtain(self) -> Obtained:
            return Obtained("token", self._clock(), 100.0)

    real = Real()
    assert (real.peek(), real.access_token(), real.peek()) == (None, "token", "token")
    assert real.field_value() == "Bearer token"


def test_a_token_does_not_stand_in_a_repr() -> None:
    source = Source()
    source.access_token()
    assert "token-1" not in repr(source._held) + repr(Obtained("token-1", 0.0, 1.0))
    assert isinstance(SignInRequired(), rpz_auth.RenewalFailed)
