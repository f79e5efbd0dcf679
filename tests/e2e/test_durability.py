"""An answer is a promise: it was on disk before it was sent, and no kill takes it back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from support.authority import AuthorityProcess, Client, reason, running_authority

T = TypeVar("T")
_SYNCED = re.compile(r"^\d+ +(\d+\.\d+) (?:fdatasync|fsync)\(.*\) += 0 <(\d+\.\d+)>")


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        message = "strace is needed to see that answers are on disk before they are sent (apt install strace)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def test_every_answer_that_changes_something_is_preceded_by_its_fsync(strace: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # Heartbeats sync too; with this interval they cannot be taken for what the calls did.
    config = tmp_path / "config.toml"
    config.write_text("heartbeat_interval = 5\n")
    authority = AuthorityProcess(
        tmp_path / "data",
        f"--config={config}",
        prefix=(strace, "-D", "-f", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", str(trace)),
    )
    try:
        client = authority.create_client()
        token = ""
        spans: list[tuple[str, float, float]] = []

        def timed(what: str, call: Callable[[], T]) -> T:
            begun = time.time()
            answer = call()
            spans.append((what, begun, time.time()))
            return answer

        for _ in range(20):
            code = timed("IssueCode", functools.partial(authority.issue_code, client))
            token = timed("ExchangeToken", functools.partial(authority.exchange, client, code)).refresh_token
            timed("Refresh", functools.partial(authority.refresh, client, token))
            timed("Refresh, repeated", functools.partial(authority.refresh, client, token))
            timed(
                "CreateApp",
                lambda: authority.apps.CreateApp(
                    app_pb.CreateAppRequest(app=app_pb.App(kind=app_pb.APP_KIND_DEVICE, display_name="d"))
                ),
            )
    finally:
        authority.stop()
    matches = [match for line in trace.read_text().splitlines() if (match := _SYNCED.match(line))]
    synced = [float(match[1]) + float(match[2]) for match in matches]
    without = [what for what, begun, ended in spans if not any(begun < sync < ended for sync in synced)]
    assert len(spans) == 100
    assert without == []


@dataclass
class Session:
    """What one client was promised."""

    client: Client
    redeemed: list[str]
    refresh_token: str = ""


def live(authority: AuthorityProcess, session: Session, stop: threading.Event) -> None:
    """Sign in and renew until the authority is gone, keeping only what was acknowledged."""
    with contextlib.suppress(grpc.RpcError):
        while not stop.is_set():
            code = authority.issue_code(session.client)
            tokens = authority.exchange(session.client, code)
            session.redeemed.append(code)
            session.refresh_token = tokens.refresh_token
            for _ in range(20):
                session.refresh_token = authority.refresh(session.client, session.refresh_token).refresh_token


@pytest.mark.timeout(300)
def test_kill_9_under_load_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running_authority(data_dir) as authority:
        clients = [authority.create_client() for _ in range(4)]
    for round_ in range(5):
        authority = AuthorityProcess(data_dir)
        sessions = [Session(client, []) for client in clients]
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(len(sessions)) as pool:
            running = [pool.submit(live, authority, session, stop) for session in sessions]
            # In the middle of the work of each, at another moment each time.
            wanted = 3 + 2 * round_
            while (
                not all(session.refresh_token for session in sessions)
                or sum(len(session.redeemed) for session in sessions) < wanted
            ):
                concurrent.futures.wait(running, timeout=0.01)
            authority.kill()
            stop.set()
        with running_authority(data_dir) as authority:
            for session in sessions:
                assert session.refresh_token
                # The newest acknowledged token works: its own rotation, or the repeat of a lost answer.
                assert authority.refresh(session.client, session.refresh_token).access_token
                for code in session.redeemed:
                    with pytest.raises(grpc.RpcError) as refused:
                        authority.exchange(session.client, code)
                    assert reason(refused.value) == "GRANT_INVALID"
        with contextlib.closing(sqlite3.connect(data_dir / "rpz-auth.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
