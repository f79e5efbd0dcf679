"""How fast a revocation arrives, what it costs to tell everybody, and what a million of them weigh."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import rpz_auth
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.connection import Connection
from rpz_auth.connection_file import VerifierFile
from rpz_auth.view import Revocation
from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from support.authority import (
    CODE_CHALLENGE,
    REDIRECT_URI,
    RESOURCE,
    AuthorityProcess,
    Client,
    running_authority,
)
from support.grpc_servers import Generic, Shape, Stack, serve

from bench.load import Load, drive
from bench.machine import cpu_seconds, resident_bytes
from bench.measure import percentile
from bench.report import Report, Table

_WATCH = "/rpz.auth.v1.VerificationService/Watch"
_STREAMS_PER_CHANNEL = 90
_BATCH = 1_000
_MEGA = 2**20


def run(*, quick: bool) -> Report:
    """Measure all of it against an authority in a process of its own."""
    events, watchers, crowd, apps = (20_000, 10, 200, 2_000) if quick else (1_000_000, 10, 2_000, 100_000)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        authority = cleanup.enter_context(running_authority(folder / "data"))
        latency = _latency(authority, folder, quick=quick)
        streams = _streams(authority, folder, 10 if quick else 100)
        fan_out = asyncio.run(_fan_out(authority, folder, events, watchers))
        crowded = asyncio.run(_crowd(authority, folder, crowd))
        snapshot = asyncio.run(_snapshot(authority, folder, apps))
    return Report(
        summary=(
            "One authority (TLS, SQLite with `synchronous=FULL`) in a process of its own; verifiers are the "
            "library's, all in the one process that measures, on the same two processors. A verifier refuses "
            "from the moment at which its view holds the revocation. That moment is what is counted, from "
            "the answer to the RPC that revoked; whoever was told before the answer arrived counts as 0."
        ),
        tables=[_latency_table(latency), _streams_table(streams), _scale_table(fan_out, crowded, snapshot)],
        raw={
            "latency": latency,
            "streams": streams,
            "fan_out": fan_out,
            "crowd": crowded,
            "snapshot": snapshot,
        },
    )


# Latency


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


def _latency(authority: AuthorityProcess, folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    found = []
    client = authority.create_client()
    for count in (1, 10) if quick else (1, 10, 100):
        verifier = VerifierFile.read(authority.create_verifier(folder / f"latency-{count}.json"))
        with _connected(verifier, count) as connections:
            told = _Told(connections)
            for loaded in (False, True):
                with _load(authority, client) if loaded else ExitStack():
                    figures = [
                        max(0.0, when - answered)
                        for answered, identifier in _revoke_often(authority, client, 20 if quick else 100)
                        for when in told.times(identifier)
                    ]
                found.append({"verifiers": count, "loaded": loaded, **_quantiles(figures)})
    return found


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


def _revoke_often(authority: AuthorityProcess, client: Client, count: int) -> Iterator[tuple[float, str]]:
    for _ in range(count):
        identifier = _make_token(authority, client)[1]
        authority.revoke_api_token(client, identifier)
        yield time.perf_counter(), identifier


def _make_token(authority: AuthorityProcess, client: Client) -> tuple[rpz_auth.ApiToken, str]:
    made = authority.tokens.CreateApiToken(
        token_pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
    )
    return rpz_auth.ApiToken(client.app_id, made.api_token), made.record.api_token_id


@contextmanager
def _load(authority: AuthorityProcess, client: Client) -> Iterator[None]:
    """Have codes issued meanwhile, 200 a second: each is a durable write."""
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
        count=2_000,
        rate=200.0,
    )
    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(drive, load)
        yield
        codes = driven.result().codes
    if codes["OK"] < load.count * 0.9:
        raise SystemExit(f"the load was not carried: {codes}")


# Streams


def _streams(authority: AuthorityProcess, folder: Path, count: int) -> list[dict[str, Any]]:
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
                credential, identifier = _make_token(authority, client)
                metadata = (("authorization", credential.field_value()),)
                open_stream: Any = channel.unary_stream(shape.path())
                call = open_stream(b"", metadata=metadata)
                next(call)
                authority.revoke_api_token(client, identifier)
                answered = time.perf_counter()
                try:
                    next(call)
                except grpc.RpcError:
                    figures.append(max(0.0, time.perf_counter() - answered))
        found.append({"stack": stack.value, "streams": count, **_quantiles(figures)})
    return found


def _idle(_request: bytes, context: Any) -> Iterator[bytes]:
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"begun"
    ended.wait()


async def _idle_async(_request: bytes, _context: Any) -> Any:
    yield b"begun"
    await asyncio.Event().wait()


# Scale


class _Watcher:
    """A stream that is only counted: what a verifier does with it is not the authority's cost."""

    def __init__(self, channel: Any) -> None:
        self.bytes = 0
        self.events = 0
        self.cursor = ""
        self.ready = asyncio.Event()
        self._call = channel.unary_stream(_WATCH)(pb.WatchRequest().SerializeToString())

    async def follow(self, events: Callable[[], int]) -> None:
        """Read until that many events came."""
        while self.events < events() or not self.ready.is_set():
            raw = await self._call.read()
            self.bytes += len(raw)
            message = pb.WatchResponse.FromString(raw)
            self.events += len(message.events.events)
            self.cursor = message.cursor or self.cursor
            if message.HasField("heartbeat"):
                self.ready.set()


