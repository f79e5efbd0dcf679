"""What a client may take of the authority without being known: time, connections, frames."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import types
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpz.auth.v1 import app_service_pb2, verification_service_pb2
from rpz_auth.errors import Reason
from rpz_auth.grpc.aio_context import CallContext
from rpz_auth_server.transport.grpc import patience, server
from server.authority import TestAuthority, read_refusal, refusal, running_authority

ANSWER = 10.0
"""Seconds within which a bound must have shown."""
EXCHANGE = "/rpz.auth.v1.TokenService/ExchangeToken"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
CALL = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", EXCHANGE),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def with_options(monkeypatch: pytest.MonkeyPatch, **changed: int) -> None:
    """Other bounds than those of life, which take seconds to reach."""
    kept = [pair for pair in server._OPTIONS if pair[0] not in {f"grpc.{name}" for name in changed}]
    assert len(kept) == len(server._OPTIONS) - len(changed)
    options = [*kept, *((f"grpc.{name}", value) for name, value in changed.items())]
    monkeypatch.setattr(server, "_OPTIONS", options)


def port_of(authority: TestAuthority) -> int:
    return int(authority.address.rpartition(":")[2])


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connections(authority: TestAuthority, number: int) -> AsyncIterator[list[Streams]]:
    """Connections on which nothing is said."""
    opened = [await asyncio.open_connection("127.0.0.1", port_of(authority)) for _ in range(number)]
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other end has closed the connection."""
    async with asyncio.timeout(ANSWER):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    return True


async def silence() -> AsyncIterator[bytes]:
    """A message that never comes."""
    await asyncio.Event().wait()
    yield b""


def health(authority: TestAuthority) -> Any:
    return health_pb2_grpc.HealthStub(authority.anonymous.channel)  # the stubs know no methods of it


async def test_a63_a101_call_whose_message_does_not_come_is_ended_whatever_deadline_it_has(
    tmp_path: Path,
) -> None:
    async with running_authority(tmp_path / "a", longest_call=0.2) as authority:
        for deadline in (None, 10.0**6):
            method: Any = authority.anonymous.channel.stream_unary(EXCHANGE)
            call = method(silence(), timeout=deadline)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asyncio.wait_for(call, ANSWER)
            assert read_refusal(raised.value) == Reason.BACKEND_UNAVAILABLE


