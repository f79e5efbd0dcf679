"""From the answer to a revocation until a verifier refuses, with one verifier and with many."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rpz_auth
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.connection import Connection
from rpz_auth.connection_file import VerifierFile
from rpz_auth.view import Revocation
from support.authority import CODE_CHALLENGE, REDIRECT_URI, AuthorityProcess, Client
from support.service import api_token

from bench.load import Load, drive
from bench.machine import cpu_seconds
from bench.measure import percentile
from bench.report import Table

_VERIFIERS = (1, 10, 100)
_RATE = 200.0
_BOUND, _AIM = 0.1, 0.02


def measure(authority: AuthorityProcess, folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Revoke one API token after the other; idle, and while codes are issued."""
    client, revocations = authority.create_client(), 20 if quick else 300
    found = []
    for count in _VERIFIERS:
        verifier = VerifierFile.read(authority.create_verifier(folder / f"latency-{count}.json"))
        with _connected(verifier, count) as connections:
            told = _Told(connections)
            for loaded in (False, True):
                with _load(authority, client, 3 if quick else 30) if loaded else _idle() as goes_on:
                    figures = [
                        max(0.0, when - answered)
                        for answered, identifier in _revoke(authority, client, revocations, goes_on)
                        for when in told.times(identifier)
                    ]
                found.append({"verifiers": count, "loaded": loaded, **quantiles(figures)})
    return found


def quantiles(figures: Sequence[float]) -> dict[str, Any]:
    """Of times in seconds."""
    return {
        "measured": len(figures),
        "p50": percentile(figures, 0.5),
        "p99": percentile(figures, 0.99),
        "max": max(figures),
    }


def in_ms(found: dict[str, Any]) -> list[str]:
    """Quantiles as cells of a table."""
    return [f"{found[name] * 1e3:.1f} ms" for name in ("p50", "p99", "max")]


def table(found: Sequence[dict[str, Any]]) -> Table:
    """What was found, against what was promised."""
    rows = [
        [
            str(row["verifiers"]),
            f"{_RATE:.0f} codes/s" if row["loaded"] else "idle",
            str(row["measured"]),
            *in_ms(row),
        ]
        for row in found
    ]
    worst = max(row["p99"] for row in found)
    verdict = "above the bound of" if worst > _BOUND else "within the bound of"
    late = {row["verifiers"] for row in found if row["p99"] > _AIM}
    reached = [str(count) for count in _VERIFIERS if count not in late]
    aim = f"with {' and '.join(reached)} verifiers" if reached else "with no number of verifiers"
    return Table(
        "From the answer to a revocation until a verifier refuses",
        ["verifiers", "authority", "measured", "p50", "p99", "max"],
        rows,
        f"The highest p99 is {worst * 1e3:.1f} ms: {verdict} {_BOUND * 1e3:.0f} ms; "
        f"the aim of {_AIM * 1e3:.0f} ms is reached {aim}. A hundred verifiers share the interpreter of one "
        "process here; those of services each have their own.",
    )


class _Told:
    """When each verifier of a group came to refuse an identifier."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections
        self._when: dict[str, list[float]] = {}
        for connection in connections:
            connection.view.follow(self._note)

    def _note(self, changes: Any) -> None:
        now = time.perf_counter()
        for change in changes or ():
            if isinstance(change, Revocation):
                self._when.setdefault(change.id, []).append(now)

    def times(self, identifier: str) -> Sequence[float]:
        """Wait until all were told."""
        deadline, pause = time.monotonic() + 30, threading.Event()
        while len(self._when.get(identifier, ())) < len(self._connections):
            if time.monotonic() > deadline:
                raise SystemExit("a verifier was not told of a revocation")
            pause.wait(0.005)
        return self._when[identifier]


@contextmanager
def _connected(verifier: VerifierFile, count: int) -> Iterator[Sequence[Connection]]:
    connections = [Connection(verifier) for _ in range(count)]
    try:
        for connection in connections:
            connection.start()
        for connection in connections:
            connection.wait(60)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _revoke(
    authority: AuthorityProcess, client: Client, count: int, goes_on: Callable[[], bool]
) -> Iterator[tuple[float, str]]:
    for _ in itertools.takewhile(lambda _: goes_on(), range(count)):
        identifier = api_token(authority, client)[1]
        authority.revoke_api_token(client, identifier)
        yield time.perf_counter(), identifier


@contextmanager
def _idle() -> Iterator[Callable[[], bool]]:
    yield lambda: True


@contextmanager
def _load(authority: AuthorityProcess, client: Client, seconds: float) -> Iterator[Callable[[], bool]]:
    """Have codes issued meanwhile, each a durable write; gives whether that still goes on."""
    request = token_pb.IssueCodeRequest(
        client_id=client.app_id,
        redirect_uri=REDIRECT_URI,
        scopes=["orders.read"],
        subject="user:1",
        code_challenge=CODE_CHALLENGE,
        code_challenge_method="S256",
    )
    administrator = rpz_auth.ApiToken(authority.bootstrap["app_id"], authority.bootstrap["api_token"])
    load = Load(
        target=authority.address,
        ca=Path(authority.bootstrap["ca_certificate"]).read_bytes(),
        method="/rpz.auth.v1.TokenService/IssueCode",
        calls=[((("authorization", administrator.field_value()),), request.SerializeToString())],
        count=int(_RATE * seconds),
        rate=_RATE,
    )
    with ThreadPoolExecutor(1) as pool:
        before = cpu_seconds(authority.process.pid)
        driven = pool.submit(drive, load)
        while cpu_seconds(authority.process.pid) < before + 0.2 and not driven.done():
            time.sleep(0.02)  # until it has begun
        yield lambda: not driven.done()
        codes = driven.result().codes
    if codes["OK"] < load.count * 0.9:
        raise SystemExit(f"the load was not carried: {codes}")