def _channels(cleanup: AsyncExitStack, path: Path, count: int) -> list[Any]:
    verifier = VerifierFile.read(path)
    credential = rpz_auth.ApiToken(verifier.app_id, verifier.api_token)
    channels = []
    for number in range(-(-count // _STREAMS_PER_CHANNEL)):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.channel_number", number)]
        channel = rpz_auth.aio.secure_channel(
            verifier.grpc_address, credential, tls=verifier.transport(), options=options
        )
        cleanup.push_async_callback(channel.close)
        channels.append(channel)
    return channels


async def _fan_out(authority: AuthorityProcess, folder: Path, events: int, count: int) -> dict[str, Any]:
    pid, path = authority.process.pid, authority.create_verifier(folder / "fan-out.json")
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        channels = _channels(cleanup, path, count)
        watchers = [_Watcher(channels[number // _STREAMS_PER_CHANNEL]) for number in range(count)]
        target = 0
        await asyncio.gather(*(watcher.follow(lambda: target) for watcher in watchers))
        connection = rpz_auth.connect(path)
        connection.start()
        cleanup.callback(connection.close)
        await asyncio.to_thread(connection.wait, 60)
        ids = [new_id() for _ in range(events)]
        memory, cpu, began = resident_bytes(pid), cpu_seconds(pid), time.perf_counter()
        target = events
        following = [asyncio.create_task(watcher.follow(lambda: target)) for watcher in watchers]
        forget_at = store.now() + 7_000
        half = 0
        for start in range(0, events, _BATCH):
            changes = tuple(Revocation(name, forget_at) for name in ids[start : start + _BATCH])
            await store.commit(Commit(events=changes))
            await asyncio.sleep(0.01)  # the authority needs the database, too, for its heartbeats
            if start < events // 2:
                half = resident_bytes(pid)
        await asyncio.gather(*following)
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
        after = resident_bytes(pid)
        stored = {item.id for item in (await store.snapshot()).revocations}
        cursor = str(await store.cursor())
        agree = sum(watcher.cursor == cursor and watcher.events == events for watcher in watchers)
        if agree != count or not stored >= set(ids):
            raise SystemExit(f"only {agree} of {count} watchers agree with the database")
        deadline = time.monotonic() + 120
        while not all(map(connection.view.is_revoked, stored)):
            if time.monotonic() > deadline:
                raise SystemExit("the library's view does not agree with the database")
            await asyncio.sleep(0.2)
    return {
        "events": events,
        "watchers": count,
        "seconds": seconds,
        "deliveries_per_second": events * count / seconds,
        "cpu_microseconds_per_delivery": cpu / (events * count) * 1e6,
        "memory_before": memory,
        "memory_half_way": half,
        "memory_after": after,
        "agree": agree + 1,
    }


async def _crowd(authority: AuthorityProcess, folder: Path, count: int) -> dict[str, Any]:
    pid = authority.process.pid
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        paths = [
            authority.create_verifier(folder / f"crowd-{number}.json") for number in range(-(-count // 900))
        ]
        channels = [channel for path in paths for channel in _channels(cleanup, path, 900)]
        cursor = str(await store.cursor())
        memory, target = resident_bytes(pid), 0
        watchers = []
        for number in range(count):
            watcher = _Watcher.__new__(_Watcher)
            watcher.bytes = watcher.events = 0
            watcher.cursor, watcher.ready = cursor, asyncio.Event()
            watcher._call = channels[number // _STREAMS_PER_CHANNEL].unary_stream(_WATCH)(  # noqa: SLF001 - our own
                pb.WatchRequest(cursor=cursor).SerializeToString()
            )
            watchers.append(watcher)
        began = time.perf_counter()
        await asyncio.gather(*(watcher.follow(lambda: target) for watcher in watchers))
        connected, held = time.perf_counter() - began, resident_bytes(pid)
        target, cpu, began = 100, cpu_seconds(pid), time.perf_counter()
        changes = tuple(Revocation(new_id(), store.now() + 7_000) for _ in range(target))
        await store.commit(Commit(events=changes))
        await asyncio.gather(*(watcher.follow(lambda: target) for watcher in watchers))
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    return {
        "watchers": count,
        "seconds_until_all_follow": connected,
        "bytes_per_watcher": (held - memory) / count,
        "seconds_until_all_have_100_events": seconds,
        "cpu_microseconds_per_delivery": cpu / (count * target) * 1e6,
    }


async def _snapshot(authority: AuthorityProcess, folder: Path, apps: int) -> dict[str, Any]:
    pid, path = authority.process.pid, authority.create_verifier(folder / "snapshot.json")
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        for start in range(0, apps, _BATCH):
            await store.commit(Commit(rows=tuple(_app(start + n, store.now()) for n in range(_BATCH))))
        await asyncio.sleep(2)
        memory = resident_bytes(pid)
        (channel,) = _channels(cleanup, path, 1)
        watcher, began = _Watcher(channel), time.perf_counter()
        await watcher.follow(lambda: 0)
        first = time.perf_counter() - began
        revocations = len((await store.snapshot()).revocations)
    verifier = json.loads(
        subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
            [sys.executable, "-c", "import bench.push; bench.push.verify()"],
            input=pickle.dumps(str(path)),
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    return {
        "revocations": revocations,
        "whitelists": apps,
        "bytes": watcher.bytes,
        "seconds_on_the_wire": first,
        "authority_memory_before": memory,
        "authority_memory_after": resident_bytes(pid),
        **verifier,
    }


def verify() -> None:
    """Take a snapshot as a service does, and say what that took; run in a process of its own."""
    import os  # noqa: PLC0415 - only here

    connection = rpz_auth.connect(pickle.load(sys.stdin.buffer))  # noqa: S301 - our own process's
    before, began = resident_bytes(os.getpid()), time.perf_counter()
    connection.start()
    connection.wait(300)
    found = {
        "verifier_seconds": time.perf_counter() - began,
        "verifier_memory": resident_bytes(os.getpid()) - before,
    }
    connection.close()
    print(json.dumps(found))


def _app(number: int, now: float) -> App:
    return App(
        app_id=str(uuid.uuid4()),
        kind=AppKind.BACKEND,
        display_name=f"app {number}",
        owner="user:bench",
        whitelist=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",),
        created_at=now,
        updated_at=now,
    )


# Tables


def _quantiles(figures: Sequence[float]) -> dict[str, Any]:
    return {
        "measured": len(figures),
        "p50": percentile(figures, 0.5),
        "p99": percentile(figures, 0.99),
        "max": max(figures),
    }


def _ms(found: dict[str, Any]) -> list[str]:
    return [f"{found[name] * 1e3:.1f} ms" for name in ("p50", "p99", "max")]


def _latency_table(found: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [str(row["verifiers"]), "200 codes/s" if row["loaded"] else "idle", str(row["measured"]), *_ms(row)]
        for row in found
    ]
    title = "From the answer to a revocation until a verifier refuses"
    return Table(title, ["verifiers", "authority", "measured", "p50", "p99", "max"], rows)


def _streams_table(found: Sequence[dict[str, Any]]) -> Table:
    rows = [[row["stack"], str(row["measured"]), *_ms(row)] for row in found]
    note = "On a synchronous server 30 ms of it are the time that a busy stream has to tell its client why."
    title = "From the answer to a revocation until the client of an idle stream sees its end"
    return Table(title, ["server", "measured", "p50", "p99", "max"], rows, note)


def _scale_table(fan_out: dict[str, Any], crowd: dict[str, Any], snapshot: dict[str, Any]) -> Table:
    mega = _MEGA
    rows = [
        [
            f"{fan_out['events']:,} events to {fan_out['watchers']} watchers",
            (
                f"{fan_out['seconds']:.0f} s, {fan_out['deliveries_per_second']:,.0f} deliveries/s, "
                f"{fan_out['cpu_microseconds_per_delivery']:.2f} µs of CPU each"
            ),
        ],
        [
            "… memory of the authority before, half-way, after",
            " → ".join(
                f"{fan_out[name] / mega:.0f}" for name in ("memory_before", "memory_half_way", "memory_after")
            )
            + " MiB (it holds every live revocation itself)",
        ],
        ["… watchers that agree with the database", f"{fan_out['agree']} of {fan_out['watchers'] + 1}"],
        [
            f"{crowd['watchers']:,} watchers on one process",
            (
                f"all follow after {crowd['seconds_until_all_follow']:.1f} s, "
                f"{crowd['bytes_per_watcher'] / 1024:.0f} KiB each; 100 events reach all of them in "
                f"{crowd['seconds_until_all_have_100_events']:.2f} s"
            ),
        ],
        [
            f"snapshot of {snapshot['revocations']:,} revocations and {snapshot['whitelists']:,} whitelists",
            f"{snapshot['bytes'] / mega:.1f} MiB, {snapshot['seconds_on_the_wire']:.1f} s for the first",
        ],
        [
            "… at a verifier",
            (
                f"{snapshot['verifier_seconds']:.1f} s until it decides, "
                f"{snapshot['verifier_memory'] / mega:.0f} MiB"
            ),
        ],
        [
            "… memory of the authority before and after",
            (
                f"{snapshot['authority_memory_before'] / mega:.0f} → "
                f"{snapshot['authority_memory_after'] / mega:.0f} MiB"
            ),
        ],
    ]
    return Table("Scale", ["what", "found"], rows)
