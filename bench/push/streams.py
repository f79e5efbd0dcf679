"""From the answer to a revocation until the client of a running stream sees its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import rpz_auth
from support.authority import RESOURCE, AuthorityProcess
from support.grpc_servers import Generic, Shape, Stack, serve
from support.service import api_token

from bench.push.latency import in_ms, quantiles
from bench.report import Table

_ENDED_BY = {Stack.SYNC: grpc.StatusCode.CANCELLED, Stack.ASYNCIO: grpc.StatusCode.UNAUTHENTICATED}
"""A synchronous server can tell a stream that is idle nothing but that it is over."""


def measure(authority: AuthorityProcess, folder: Path, count: int) -> list[dict[str, Any]]:
    """Open streams one after the other on servers of both stacks, and revoke what opened them."""
    found = []
    client = authority.create_client()
    shape = Shape.UNARY_STREAM
    verifier = authority.create_verifier(folder / "streams.json")
    for stack, behaviour in ((Stack.SYNC, _idle), (Stack.ASYNCIO, _idle_async)):
        auth = rpz_auth.AuthInterceptor(
            rpz_auth.connect(verifier),
            resource=RESOURCE,
            policies={shape.path(): rpz_auth.scopes("orders.read")},
        )
        figures = []
        with (
            auth,
            serve(stack, Generic({shape.path(): shape.handler(behaviour)}), [auth]) as port,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            for _ in range(count):
                value, identifier = api_token(authority, client)
                open_stream: Any = channel.unary_stream(shape.path())
                call = open_stream(b"", metadata=(("authorization", value),))
                next(call)
                authority.revoke_api_token(client, identifier)
                answered = time.perf_counter()
                try:
                    next(call)
                except grpc.RpcError as error:
                    figures.append(max(0.0, time.perf_counter() - answered))
                    if error.code() is not _ENDED_BY[stack]:
                        raise SystemExit(f"a stream ended in another way: {error.code()}") from None
        found.append({"stack": stack.value, **quantiles(figures)})
    return found


def table(found: Sequence[dict[str, Any]]) -> Table:
    """What was found."""
    return Table(
        "From the answer to a revocation until the client of an idle stream sees its end",
        ["server", "measured", "p50", "p99", "max"],
        [[row["stack"], str(row["measured"]), *in_ms(row)] for row in found],
        "On a synchronous server 30 ms of it are the time that a busy stream has to tell its client why.",
    )


def _idle(_request: bytes, context: Any) -> Iterator[bytes]:
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"begun"
    ended.wait()


async def _idle_async(_request: bytes, _context: Any) -> Any:
    yield b"begun"
    await asyncio.Event().wait()
