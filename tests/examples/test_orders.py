from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import client
import grpc
import grpc.aio
import grpc_testing  # type: ignore[import-untyped]  # ships no types, and nobody else keeps any
import health_checks
import pytest
import rpz_auth
import server_aio
import server_sync
import service
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orders.v1 import orders_pb2 as pb
from orders.v1 import orders_pb2_grpc
from rpz_auth.testing import APP_ID, FakeAuthority
from rpz_auth_server.transport.tls.development import DevelopmentFiles, ensure_development_files

TIMEOUT = 10
SCOPES = ("orders.read", "orders.write")
OWN = ("authorization", "Token of-the-services-own")
STATUS = pb.DESCRIPTOR.services_by_name["OrderService"].methods_by_name["GetStatus"]
GET = pb.DESCRIPTOR.services_by_name["OrderService"].methods_by_name["GetOrder"]


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


def interceptor(authority: FakeAuthority) -> rpz_auth.AuthInterceptor:
    return rpz_auth.AuthInterceptor(
        authority, resource=service.RESOURCE, services=[service.NAME], policies=health_checks.POLICIES
    )


@contextmanager
def on_threads(authority: FakeAuthority, tls: grpc.ServerCredentials | None = None) -> Iterator[str]:
    auth = interceptor(authority)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[auth])
        orders_pb2_grpc.add_OrderServiceServicer_to_server(server_sync.OrderService(), server)
        health_checks.add_to(server)
        port = server.add_secure_port("127.0.0.1:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
        with auth:
            server.start()
            yield f"127.0.0.1:{port}"
            server.stop(None).wait()


@pytest.fixture
async def addresses(authority: FakeAuthority) -> AsyncIterator[list[str]]:
    """Where the service answers: on threads, and on asyncio."""
    auth = interceptor(authority)
    server = grpc.aio.server(interceptors=[auth])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(server_aio.OrderService(), server)
    health_checks.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    with on_threads(authority) as address:
        async with auth:
            await server.start()
            yield [address, f"127.0.0.1:{port}"]
            await server.stop(None)


def outcomes(address: str, metadata: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What every method comes to: its answers, or the reason of the refusal."""
    orders = [pb.Order(order_id=str(number), item="a pen") for number in range(3)]
    with grpc.insecure_channel(address) as channel:
        stub = orders_pb2_grpc.OrderServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs know no methods of it
        calls: dict[str, Callable[[], Any]] = {
            "GetOrder": lambda: stub.GetOrder(
                pb.GetOrderRequest(order_id="7"), metadata=metadata, timeout=TIMEOUT
            ),
            "WatchOrders": lambda: list(
                stub.WatchOrders(pb.WatchOrdersRequest(count=3), metadata=metadata, timeout=TIMEOUT)
            ),
            "ImportOrders": lambda: stub.ImportOrders(
                iter([pb.ImportOrdersRequest(order=order) for order in orders]),
                metadata=metadata,
                timeout=TIMEOUT,
            ),
            "TradeOrders": lambda: list(
                stub.TradeOrders(
                    iter([pb.TradeOrdersRequest(order=order) for order in orders]),
                    metadata=metadata,
                    timeout=TIMEOUT,
                )
            ),
            "GetStatus": lambda: stub.GetStatus(pb.GetStatusRequest(), metadata=metadata, timeout=TIMEOUT),
            "Check": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT),
        }
        return {name: outcome(call) for name, call in calls.items()}


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except grpc.RpcError as error:
        return error.code(), rpz_auth.reason_of(error)


def good(subject: str, downstream: str = "", *, writes: bool = True) -> dict[str, Any]:
    """The answers to a caller with this subject."""
    short = (grpc.StatusCode.PERMISSION_DENIED, rpz_auth.Reason.SCOPE_INSUFFICIENT)
    return {
        "GetOrder": pb.GetOrderResponse(
            order=pb.Order(order_id="7", item="a book", requested_by=subject),
            downstream_authorization=downstream,
        ),
        "WatchOrders": [
            pb.WatchOrdersResponse(order=pb.Order(order_id=order_id, item="a book", requested_by=subject))
            for order_id in "123"
        ],
        "ImportOrders": pb.ImportOrdersResponse(imported=3) if writes else short,
        "TradeOrders": [
            pb.TradeOrdersResponse(order=pb.Order(order_id=order_id, item="a pen", requested_by=subject))
            for order_id in "012"
        ]
        if writes
        else short,
        **PUBLIC,
    }


PUBLIC = {
    "GetStatus": pb.GetStatusResponse(status="open"),
    "Check": health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
}


def bad(code: grpc.StatusCode, reason: rpz_auth.Reason) -> dict[str, Any]:
    """The answers to a caller that is refused."""
    return {
        **dict.fromkeys(("GetOrder", "WatchOrders", "ImportOrders", "TradeOrders"), (code, reason)),
        **PUBLIC,
    }


async def check(
    addresses: list[str], metadata: tuple[tuple[str, str], ...], expected: dict[str, Any]
) -> None:
    found = await asyncio.gather(*(asyncio.to_thread(outcomes, address, metadata) for address in addresses))
    assert found == [expected] * 2


async def test_both_stacks_answer_the_same_to_an_access_token_in_authorization(
    authority: FakeAuthority, addresses: list[str]
) -> None:
    token = authority.access_token(resource=service.RESOURCE, scopes=SCOPES, subject="user:ada")
    await check(addresses, (("authorization", token.field_value()),), good("user:ada"))


async def test_both_stacks_leave_authorization_to_the_service_beside_x_rpz_auth(
    authority: FakeAuthority, addresses: list[str]
) -> None:
    token = authority.access_token(resource=service.RESOURCE, scopes=SCOPES, subject="user:ada")
    await check(addresses, (OWN, ("x-rpz-auth", token.field_value())), good("user:ada", OWN[1]))


async def test_both_stacks_answer_the_same_to_an_api_token_that_may_only_read(
    authority: FakeAuthority, addresses: list[str]
) -> None:
    token = authority.api_token(resource=service.RESOURCE, scopes=["orders.read"])
    await check(addresses, (("x-rpz-auth", token.field_value()),), good(f"app:{APP_ID}", writes=False))


async def test_both_stacks_refuse_the_same(authority: FakeAuthority, addresses: list[str]) -> None:
    token = authority.access_token(resource=service.RESOURCE, scopes=SCOPES)
    sent = (("authorization", token.field_value()),)
    await check(addresses, (), bad(grpc.StatusCode.UNAUTHENTICATED, rpz_auth.Reason.CREDENTIALS_MISSING))
    authority.whitelist(["192.0.2.1"])
    await check(addresses, sent, bad(grpc.StatusCode.PERMISSION_DENIED, rpz_auth.Reason.ORIGIN_NOT_ALLOWED))
    authority.whitelist([])
    await check(addresses, sent, good("user:1"))
    authority.revoke(token)
    await check(addresses, sent, bad(grpc.StatusCode.UNAUTHENTICATED, rpz_auth.Reason.TOKEN_INVALID))


async def test_both_stacks_stream_until_the_client_ends_it(
    authority: FakeAuthority, addresses: list[str]
) -> None:
    token = authority.access_token(resource=service.RESOURCE, scopes=SCOPES)

    def watch(address: str) -> list[str]:
        with grpc.insecure_channel(address) as channel:
            answers = orders_pb2_grpc.OrderServiceStub(channel).WatchOrders(
                pb.WatchOrdersRequest(), metadata=(("authorization", token.field_value()),), timeout=TIMEOUT
            )
            found = [next(answers).order.order_id for _ in range(100)]
            answers.cancel()
        return found

    found = await asyncio.gather(*(asyncio.to_thread(watch, address) for address in addresses))
    assert found == [[str(number) for number in range(1, 101)]] * 2


def invoke(method: Any, request: Any) -> tuple[Any, Any]:
    """Call the servicer on threads by itself, without a server or an interceptor; its answer and code."""
    server = grpc_testing.server_from_dictionary(
        {pb.DESCRIPTOR.services_by_name["OrderService"]: server_sync.OrderService()},
        grpc_testing.strict_real_time(),
    )
    answer, _, code, _ = server.invoke_unary_unary(method, (), request, TIMEOUT).termination()
    return answer, code


def test_the_servicer_tells_its_status() -> None:
    assert invoke(STATUS, pb.GetStatusRequest()) == (
        pb.GetStatusResponse(status="open"),
        grpc.StatusCode.OK,
    )


def test_the_servicer_answers_nothing_of_a_callers_without_the_interceptor() -> None:
    assert invoke(GET, pb.GetOrderRequest(order_id="7")) == (None, grpc.StatusCode.UNKNOWN)


@pytest.fixture
def tls(tmp_path: Path) -> DevelopmentFiles:
    return ensure_development_files(tmp_path)


@pytest.fixture
def address(authority: FakeAuthority, tls: DevelopmentFiles) -> Iterator[str]:
    pair = tls.server_key.read_bytes(), tls.server.read_bytes()
    with on_threads(authority, grpc.ssl_server_credentials([pair])) as address:
        yield address


def run_client(monkeypatch: pytest.MonkeyPatch, tls: DevelopmentFiles, address: str, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["client.py", "--address", address, "--ca", str(tls.ca), *flags])
    client.main()


def test_the_client_calls_every_method_with_a_token_from_a_file(
    authority: FakeAuthority,
    address: str,
    tls: DevelopmentFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = authority.access_token(resource=service.RESOURCE, scopes=SCOPES, subject="user:ada")
    file = tmp_path / "credential.json"
    file.write_text(f'{{"access_token": "{token.token}"}}')
    run_client(monkeypatch, tls, address, "--credential", str(file))
    assert capsys.readouterr().out.splitlines() == [
        "GetStatus: open",
        "GetOrder: order 7, as user:ada",
        "WatchOrders: 1, 2, 3",
        "ImportOrders: 3",
        "TradeOrders: 1, 2, 3",
    ]


def test_the_client_takes_an_api_token_from_the_environment_into_either_header(
    authority: FakeAuthority,
    address: str,
    tls: DevelopmentFiles,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token = authority.api_token(resource=service.RESOURCE, scopes=SCOPES)
    monkeypatch.setenv("ORDERS_APP_ID", token.app_id)
    monkeypatch.setenv("ORDERS_API_TOKEN", token.token)
    monkeypatch.setenv("ORDERS_DOWNSTREAM_AUTHORIZATION", OWN[1])
    run_client(monkeypatch, tls, address, "--header", "x-rpz-auth")
    beside = capsys.readouterr().out
    assert f"GetOrder: order 7, as app:{APP_ID}\n" in beside
    assert "an authorization of its own" in beside
    run_client(monkeypatch, tls, address)
    assert "an authorization of its own" not in capsys.readouterr().out


def test_the_client_says_why_it_was_refused_and_fails(
    authority: FakeAuthority, address: str, tls: DevelopmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = authority.foreign_token(resource=service.RESOURCE, scopes=SCOPES)
    monkeypatch.setenv("ORDERS_ACCESS_TOKEN", token.token)
    with pytest.raises(SystemExit, match="UNAUTHENTICATED TOKEN_INVALID: the credential is not valid here"):
        run_client(monkeypatch, tls, address)


def test_the_client_says_where_to_put_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ORDERS_ACCESS_TOKEN", "ORDERS_APP_ID", "ORDERS_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "argv", ["client.py"])
    with pytest.raises(SystemExit, match="give --credential a file, or set ORDERS_ACCESS_TOKEN"):
        client.main()
