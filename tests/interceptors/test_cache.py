from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from rpz_auth.cache import BoundedCache


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


def contents(cache: BoundedCache[int], up_to: int) -> list[int]:
    return [number for number in range(up_to) if cache.get(key(number)) is not None]


def test_what_was_put_is_found_and_nothing_else() -> None:
    cache: BoundedCache[int] = BoundedCache(3)
    cache.put(key(1), 10)
    assert (cache.get(key(1)), cache.get(key(2)), len(cache)) == (10, None, 1)


def test_a105_a_full_cache_forgets_the_oldest() -> None:
    cache: BoundedCache[int] = BoundedCache(3)
    for number in range(5):
        cache.put(key(number), number)
    assert (contents(cache, 9), len(cache)) == ([2, 3, 4], 3)


def test_an_entry_that_is_put_again_is_the_newest_and_takes_no_second_place() -> None:
    cache: BoundedCache[int] = BoundedCache(3)
    for number in (0, 1, 2):
        cache.put(key(number), number)
    cache.put(key(0), 100)
    assert (contents(cache, 9), len(cache)) == ([0, 1, 2], 3)
    cache.put(key(3), 3)
    assert contents(cache, 9) == [0, 2, 3]
    assert cache.get(key(0)) == 100


def test_an_entry_in_the_middle_that_is_put_again_pushes_none_out_and_is_the_newest() -> None:
    cache: BoundedCache[int] = BoundedCache(3)
    for number in (0, 1, 2, 1):
        cache.put(key(number), number)
    assert contents(cache, 9) == [0, 1, 2]
    cache.put(key(3), 3)
    cache.put(key(4), 4)
    assert contents(cache, 9) == [1, 3, 4]


def test_reading_makes_no_entry_newer() -> None:
    cache: BoundedCache[int] = BoundedCache(2)
    cache.put(key(0), 0)
    cache.put(key(1), 1)
    cache.get(key(0))
    cache.put(key(2), 2)
    assert contents(cache, 9) == [1, 2]


def test_what_is_discarded_is_gone_and_leaves_room() -> None:
    cache: BoundedCache[int] = BoundedCache(2)
    cache.put(key(0), 0)
    cache.put(key(1), 1)
    cache.discard(key(0))
    cache.discard(key(7))
    cache.put(key(2), 2)
    assert contents(cache, 9) == [1, 2]


def test_a_cache_of_one_holds_the_last() -> None:
    cache: BoundedCache[int] = BoundedCache(1)
    for number in range(3):
        cache.put(key(number), number)
    assert (contents(cache, 9), len(cache)) == ([2], 1)


class Watched(bytes):
    """A key that tells whether the cache was locked whenever the dictionary looked at it."""

    __slots__ = ()
    cache: ClassVar[BoundedCache[int]]
    locked: ClassVar[list[bool]] = []

    def __hash__(self) -> int:
        self.locked.append(self.cache._writing.locked())
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_all_of_a_write_is_done_under_the_lock_and_a_read_takes_none() -> None:
    Watched.cache = BoundedCache(1)
    Watched.cache.put(Watched(key(1)), 1)
    Watched.cache.put(Watched(key(2)), 2)
    Watched.cache.discard(Watched(key(2)))
    assert Watched.locked
    assert all(Watched.locked)
    Watched.locked.clear()
    Watched.cache.get(Watched(key(2)))
    assert Watched.locked == [False]


def test_a105_the_bound_holds_while_threads_put_discard_and_read() -> None:
    cache: BoundedCache[int] = BoundedCache(16)
    together = threading.Barrier(8)
    largest: list[int] = []

    def work(thread: int) -> None:
        together.wait()
        for turn in range(3000):
            number = (turn * 7 + thread * 13) % 64
            cache.put(key(number), number)
            assert cache.get(key(number)) in (None, number)
            if turn % 5 == 0:
                cache.discard(key(turn % 64))
            largest.append(len(cache))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, thread) for thread in range(8)]:
            done.result()
    # Each put holds the lock from before it makes room until it has stored.
    assert max(largest) == 16
    assert len(contents(cache, 64)) == len(cache)


def test_a105_making_room_costs_no_walk_through_the_cache() -> None:
    cache: BoundedCache[int] = BoundedCache(16_384)
    before = time.process_time()
    for number in range(60_000):
        cache.put(key(number), number)
    assert time.process_time() - before < 1.5
    assert len(cache) == 16_384
