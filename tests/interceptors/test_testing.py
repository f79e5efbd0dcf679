"""The fake authority's promises, kept through the interceptor on real servers of both stacks."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz_auth import AccessToken, ApiToken, AuthInterceptor, Reason, TokenInvalid
from rpz_auth.caller import Verdict
from rpz_auth.question import ApiTokenQuestion
from rpz_auth.testing import APP_ID, ISSUER, FakeAuthority
from support.clock import Clock

RESOURCE = "https://orders"
SERVICE = "orders.v1.OrderService"
NOW = 1_800_000_000.9
OTHER_APP = "11111111-1111-4111-8111-111111111111"
READ: dict[str, Any] = {"resource": RESOURCE, "scopes": ["orders.read"]}


class Orders(orders_pb2_grpc.OrderServiceServicer):
    """Says who called."""

    def GetOrder(self, _request: Any, _context: Any) -> orders_pb2.GetOrderResponse:  # noqa: N802 - the contract's name
        return orders_pb2.GetOrderResponse(order=orders_pb2.Order(requested_by=rpz_auth.caller().subject))

    def WatchOrders(self, request: Any, _context: Any) -> Iterator[orders_pb2.WatchOrdersResponse]:  # noqa: N802 - the contract's name
        for number in range(request.count):
            yield orders_pb2.WatchOrdersResponse(order=orders_pb2.Order(order_id=str(number)))

    def ImportOrders(self, messages: Any, _context: Any) -> orders_pb2.ImportOrdersResponse:  # noqa: N802 - the contract's name
        return orders_pb2.ImportOrdersResponse(imported=sum(1 for _ in messages))

    def TradeOrders(self, messages: Any, _context: Any) -> Iterator[orders_pb2.TradeOrdersResponse]:  # noqa: N802 - the contract's name
        for message in messages:
            yield orders_pb2.TradeOrdersResponse(order=message.order)

    def GetStatus(self, _request: Any, _context: Any) -> orders_pb2.GetStatusResponse:  # noqa: N802 - the contract's name
        return orders_pb2.GetStatusResponse(status=str(rpz_auth.peer()))


class AsyncOrders(orders_pb2_grpc.OrderServiceServicer):
    """The same for asyncio."""

    async def GetOrder(self, _request: Any, _context: Any) -> orders_pb2.GetOrderResponse:  # noqa: N802 - the contract's name
        return orders_pb2.GetOrderResponse(order=orders_pb2.Order(requested_by=rpz_auth.caller().subject))

    async def WatchOrders(  # noqa: N802 - the contract's name
        self, request: Any, _context: Any
    ) -> AsyncIterator[orders_pb2.WatchOrdersResponse]:
        for number in range(request.count):
            yield orders_pb2.WatchOrdersResponse(order=orders_pb2.Order(order_id=str(number)))

    async def ImportOrders(self, messages: Any, _context: Any) -> orders_pb2.ImportOrdersResponse:  # noqa: N802 - the contract's name
        return orders_pb2.ImportOrdersResponse(imported=len([1 async for _ in messages]))

    async def TradeOrders(  # noqa: N802 - the contract's name
        self, messages: Any, _context: Any
    ) -> AsyncIterator[orders_pb2.TradeOrdersResponse]:
        async for message in messages:
            yield orders_pb2.TradeOrdersResponse(order=message.order)

    async def GetStatus(self, _request: Any, _context: Any) -> orders_pb2.GetStatusResponse:  # noqa: N802 - the contract's name
        return orders_pb2.GetStatusResponse(status=str(rpz_auth.peer()))


@contextlib.contextmanager
def threads(auth: AuthInterceptor) -> Iterator[int]:
    """Serve with `grpc.server`; the port."""
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[auth])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@contextlib.contextmanager
def tasks(auth: AuthInterceptor) -> Iterator[int]:
    """Serve with `grpc.aio.server`, in a loop of its own; the port."""
    ready: queue.Queue[tuple[int, Callable[[], object]]] = queue.Queue()

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[auth])
        orders_pb2_grpc.add_OrderServiceServicer_to_server(AsyncOrders(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        ready.put((port, lambda: loop.call_soon_threadsafe(stopped.set)))
        await stopped.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, stop = ready.get(timeout=30)
    yield port
    stop()
    thread.join()


STACKS: dict[str, Callable[[AuthInterceptor], AbstractContextManager[int]]] = {
    "grpc.server": threads,
    "grpc.aio.server": tasks,
}


class Bench:
    """A fake authority, the service that it guards, and a client of that."""

    def __init__(self, authority: FakeAuthority, clock: Clock, channel: grpc.Channel) -> None:
        self.authority = authority
        self.clock = clock
        self._stub: Any = orders_pb2_grpc.OrderServiceStub(channel)

    def get(self, credential: AccessToken | ApiToken | None = None) -> str | Reason | None:
        """Who the service says called, or why it refused."""
        metadata = [("x-rpz-auth", credential.field_value())] if credential else []
        try:
            answer = self._stub.GetOrder(orders_pb2.GetOrderRequest(), metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return rpz_auth.reason_of(error)
        return str(answer.order.requested_by)

    def watch(self, credential: AccessToken | ApiToken) -> int | Reason | None:
        """How many orders came on a stream, or why it was refused."""
        call = self._stub.WatchOrders(
            orders_pb2.WatchOrdersRequest(count=3),
            metadata=[("authorization", credential.field_value())],
            timeout=30,
        )
        try:
            return len(list(call))
        except grpc.RpcError as error:
            return rpz_auth.reason_of(error)

    def send(self, credential: AccessToken | ApiToken, *, count: int) -> tuple[Any, Any]:
        """What the methods that read a stream make of so many orders."""
        metadata = [("authorization", credential.field_value())]
        imports = iter([orders_pb2.ImportOrdersRequest()] * count)
        trades = iter([orders_pb2.TradeOrdersRequest()] * count)
        return (
            self._stub.ImportOrders(imports, metadata=metadata, timeout=30).imported,
            len(list(self._stub.TradeOrders(trades, metadata=metadata, timeout=30))),
        )

    def status(self) -> str:
        """What the public method says."""
        return str(self._stub.GetStatus(orders_pb2.GetStatusRequest(), timeout=30).status)


@contextlib.contextmanager
def serving(stack: str, authority: FakeAuthority, clock: Clock, *, enter: bool = True) -> Iterator[Bench]:
    auth = AuthInterceptor(authority, resource=RESOURCE, services=[SERVICE])
    with (
        auth if enter else contextlib.nullcontext(),
        STACKS[stack](auth) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Bench(authority, clock, channel)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(stack: str) -> Iterator[Bench]:
    clock = Clock(NOW)
    with serving(stack, FakeAuthority(clock=clock), clock) as served:
        yield served


def test_a_valid_token_passes_as_whom_it_was_made_for(bench: Bench) -> None:
    assert bench.get(bench.authority.access_token(**READ)) == "user:1"
    assert bench.get(bench.authority.access_token(**READ, subject="user:ä")) == "user:ä"
    assert bench.get(bench.authority.api_token(**READ)) == f"app:{APP_ID}"
    assert bench.get(bench.authority.api_token(**READ, app_id=OTHER_APP)) == f"app:{OTHER_APP}"


def test_a_valid_token_passes_in_all_call_shapes(bench: Bench) -> None:
    scopes = ["orders.read", "orders.write"]
    for make in (bench.authority.access_token, bench.authority.api_token):
        credential = make(resource=RESOURCE, scopes=scopes)
        assert bench.watch(credential) == 3
        assert bench.send(credential, count=2) == (2, 2)


def test_a_call_without_credential_is_refused_and_a_public_one_is_not(bench: Bench) -> None:
    assert bench.get() is Reason.CREDENTIALS_MISSING
    assert bench.status() == "127.0.0.1"


def test_scopes_and_resource_are_as_told(bench: Bench) -> None:
    for make in (bench.authority.access_token, bench.authority.api_token):
        assert bench.get(make(resource=RESOURCE)) is Reason.SCOPE_INSUFFICIENT
        assert bench.get(make(resource=RESOURCE, scopes=["orders.write"])) is Reason.SCOPE_INSUFFICIENT
        assert bench.get(make(resource="https://other", scopes=["orders.read"])) is Reason.TOKEN_INVALID


def test_an_expired_token_is_refused(bench: Bench) -> None:
    for make in (bench.authority.access_token, bench.authority.api_token):
        assert bench.get(make(**READ, expires_in=-1)) is Reason.TOKEN_EXPIRED
        assert bench.get(make(**READ, expires_in=0)) is Reason.TOKEN_EXPIRED
        assert bench.watch(make(**READ, expires_in=-1)) is Reason.TOKEN_EXPIRED


def test_a_token_lives_exactly_as_long_as_told(bench: Bench) -> None:
    for make in (bench.authority.access_token, bench.authority.api_token):
        bench.clock.time = NOW
        token = make(**READ, expires_in=0.5)
        bench.clock.time = NOW + 0.25
        assert bench.get(token) in ("user:1", f"app:{APP_ID}")
        bench.clock.time = NOW + 0.5
        assert bench.get(token) is Reason.TOKEN_EXPIRED


def test_an_access_token_lives_two_hours_and_an_api_token_without_end(bench: Bench) -> None:
    access_token, api_token = bench.authority.access_token(**READ), bench.authority.api_token(**READ)
    bench.clock.time += 7199
    assert bench.get(access_token) == "user:1"
    bench.clock.time += 1
    assert bench.get(access_token) is Reason.TOKEN_EXPIRED
    bench.clock.time += 1e9
    assert bench.get(api_token) == f"app:{APP_ID}"


def test_further_claims_replace_and_add(bench: Bench) -> None:
    make = bench.authority.access_token
    assert bench.get(make(**READ, act={"sub": "x"})) == "user:1"
    assert bench.get(make(**READ, aud=["https://other", RESOURCE])) == "user:1"
    assert bench.get(make(**READ, iss="https://other")) is Reason.TOKEN_INVALID
    assert bench.get(make(**READ, epoch=-1)) is Reason.TOKEN_INVALID
    assert bench.get(make(**READ, iat=NOW + 61)) is Reason.TOKEN_INVALID
    token = make(**READ, jti="mine")
    bench.authority.revoke(make(**READ, jti="mine"))
    assert bench.get(token) is Reason.TOKEN_INVALID


def test_a_foreign_token_is_refused(bench: Bench) -> None:
    assert bench.get(bench.authority.foreign_token(**READ)) is Reason.TOKEN_INVALID


def test_a_token_of_another_fake_authority_is_refused(bench: Bench) -> None:
    other = FakeAuthority(clock=bench.clock)
    assert bench.get(other.access_token(**READ)) is Reason.TOKEN_INVALID
    assert bench.get(other.api_token(**READ)) is Reason.TOKEN_INVALID


def test_revoking_takes_effect_at_once_on_this_credential_alone(bench: Bench) -> None:
    first = bench.authority.access_token
    for make in (first, bench.authority.api_token):
        revoked, kept = make(**READ), make(**READ)
        assert bench.get(revoked) == bench.get(kept) == ("user:1" if make == first else f"app:{APP_ID}")
        bench.authority.revoke(revoked)
        assert bench.get(revoked) is Reason.TOKEN_INVALID
        assert bench.watch(revoked) is Reason.TOKEN_INVALID
        assert bench.watch(kept) == 3


def test_a_credential_can_be_revoked_before_its_first_use_and_by_its_text(bench: Bench) -> None:
    access_token, api_token = bench.authority.access_token(**READ), bench.authority.api_token(**READ)
    bench.authority.revoke(AccessToken(access_token.token))
    bench.authority.revoke(ApiToken(api_token.app_id, api_token.token))
    assert (bench.get(access_token), bench.get(api_token)) == (Reason.TOKEN_INVALID, Reason.TOKEN_INVALID)


def test_a_whitelist_restricts_its_app_and_an_empty_one_frees_it(bench: Bench) -> None:
    ours, others = (
        bench.authority.access_token(**READ),
        bench.authority.access_token(**READ, app_id=OTHER_APP),
    )
    for entries, outcome in (
        (["192.0.2.0/24"], Reason.ORIGIN_NOT_ALLOWED),
        (["192.0.2.0/24", "127.0.0.0/8"], "user:1"),
        (["san:client.example"], Reason.ORIGIN_NOT_ALLOWED),
        (["::1"], Reason.ORIGIN_NOT_ALLOWED),
        (["127.0.0.1"], "user:1"),
        (["127.0.0.2"], Reason.ORIGIN_NOT_ALLOWED),
        ([], "user:1"),
    ):
        bench.authority.whitelist(entries)
        assert bench.get(ours) == outcome
        assert bench.get(others) == "user:1"
        assert bench.get(bench.authority.api_token(**READ)) == (
            outcome if isinstance(outcome, Reason) else f"app:{APP_ID}"
        )


@pytest.mark.parametrize(
    "entry", ["192.0.2.1/24", "0.0.0.0/0", "*.example", "", "san:", "san:*.example", " ::1"]
)
def test_an_entry_that_no_authority_would_take_is_an_error_and_changes_nothing(entry: str) -> None:
    authority = FakeAuthority()
    with pytest.raises(ValueError, match=r"\w"):
        authority.whitelist(["127.0.0.1", entry])
    authority.start()
    assert authority._apps == {}


def test_a_locked_app_stops_and_an_unlocked_one_lets_only_api_tokens_live_again(bench: Bench) -> None:
    access_token, api_token = bench.authority.access_token(**READ), bench.authority.api_token(**READ)
    unused = bench.authority.api_token(**READ)
    assert (bench.get(access_token), bench.get(api_token)) == ("user:1", f"app:{APP_ID}")
    bench.authority.lock()
    for credential in (access_token, api_token, unused):
        assert bench.get(credential) is Reason.TOKEN_INVALID
    assert bench.get(bench.authority.access_token(**READ, app_id=OTHER_APP)) == "user:1"
    bench.authority.unlock()
    assert bench.get(access_token) is Reason.TOKEN_INVALID
    assert (bench.get(api_token), bench.get(unused)) == (f"app:{APP_ID}", f"app:{APP_ID}")
    assert bench.get(bench.authority.access_token(**READ)) == "user:1"


def test_locking_keeps_the_whitelist(bench: Bench) -> None:
    bench.authority.whitelist(["192.0.2.0/24"])
    bench.authority.lock()
    bench.authority.unlock()
    assert bench.get(bench.authority.api_token(**READ)) is Reason.ORIGIN_NOT_ALLOWED


def test_while_cut_off_nothing_is_decided_and_public_methods_answer(bench: Bench) -> None:
    access_token, api_token = bench.authority.access_token(**READ), bench.authority.api_token(**READ)
    assert bench.get(access_token) == "user:1"
    bench.authority.cut_off()
    for credential in (access_token, api_token, bench.authority.access_token(**READ)):
        assert bench.get(credential) is Reason.BACKEND_UNAVAILABLE
    assert bench.status() == "127.0.0.1"
    bench.authority.restore()
    assert (bench.get(access_token), bench.get(api_token)) == ("user:1", f"app:{APP_ID}")


def test_what_is_arranged_while_cut_off_counts_after_the_restoring(bench: Bench) -> None:
    credential = bench.authority.access_token(**READ)
    bench.authority.cut_off()
    bench.authority.revoke(credential)
    bench.authority.restore()
    assert bench.get(credential) is Reason.TOKEN_INVALID


def test_an_authority_that_was_cut_off_before_the_start_stays_so(stack: str) -> None:
    clock = Clock(NOW)
    authority = FakeAuthority(clock=clock)
    authority.cut_off()
    with serving(stack, authority, clock) as bench:
        assert bench.get(authority.access_token(**READ)) is Reason.BACKEND_UNAVAILABLE
        authority.restore()
        assert bench.get(authority.access_token(**READ)) == "user:1"


def test_before_the_interceptor_is_entered_calls_are_unavailable(stack: str) -> None:
    clock = Clock(NOW)
    authority = FakeAuthority(clock=clock)
    with serving(stack, authority, clock, enter=False) as bench:
        assert bench.get(authority.access_token(**READ)) is Reason.BACKEND_UNAVAILABLE
        authority.start()
        authority.wait(0)
        assert bench.get(authority.access_token(**READ)) == "user:1"


def test_what_is_arranged_before_the_start_holds_after_it_and_after_a_second_one(stack: str) -> None:
    clock = Clock(NOW)
    authority = FakeAuthority(clock=clock)
    revoked, kept, early = (authority.access_token(**READ) for _ in range(3))
    other = authority.access_token(**READ, app_id=OTHER_APP)
    authority.revoke(revoked)
    authority.whitelist(["192.0.2.1"], app_id=OTHER_APP)
    for _ in range(2):
        with serving(stack, authority, clock) as bench:
            assert bench.get(revoked) is Reason.TOKEN_INVALID
            assert bench.get(kept) == "user:1"
            assert bench.get(other) is Reason.ORIGIN_NOT_ALLOWED
    authority.lock()
    with serving(stack, authority, clock) as bench:
        assert bench.get(early) is Reason.TOKEN_INVALID


def test_the_issuer_is_as_told(stack: str) -> None:
    clock = Clock(NOW)
    authority = FakeAuthority(issuer="https://mine.test", clock=clock)
    with serving(stack, authority, clock) as bench:
        assert bench.get(authority.access_token(**READ)) == "user:1"
        assert bench.get(authority.access_token(**READ, iss=ISSUER)) is Reason.TOKEN_INVALID


def test_without_a_clock_of_its_own_it_goes_by_the_time_of_day(stack: str) -> None:
    authority = FakeAuthority()
    with serving(stack, authority, Clock(NOW)) as bench:
        assert bench.get(authority.access_token(**READ, expires_in=60)) == "user:1"
        assert bench.get(authority.access_token(**READ, expires_in=-60)) is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    "app_id", ["shop", "", APP_ID.replace("-", ""), f"{{{APP_ID}}}", APP_ID.replace("8", "A")]
)
def test_an_api_token_for_what_is_no_app_id_is_an_error_instead_of_a_token_that_never_works(
    app_id: str,
) -> None:
    with pytest.raises(ValueError, match=r"UUID|App ID"):
        FakeAuthority().api_token(**READ, app_id=app_id)


def test_no_text_of_the_authority_shows_a_credential() -> None:
    authority = FakeAuthority()
    credentials: list[AccessToken | ApiToken] = [authority.access_token(**READ), authority.api_token(**READ)]
    for credential in credentials:
        assert credential.token not in repr(credentials) + repr(authority) + repr(authority._token_ids)


def test_an_api_token_may_travel_in_a_url_when_the_test_says_so_of_it_and_of_its_app() -> None:
    authority = FakeAuthority()
    authority.start()
    may, may_not = (authority.api_token(**READ, query_token_allowed=may) for may in (True, False))
    verdicts = [
        verdict
        for token in (may, may_not)
        if isinstance(verdict := authority.ask(ApiTokenQuestion(APP_ID, token.token)), Verdict)
    ]
    with pytest.raises(TokenInvalid):
        authority.view.check_query_token(verdicts[0])
    authority.allow_query_token()
    authority.view.check_query_token(verdicts[0])
    with pytest.raises(TokenInvalid):
        authority.view.check_query_token(verdicts[1])
