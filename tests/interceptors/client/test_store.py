"""A refresh token outlives programs, and is nobody else's."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rpz_auth
from rpz_auth.client import store
from rpz_auth.errors import ConfigurationError, RenewalFailed

TOKEN = "rpzr_secret-word"


def holder(path: Path) -> subprocess.Popen[str]:
    """Another program that holds the lock until it is told to end."""
    program = (
        "import sys, rpz_auth\n"
        f"with rpz_auth.FileStore({str(path)!r}).lock():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], how: signal.Signals | None = None) -> None:
    if how is not None:
        process.send_signal(how)
    process.communicate(timeout=30)


def test_a_memory_store_keeps_the_last_token() -> None:
    store = rpz_auth.MemoryStore()
    assert store.load() is None
    with store.lock():
        store.save(TOKEN)
    assert store.load() == TOKEN
    assert rpz_auth.MemoryStore(TOKEN).load() == TOKEN
    assert TOKEN not in repr(store)


def test_a123_a_file_is_its_owners_alone_from_the_first_byte_on(tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    store = rpz_auth.FileStore(path)
    with store.lock():
        assert store.load() is None
        store.save(TOKEN)
        store.save(TOKEN + "2")
        assert store.load() == TOKEN + "2"
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {
        "grant.json": 0o600,
        "grant.json.lock": 0o600,
    }
    assert repr(store) == f"FileStore({str(path)!r})"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a123_a_file_that_others_can_open_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "grant.json"
    rpz_auth.FileStore(path).save(TOKEN)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        rpz_auth.FileStore(path).load()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"refresh_token": ""}', '{"refresh_token": 7}', "secret-word", '"secret-word"'],
)
def test_a_file_of_something_else_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "grant.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="delete it") as refused:
        rpz_auth.FileStore(path).load()
    assert "secret-word" not in str(refused.value)


def test_what_a_dead_program_left_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "grant.json"
    (tmp_path / "grant.json.new").symlink_to(victim)
    rpz_auth.FileStore(path).save(TOKEN)
    assert rpz_auth.FileStore(path).load() == TOKEN
    assert victim.read_text() == "mine"
    assert not (tmp_path / "grant.json.new").exists()


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    store = rpz_auth.FileStore(tmp_path / "none" / "grant.json")
    with pytest.raises(ConfigurationError, match="none"), store.lock():
        pass


def test_a_system_without_locks_between_programs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "fcntl", None)
    with pytest.raises(ConfigurationError, match="POSIX"):
        rpz_auth.FileStore("grant.json")


def test_another_program_keeps_this_one_out_until_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    other = holder(path)
    impatient = rpz_auth.FileStore(path, lock_timeout=0.0)
    with pytest.raises(RenewalFailed, match="another program"), impatient.lock():
        pass
    entered = threading.Event()

    def enter() -> None:
        with rpz_auth.FileStore(path).lock():
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.is_set()
    end(other)
    waiting.join(30)
    assert entered.is_set()


def test_a_program_that_was_killed_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    end(holder(path), signal.SIGKILL)
    with rpz_auth.FileStore(path, lock_timeout=0.0).lock():
        pass


def test_threads_take_turns_too(tmp_path: Path) -> None:
    store = rpz_auth.FileStore(tmp_path / "grant.json")
    inside: list[int] = []

    def add() -> None:
        with store.lock():
            number = int(store.load() or 0)
            inside.append(number)
            store.save(str(number + 1))

    threads = [threading.Thread(target=add) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert inside == list(range(10))


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_token(tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    program = (
        "import itertools, rpz_auth\n"
        f"store = rpz_auth.FileStore({str(path)!r})\n"
        "store.save('x' * 3000)\n"
        "print('begun', flush=True)\n"
        "for number in itertools.count():\n"
        "    store.save(str(number % 10) * 3000)\n"
    )
    for _ in range(5):
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        end(process, signal.SIGKILL)
        token = rpz_auth.FileStore(path).load()
        assert token is not None
        assert (len(token), len(set(token))) == (3000, 1)
