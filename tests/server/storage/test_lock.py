from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rpz_auth.errors import BackendUnavailable, ConfigurationError
from rpz_auth_server.storage import lock
from rpz_auth_server.storage.lock import FileLock


def test_one_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    tried, order = threading.Event(), []

    def wait_for_it() -> None:
        tried.set()
        with other.held():
            order.append("second")

    thread = threading.Thread(target=wait_for_it)
    with one.held():
        thread.start()
        assert tried.wait(5)
        thread.join(0.05)
        order.append("first")
    thread.join(5)
    one.close()
    other.close()
    assert order == ["first", "second"]


def test_r128_lock_that_somebody_keeps_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_TIMEOUT", 0.0)
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with one.held(), pytest.raises(BackendUnavailable), other.held():
        pass
    with other.held():
        pass
    one.close()
    other.close()


def test_lock_is_given_back_after_a_failure(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with pytest.raises(LookupError), one.held():
        raise LookupError
    with other.held():
        pass
    one.close()
    other.close()


_WITHOUT_PAUSE = """
import sys, time
from pathlib import Path
from rpz_auth_server.storage.lock import FileLock

lock, count = FileLock(Path(sys.argv[1])), Path(sys.argv[2])
with count.open("r+b", buffering=0) as file:
    for number in range(1_000_000):
        with lock.held():
            file.seek(0)
            file.write(b"%d\\n" % number)
            time.sleep(0.002)  # as long as a commit
"""


def test_process_that_writes_without_pause_lets_others_write_in_turn(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0\n")
    command = [sys.executable, "-c", _WITHOUT_PAUSE, str(tmp_path / "lock"), str(tmp_path / "count")]
    mine = FileLock(tmp_path / "lock")

    def count() -> int:
        with mine.held():
            time.sleep(0.002)
            return int((tmp_path / "count").read_text())

    with subprocess.Popen(command) as other:  # noqa: S603 - our own interpreter
        try:
            deadline = time.monotonic() + 20
            while count() < 10:
                assert time.monotonic() < deadline
            before = count()
            after = [count() for _ in range(100)]
        finally:
            other.kill()
    mine.close()
    progress = after[-1] - before
    assert 50 <= progress <= 200, "about one of its turns for one of ours"


def test_place_where_no_lock_can_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        FileLock(tmp_path / "nowhere" / "lock")
