from __future__ import annotations

import queue
import threading
from collections.abc import Collection

import pytest
from rpz_auth.service.batches import Batches

TIMEOUT = 20.0
NAME = "batches of a test"


class Handler:
    """Handles when it is told to, and fails with what is negative."""

    def __init__(self) -> None:
        self.began: queue.SimpleQueue[Collection[int]] = queue.SimpleQueue()
        self.may_end = threading.Semaphore(0)

    def __call__(self, items: Collection[int]) -> None:
        self.began.put(items)
        assert self.may_end.acquire(timeout=TIMEOUT)
        if min(items) < 0:
            raise ValueError


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_one_thread_handles_at_once_what_came_while_it_was_busy() -> None:
    handler = Handler()
    batches = Batches(handler, name=NAME)
    batches.add(1)
    assert handler.began.get(timeout=TIMEOUT) == {1}
    for item in (2, 3, 2):
        batches.add(item)
        assert len(threads()) == 1
    handler.may_end.release(2)
    assert handler.began.get(timeout=TIMEOUT) == {2, 3}


def test_its_thread_goes_home_and_another_comes() -> None:
    handler = Handler()
    batches = Batches(handler, name=NAME)
    for item in (1, 1, 2):
        batches.add(item)
        (thread,) = threads()
        assert handler.began.get(timeout=TIMEOUT) == {item}
        handler.may_end.release()
        thread.join(TIMEOUT)
        assert threads() == []


def test_what_comes_behind_a_fault_is_handled(caplog: pytest.LogCaptureFixture) -> None:
    handler = Handler()
    batches = Batches(handler, name=NAME)
    batches.add(-1)
    assert handler.began.get(timeout=TIMEOUT) == {-1}
    batches.add(1)
    handler.may_end.release(2)
    assert handler.began.get(timeout=TIMEOUT) == {1}
    assert f"a batch of {NAME} could not be handled" in caplog.text
