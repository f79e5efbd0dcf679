"""A flood of guesses: the rightful client goes on, tables and memory stay as they were."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import flood
from support.authority import running_authority

SECONDS = 12.0
WARM_UP = 3.0
MEGABYTES = 32
"""That a flooded authority may take on top: its levels, and what grpc keeps for the answers that wait."""


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def rows(database: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        counts = {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - our tables
            for (name,) in tables
        }
    connection.close()
    return counts


@pytest.mark.timeout(240)
def test_a106_a110_r131_r219_flood_of_guesses_harms_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "rpz-auth.toml").write_text("refresh_limit = 0\n")
    with (
        running_authority(data_dir) as authority,
        grpc.secure_channel(authority.address, authority.tls) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        client = authority.create_client()
        token = authority.exchange(client, authority.issue_code(client)).refresh_token
        flood.start(authority, client.app_id, WARM_UP).communicate(timeout=60)  # allocates what is kept
        database = data_dir / "rpz-auth.db"
        before, memory = rows(database), resident_bytes(authority.process.pid)

        flooding = flood.start(authority, client.app_id, SECONDS)
        served = 0
        while flooding.poll() is None:
            # Its answer is its next credential: one that is refused ends the test.
            token = authority.refresh(client, token).refresh_token
            served += 1
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        answers = json.loads(flooding.communicate()[0])
        assert served > SECONDS
        assert answers["RATE_LIMITED"] > 0
        # One text in 256 names a master key, which a newer process might have; some give up.
        assert set(answers) <= {
            "CLIENT_INVALID",
            "GRANT_INVALID",
            "TOKEN_INVALID",
            "BACKEND_UNAVAILABLE",
            "RATE_LIMITED",
            "DEADLINE_EXCEEDED",
        }
        assert resident_bytes(authority.process.pid) - memory < MEGABYTES * 2**20
        after = rows(database)
    log = authority.log.read_text()
    assert log.count("refused") < 60
    assert after.pop("limits") < 2000
    assert after.pop("refusals") < 60
    assert {name: count for name, count in after.items() if count != before[name]} == {}
