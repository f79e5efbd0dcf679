from __future__ import annotations

import threading
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


def test_place_where_no_lock_can_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        FileLock(tmp_path / "nowhere" / "lock")
