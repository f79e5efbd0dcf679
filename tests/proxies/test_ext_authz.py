"""A real Envoy that asks `rpz_auth.ext_authz` before it passes anything on."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from demo.relay import Relay
from google.rpc import error_details_pb2, status_pb2
from rpz_auth.ext_authz import ExtAuthz
from rpz_auth.testing import FakeAuthority
from support.envoy import ext_authz, named_route, route, running_envoy

RESOURCE = "https://orders.example"
READ, WRITE, STATUS = "/a.B/Read", "/a.B/Write", "/a.B/Status"
POLICIES = {READ: rpz_auth.scopes("read"), WRITE: rpz_auth.scopes("write"), STATUS: rpz_auth.PUBLIC}
ROUTES = {"orders": rpz_auth.scopes("read"), "status": rpz_auth.PUBLIC}
CLIENT = "127.0.0.2"
CALLER_HEADERS = ("x-rpz-app-id", "x-rpz-subject", "x-rpz-scopes")
Metadata = Sequence[tuple[str, str]]


class Upstream(grpc.GenericRpcHandler):
    """A service that knows nothing of rpz-auth, and tells what arrived."""

    def __init__(self) -> None:
        self.calls = 0

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        def handle(_request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls += 1
            return json.dumps([[key, str(value)] for key, value in context.invocation_metadata()]).encode()

        return grpc.unary_unary_rpc_method_handler(handle)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps([[key.lower(), value] for key, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        pass


class Edge:
    """Envoy, what it asks, and what stands behind it."""

    def __init__(self, authority: FakeAuthority, upstream: Upstream, port: int, guard: grpc.Server) -> None:
        self.authority = authority
        self.upstream = upstream
        self.port = port
        self.guard = guard

    def token(self, *scopes: str, **claims: Any) -> rpz_auth.AccessToken:
        return self.authority.access_token(resource=RESOURCE, scopes=scopes or ("read",), **claims)

    def call(self, path: str, *metadata: tuple[str, str]) -> dict[str, str] | grpc.RpcError:
        """What arrived behind Envoy, or how it was refused."""
        with (
            Relay(f"127.0.0.1:{self.port}", source=CLIENT) as relay,
            grpc.insecure_channel(relay.address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            method: Any = channel.unary_unary(path)
            try:
                arrived = [tuple(pair) for pair in json.loads(method(b"", metadata=metadata, timeout=20))]
            except grpc.RpcError as error:
                return error
        own = [key for key, _ in arrived if key in CALLER_HEADERS]
        assert len(own) == len(set(own)), f"a name of the caller arrived twice: {arrived}"
        return dict(arrived)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        fields = {key.lower(): value for key, value in answer.getheaders()}
        found = answer.status, fields, json.loads(answer.read() or b"null")
        connection.close()
        return found


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    authority, upstream = FakeAuthority(), Upstream()
    guard = ExtAuthz(authority, resource=RESOURCE, policies=POLICIES, routes=ROUTES)
    with ExitStack() as stack:
        asked = grpc.server(ThreadPoolExecutor(4))
        guard.add_to(asked)
        asked_port = asked.add_insecure_port("127.0.0.1:0")
        behind = grpc.server(ThreadPoolExecutor(4), handlers=[upstream])
        behind_port = behind.add_insecure_port("127.0.0.1:0")
        pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        stack.callback(pages.server_close)
        stack.callback(pages.shutdown)
        threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        stack.enter_context(guard)
        for server in (asked, behind):
            server.start()
            stack.callback(lambda each: each.stop(None).wait(), server)
        port = stack.enter_context(
            running_envoy(
                tmp_path_factory.mktemp("envoy"),
                {
                    "guard": (asked_port, True),
                    "service": (behind_port, True),
                    "pages": (pages.server_port, False),
                },
                filters=[ext_authz("guard")],
                routes=[
                    route("/orders/", "pages", **named_route("orders")),
                    route("/status", "pages", **named_route("status")),
                    route("/unnamed", "pages"),
                    route("/", "service"),
                ],
            )
        )
        yield Edge(authority, upstream, port, asked)


def bearer(token: rpz_auth.AccessToken, header: str = "authorization") -> tuple[str, str]:
    return (header, token.field_value())


def refusal(answer: Any) -> tuple[grpc.StatusCode, rpz_auth.Reason | None]:
    assert isinstance(answer, grpc.RpcError), answer
    code: grpc.StatusCode = answer.code()
    return code, rpz_auth.reason_of(answer)


_C, _R = grpc.StatusCode, rpz_auth.Reason


@pytest.mark.parametrize("header", ["authorization", "x-rpz-auth"])
def test_a_good_credential_passes_and_the_service_learns_who_calls(edge: Edge, header: str) -> None:
    token = edge.token("read", "more", subject="user:jörg 1")
    arrived = edge.call(READ, bearer(token, header))
    assert isinstance(arrived, dict)
    assert {key: arrived.get(key) for key in CALLER_HEADERS} == {
        "x-rpz-app-id": "00000000-0000-4000-8000-000000000001",
        "x-rpz-subject": "user:j%C3%B6rg%201",
        "x-rpz-scopes": "more read",
    }


def test_an_api_token_passes(edge: Edge) -> None:
    own = edge.authority.api_token(resource=RESOURCE, scopes=["read"])
    assert isinstance(edge.call(READ, ("x-rpz-auth", own.field_value())), dict)


def test_names_that_a_client_gives_itself_never_arrive(edge: Edge) -> None:
    forged = [(key, "forged") for key in CALLER_HEADERS]
    arrived = edge.call(READ, bearer(edge.token()), *forged, *forged)
    assert isinstance(arrived, dict)
    assert not [value for value in arrived.values() if "forged" in value]
    arrived = edge.call(STATUS, *forged)
    assert isinstance(arrived, dict)
    assert not [key for key in CALLER_HEADERS if key in arrived]


@pytest.mark.parametrize("path", [READ, STATUS])
def test_a58_nothing_that_looks_like_ours_arrives_under_another_spelling(edge: Edge, path: str) -> None:
    """Services behind WSGI and CGI cannot tell `-` from `_` in a header's name."""
    alike = [("x_rpz_auth", "Bearer x"), ("x_rpz_app_id", "1"), ("x-rpz_subject", "2"), ("x_rpz-scopes", "3")]
    arrived = edge.call(path, bearer(edge.token()), *alike, *alike, ("x_rpz_other", "4"))
    assert isinstance(arrived, dict)
    assert not arrived.keys() & {key for key, _ in alike}
    assert arrived["x_rpz_other"] == "4"
    _, _, listed = edge.get("/status", {"X_Rpz_Subject": "2", "X-Rpz_App-Id": "1"})
    assert not [key for key, _ in listed if "rpz" in key]