async def test_a63_call_that_waits_for_the_database_without_end_is_ended(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", longest_call=0.2) as authority:
        client, arrived = await authority.create_client(), asyncio.Event()

        async def wait(*_: object) -> None:
            arrived.set()
            await asyncio.Event().wait()

        code = await authority.issue_code(client)
        authority.store.before["app"] = wait
        assert await refusal(authority.exchange(client, code)) == Reason.BACKEND_UNAVAILABLE
        assert arrived.is_set()
        authority.store.before.clear()
        assert (await authority.exchange(client, code)).access_token  # nothing was consumed


async def read_all(stream: Any) -> list[Any]:
    return [answer async for answer in stream]


async def test_a110_no_call_leaves_itself_to_the_garbage_collector(authority: TestAuthority) -> None:
    def under_way() -> int:
        return sum(type(thing) is CallContext for thing in gc.get_objects())

    client = await authority.create_client()
    token = (await authority.exchange(client, await authority.issue_code(client))).refresh_token
    made_up: Any = authority.anonymous.channel.unary_unary("/rpz.auth.v1.TokenService/None")
    gc.collect()
    gc.disable()
    others = under_way()  # what other tests have left somewhere
    try:
        for _ in range(20):
            await refusal(authority.refresh(client, "rpzr_" + "A" * 64))
            await refusal(authority.anonymous.apps.ListApps(app_service_pb2.ListAppsRequest()))
            token = (await authority.refresh(client, token)).refresh_token
            await refusal(made_up(b""))
            await refusal(
                read_all(authority.anonymous.verification.Watch(verification_service_pb2.WatchRequest()))
            )
        async with asyncio.timeout(ANSWER):
            while under_way() > others + 1:  # noqa: ASYNC110 - nobody tells when grpc has let go of the last one
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_timeout_of_a_methods_own_is_not_taken_for_the_end_of_patience() -> None:
    async def own(_messages: Any, _context: Any) -> None:
        raise TimeoutError("its own")

    async def find(_details: Any) -> Any:
        return grpc.stream_unary_rpc_method_handler(own)

    details: Any = types.SimpleNamespace(method="/orders.v1.OrderService/GetOrder")
    handler: Any = await patience.PatienceInterceptor().intercept_service(find, details)
    with pytest.raises(TimeoutError, match="its own"):
        await handler.stream_unary(None, None)


async def test_r129_a100_streams_of_unknown_callers_end_with_and_without_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_STREAM", 0.2)
    async with running_authority(tmp_path / "a") as authority:
        channel = authority.anonymous.channel
        without: Any = channel.stream_stream(WATCH_HEALTH)
        for watched in (without(silence()), health(authority).Watch(health_pb2.HealthCheckRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asyncio.wait_for(read_all(watched), ANSWER)
            assert read_refusal(raised.value) == Reason.BACKEND_UNAVAILABLE
        assert await health(authority).Check(health_pb2.HealthCheckRequest()) == SERVING


async def test_r129_a100_streams_of_unknown_callers_are_few_and_clients_do_without(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MOST_STREAMS", 2)
    watched = [health(authority).Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for stream in watched:
        assert await stream.read() == SERVING
    one_more = health(authority).Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(ANSWER):
        # By which clients that watch health know that they cannot, and take the server for healthy.
        assert await one_more.code() == grpc.StatusCode.UNIMPLEMENTED
        watched[0].cancel()
        while await (again := health(authority).Watch(health_pb2.HealthCheckRequest())).read() != SERVING:
            pass
    for stream in (again, watched[1]):
        stream.cancel()


async def test_r129_watcher_of_health_that_reads_nothing_holds_up_neither_others_nor_the_stop(
    tmp_path: Path,
) -> None:
    async with (
        running_authority(tmp_path / "a") as authority,
        raw_http2(authority) as (reader, writer, connection),
    ):
        connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        connection.send_headers(1, [*CALL[:2], (":path", WATCH_HEALTH), *CALL[3:]])
        connection.send_data(1, bytes(5))
        writer.write(connection.data_to_send())
        async with asyncio.timeout(ANSWER):
            events: list[h2.events.Event] = []
            while not any(isinstance(event, h2.events.ResponseReceived) for event in events):
                events += connection.receive_data(await reader.read(65536))  # its head; the answer must wait
            watched = health(authority).Watch(health_pb2.HealthCheckRequest())
            assert await watched.read() == SERVING
            stopping = asyncio.create_task(authority.server.stop(authority.hub))
            assert await watched.read() == NOT_SERVING
            watched.cancel()
            writer.transport.abort()
            await stopping


async def test_watcher_of_a_service_that_does_not_exist_is_told_so_and_of_one_with_a_huge_name_is_let_go(
    authority: TestAuthority,
) -> None:
    unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
    watched = health(authority).Watch(health_pb2.HealthCheckRequest(service="x"))
    assert await asyncio.wait_for(watched.read(), ANSWER) == unknown
    watched.cancel()
    watched = health(authority).Watch(health_pb2.HealthCheckRequest(service="x" * 200_000))
    assert await asyncio.wait_for(watched.code(), ANSWER) == grpc.StatusCode.NOT_FOUND


async def test_a102_connections_beyond_the_bound_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 8)
    async with running_authority(tmp_path / "a") as authority:
        client = await authority.create_client()  # on a connection that stays
        async with connections(authority, 20) as opened:
            closed = [asyncio.create_task(is_closed(reader)) for reader, _ in opened]
            async with asyncio.timeout(ANSWER):
                while sum(task.done() for task in closed) < 12:  # noqa: ASYNC110 - the core tells nobody
                    await asyncio.sleep(0.02)
            assert await authority.issue_code(client)
            for task in closed:
                task.cancel()
            await asyncio.gather(*closed, return_exceptions=True)


async def test_a102_handshake_that_does_not_come_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_options(monkeypatch, server_handshake_timeout_ms=200)
    async with running_authority(tmp_path / "a") as authority, connections(authority, 1) as ((reader, _),):
        assert await is_closed(reader)


@contextlib.asynccontextmanager
async def raw_http2(
    authority: TestAuthority,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, h2.connection.H2Connection]]:
    """A connection of a client that observes nothing."""
    context = ssl.create_default_context(cadata=authority.ca)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port_of(authority), ssl=context, server_hostname="localhost"
    )
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    try:
        yield reader, writer, connection
    finally:
        writer.transport.abort()  # a server that has given up does not say goodbye
        await asyncio.sleep(0)


async def test_a103_pings_without_end_end_the_connection(authority: TestAuthority) -> None:
    async with raw_http2(authority) as (reader, writer, connection):
        for _ in range(100):
            connection.ping(bytes(8))
        writer.write(connection.data_to_send())
        assert await is_closed(reader)
    assert (await authority.sign_in(await authority.create_client())).access_token


async def test_a103_settings_and_resets_without_end_take_nothing_from_others(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    async with raw_http2(authority) as (reader, writer, connection):
        ended = asyncio.create_task(is_closed(reader))
        tasks = len(asyncio.all_tasks())
        for number in range(2000):
            if number % 2:
                connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65536 + number})
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, CALL)
            connection.reset_stream(stream)
            writer.write(connection.data_to_send())
            if number % 100 == 0:
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                async with asyncio.timeout(1):
                    assert (await authority.sign_in(client)).access_token
        # Nothing is left of the calls that were given up.
        async with asyncio.timeout(ANSWER):
            while len(asyncio.all_tasks()) > tasks + 20:  # noqa: ASYNC110 - the core tells nobody
                await asyncio.sleep(0.02)
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


def kibibytes(name: str) -> int:
    """Of memory, as the system counts this process's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


async def test_a64_bomb_of_240_megabytes_takes_no_memory(authority: TestAuthority) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(240)) + packer.flush()
    assert len(bomb) < 256 * 1024  # what is longer is refused by its length
    message = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    async with raw_http2(authority) as (reader, writer, connection):
        forget_peak()
        before, trailers = kibibytes("VmRSS"), dict[bytes, bytes]()
        connection.send_headers(1, [*CALL, ("grpc-encoding", "gzip")])
        async with asyncio.timeout(ANSWER):
            while b"grpc-status" not in trailers:
                while message and (room := min(connection.local_flow_control_window(1), 16384)) > 0:
                    connection.send_data(1, message[:room])
                    message = message[room:]
                writer.write(connection.data_to_send())
                for event in connection.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        trailers.update((bytes(name), bytes(value)) for name, value in event.headers)
        assert int(trailers[b"grpc-status"]) == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert kibibytes("VmHWM") - before < 32 * 1024


async def test_r125_tls_1_1_is_refused(authority: TestAuthority) -> None:
    async def connect(version: ssl.TLSVersion) -> None:
        context = ssl.create_default_context(cadata=authority.ca)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = context.maximum_version = version
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(authority), ssl=context, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        writer.close()

    for good in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        await connect(good)
    for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with (
            pytest.warns(DeprecationWarning, match="deprecated"),
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            await connect(old)
