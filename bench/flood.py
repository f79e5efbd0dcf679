"""What a flood of guesses does to an authority, and to a rightful client at the same address.

The authority has a processor of its own, so that what is measured is how the authority serves, and not how
the machine divides its time between the authority and its attacker. The attacker is the less urgent of the
two processes on the other one, or the rightful client would be seen to wait for its own processor.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import flood
from support.authority import AuthorityProcess, Client, running_authority

from bench.machine import apart, cpu_seconds, on_processors, resident_bytes
from bench.report import Report, Table

_PACE = 0.05
"""Seconds between two calls of the rightful client."""
_RATE = 1000.0
"""Guesses a second that wait for no answer; a fifth of them are at secrets."""
_LIMIT = 3
"""Times that the p99 of an idle authority may be exceeded by."""


@dataclass(frozen=True, slots=True)
class _Phase:
    """What the rightful client saw for a while."""

    milliseconds: list[float]
    cpu: float
    seconds: float
    memory: list[int]

    def quantile(self, part: float) -> float:
        return sorted(self.milliseconds)[int(part * (len(self.milliseconds) - 1))]


def run(*, quick: bool) -> Report:
    """Idle, then flooded by one process."""
    idle_seconds, seconds = (10.0, 20.0) if quick else (60.0, 600.0)
    its_own, ours = apart()
    with contextlib.ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        data_dir.mkdir(mode=0o700)
        (data_dir / "rpz-auth.toml").write_text("refresh_limit = 0\n", encoding="utf-8")
        with on_processors(its_own):
            authority = stack.enter_context(running_authority(data_dir))
        with on_processors(ours):
            client = authority.create_client()
            token = authority.exchange(client, authority.issue_code(client)).refresh_token
            call = _Rightful(authority, client, token)
            _follow(authority, call, _for(3.0))
            idle = _follow(authority, call, _for(idle_seconds))
            before = _rows(data_dir)
            flooding = flood.start(authority, client.app_id, seconds, rate=_RATE)
            flooded = _follow(authority, call, lambda: flooding.poll() is None)
            answers: dict[str, int] = json.loads(flooding.communicate()[0])
            after = _rows(data_dir)
    return _report(idle, flooded, answers, before, after)


class _Rightful:
    """Renews its token, again and again: each call reads, signs, and commits to disk."""

    def __init__(self, authority: AuthorityProcess, client: Client, token: str) -> None:
        self._authority, self._client, self._token = authority, client, token

    def __call__(self) -> None:
        self._token = self._authority.refresh(self._client, self._token).refresh_token


def _follow(authority: AuthorityProcess, call: _Rightful, goes_on: Callable[[], bool]) -> _Phase:
    pid = authority.process.pid
    latencies: list[float] = []
    memory = [resident_bytes(pid)]
    cpu, began = cpu_seconds(pid), time.monotonic()
    while goes_on():
        due = began + len(latencies) * _PACE
        time.sleep(max(0.0, due - time.monotonic()))
        call()
        latencies.append((time.monotonic() - due) * 1000)
        if len(latencies) % 100 == 0:
            memory.append(resident_bytes(pid))
    memory.append(resident_bytes(pid))
    return _Phase(latencies, cpu_seconds(pid) - cpu, time.monotonic() - began, memory)


def _for(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def _rows(data_dir: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{data_dir / 'rpz-auth.db'}?mode=ro", uri=True) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        counts = {
            name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # noqa: S608 - our tables
            for name in names
        }
    connection.close()
    return counts


def _report(
    idle: _Phase, flooded: _Phase, answers: dict[str, int], before: dict[str, int], after: dict[str, int]
) -> Report:
    ratio = flooded.quantile(0.99) / idle.quantile(0.99)
    half = len(flooded.memory) // 2
    growth = (flooded.memory[-1] - flooded.memory[half]) / 2**20
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    calls = sum(answers.values())
    rows = [
        [
            name,
            str(len(phase.milliseconds)),
            f"{phase.quantile(0.5):.1f} ms",
            f"{phase.quantile(0.99):.1f} ms",
            f"{100 * phase.cpu / phase.seconds:.0f} %",
            f"{phase.memory[-1] / 2**20:.0f} MiB",
        ]
        for name, phase in (("idle", idle), ("flooded", flooded))
    ]
    raw: dict[str, Any] = {
        "ratio_of_p99": ratio,
        "idle_ms": {"p50": idle.quantile(0.5), "p99": idle.quantile(0.99)},
        "flooded_ms": {"p50": flooded.quantile(0.5), "p99": flooded.quantile(0.99)},
        "seconds": flooded.seconds,
        "answers": answers,
        "resident_bytes": flooded.memory,
        "grown_rows": grown,
    }
    verdict = "holds" if ratio < _LIMIT else "does not hold"
    return Report(
        summary=(
            f"{flood.WAITING} guessers that wait for their answers and one that sends {_RATE:,.0f} guesses a "
            "second and waits for none, at secrets, codes, refresh tokens, API tokens and access tokens, in "
            f"the name of one App and of made-up ones, for {flooded.seconds:.0f} s, from the address of a "
            f"client that renews its token {1 / _PACE:.0f} times a second. All of the client's calls "
            f"succeeded; their latency counts from when they were due. Their p99 is {ratio:.1f} times "
            f"that of an idle authority; the bound of {_LIMIT} {verdict}."
        ),
        tables=[
            Table(
                "A rightful client during a flood",
                ["phase", "calls", "p50", "p99", "processor of the authority", "memory of the authority"],
                rows,
                note=(
                    f"The flood sent {calls:,} guesses ({calls / flooded.seconds:.0f} a second) and was told "
                    + ", ".join(f"`{reason}` {count:,} times" for reason, count in sorted(answers.items()))
                    + f". Memory changed by {growth:+.1f} MiB in the second half; rows that were added: "
                    + (", ".join(f"`{name}` {count}" for name, count in sorted(grown.items())) or "none")
                    + "."
                ),
            )
        ],
        raw=raw,
    )