def test_r120_refusals_carry_the_same_code_and_reason_as_the_interceptors(edge: Edge) -> None:
    revoked = edge.token()
    edge.authority.revoke(revoked)
    calls = edge.upstream.calls
    good = bearer(edge.token())
    found = {
        "nothing": refusal(edge.call(READ)),
        "revoked": refusal(edge.call(READ, bearer(revoked))),
        "expired": refusal(edge.call(READ, bearer(edge.token(expires_in=-1)))),
        "foreign": refusal(edge.call(READ, bearer(edge.authority.foreign_token(resource=RESOURCE)))),
        "scope": refusal(edge.call(WRITE, good)),
        "own key first": refusal(edge.call(READ, good, ("x-rpz-auth", "Bearer x"))),
        "unknown method": refusal(edge.call("/a.B/None", good)),
        "unknown method, unknown caller": refusal(edge.call("/a.B/None")),
        "nearly a method": refusal(edge.call("//a.B/Read", good)),
        "a query is none of it": refusal(edge.call(f"{WRITE}?{READ}", good)),
    }
    assert found == {
        "nothing": (_C.UNAUTHENTICATED, _R.CREDENTIALS_MISSING),
        "revoked": (_C.UNAUTHENTICATED, _R.TOKEN_INVALID),
        "expired": (_C.UNAUTHENTICATED, _R.TOKEN_EXPIRED),
        "foreign": (_C.UNAUTHENTICATED, _R.TOKEN_INVALID),
        "scope": (_C.PERMISSION_DENIED, _R.SCOPE_INSUFFICIENT),
        "own key first": (_C.UNAUTHENTICATED, _R.TOKEN_INVALID),
        "unknown method": (_C.UNIMPLEMENTED, _R.METHOD_UNKNOWN),
        "unknown method, unknown caller": (_C.UNAUTHENTICATED, _R.CREDENTIALS_MISSING),
        "nearly a method": (_C.UNIMPLEMENTED, _R.METHOD_UNKNOWN),
        "a query is none of it": (_C.PERMISSION_DENIED, _R.SCOPE_INSUFFICIENT),
    }
    assert edge.upstream.calls == calls


