"""The HTTP side as clients meet it: listeners, TLS, bounds, headers, the log. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.domain.refusal import RateLimited
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.http import acceptor, guard, protocol, server
from rpz_auth_server.transport.http.guard import Guard, peer_of
from rpz_auth_server.transport.http.server import HttpServer
from rpz_auth_server.transport.http.tls import server_context
from rpz_auth_server.transport.log_budget import FAULTS
from rpz_auth_server.transport.tls.development import ensure_development_files, issue_client_certificate
from server.authority import TestAuthority
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

TIMEOUT = 20.0
EVERYWHERE = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


async def _length(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}")


async def _peer(request: Request) -> Response:
    peer = peer_of(request)
    return PlainTextResponse(f"{peer} {','.join(sorted(peer.names))}")


async def _fault(_request: Request) -> Response:
    raise RuntimeError("what only the log may tell")


async def _limited(_request: Request) -> Response:
    raise RateLimited(retry_after=1.2)


async def _own_header(_request: Request) -> Response:
    return PlainTextResponse("", headers={"Cache-Control": "public, max-age=60"})


APP = Router(
    [
        Route("/length", _length, methods=["POST"]),
        Route("/peer", _peer),
        Route("/fault", _fault),
        Route("/limited", _limited),
        Route("/own-header", _own_header),
    ]
)


def serving(
    context: ssl.SSLContext | None = None, app: Any = APP, **options: Any
) -> contextlib.AbstractAsyncContextManager[int]:
    return serving_guard(Guard(app, **options), context)


@asynccontextmanager
async def serving_guard(app: Guard, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = HttpServer(app)
    port = server.listen("127.0.0.1:0", context)
    await server.start()
    try:
        yield port
    finally:
        await server.stop()


def plain_client(port: int, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, trust_env=False, **options)


async def raw(port: int, sent: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), TIMEOUT)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_r049_a145_every_answer_carries_the_security_headers(authority: TestAuthority) -> None:
    for path in ("/oauth/jwks.json", "/nothing"):
        headers = dict((await authority.http.get(path)).headers)
        expected = {**EVERYWHERE, "strict-transport-security": "max-age=31536000"}
        if path == "/oauth/jwks.json":
            expected["cache-control"] = "public, max-age=300"
        assert {name: headers.get(name) for name in expected} == expected
        assert "server" not in headers


async def test_without_tls_no_browser_is_told_to_demand_it() -> None:
    async with serving() as port, plain_client(port) as client:
        headers = (await client.get("/peer")).headers
        assert {name: headers.get(name) for name in EVERYWHERE} == EVERYWHERE
        assert "strict-transport-security" not in headers
        assert (await client.get("/own-header")).headers["cache-control"] == "public, max-age=60"


async def test_r108_keys_are_public_named_typed_and_may_be_cached(authority: TestAuthority) -> None:
    answer = await authority.http.get("/oauth/jwks.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    (key,) = answer.json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "alg", "use", "kid"}
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    assert answer.json() == json.loads(authority.authority.signing.jwks())


async def test_fault_is_a_fixed_text_and_its_detail_stands_in_the_log(authority: TestAuthority) -> None:
    async with serving() as port, plain_client(port) as client:
        answer = await client.get("/fault")
    assert answer.status_code == 500
    assert answer.json() == {"error": "server_error", "error_description": "internal error"}
    assert "what only the log may tell" in authority.logged.getvalue()


async def test_refusal_is_answered_by_the_one_table() -> None:
    async with serving() as port, plain_client(port) as client:
        answer = await client.get("/limited")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"] == "temporarily_unavailable"
    assert {name: answer.headers.get(name) for name in EVERYWHERE} == EVERYWHERE


async def test_r130_a104_body_that_is_too_large_is_refused_unread() -> None:
    async with serving() as port, plain_client(port) as client:
        assert (await client.post("/length", content=b"x" * guard.MAX_BODY)).text == str(guard.MAX_BODY)
        answer = await raw(
            port,
            b"POST /length HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-length: 1000000000\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 413 ")  # not a byte of the body was sent

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(guard.MAX_BODY // 1024 + 1):
                yield b"x" * 1024

        assert (await client.post("/length", content=endless())).status_code == 413


async def test_r130_head_that_is_too_large_is_refused() -> None:
    async with serving() as port:
        answer = await raw(port, b"GET /peer HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 70_000)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_a101_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT", 0.1)
    async with serving() as port:
        answer = await raw(
            port,
            b"POST /length HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10\r\n\r\nx",
        )
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a101_a102_head_that_trickles_in_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.2)
    async with serving() as port:
        assert await raw(port, b"") == b""
        assert await raw(port, b"GET /peer HTTP/1.1\r\nhost: local") == b""
        # Also behind a first request on the same connection.
        answer = await raw(port, b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\nGET /peer")
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_request_that_was_there_before_the_last_answer_has_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.1)

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(0.3)
        return PlainTextResponse("done")

    async with serving(app=Router([Route("/slow", slow)])) as port:
        asked = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n"
        assert (await raw(port, asked + asked)).count(b"HTTP/1.1 200 ") == 2


async def test_a102_handshake_that_does_not_come_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 0.2)
    ensure_development_files(tmp_path)
    async with serving(server_context(Settings.load({"data_dir": tmp_path}, {}))) as port:
        assert await raw(port, b"") == b""
        assert await raw(port, b"\x16\x03\x01") == b""


async def test_a102_connections_beyond_the_bound_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    async with serving() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n")
        for reader, _ in held:
            await reader.readuntil(b"\r\n\r\n")
        assert await raw(port, b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n") == b""
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: +5\r\n\r\nhello",
        b"POST /length HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /length HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length : 5\r\n\r\nhello",
        b"GET /peer HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\r\n\r\n"[:48] + b"\x00\r\n\r\n",
        b"GET /peer HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET /peer HTTP/1.1\r\n\r\n",
        b"GET /pe er HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
async def test_a148_request_that_two_parsers_could_read_differently_is_refused(head: bytes) -> None:
    async with serving() as port:
        answer = await raw(port, head)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a102_one_peer_does_not_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_OF_ONE_PEER", 2)
    asked = b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def connect(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        writer.write(asked)
        return reader, writer

    async with serving() as port:
        held = [await connect(port, "127.0.0.9") for _ in range(2)]
        for reader, _ in held:
            await reader.readuntil(b"\r\n\r\n127.0.0.9 ")
        reader, refused = await connect(port, "127.0.0.9")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"\r\n\r\n")
        reader, other = await connect(port, "127.0.0.10")
        await reader.readuntil(b"\r\n\r\n127.0.0.10 ")
        held[0][1].close()
        await held[0][1].wait_closed()
        for _ in range(100):  # until the server has seen it
            reader, again = await connect(port, "127.0.0.9")
            held.append((reader, again))
            with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n127.0.0.9 ")
                break
        else:
            pytest.fail("the place of a connection that has ended was not given to another")
        for _, writer in (*held, (reader, refused), (reader, other)):
            writer.close()


async def test_a102_handshakes_that_do_not_come_are_counted_like_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cost nothing to begin, and each holds a descriptor."""
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 60.0)
    monkeypatch.setattr(protocol, "MAX_OF_ONE_PEER", 2)
    ensure_development_files(tmp_path)
    async with serving(server_context(Settings.load({"data_dir": tmp_path}, {}))) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await asyncio.wait_for(raw(port, b""), 5) == b""
        trusting = ssl.create_default_context(cafile=tmp_path / "tls" / "ca.pem")
        _, other = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, local_addr=("127.0.0.9", 0))
        other.close()
    for reader, writer in held:  # and a stop does not wait for them
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


