"""Whether a client stays signed in while every third answer to its refreshes is lost."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import rpz_auth
from support.authority import running_authority
from support.lossy_proxy import LossyProxy
from support.signed_in import LeapingClock, Lineage, lineage, sign_in, unlimited

from bench.report import Report, Table


def run(*, quick: bool) -> Report:
    """Renew 20,000 times (500 when quick) through a proxy that cuts connections, and look at what is left."""
    count = 500 if quick else 20_000
    took: list[float] = []
    tokens: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        unlimited(data_dir)
        with (
            running_authority(data_dir, "--insecure") as authority,
            LossyProxy(authority.address, lambda answer: answer % 3 == 0) as proxy,
            rpz_auth.TokenEndpoint(proxy.address, tls=authority.tls) as endpoint,
        ):
            client, clock = authority.create_client(), LeapingClock()
            store = rpz_auth.FileStore(Path(folder) / "grant.json")
            credential = sign_in(authority, client, endpoint, store, clock)
            for _ in range(count):
                clock.leap()
                started = time.perf_counter()
                tokens.add(credential.access_token())
                took.append(time.perf_counter() - started)
            found, lost = lineage(authority, client), proxy.lost
    if found != Lineage(alive=1, generations=[count + 1], alarms=[]) or len(tokens) != count:
        raise SystemExit(f"the client did not stay signed in as it should: {found}, {len(tokens)} tokens")
    median, p99 = statistics.median(took) * 1000, statistics.quantiles(took, n=100)[98] * 1000
    return Report(
        summary=(
            f"A client renewed {count:,} times, its refresh token in a file, while {lost:,} answers were "
            "lost: made and committed by the authority, and cut off on their way. It stayed signed in: one "
            "grant is alive, each renewal is one generation of it, and no reuse was detected."
        ),
        tables=[
            Table(
                "Renewals with lost answers",
                ("renewals", "answers lost", "grants alive", "reuse alarms", "median", "p99"),
                [
                    (
                        f"{count:,}",
                        f"{lost:,}",
                        str(found.alive),
                        str(len(found.alarms)),
                        f"{median:.1f} ms",
                        f"{p99:.1f} ms",
                    )
                ],
                note="With repetitions, reconnecting, two fsyncs of the file and one of the database.",
            )
        ],
        raw={"renewals": count, "lost": lost, "median_ms": median, "p99_ms": p99},
    )
