"""How long operations are gathered; what is written, and when it is answered, `test_sqlite.py` tells."""

from __future__ import annotations

from rpz_auth_server.storage.writer import Gathering


def pauses(gathering: Gathering, gathered: list[int]) -> list[float]:
    """The pause after each wait that brought so many operations."""
    found = []
    for number in gathered:
        gathering.learn(number)
        found.append(gathering.pause)
    return found


def test_wait_gets_longer_while_it_brings_operations_together_and_has_a_bound() -> None:
    gathering = Gathering()
    assert gathering.pause == 0
    assert pauses(gathering, [2, 3, 2, 9, 200]) == [0.001, 0.002, 0.004, 0.004, 0.004]


def test_wait_that_brought_nothing_is_the_last() -> None:
    assert pauses(Gathering(), [2, 3, 1, 1]) == [0.001, 0.002, 0, 0]


def test_of_operations_that_come_alone_each_sixteenth_tries_a_wait() -> None:
    found = pauses(Gathering(), [1] * 48)
    assert [number for number, pause in enumerate(found, start=1) if pause] == [16, 32, 48]
    assert max(found) == 0.001