class _Scarce(socket.socket):
    """A socket of a process that may open no more files when it first has a connection."""

    is_full = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.is_full:
            self.is_full = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_a102_process_that_may_open_no_more_files_takes_the_next_connection_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceptor, "PAUSE", 0.01)
    taken, served = _Scarce(fileno=socket.create_server(("127.0.0.1", 0)).detach()), asyncio.Event()

    async def serve(accepted: socket.socket, _address: Any) -> None:
        accepted.close()
        served.set()

    accepting = acceptor.Acceptor(taken, serve)
    with socket.create_connection(taken.getsockname()):
        await asyncio.wait_for(served.wait(), TIMEOUT)
    accepting.close()
    accepting.close()
    assert capsys.readouterr().out.count("no connection can be taken") == 1


def test_a102_connections_of_trusted_proxies_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_OF_ONE_PEER", 1)
    peers = protocol.Peers(["10.0.0.0/8"])

    def names(*places: Any) -> list[str | None]:
        return [peers.enter(place) for place in places]

    proxy = "trusted proxies"
    assert names(("10.0.0.1", 1), ("10.0.0.1", 2)) == [proxy, proxy]
    assert names(("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 1)) == ["192.0.2.1", None, "192.0.2.2"]
    assert names(("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0)) == ["2001:db8::/64", None]
    assert names(None, ()) == [None, None]
    peers.leave("192.0.2.1")
    assert names(("192.0.2.1", 3)) == ["192.0.2.1"]


HOSTS = [
    *(b"", b"[", b"[::1", b"[zz]", b"x]", b"a b", b"a,b", b"a@b", b"a/b", b"a?b", b"a#b", b"a\\b", b"%00"),
    *(
        b"\xff\xfe",
        "℀.example".encode(),
        "bücher.example".encode(),
        b"x:",
        b"x:a",
        b"x:123456",
        b"x" * 20_000,
    ),
]


@pytest.mark.parametrize("path", ["/console", "/sign-in", "/oauth/authorize", "/oauth/jwks.json", "/nothing"])
async def test_a61_a146_host_that_is_none_is_refused_and_not_echoed(
    authority: TestAuthority, path: str
) -> None:
    for host in HOSTS:
        answer = await authority.http.get(path, headers=[(b"host", host)])
        assert (answer.status_code, answer.text) == (400, "The request's address cannot be read.\n")
    for host in (b"evil.example", b"EVIL.example:65535", b"[2001:db8::1]:443", b"under_score"):
        answer = await authority.http.get(path, headers=[(b"host", host)])
        assert answer.status_code in (200, 303, 400, 404)
        assert b"evil" not in answer.content.lower()
        assert "evil" not in answer.headers.get("location", "").lower()
    logged = authority.logged.getvalue()
    assert '"level": "error"' not in logged
    assert "bücher" not in logged


@pytest.mark.parametrize(
    "target", ["http://evil.example/peer", "https://[/peer", "*", "evil.example:1", "peer"]
)
async def test_a60_a61_target_that_is_no_path_is_refused(target: str) -> None:
    async with serving() as port:
        for method in ("GET", "POST", "OPTIONS", "CONNECT"):
            sent = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            answer = await raw(port, sent.encode())
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"evil" not in answer


async def test_client_that_hangs_up_or_sends_nonsense_in_its_body_is_no_fault(
    authority: TestAuthority,
) -> None:
    head = (
        b"POST /length HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    async with serving() as port:
        assert (await raw(port, head + b"5\r\nhelloXX")).startswith(b"HTTP/1.1 400 ")
        for begun in (head, head + b"5\r\nhel"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            await writer.drain()
            writer.transport.abort()
        # Of a request that was answered before its body came.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.replace(b"/length", b"/nothing"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"XX\r\n")
        assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), TIMEOUT)
        writer.close()
    records = [json.loads(line) for line in authority.logged.getvalue().splitlines()]
    assert [record for record in records if record["level"] == "error"] == []
    assert {record["status"] for record in records if record["event"] == "request"} == {404, 499}


async def test_request_is_timed_from_when_all_of_it_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT", 0.1)
    reached, told = asyncio.Event(), []

    async def read(request: Request) -> Response:
        reached.set()
        return PlainTextResponse(await request.body())

    timed = Guard(Router([Route("/read", read, methods=["POST"])]), names={read: "/read"})
    timed.time_calls(lambda name, seconds: told.append((name, seconds, time.monotonic())))
    head = b"POST /read HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1\r\n\r\n"
    async with serving_guard(timed) as port:
        assert (await raw(port, head)).startswith(b"HTTP/1.1 408 ")
        assert told == []  # a body that never came says nothing of ours
        reached.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        await asyncio.wait_for(reached.wait(), TIMEOUT)
        sent_at = time.monotonic()
        writer.write(b"x")
        assert (await asyncio.wait_for(reader.read(), TIMEOUT)).startswith(b"HTTP/1.1 200 ")
        writer.close()
    ((name, seconds, told_at),) = told
    assert name == "/read"
    assert 0 < seconds <= told_at - sent_at


async def test_a111_flood_of_faults_does_not_flood_the_log(authority: TestAuthority) -> None:
    async with serving() as port, plain_client(port) as client:
        for _ in range(3 * FAULTS):
            assert (await client.get("/fault")).status_code == 500
    assert authority.logged.getvalue().count('"a request failed"') == FAULTS


async def test_a149_other_methods_are_refused_and_echo_nothing(authority: TestAuthority) -> None:
    for method in ("TRACE", "OPTIONS", "PUT", "DELETE", "PROPFIND"):
        headers = {"x-canary": "echo-me", "origin": "https://evil.example"}
        answer = await authority.http.request(method, "/oauth/jwks.json", headers=headers)
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]
        assert "echo-me" not in answer.text + str(answer.headers)
        assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""])
async def test_a61_a146_without_tls_a_name_that_is_not_this_machine_is_refused(host: str) -> None:
    async with serving() as port, plain_client(port) as client:
        answer = await client.get("/peer", headers={"host": host})
        assert answer.status_code == 421
        for name in ("localhost", "LOCALHOST:80", f"127.0.0.1:{port}", "[::1]:1"):
            assert (await client.get("/peer", headers={"host": name})).status_code == 200


async def test_r094_a70_forwarded_addresses_are_believed_of_trusted_proxies_only() -> None:
    forwarded = {
        "x-forwarded-for": "203.0.113.9, 198.51.100.7",
        "forwarded": "for=1.2.3.4",
        "x-real-ip": "5.6.7.8",
    }
    async with serving() as port, plain_client(port) as client:
        assert (await client.get("/peer", headers=forwarded)).text == "127.0.0.1 "
    async with serving(trusted_proxies=["127.0.0.1"]) as port, plain_client(port) as client:
        assert (await client.get("/peer", headers=forwarded)).text == "198.51.100.7 "
        assert (await client.get("/peer")).text == "unknown "


async def test_access_log_has_neither_queries_nor_headers_nor_line_breaks(authority: TestAuthority) -> None:
    await authority.http.get(
        "/nothing%0d%0aforged%20line?token=canary-in-query",
        headers={"authorization": "Bearer canary-in-header"},
    )
    logged = authority.logged.getvalue()
    assert "\r" not in logged
    (line,) = [json.loads(line) for line in logged.splitlines() if "forged" in line]
    assert {name: line[name] for name in ("event", "method", "path", "status", "peer", "level")} == {
        "event": "request",
        "method": "GET",
        "path": "/nothing\r\nforged line",
        "status": 404,
        "peer": "127.0.0.1",
        "level": "info",
    }
    assert "canary" not in logged


async def test_a111_flood_of_refused_requests_does_not_flood_the_log(authority: TestAuthority) -> None:
    for _ in range(3 * guard._LOGGED_REFUSALS):
        await authority.http.get("/nothing")
    seconds = {
        json.loads(line)["timestamp"][:19]
        for line in authority.logged.getvalue().splitlines()
        if json.loads(line)["event"] == "request"
    }
    written = authority.logged.getvalue().count('"/nothing"')
    assert written <= guard._LOGGED_REFUSALS * (len(seconds) + 1)


async def test_a111_flood_of_answered_requests_does_not_flood_the_log(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_LOGGED_ANSWERS", 5)
    async with serving() as port, plain_client(port) as client:
        for _ in range(50):
            assert (await client.get("/peer")).status_code == 200
    records = [json.loads(line) for line in authority.logged.getvalue().splitlines()]
    written = [record["timestamp"][:19] for record in records if record.get("path") == "/peer"]
    assert 5 <= len(written) <= 5 * (len(set(written)) + 1)


async def test_port_that_is_taken_is_an_error_for_people() -> None:
    async with serving() as port:
        with pytest.raises(ConfigurationError, match=r"another program has the port.*--console-address"):
            HttpServer(APP).listen(f"127.0.0.1:{port}", None, flag="--console-address")
    with pytest.raises(ConfigurationError, match="--http-address"):
        HttpServer(APP).listen("192.0.2.1:0", None)


async def test_both_families_are_served_where_the_address_says_everything() -> None:
    server = HttpServer(Guard(APP))
    port = server.listen("[::]:0", None)
    await server.start()
    try:
        for host in ("127.0.0.1", "[::1]"):
            async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:
                answer = await client.get(f"http://{host}:{port}/peer", headers={"host": "localhost"})
                assert answer.text == f"{host.strip('[]')} "
    finally:
        await server.stop()


async def test_what_is_no_request_is_passed_over() -> None:
    async def fails(*_: Any) -> None:
        raise AssertionError

    never: Any = fails
    await Guard(never)({"type": "websocket"}, never, never)


async def test_stop_lets_the_request_in_flight_finish() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return PlainTextResponse("done")

    server = HttpServer(Guard(Router([Route("/slow", slow)])))
    port = server.listen("127.0.0.1:0", None)
    await server.start()
    async with plain_client(port) as client:
        answer = asyncio.create_task(client.get("/slow"))
        await begun.wait()
        stopping = asyncio.create_task(server.stop())
        while True:  # until it takes no more connections
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                break
            writer.close()
        go_on.set()
        assert (await answer).text == "done"
        await stopping


def _trusting(ca: Path, **options: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    for name, value in options.items():
        setattr(context, name, value)
    return context


async def test_r125_tls_1_1_and_plaintext_are_refused(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    settings = Settings.load({"data_dir": tmp_path}, {})
    async with serving(server_context(settings)) as port:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = _trusting(paths.ca, minimum_version=version, maximum_version=version)
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=TIMEOUT) as client:
                assert (await client.get(f"https://localhost:{port}/peer")).status_code == 200
        old = _trusting(paths.ca)
        for bound in ("minimum_version", "maximum_version"):
            with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
                setattr(old, bound, ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old, server_hostname="localhost")
        assert b"HTTP" not in await raw(port, b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n")


async def test_stop_waits_for_no_client_that_keeps_its_connection_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_FAREWELL_TIMEOUT", 0.1)
    paths = ensure_development_files(tmp_path)
    http = HttpServer(Guard(APP))
    port = http.listen("127.0.0.1:0", server_context(Settings.load({"data_dir": tmp_path}, {})))
    await http.start()

    def ask() -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        connection = _trusting(paths.ca).wrap_socket(raw, server_hostname="localhost")
        connection.sendall(b"GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        return connection

    with contextlib.closing(await asyncio.to_thread(ask)):
        async with asyncio.timeout(server._DRAIN / 2):
            await http.stop()


async def test_certificate_that_is_replaced_is_used_for_the_next_connection(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    settings = Settings.load({"data_dir": tmp_path}, {})

    async def serial(port: int) -> str:
        context = _trusting(paths.ca)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        number: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return number

    async with serving(server_context(settings)) as port:
        first = await serial(port)
        assert await serial(port) == first
        paths.server_key.write_text("not a key")
        assert await serial(port) == first  # while files are being replaced, the old stay in use
        paths.server.unlink()
        ensure_development_files(tmp_path)
        assert await serial(port) != first


async def test_client_certificates_are_demanded_where_grpc_demands_them_and_name_the_peer(
    tmp_path: Path,
) -> None:
    paths = ensure_development_files(tmp_path)
    settings = Settings.load({"data_dir": tmp_path, "tls_client_ca": paths.ca}, {})
    issued = issue_client_certificate(tmp_path, ["api.shop.example", "www.shop.example"])
    for name, content in (("client.pem", issued.certificate), ("client.key", issued.key)):
        (tmp_path / name).write_bytes(content)
    async with serving(server_context(settings)) as port:
        url = f"https://localhost:{port}/peer"
        context = _trusting(paths.ca)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=TIMEOUT) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url)
        context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=TIMEOUT) as client:
            assert (await client.get(url)).text == "127.0.0.1 api.shop.example,www.shop.example"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda paths: paths.server_key.write_text("not a key"),
        lambda paths: paths.server.write_text(""),
        lambda paths: paths.server_key.write_bytes(paths.ca_key.read_bytes()),
        lambda paths: paths.server_key.unlink(),
    ],
)
def test_files_that_do_not_fit_are_an_error_at_the_start(
    tmp_path: Path, spoil: Callable[[Any], object]
) -> None:
    paths = ensure_development_files(tmp_path / "made")
    spoil(paths)
    settings = Settings.load(
        {"data_dir": tmp_path, "tls_certificate": paths.server, "tls_key": paths.server_key}, {}
    )
    with pytest.raises(ConfigurationError, match="server"):
        server_context(settings)
