"""The load: a process of its own, on a processor of its own, that makes calls and says how each went.

It is given a `Load` on standard input and answers with an `Outcome` on standard output, both pickled: the
two ends are the same program.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import ssl
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from rpz.auth.v1 import token_service_pb2 as pb

from bench.machine import cpu_seconds

Metadata = tuple[tuple[str, str], ...]
REFRESH = "/rpz.auth.v1.TokenService/Refresh"

_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Which calls to make, and how fast."""

    target: str
    """host:port."""
    ca: bytes | None
    """PEM of whom to trust; None for a server without TLS."""
    method: str
    """A gRPC path, or the path of an HTTP URL where `http` is set."""
    calls: Sequence[tuple[Metadata, bytes]] = field(repr=False)
    """Metadata (or header fields) and message (or body) of each call, taken in turn."""
    count: int
    in_flight: int = 64
    rate: float | None = None
    """Calls that begin per second, however long others take; None for as many as `in_flight` allows."""
    chained: bool = False
    """Every one of `calls` begins a chain: the refresh token of an answer goes into the next request."""
    keep_answers: bool = False
    http: bool = False
    server: int = 0
    """The process whose processor time is to be counted while the calls are made; 0 for none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    codes: Counter[str]
    seconds: float
    latencies: Sequence[float] = field(repr=False)
    """In seconds; at a fixed rate from when the call was due, so that a stall counts for all it delayed."""
    last: Sequence[bytes] = field(repr=False, default=())
    """Of chained calls, what each chain would send next."""
    complaints: Counter[str] = field(default_factory=Counter)
    """What the details of errors said."""
    answers: Mapping[int, bytes] = field(repr=False, default_factory=dict)
    """By place in `calls`, if they were to be kept."""
    cpu: float = 0.0
    """Seconds that the server used from when all was connected until the last answer."""


def drive(load: Load) -> Outcome:
    """Make the calls from another process."""
    done = subprocess.run(
        [sys.executable, "-c", "import bench.load; bench.load.main()"],
        input=pickle.dumps(load),
        stdout=subprocess.PIPE,
        check=True,
    )
    outcome: Outcome = pickle.loads(done.stdout)  # noqa: S301 - our own process's
    return outcome


def take_processor(number: int) -> None:
    """Stay on one processor, where there are several: the load must not take the server's time."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        os.sched_setaffinity(0, {processors[number % len(processors)]})


class _Lanes:
    """What the next call sends, for as many lanes as calls may be under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._next = 0
        self._free = deque(range(len(load.calls)))
        self.messages = [message for _, message in load.calls]

    def take(self) -> int:
        if self._load.chained:
            return self._free.popleft()
        lane = self._next % len(self.messages)
        self._next += 1
        return lane

    def give_back(self, lane: int, answer: bytes) -> None:
        if self._load.chained:
            self.messages[lane] = _renew(self.messages[lane], answer, http=self._load.http)
            self._free.append(lane)


def _renew(request: bytes, answer: bytes, *, http: bool) -> bytes:
    if http:
        import json  # noqa: PLC0415 - only here
        import urllib.parse  # noqa: PLC0415 - only here

        form = dict(urllib.parse.parse_qsl(request.decode()))
        form["refresh_token"] = json.loads(answer)["refresh_token"]
        return urllib.parse.urlencode(form).encode()
    message = pb.RefreshRequest.FromString(request)
    message.refresh_token = pb.RefreshResponse.FromString(answer).refresh_token
    return message.SerializeToString()


async def _run(load: Load) -> Outcome:
    lanes, codes, complaints = _Lanes(load), Counter[str](), Counter[str]()
    latencies: list[float] = []
    answers: dict[int, bytes] = {}
    call, close = await (_http(load) if load.http else _grpc(load))

    async def one(due: float) -> None:
        lane = lanes.take()
        code, answer = await call(load.calls[lane][0], lanes.messages[lane])
        codes[code] += 1
        latencies.append(time.perf_counter() - due)
        if load.keep_answers:
            answers[lane] = answer
        if code in {"OK", "200"}:
            lanes.give_back(lane, answer)
        else:
            complaints[answer.decode(errors="replace")[:200]] += 1

    used = _cpu(load.server)
    begun = time.perf_counter()
    if load.rate is None:
        left = iter(range(load.count))

        async def worker() -> None:
            for _ in left:
                await one(time.perf_counter())

        await asyncio.gather(*(worker() for _ in range(load.in_flight)))
    else:
        tasks = []
        for number in range(load.count):
            due = begun + number / load.rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
    seconds, used = time.perf_counter() - begun, _cpu(load.server) - used
    await close()
    last = lanes.messages if load.chained else ()
    return Outcome(codes, seconds, latencies, last, complaints, answers, used)


def _cpu(pid: int) -> float:
    return cpu_seconds(pid) if pid else 0.0


_Call = Callable[[Metadata, bytes], Awaitable[tuple[str, bytes]]]
_Close = Callable[[], Awaitable[None]]


async def _grpc(load: Load) -> tuple[_Call, _Close]:
    if load.ca is None:
        channel = grpc.aio.insecure_channel(load.target, _OPTIONS)
    else:
        channel = grpc.aio.secure_channel(load.target, grpc.ssl_channel_credentials(load.ca), _OPTIONS)
    method: Any = channel.unary_unary(load.method)
    await channel.channel_ready()

    async def call(metadata: Metadata, message: bytes) -> tuple[str, bytes]:
        try:
            return "OK", await method(message, metadata=metadata, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return error.code().name, (error.details() or "").encode()

    return call, channel.close


async def _http(load: Load) -> tuple[_Call, _Close]:
    """As few steps as HTTP/1.1 needs, on connections that are open before the first call and stay so."""
    host, _, port = load.target.rpartition(":")
    tls = ssl.create_default_context(cadata=load.ca.decode()) if load.ca else None

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(host, int(port), ssl=tls)

    idle = await asyncio.gather(*(connect() for _ in range(load.in_flight)))

    async def call(fields: Metadata, body: bytes) -> tuple[str, bytes]:
        reader, writer = idle.pop() if idle else await connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        writer.write(
            f"POST {load.method} HTTP/1.1\r\nhost: {load.target}\r\n{head}"
            f"content-type: application/x-www-form-urlencoded\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.partition("\r\ncontent-length:")[2].partition("\r\n")[0])
        content = await reader.readexactly(length)
        idle.append((reader, writer))
        return answer.split(" ", 2)[1], content

    async def close() -> None:
        for _, writer in idle:
            writer.close()

    return call, close


def main() -> None:
    """Be the load."""
    take_processor(1)
    spec = pickle.load(sys.stdin.buffer)  # noqa: S301 - from `drive`
    sys.stdout.buffer.write(pickle.dumps(asyncio.run(_run(spec))))
