"""The example service, behind the middleware on a real server: what a service on HTTP gets from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orders_http as service
import pytest
import websockets
from rpz_auth.errors import CredentialsMissing, OriginNotAllowed, Reason, ScopeInsufficient, TokenInvalid
from rpz_auth.testing import APP_ID, FakeAuthority
from support.http_servers import serving

TIMEOUT = 20.0
BEARER = 'Bearer realm="rpz-auth"'
VARY = "Authorization, X-Rpz-Auth, Origin"


class Service:
    """The running example, and what calls it."""

    def __init__(self, authority: FakeAuthority, port: int) -> None:
        self.authority = authority
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, trust_env=False)

    def access_token(self, *scopes: str, **fields: Any) -> Any:
        return self.authority.access_token(
            resource=service.RESOURCE, scopes=scopes or ("orders.read",), **fields
        )

    def api_token(self, *scopes: str, **fields: Any) -> Any:
        return self.authority.api_token(
            resource=service.RESOURCE, scopes=scopes or ("orders.read",), **fields
        )

    async def get(self, path: str = "/orders/7", credential: Any = None, **options: Any) -> httpx.Response:
        headers = {} if credential is None else {"authorization": credential.field_value()}
        return await self.http.get(path, headers={**headers, **options.pop("headers", {})}, **options)

    def feed(self, credential: Any = None, *, query: str = "", **headers: str) -> Any:
        sent = {} if credential is None else {"authorization": credential.field_value()}
        uri = f"ws://127.0.0.1:{self.port}/feed{query}"
        return websockets.connect(
            uri, additional_headers={**sent, **headers}, proxy=None, open_timeout=TIMEOUT
        )


@pytest.fixture
async def orders() -> AsyncIterator[Service]:
    authority = FakeAuthority()
    async with serving(service.build(authority)) as port:
        running = Service(authority, port)
        yield running
        await running.http.aclose()


async def _read_all(lines: AsyncIterator[str]) -> None:
    async for _ in lines:
        pass


async def _receive_all(socket: websockets.ClientConnection) -> None:
    while True:
        await socket.recv()


async def test_caller_is_known_to_the_handler_by_either_credential_and_header(orders: Service) -> None:
    for credential, subject in ((orders.access_token(), "user:1"), (orders.api_token(), f"app:{APP_ID}")):
        for header in ("authorization", "x-rpz-auth"):
            answer = await orders.http.get("/orders/7", headers={header: credential.field_value()})
            assert (answer.status_code, answer.json()) == (200, {"order_id": "7", "requested_by": subject})
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["vary"] == VARY


async def test_public_path_asks_for_nothing_and_may_be_stored(orders: Service) -> None:
    answer = await orders.get("/health", headers={"authorization": "Bearer nonsense"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert not {"vary", "cache-control"} & answer.headers.keys()


async def test_r082_call_without_credentials_is_challenged_without_an_error_code(orders: Service) -> None:
    for headers in ({}, {"authorization": "Digest x"}, {"cookie": "authorization=Bearer x"}):
        answer = await orders.get(headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, BEARER)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == VARY
        assert answer.json()["reason"] == Reason.CREDENTIALS_MISSING
        assert answer.json()["error_description"] == CredentialsMissing.default_message


async def test_bad_credential_is_an_invalid_token(orders: Service) -> None:
    stranger = orders.authority.foreign_token(resource=service.RESOURCE, scopes=["orders.read"])
    elsewhere = orders.authority.access_token(resource="https://elsewhere", scopes=["orders.read"])
    description = TokenInvalid.default_message
    for value in (
        stranger.field_value(),
        elsewhere.field_value(),
        "Bearer",
        "Bearer a b",
        "Basic !",
        "\xff",
        "",
    ):
        answer = await orders.http.get("/orders/7", headers=[(b"authorization", value.encode("latin-1"))])
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == (
            f'{BEARER}, error="invalid_token", error_description="{description}"'
        )
        assert answer.json() == {
            "error": "invalid_token",
            "error_description": description,
            "reason": "TOKEN_INVALID",
        }


async def test_expired_token_is_told_as_such(orders: Service) -> None:
    answer = await orders.get(credential=orders.access_token(expires_in=-1))
    assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_EXPIRED")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_missing_scope_is_named(orders: Service) -> None:
    headers = {"authorization": orders.access_token("orders.read").field_value()}
    answer = await orders.http.delete("/orders/7", headers=headers)
    description = ScopeInsufficient(["x"]).message
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == (
        f'{BEARER}, error="insufficient_scope", error_description="{description}", scope="orders.write"'
    )
    headers = {"authorization": orders.access_token("orders.write").field_value()}
    assert (await orders.http.delete("/orders/7", headers=headers)).status_code == 204


async def test_r080_a50_a51_x_rpz_auth_alone_decides_and_stands_once(orders: Service) -> None:
    good = orders.access_token().field_value()
    for headers, status in (
        ([("x-rpz-auth", good), ("authorization", "Bearer bad")], 200),
        ([("x-rpz-auth", "Bearer bad"), ("authorization", good)], 401),
        ([("x-rpz-auth", ""), ("authorization", good)], 401),
        ([("authorization", good), ("authorization", good)], 400),
        ([("x-rpz-auth", good), ("authorization", "a"), ("authorization", "b")], 200),
        ([("authorization", f"{good},{good}")], 400),
        ([("proxy-authorization", good)], 401),
        ([("x_rpz_auth", good)], 401),
    ):
        assert (await orders.http.get("/orders/7", headers=headers)).status_code == status


async def test_r122_path_without_a_policy_is_refused_to_strangers_and_unknown_to_callers(
    orders: Service,
) -> None:
    token = orders.access_token()
    for path in (
        "/",
        "/orders/",
        "/orders/7/items",
        "//orders/7",
        "/ORDERS/7",
        "/orders/%2e%2e/health",
        "/feed",
    ):
        assert (await orders.get(path)).status_code == 401
        assert (await orders.get(path, token)).status_code == 404
    for method in ("POST", "PUT", "OPTIONS", "TRACE"):
        assert (await orders.http.request(method, "/orders/7")).status_code == 401
    assert (
        await orders.http.head("/orders/7", headers={"authorization": token.field_value()})
    ).status_code == 200  # Starlette offers HEAD with every GET


async def test_r092_a79_whitelist_holds_for_peers_and_for_pages(orders: Service) -> None:
    token = orders.access_token()
    orders.authority.whitelist(["203.0.113.9"])
    answer = await orders.get(credential=token)
    assert (answer.status_code, answer.json()["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
    assert "www-authenticate" not in answer.headers
    assert answer.json()["error_description"] == OriginNotAllowed.default_message.replace('"', "'")
    orders.authority.whitelist(["origin:https://shop.example"])
    for origin, status in (("https://shop.example", 200), ("https://evil.example", 403), ("null", 403)):
        assert (await orders.get(credential=token, headers={"origin": origin})).status_code == status
    assert (await orders.get(credential=token)).status_code == 403
    orders.authority.whitelist([])
    assert (await orders.get(credential=token)).status_code == 200


async def test_r077_revoked_token_is_refused_at_once(orders: Service) -> None:
    for credential in (orders.access_token(), orders.api_token()):
        assert (await orders.get(credential=credential)).status_code == 200
        orders.authority.revoke(credential)
        assert (await orders.get(credential=credential)).status_code == 401


async def test_r128_without_the_authority_nothing_passes(orders: Service) -> None:
    orders.authority.cut_off()
    answer = await orders.get(credential=orders.access_token())
    assert (answer.status_code, answer.json()["reason"]) == (503, "BACKEND_UNAVAILABLE")
    assert (await orders.get("/health")).status_code == 200
    orders.authority.restore()
    assert (await orders.get(credential=orders.access_token())).status_code == 200


async def test_r084_token_in_the_url_is_good_for_api_tokens_that_may_travel_so(
    orders: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server without an access log, such as the authority's, silences that of all others in the process.
    caplog.set_level(logging.INFO, "uvicorn.access")
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    allowed = orders.api_token(query_token_allowed=True)
    other = orders.api_token()

    def url(text: str) -> str:
        return f"/orders/7?most=1&token={text}&x=2"

    assert (
        await orders.get(url(f"{APP_ID}:{allowed.token}"))
    ).status_code == 401  # the App does not allow it
    orders.authority.allow_query_token()
    answer = await orders.get(url(f"{APP_ID}:{allowed.token}"))
    assert (answer.status_code, answer.headers["referrer-policy"]) == (200, "no-referrer")
    assert (await orders.get(url(f"{APP_ID}%3A{allowed.token}"))).status_code == 200
    for refused in (
        f"{APP_ID}:{other.token}",  # the authority does not
        allowed.token,
        orders.access_token().token,
        f"Bearer {orders.access_token().token}",
        "",
        "%ff",
        "a:b",
    ):
        assert (await orders.get(url(refused))).status_code == 401
    answer = await orders.get(url(f"{APP_ID}:{allowed.token}&token=x"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "CREDENTIALS_AMBIGUOUS")
    # A header decides where there is one, and the URL is not looked at.
    assert (await orders.get(url("nonsense"), orders.access_token())).status_code == 200
    assert (
        await orders.get(url(f"{APP_ID}:{allowed.token}"), headers={"authorization": "x"})
    ).status_code == 401
    served = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(served) > 10
    assert not [line for line in served if "rpzt_" in line or "token" in line]
    assert any("/orders/7?most=1&x=2" in line for line in served)


async def test_stream_ends_when_its_token_is_revoked(orders: Service) -> None:
    token = orders.access_token()
    headers = {"authorization": token.field_value()}
    for every in ("60", "0.001"):  # one that is idle, one that is busy
        token = orders.access_token()
        headers = {"authorization": token.field_value()}
        async with orders.http.stream("GET", f"/orders?every={every}", headers=headers) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "order 1"
            orders.authority.revoke(token)
            with pytest.raises(httpx.RemoteProtocolError):  # not a whole answer
                await asyncio.wait_for(_read_all(lines), TIMEOUT)


async def test_stream_that_comes_to_its_end_is_whole_and_holds_nothing(orders: Service) -> None:
    answer = await orders.get("/orders?most=3&every=0", orders.access_token())
    assert answer.text == "order 1\norder 2\norder 3\n"


async def test_websocket_is_decided_before_it_is_accepted(orders: Service) -> None:
    for credential, status in (
        (None, 401),
        (orders.authority.foreign_token(resource=service.RESOURCE), 401),
        (orders.access_token("orders.write"), 403),
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            async with orders.feed(credential):
                pass
        assert refused.value.response.status_code == status
        assert refused.value.response.headers["www-authenticate"].startswith(BEARER)
    async with orders.feed(orders.access_token()) as socket:
        assert await socket.recv() == "hello user:1"
        await socket.send("hi")
        assert await socket.recv() == "you said hi"


async def test_websocket_may_bring_its_token_in_the_url(orders: Service) -> None:
    orders.authority.allow_query_token()
    token = orders.api_token(query_token_allowed=True)
    async with orders.feed(query=f"?token={APP_ID}:{token.token}") as socket:
        assert await socket.recv() == f"hello app:{APP_ID}"


async def test_r077_websocket_ends_when_its_token_is_revoked(orders: Service) -> None:
    token = orders.access_token()
    async with (
        orders.feed(token) as idle,
        orders.feed(token) as busy,
        orders.feed(orders.access_token()) as other,
    ):
        for socket in (idle, busy, other):
            await socket.recv()
        await busy.send("hi")
        orders.authority.revoke(token)
        for socket in (idle, busy):
            with pytest.raises(websockets.exceptions.ConnectionClosed) as ended:
                await asyncio.wait_for(_receive_all(socket), TIMEOUT)
            assert ended.value.rcvd is not None
            assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (3000, TokenInvalid.default_message)
        await other.send("still here")
        assert await other.recv() == "you said still here"


async def test_r124_websocket_ends_when_its_token_expires(orders: Service) -> None:
    async with orders.feed(orders.access_token(expires_in=0.3)) as socket, asyncio.timeout(TIMEOUT):
        assert await socket.recv() == "hello user:1"
        with pytest.raises(websockets.exceptions.ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 3000
