"""How cost grows with what the database holds: grants and API tokens, from a thousand to ten million."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rpz.auth.v1 import token_service_pb2 as pb
from support.authority import RESOURCE, AuthorityProcess, Client

from bench.authority import Grants, Target, cost, identity, pinned_authority
from bench.chart import lines
from bench.fill import fill
from bench.machine import resident_bytes
from bench.measure import Spread, in_turn, ratios
from bench.report import Report, Table

_TOKENS = 10  # grants for each API token
_BYTES_A_ROW = 1000  # with its places in indexes, and with the write-ahead log while it is filled


@dataclass(frozen=True, slots=True)
class _Database:
    """An authority whose database was filled."""

    target: Target
    grants: Grants
    api_token: str
    verifier: tuple[tuple[str, str], ...]
    started_in: float
    """Seconds until it served."""


def run(*, quick: bool) -> Report:
    """Measure the same calls at authorities with databases of different sizes, in turn."""
    sizes = (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    count, rounds, live = (300, 2, 300) if quick else (2000, 5, 2000)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        needed = sum(sizes) * _BYTES_A_ROW
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{folder} needs {needed / 1e9:.0f} GB free; set TMPDIR to another place")
        databases = {size: _prepare(cleanup, folder / str(size), size, live) for size in sizes}
        takes: dict[str, Callable[[], float]] = {}
        for size, database in databases.items():
            takes[f"Refresh {size}"] = _refresh(database, count)
            takes[f"IntrospectToken {size}"] = _introspect(database, count)
        samples = in_turn(takes, rounds)
        rows, memory = [], {}
        for size, database in databases.items():
            memory[size] = resident_bytes(database.target.authority.process.pid)
            rows.append(
                (
                    f"{size:,}",
                    f"{size // _TOKENS:,}",
                    Spread.of(samples[f"Refresh {size}"]).text(),
                    ratios(samples, f"Refresh {size}", f"Refresh {sizes[0]}").text(2),
                    Spread.of(samples[f"IntrospectToken {size}"]).text(),
                    f"{database.started_in:.1f}",
                    f"{memory[size] / 2**20:,.0f}",
                )
            )
    chart = lines(
        "growth",
        {
            what: [
                (size, spread.median, spread.least, spread.most)
                for size in sizes
                for spread in [Spread.of(samples[f"{what} {size}"])]
            ]
            for what in ("Refresh", "IntrospectToken")
        },
        x="grants in the database",
        y="CPU µs per call",
    )
    return Report(
        summary=(
            "The same calls at authorities whose databases hold more and more, in turn. Each Refresh is of "
            "another grant; those that are called lie among the others. IntrospectToken is of an API token."
        ),
        tables=[
            Table(
                "CPU µs per call",
                (
                    "grants",
                    "API tokens",
                    "Refresh",
                    "against the first",
                    "IntrospectToken",
                    "start, s",
                    "MiB",
                ),
                rows,
            )
        ],
        raw={"cpu": samples, "memory": memory},
        charts=[chart],
    )


def _prepare(cleanup: ExitStack, data_dir: Path, size: int, live: int) -> _Database:
    with pinned_authority(data_dir) as founding:
        client = founding.create_client()
        founding.exchange(client, founding.issue_code(client))
        api_token = _create_api_token(founding, client)
        verifier = founding.create_verifier(data_dir / "verifier.json")
    fill(
        data_dir / "rpz-auth.db",
        {"grants": ("grant_id", None, size), "api_tokens": ("api_token_id", None, size // _TOKENS)},
    )
    begun = time.perf_counter()
    authority = cleanup.enter_context(pinned_authority(data_dir))
    started_in = time.perf_counter() - begun
    target = Target(authority, (data_dir / "tls/ca.pem").read_bytes())
    return _Database(target, target.grants(client, live), api_token, identity(verifier), started_in)


def _create_api_token(authority: AuthorityProcess, client: Client) -> str:
    request = pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
    return authority.tokens.CreateApiToken(request).api_token


def _refresh(database: _Database, count: int) -> Callable[[], float]:
    return lambda: cost(database.target.renew(database.grants, count))


def _introspect(database: _Database, count: int) -> Callable[[], float]:
    calls = [(database.verifier, pb.IntrospectTokenRequest(token=database.api_token))] * count
    return lambda: cost(database.target.call("IntrospectToken", calls))
