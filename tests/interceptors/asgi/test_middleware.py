"""The middleware between server and application, message by message; tests/examples has it on sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest
import rpz_auth
from rpz_auth import PUBLIC, scopes
from rpz_auth.asgi import AuthMiddleware
from rpz_auth.client import ApiToken
from rpz_auth.errors import BackendUnavailable, ConfigurationError, Reason
from rpz_auth.service import held_back
from rpz_auth.service.running import Lease
from rpz_auth.staleness import REFUSE
from rpz_auth.testing import FakeAuthority
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

RESOURCE = "https://orders"
POLICIES = {"/public": PUBLIC, "/orders": scopes("read"), "WEBSOCKET /feed": scopes("read")}


class Application:
    """Says who called, streams, or does what the test says."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.peers: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope)
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.peers.append(str(rpz_auth.peer()))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"vary", b"Accept")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def call(
    app: Any,
    path: str = "/orders",
    *,
    kind: str = "http",
    headers: Iterable[tuple[str, str]] = (),
    received: Iterable[dict[str, Any]] = (),
    **fields: Any,
) -> list[dict[str, Any]]:
    """What the application, or the middleware in its place, sends."""
    sent: list[dict[str, Any]] = []
    messages = iter(received)

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": f"{kind}.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "path": path,
        "headers": [(key.encode(), value.encode()) for key, value in headers],
        "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80),
        "query_string": b"",
        **({"method": "GET"} if kind == "http" else {}),
        **fields,
    }
    await app(scope, receive, send)
    return sent


def status_of(sent: list[dict[str, Any]]) -> int:
    return int(sent[0]["status"])


@pytest.fixture
async def authority() -> FakeAuthority:
    authority = FakeAuthority()
    authority.start()
    return authority


def bearer(authority: FakeAuthority, *granted: str) -> list[tuple[str, str]]:
    token = authority.access_token(resource=RESOURCE, scopes=granted or ("read",))
    return [("authorization", token.field_value())]


