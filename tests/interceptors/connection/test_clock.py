from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth.connection.clock import AuthorityClock

EPOCH = 1_800_000_000.0


class Monotonic:
    """A monotonic clock that only the test moves."""

    def __init__(self, start: float = 1000.0) -> None:
        self.seconds = start

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def local() -> Monotonic:
    return Monotonic()


@pytest.fixture
def clock(local: Monotonic) -> AuthorityClock:
    return AuthorityClock(local)


def test_before_the_first_message_no_time_is_known(clock: AuthorityClock) -> None:
    assert clock() == -math.inf


def test_time_goes_on_between_messages(clock: AuthorityClock, local: Monotonic) -> None:
    clock.observe(EPOCH)
    local.seconds += 12.5
    assert clock() == EPOCH + 12.5


def test_r075_the_wall_clock_of_this_machine_counts_for_nothing(
    clock: AuthorityClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.observe(EPOCH)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert clock() == EPOCH


def test_the_message_that_travelled_least_counts(clock: AuthorityClock, local: Monotonic) -> None:
    for delay in (3.0, 0.1, 5.0):
        local.seconds += 1
        clock.observe(EPOCH + local.seconds - delay)
    assert clock() == pytest.approx(EPOCH + local.seconds - 0.1)


def test_a_late_message_sets_nothing_back(clock: AuthorityClock, local: Monotonic) -> None:
    clock.observe(EPOCH)
    local.seconds += 30
    clock.observe(EPOCH)
    assert clock() == EPOCH + 30


def test_the_best_message_of_the_window_before_still_counts(clock: AuthorityClock, local: Monotonic) -> None:
    clock.observe(EPOCH + local.seconds)
    local.seconds += 60
    clock.observe(EPOCH + local.seconds - 5)
    assert clock() == EPOCH + local.seconds


def test_a_clock_that_runs_slow_is_followed_within_two_windows(
    clock: AuthorityClock, local: Monotonic
) -> None:
    drift = 0.001
    for _ in range(600):
        local.seconds += 1
        clock.observe(EPOCH + local.seconds * (1 - drift))
        true = EPOCH + local.seconds * (1 - drift)
        assert true <= clock() <= true + 120 * drift + 1e-6


def test_a_clock_that_runs_fast_is_followed_at_once(clock: AuthorityClock, local: Monotonic) -> None:
    for _ in range(600):
        local.seconds += 1
        clock.observe(EPOCH + local.seconds * 1.001)
        assert clock() == pytest.approx(EPOCH + local.seconds * 1.001)


def test_an_authority_whose_clock_was_set_back_is_believed_after_two_windows(
    clock: AuthorityClock, local: Monotonic
) -> None:
    clock.observe(EPOCH + local.seconds)
    for _ in range(13):
        local.seconds += 10
        clock.observe(EPOCH - 3600 + local.seconds)
    assert clock() == EPOCH - 3600 + local.seconds


def test_after_a_long_silence_what_was_before_it_counts_no_more(
    clock: AuthorityClock, local: Monotonic
) -> None:
    clock.observe(EPOCH + local.seconds)
    local.seconds += 86_400
    assert clock() == EPOCH + local.seconds
    clock.observe(EPOCH + local.seconds - 7)
    assert clock() == EPOCH + local.seconds - 7


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e5),
            st.floats(-1e11, 1e11) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]),
        ),
        max_size=30,
    )
)
def test_whatever_is_observed_the_time_is_a_number(messages: list[tuple[float, float]]) -> None:
    local = Monotonic()
    clock = AuthorityClock(local)
    for step, sent_at in messages:
        local.seconds += step
        clock.observe(sent_at)
        assert not math.isnan(clock())
