from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from support.grpc_servers import TIMEOUT, Shape, connect
from support.late_server import HOLDING

TESTS = Path(__file__).parents[2]
TURNS = 50
CALLS = 100
"""Of each handler."""
LONGEST = 0.06
"""Seconds; most moments are much shorter, as the spread is quadratic."""
ENDS = {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
# Tried: from 1.81.1 to 1.85.1 grpcio ends the process when it is asked for the peer of a call that has ended.
FATAL = (1, 81, 1) <= tuple(map(int, grpc.__version__.split(".")[:3])) <= (1, 85, 1)


class Server:
    """`late_server.py` as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        self.port: int = started["port"]
        self.good = (("authorization", started["credential"]),)

    def ends_with(self) -> int:
        return self.process.wait(TIMEOUT)


@contextlib.contextmanager
def _server(protection: str) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "support.late_server", protection],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def _control(channel: Any, name: str) -> bytes:
    answer: bytes = channel.unary_unary(f"/control/{name}")(b"", timeout=TIMEOUT)
    return answer


def _go_away(channel: Any, server: Server, kind: str) -> None:
    """Enter a handler, cancel its call, and give the server time to let go of it."""
    streams = kind in ("generator", "async_generator", "writer")
    if streams:
        call = channel.unary_stream(f"/late/{kind}")(b"", metadata=server.good)
        if kind != "generator":
            next(call)
    else:
        call = channel.unary_unary(f"/late/{kind}").future(b"", metadata=server.good)
    _control(channel, "entered")
    call.cancel()
    for _ in range(TURNS):
        _control(channel, "turn")


@pytest.mark.parametrize("kind", ["plain", "async_generator", "background"])
def test_without_the_interceptor_a_client_that_goes_away_ends_the_process(kind: str) -> None:
    """What the other tests protect from; on a grpcio that is mended the process lives."""
    with _server("naive") as server, connect(server.port) as channel:
        _go_away(channel, server, kind)
        if FATAL:
            with pytest.raises(grpc.RpcError):
                _control(channel, "release")
            assert server.ends_with() == -signal.SIGSEGV
        else:
            _control(channel, "release")
            assert server.process.poll() is None


@pytest.mark.parametrize("kind", HOLDING)
def test_a_handler_may_ask_for_its_peer_after_its_client_went_away(kind: str) -> None:
    with _server("guarded") as server, connect(server.port) as channel:
        _go_away(channel, server, kind)
        _control(channel, "release")
        _control(channel, "turn")
        assert server.process.poll() is None


async def _call(channel: grpc.aio.Channel, server: Server, name: str, seed: int) -> grpc.StatusCode:
    """Make one call that its deadline or its client ends at some moment; gives its end."""
    moment = random.Random(seed)  # noqa: S311 - to spread moments, the same in each run
    seconds = LONGEST * moment.random() ** 2
    shape = next(shape for shape in Shape if name.endswith(shape.name.lower()))
    method: Any = getattr(channel, shape.name.lower())(f"/late/{name}")
    metadata = server.good if seed % 6 else ()
    request: Any = iter([b"one", b"two"]) if shape.streams_request else b"one"
    if seed % 3:
        call = method(request, metadata=metadata, timeout=seconds)
    else:
        call = method(request, metadata=metadata, timeout=TIMEOUT)
        asyncio.get_running_loop().call_later(seconds, call.cancel)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        if shape.streams_answer:
            async for _ in call:
                pass
    code: grpc.StatusCode = await call.code()
    if code is grpc.StatusCode.INTERNAL:
        # What grpc's own client says when its deadline passes while it sends a stream.
        assert await call.details() == "Internal error from Core"
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return code


async def test_no_moment_for_a_deadline_or_a_cancellation_brings_the_server_down() -> None:
    names = [f"{kind}_{shape.name.lower()}" for kind in ("plain", "async") for shape in Shape]
    names += [f"writer_{shape.name.lower()}" for shape in Shape if shape.streams_answer]
    with _server("guarded") as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            codes: set[grpc.StatusCode] = set()
            for number in range(CALLS):
                calls = [_call(channel, server, name, seed) for seed, name in enumerate(names, number * 100)]
                codes.update(await asyncio.gather(*calls))
                assert server.process.poll() is None
            control: Any = channel.unary_unary
            report = json.loads(await control("/control/report")(b"", timeout=TIMEOUT))
            full: Any = channel.unary_stream("/late/async_unary_stream")
            answers = [answer async for answer in full(b"", metadata=server.good, timeout=TIMEOUT)]
    assert answers
    assert ENDS <= codes <= {*ENDS, grpc.StatusCode.UNAUTHENTICATED}
    # The moments did fall into the handlers, of every kind.
    assert all(report["interrupted"][kind] > 0 for kind in ("plain", "async", "writer"))
    assert all(report["begun"][kind] > report["interrupted"][kind] for kind in ("plain", "async", "writer"))