async def test_lifespan_starts_and_stops_with_the_application(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rpz_auth")
    authority, app = FakeAuthority(), Application()
    middleware = AuthMiddleware(app, authority, resource=RESOURCE, policies=POLICIES)
    assert status_of(await call(middleware, headers=bearer(authority))) == 503  # nothing is known yet
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await call(middleware, kind="lifespan", received=messages)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert status_of(await call(middleware, headers=bearer(authority))) == 200
    assert "rpz-auth protects https://orders:\n/public          public\n" in caplog.text


async def test_service_that_refuses_when_stale_does_not_start_without_its_authority() -> None:
    class Silent(FakeAuthority):
        def wait(self, timeout: float) -> None:  # noqa: ARG002 - it has passed
            raise BackendUnavailable

    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    strict = AuthMiddleware(
        Application(), Silent(), resource=RESOURCE, policies=POLICIES, when_stale=REFUSE, start_timeout=0.1
    )
    with pytest.raises(BackendUnavailable):
        await call(strict, kind="lifespan", received=messages)
    lenient = AuthMiddleware(Application(), Silent(), resource=RESOURCE, policies=POLICIES, start_timeout=0.1)
    assert await call(lenient, kind="lifespan", received=messages)


async def test_what_the_server_calls_something_new_does_not_pass(authority: FakeAuthority) -> None:
    app = Application()
    middleware = AuthMiddleware(app, authority, resource=RESOURCE, policies=POLICIES)
    assert await call(middleware, kind="webtransport") == []
    assert app.calls == []


async def test_r093_peer_is_the_socket_a_unix_socket_or_unknown(authority: FakeAuthority) -> None:
    app = Application()
    middleware = AuthMiddleware(
        app, authority, resource=RESOURCE, policies=POLICIES, trusted_proxies=["10.0.0.0/8"]
    )
    for fields in (
        {},
        {"client": ("::ffff:192.0.2.9", 1)},
        {"client": None, "server": ("/run/orders.sock", None)},
        {"client": None},
        {"client": ("testclient", 1)},
        {"client": ("0.0.0.0", 1)},  # noqa: S104 - nobody calls from there
        {"client": ("10.1.1.1", 1), "headers": [("x-forwarded-for", "203.0.113.7, 10.2.2.2")]},
        {"client": ("192.0.2.1", 1), "headers": [("x-forwarded-for", "203.0.113.7")]},
    ):
        assert status_of(await call(middleware, "/public", **fields)) == 200
    assert app.peers == [
        *("192.0.2.1", "192.0.2.9", "unix", "unknown", "unknown", "unknown"),
        *("203.0.113.7", "192.0.2.1"),
    ]


async def test_mounted_application_is_judged_by_the_path_that_it_routes_by(authority: FakeAuthority) -> None:
    middleware = AuthMiddleware(Application(), authority, resource=RESOURCE, policies=POLICIES)
    for path, root, status in (
        ("/api/public", "/api", 200),
        ("/public", "/api", 200),
        ("/apipublic", "/api", 401),
        ("/api/orders", "/api", 401),
        ("/api/api/public", "/api", 401),
    ):
        assert status_of(await call(middleware, path, root_path=root)) == status


async def test_no_path_reaches_a_handler_under_the_policy_of_another(authority: FakeAuthority) -> None:
    async def say(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.scope["endpoint"].__name__)

    async def secret(request: Request) -> PlainTextResponse:
        return await say(request)

    async def page(request: Request) -> PlainTextResponse:
        return await say(request)

    site = Starlette(routes=[Route("/secret", secret), Route("/{page}", page)])
    policies = {"/secret": scopes("read"), "/{page}": PUBLIC}
    middleware = AuthMiddleware(site, authority, resource=RESOURCE, policies=policies)
    assert status_of(await call(middleware, "/welcome")) == 200
    for path in ("/secret", "/secret\n", "/secret\r", "/secret\u2028", "/secret/"):
        assert status_of(await call(middleware, path)) == 401, repr(path)


async def test_request_with_the_word_for_websockets_as_its_method_is_none(authority: FakeAuthority) -> None:
    policies = {"WEBSOCKET /feed": PUBLIC, "/feed": scopes("read")}
    middleware = AuthMiddleware(Application(), authority, resource=RESOURCE, policies=policies)
    assert status_of(await call(middleware, "/feed", method="WEBSOCKET")) == 401


async def test_answer_keeps_what_the_application_says_of_itself(authority: FakeAuthority) -> None:
    middleware = AuthMiddleware(Application(), authority, resource=RESOURCE, policies=POLICIES)
    sent = await call(middleware, headers=bearer(authority))
    assert sent[0]["headers"] == [
        (b"vary", b"Accept"),
        (b"cache-control", b"no-store"),
        (b"vary", b"Authorization, X-Rpz-Auth, Origin"),
    ]


async def test_observing_lets_everything_pass_and_counts_what_it_would_refuse(
    authority: FakeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    app = Application()
    middleware = AuthMiddleware(app, authority, resource=RESOURCE, policies=POLICIES, observe=True)
    assert status_of(await call(middleware)) == 200
    assert status_of(await call(middleware, headers=bearer(authority, "other"))) == 200
    status = middleware.status()
    assert status.observed == {Reason.CREDENTIALS_MISSING: 1, Reason.SCOPE_INSUFFICIENT: 1}
    assert "would be refused" in caplog.text


async def test_fault_in_a_decision_is_500_and_its_text_stays_here(
    authority: FakeAuthority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("only for the log")

    monkeypatch.setattr(authority.view, "check", broken)
    middleware = AuthMiddleware(Application(), authority, resource=RESOURCE, policies=POLICIES)
    sent = await call(middleware, headers=bearer(authority))
    assert status_of(sent) == 500
    assert "only for the log" not in str(sent)
    assert "only for the log" in caplog.text


async def test_websocket_is_closed_before_it_is_accepted_where_no_answer_can_be_given(
    authority: FakeAuthority,
) -> None:
    middleware = AuthMiddleware(Application(), authority, resource=RESOURCE, policies=POLICIES)
    received = [{"type": "websocket.connect"}]
    for headers, code in (((), 3000), (bearer(authority, "other"), 3003)):
        sent = await call(middleware, "/feed", kind="websocket", headers=headers, received=received)
        assert sent == [{"type": "websocket.close", "code": code, "reason": ""}]
    authority.cut_off()
    sent = await call(middleware, "/feed", kind="websocket", headers=bearer(authority), received=received)
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": ""}]


async def test_websocket_whose_credential_stops_behind_its_decision_does_not_begin(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Application()
    middleware = AuthMiddleware(app, authority, resource=RESOURCE, policies=POLICIES)
    lease = middleware._streams.lease

    def late(*arguments: Any, **options: Any) -> Lease:
        authority.lock()
        return lease(*arguments, **options)

    monkeypatch.setattr(middleware._streams, "lease", late)
    received = [{"type": "websocket.connect"}]
    sent = await call(middleware, "/feed", kind="websocket", headers=bearer(authority), received=received)
    assert sent == [{"type": "websocket.close", "code": 3000, "reason": ""}]
    assert app.calls == []


async def test_r084_token_in_a_url_passes_where_service_app_and_token_allow_it(
    authority: FakeAuthority,
) -> None:
    app = Application()
    willing, other = (
        AuthMiddleware(app, authority, resource=RESOURCE, policies=POLICIES, query_token=allowed)
        for allowed in (True, False)
    )
    may, may_not = (
        authority.api_token(resource=RESOURCE, scopes=["read"], query_token_allowed=allowed)
        for allowed in (True, False)
    )

    async def by_url(middleware: AuthMiddleware, token: ApiToken) -> int:
        query = f"token={token.app_id}:{token.token}".encode()
        return status_of(await call(middleware, query_string=query))

    assert [await by_url(willing, token) for token in (may, may_not)] == [401, 401]
    authority.allow_query_token()
    assert [await by_url(willing, token) for token in (may, may_not)] == [200, 401]
    assert await by_url(other, may) == 401
    headers = [("authorization", may_not.field_value())]
    assert status_of(await call(willing, headers=headers)) == 200
    assert [called["query_string"] for called in app.calls] == [b"", b""]


async def test_stream_of_an_application_that_will_not_be_cancelled_sends_nothing_more(
    authority: FakeAuthority,
) -> None:
    sent: list[dict[str, Any]] = []
    outcomes: list[object] = []
    begun = asyncio.Event()

    async def stubborn(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            outcomes.append("cancelled")
        try:
            await send({"type": "http.response.body", "body": b"2", "more_body": True})
        except OSError as error:
            outcomes.append(str(error))
        outcomes.append((await receive())["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("not asked any more")

    middleware = AuthMiddleware(stubborn, authority, resource=RESOURCE, policies=POLICIES)
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/orders",
        "headers": [(b"authorization", token.field_value().encode())],
        "client": ("192.0.2.1", 1),
        "query_string": b"",
    }
    running = asyncio.create_task(middleware(scope, receive, send))
    await begun.wait()
    assert middleware.status().streams == 1
    authority.revoke(token)
    await asyncio.wait_for(running, 20)
    assert outcomes == [
        "cancelled",
        "the credential of this stream does not hold any more",
        "http.disconnect",
    ]
    assert [message.get("body") for message in sent] == [None, b"1"]
    assert middleware.status().streams == 0


@pytest.mark.parametrize("takes_no_notice", [False, True])
async def test_r077_request_whose_body_was_held_back_until_its_credential_ended_is_refused(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, *, takes_no_notice: bool
) -> None:
    """Whoever expects a revocation could begin requests, and have them served when it has come."""
    monkeypatch.setattr(held_back, "AT_ONCE", 0.0)
    received: list[Any] = []
    sent: list[dict[str, Any]] = []
    waits, body = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def reads(_scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        if received[0]["type"] == "http.request" or takes_no_notice:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        waits.set()
        return await body

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = AuthMiddleware(reads, authority, resource=RESOURCE, policies=POLICIES)
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/orders",
        "headers": [(b"authorization", token.field_value().encode())],
        "client": ("192.0.2.1", 1),
        "query_string": b"",
    }
    running = asyncio.create_task(middleware(scope, receive, send))
    await waits.wait()
    authority.revoke(token)
    body.set_result({"type": "http.request", "body": b"do it", "more_body": False})
    await running
    assert [message["type"] for message in received] == ["http.disconnect"]
    assert status_of(sent) == 401


@pytest.mark.parametrize(
    ("path", "at_once"), [("/public", 0.0), ("/orders", 3600.0)], ids=["public", "prompt"]
)
async def test_request_is_decided_about_once_if_its_body_is_there_or_nobody_need_be_known(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, path: str, at_once: float
) -> None:
    monkeypatch.setattr(held_back, "AT_ONCE", at_once)
    token = authority.access_token(resource=RESOURCE, scopes=["read"])

    async def reads(_scope: Any, receive: Any, send: Any) -> None:
        authority.revoke(token)
        assert (await receive())["body"] == b"do it"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = AuthMiddleware(reads, authority, resource=RESOURCE, policies=POLICIES)
    headers = [("authorization", token.field_value())]
    received = [{"type": "http.request", "body": b"do it", "more_body": False}]
    assert status_of(await call(middleware, path, headers=headers, received=received)) == 200


@pytest.mark.parametrize(("kind", "path"), [("http", "/orders"), ("websocket", "/feed")])
async def test_nothing_is_said_for_an_application_that_says_nothing(
    authority: FakeAuthority, kind: str, path: str
) -> None:
    async def silent(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    middleware = AuthMiddleware(silent, authority, resource=RESOURCE, policies=POLICIES)
    received = [{"type": f"{kind}.connect"}]
    assert await call(middleware, path, kind=kind, headers=bearer(authority), received=received) == []


async def test_nothing_is_said_behind_the_end_of_a_websocket(authority: FakeAuthority) -> None:
    async def closes(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 1000})
        authority.lock()

    middleware = AuthMiddleware(closes, authority, resource=RESOURCE, policies=POLICIES)
    received = [{"type": "websocket.connect"}]
    sent = await call(middleware, "/feed", kind="websocket", headers=bearer(authority), received=received)
    assert sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.parametrize("more", [False, True], ids=["answer", "stream"])
async def test_fault_of_the_application_is_the_servers_to_see(
    authority: FakeAuthority, *, more: bool
) -> None:
    async def faulty(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": more})
        raise ZeroDivisionError

    middleware = AuthMiddleware(faulty, authority, resource=RESOURCE, policies=POLICIES)
    with pytest.raises(ZeroDivisionError):
        await call(middleware, headers=bearer(authority))
    assert middleware.status().streams == 0


@pytest.mark.parametrize("order", ["alone", "first", "second"])
async def test_cancellation_by_the_server_is_the_servers(authority: FakeAuthority, order: str) -> None:
    """Also in the moment in which the credential stops."""
    begun = asyncio.Event()

    async def waits(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        begun.set()
        await asyncio.sleep(60)

    middleware = AuthMiddleware(waits, authority, resource=RESOURCE, policies=POLICIES)
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    running = asyncio.create_task(call(middleware, headers=[("authorization", token.field_value())]))
    await begun.wait()
    if order == "second":
        authority.revoke(token)
    running.cancel()
    if order == "first":
        authority.revoke(token)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert middleware.status().streams == 0


def test_typing_errors_are_errors_at_the_start(authority: FakeAuthority) -> None:
    given: dict[str, Any] = {"resource": RESOURCE, "policies": POLICIES}
    wrongs: list[dict[str, Any]] = [
        {"policies": {}},
        {"policies": {"orders": PUBLIC}},
        {"trusted_proxies": ["10.0.0.1/8"]},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            AuthMiddleware(Application(), authority, **{**given, **wrong})