def test_two_credentials_under_one_key_are_refused(edge: Edge) -> None:
    good = bearer(edge.token())
    code, reason = refusal(edge.call(READ, good, good))
    # Envoy has its own table from HTTP 400 to gRPC; the reason is ours.
    assert (code, reason) == (_C.INTERNAL, _R.CREDENTIALS_AMBIGUOUS)


def test_the_whitelist_sees_who_is_connected_to_envoy_and_no_header(edge: Edge) -> None:
    good, forged = bearer(edge.token()), ("x-forwarded-for", "192.0.2.7")
    try:
        edge.authority.whitelist(["192.0.2.7"])
        assert refusal(edge.call(READ, good, forged)) == (_C.PERMISSION_DENIED, _R.ORIGIN_NOT_ALLOWED)
        edge.authority.whitelist([CLIENT])
        assert isinstance(edge.call(READ, good, forged), dict)
    finally:
        edge.authority.whitelist([])


def test_r082_http_routes_have_policies_by_their_names(edge: Edge) -> None:
    token = {"Authorization": edge.token().field_value()}
    status, _, arrived = edge.get("/orders/7?x=1", {**token, "X-Rpz-Subject": "forged"})
    assert (status, dict(arrived)["x-rpz-subject"]) == (200, "user:1")
    status, fields, body = edge.get("/orders/7")
    assert (status, fields["www-authenticate"], fields["cache-control"]) == (
        401,
        'Bearer realm="rpz-auth"',
        "no-store",
    )
    assert body["error_description"]
    status, fields, body = edge.get("/orders/7", {"Authorization": "Bearer x.y.z"})
    assert (status, body["error"]) == (401, "invalid_token")
    assert fields["www-authenticate"].startswith('Bearer realm="rpz-auth", error="invalid_token"')
    short = {"Authorization": edge.token("other").field_value()}
    assert edge.get("/orders/7", short)[::2] == (
        403,
        {
            "error": "insufficient_scope",
            "error_description": "the credential lacks a scope that this method demands",
            "reason": "SCOPE_INSUFFICIENT",
        },
    )
    assert edge.get("/status")[0] == 200
    assert edge.get("/unnamed", token)[0] == 404
    assert edge.get("/unnamed")[0] == 401


async def test_the_asyncio_server_decides_the_same_and_fails_closed(tmp_path: Path) -> None:
    authority, upstream = FakeAuthority(), Upstream()
    guard = ExtAuthz(authority, resource=RESOURCE, policies=POLICIES)
    asked = grpc.aio.server()
    guard.add_to(asked)
    asked_port = asked.add_insecure_port("127.0.0.1:0")
    behind = grpc.server(ThreadPoolExecutor(2), handlers=[upstream])
    behind_port = behind.add_insecure_port("127.0.0.1:0")
    behind.start()
    await asked.start()
    clusters = {"guard": (asked_port, True), "service": (behind_port, True)}
    with (
        guard,
        running_envoy(
            tmp_path,
            clusters,
            filters=[ext_authz("guard", encode_raw_headers=True)],
            routes=[route("/", "service")],
        ) as port,
    ):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(READ)
            good = [bearer(authority.access_token(resource=RESOURCE, scopes=["read"]))]
            assert await method(b"", metadata=good, timeout=20)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"", metadata=[*good, *good], timeout=20)
            assert rpz_auth.reason_of(refused.value) is _R.CREDENTIALS_AMBIGUOUS
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"", metadata=[("authorization", "Bearer x")], timeout=20)
            assert rpz_auth.reason_of(refused.value) is _R.TOKEN_INVALID
            await asked.stop(None)
            with pytest.raises(grpc.aio.AioRpcError) as unavailable:
                await method(b"", metadata=good, timeout=20)
            assert unavailable.value.code() is _C.UNAVAILABLE
    behind.stop(None).wait()
    assert upstream.calls == 1


def test_details_are_those_of_the_rich_error_model(edge: Edge) -> None:
    answer: Any = edge.call(WRITE, bearer(edge.token()))
    (details,) = [value for key, value in answer.trailing_metadata() if key == "grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert dict(info.metadata) == {"required_scopes": "write"}
