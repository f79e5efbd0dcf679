from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server.storage.clock import DatabaseClock
from server.storage.build import NOW
from support.clock import Clock


def test_wall_that_is_set_forward_is_followed() -> None:
    wall, monotonic = Clock(NOW), Clock(0.0)
    clock = DatabaseClock(wall=wall, monotonic=monotonic, not_before=0.0)
    monotonic.time += 1
    wall.time += 3600  # the machine slept
    assert clock.now() == NOW + 3600


def test_clock_starts_at_the_time_the_database_has_seen_and_goes_on_from_there() -> None:
    monotonic = Clock(50.0)
    clock = DatabaseClock(wall=Clock(NOW), monotonic=monotonic, not_before=NOW + 100)
    assert clock.now() == NOW + 100
    monotonic.time += 5
    assert clock.now() == NOW + 105


@given(st.lists(st.tuples(st.sampled_from(["wall", "monotonic", "seen"]), st.floats(-1e6, 1e6))))
def test_a130_time_never_goes_back(steps: list[tuple[str, float]]) -> None:
    wall, monotonic = Clock(NOW), Clock(0.0)
    clock = DatabaseClock(wall=wall, monotonic=monotonic, not_before=NOW - 10)
    before = clock.now()
    for what, seconds in steps:
        match what:
            case "wall":
                wall.time += seconds
            case "monotonic":
                monotonic.time += abs(seconds)
            case _:
                clock.catch_up(NOW + seconds)
        assert clock.now() >= before
        before = clock.now()


def test_time_never_goes_back_between_threads() -> None:
    clock = DatabaseClock(wall=time.time, monotonic=time.monotonic, not_before=0.0)
    backwards: list[float] = []

    def look() -> None:
        before = 0.0
        for _ in range(5000):
            now = clock.now()
            if now < before:
                backwards.append(now)
            before = now

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backwards == []
