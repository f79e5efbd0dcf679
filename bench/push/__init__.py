"""How fast a revocation arrives, what it costs to tell everybody, and what a million of them weigh."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from support.authority import running_authority

from bench.push import crowd, events, latency, snapshot, streams
from bench.report import Report, Table


def run(*, quick: bool) -> Report:
    """Measure all of it against authorities in processes of their own."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        with running_authority(folder / "latency") as authority:
            refused = latency.measure(authority, folder, quick=quick)
            ended = streams.measure(authority, folder, 10 if quick else 300)
            crowded = asyncio.run(crowd.measure(authority, folder, 200 if quick else 2_000))
        with running_authority(folder / "events") as authority:
            told = asyncio.run(events.measure(authority, folder, 20_000 if quick else 1_000_000))
        with running_authority(folder / "snapshot") as authority:
            size = (20_000, 2_000) if quick else (1_000_000, 100_000)
            whole = asyncio.run(snapshot.measure(authority, folder, *size))
    scale = [*crowd.rows(crowded), *snapshot.rows(whole)]
    return Report(
        summary=(
            "One authority (TLS, SQLite with `synchronous=FULL`) in a process of its own; verifiers are the "
            "library's, all in the one process that measures, on the same two processors. A verifier refuses "
            "from the moment at which its view holds the revocation. That moment is what is counted, from "
            "the answer to the RPC that revoked; whoever was told before the answer arrived counts as 0."
        ),
        tables=[
            latency.table(refused),
            streams.table(ended),
            events.table(told),
            Table("Scale", ["what", "found"], scale),
        ],
        raw={
            "latency": refused,
            "streams": ended,
            "crowd": crowded,
            "events": told,
            "snapshot": whole,
        },
    )
