from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server.domain.limits import Backoff, Budget, Level, Limit, Limits, charge

NOW = 1_700_000_000.0


def spend(limit: Limit, times: int, now: float = NOW) -> Level:
    level = Level()
    for _ in range(times):
        level = charge(level, limit, 1, now)
    return level


def test_budget_lets_its_allowance_pass_at_once_and_its_rate_in_the_long_run() -> None:
    budget = Budget(allowance=3, rate=0.5)
    assert budget.wait(spend(budget, 2), NOW) == 0
    full = spend(budget, 3)
    assert budget.wait(full, NOW) == 2
    assert budget.wait(full, NOW + 1.5) == 0.5
    assert budget.wait(full, NOW + 2) == 0
    assert budget.wait(full, NOW + 1000) == 0


def test_a109_delay_doubles_with_each_failure_up_to_its_bound() -> None:
    backoff = Backoff(allowance=5, longest=300)
    delays = [backoff.wait(spend(backoff, failures), NOW) for failures in range(16)]
    assert delays == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert backoff.wait(spend(backoff, 100_000), NOW) == 300


def test_failures_are_forgiven_with_time() -> None:
    backoff = Backoff(allowance=5, longest=10)
    level = spend(backoff, 6)
    assert backoff.wait(level, NOW + 1.5) == 0.5
    assert backoff.wait(level, NOW + 2) == 0
    later = charge(level, backoff, 1, NOW + 60)
    assert later == Level(1, NOW + 60)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60))
def test_clock_that_steps_back_gives_nothing_away(steps: list[tuple[float, bool]]) -> None:
    budget = Budget(allowance=5, rate=1)
    level, latest = Level(), NOW
    for step, back in steps:
        now = latest - step if back else latest + step
        after = charge(level, budget, 1, now)
        assert after.at >= level.at
        assert after.charged <= level.charged + 1
        assert budget.wait(after, now) >= budget.wait(after, max(now, latest))
        level, latest = after, max(now, latest)


def test_zero_switches_a_limit_off() -> None:
    limits = Limits(
        failures=0,
        peer_failures=0,
        app_failures=0,
        uses=0,
        verifications=0,
        revocations=0,
        changes=0,
        pushes=0,
    )
    assert limits.by_kind() == {}
    kinds = {"guess", "misuse", "genuine", "peer", "app", "grant", "verifier", "revocation", "change", "push"}
    assert set(Limits().by_kind()) == kinds


@pytest.mark.parametrize("kind", Limits().by_kind())
def test_every_limit_lets_the_first_pass_and_recovers(kind: str) -> None:
    limit = Limits().by_kind()[kind]
    assert limit.wait(Level(), NOW) == 0
    exhausted = spend(limit, 2000)
    assert limit.wait(exhausted, NOW) > 0
    assert limit.wait(exhausted, NOW + 2000 / limit.rate) == 0
