from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz.auth.v1 import app_service_pb2
from rpz_auth.address import Peer, parse_address
from rpz_auth.errors import OriginNotAllowed, Reason
from rpz_auth.whitelist import Whitelist
from rpz_auth_server.domain.app import App
from rpz_auth_server.live.dns import Dns
from rpz_auth_server.live.resolver import Resolver
from server.authority import ORDERS, FakeTime, TestAuthority, outcome, running_authority
from support.authority import reason
from support.dns_server import DnsServer, running_dns
from support.orders import Orders


class _Service:
    """A service behind a trusted proxy, which says for whom it calls."""

    def __init__(self, verifier: Path) -> None:
        self._auth = rpz_auth.AuthInterceptor(
            rpz_auth.connect(verifier),
            resource=ORDERS,
            services=["orders.v1.OrderService"],
            trusted_proxies=["127.0.0.1"],
        )
        self._server = grpc.server(ThreadPoolExecutor(2), interceptors=[self._auth])
        orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), self._server)  # type: ignore[abstract] # one is enough
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._auth.__enter__()
        self._server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._port}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()
        self._server.stop(None).wait()
        self._auth.__exit__(None, None, None)

    def answer(self, token: str, address: str) -> str | None:
        """None when the call passes, else the reason."""
        try:
            orders_pb2_grpc.OrderServiceStub(self._channel).GetOrder(
                orders_pb2.GetOrderRequest(order_id="7"),
                metadata=(("authorization", f"Bearer {token}"), ("x-forwarded-for", address)),
                timeout=20,
            )
        except grpc.RpcError as error:
            return reason(error)
        return None


def _resolver(authority: TestAuthority, server: DnsServer) -> Resolver:
    dns = Dns([("127.0.0.1", server.port)], timeout=0.2, lifetime=0.4)
    return Resolver(authority.store, dns, luck=lambda: 0.0)


async def _round(resolver: Resolver) -> None:
    await resolver.look_up_due()
    await resolver.idle()
    await resolver.settle()


async def _stored(authority: TestAuthority, app_id: str) -> App:
    app = await authority.store.inner.app(app_id)
    assert app is not None
    return app


async def test_a81_name_lets_nobody_pass_before_it_is_found(authority: TestAuthority) -> None:
    app = await _stored(authority, (await authority.create_app(whitelist=["a.example"])).app_id)
    assert (app.whitelist, app.resolved) == (("dns:a.example",), ())
    with pytest.raises(OriginNotAllowed):
        Whitelist(app.state.whitelist).check(Peer(address=parse_address("8.8.8.8")))


async def test_a81_verifiers_are_told_where_names_lead_and_when_that_changes(
    authority: TestAuthority,
) -> None:
    app_id = (await authority.create_app(whitelist=["a.example", "10.0.0.1"])).app_id
    async with running_dns() as server:
        resolver = _resolver(authority, server)
        server.addresses["a.example"] = ["8.8.8.8", "127.0.0.1", "10.9.9.9"]
        await _round(resolver)
        app = await _stored(authority, app_id)
        assert app.resolved == ("8.8.8.8",)
        snapshot = await authority.store.inner.snapshot()
        told = {state.app_id: state.whitelist for state in snapshot.apps}
        assert told[app_id] == ("dns:a.example", "10.0.0.1", "8.8.8.8") == app.state.whitelist
        shown = (await authority.admin.apps.GetApp(app_service_pb2.GetAppRequest(app_id=app_id))).app
        assert (list(shown.whitelist), list(shown.resolved_addresses)) == (
            ["dns:a.example", "10.0.0.1"],
            ["8.8.8.8"],
        )
        server.addresses["a.example"] = ["8.8.4.4"]
        await _round(resolver)
        assert await _stored(authority, app_id) == app  # not due
        await authority.advance(30)
        await _round(resolver)
        changed = await _stored(authority, app_id)
        assert (changed.resolved, changed.version) == (("8.8.4.4",), app.version + 1)
        await authority.catch_up()
        peer = Peer(address=parse_address("8.8.8.8"))
        with pytest.raises(OriginNotAllowed):
            Whitelist(changed.state.whitelist).check(peer)


async def test_a81_last_good_answer_is_kept_for_an_hour_then_nobody_passes(authority: TestAuthority) -> None:
    app_id = (await authority.create_app(whitelist=["a.example"])).app_id
    async with running_dns() as server:
        resolver = _resolver(authority, server)
        server.addresses["a.example"] = ["8.8.8.8"]
        await _round(resolver)
        server.silent.add("a.example")
        await authority.advance(3599)
        await _round(resolver)
        assert (await _stored(authority, app_id)).resolved == ("8.8.8.8",)
        await authority.advance(1)
        # What a process does before it serves, after it was down.
        await _resolver(authority, server).settle()
        assert (await _stored(authority, app_id)).resolved == ()
        server.silent.clear()
        await authority.advance(600)
        await _round(resolver)
        assert (await _stored(authority, app_id)).resolved == ("8.8.8.8",)


async def test_a81_private_addresses_count_by_an_administrators_leave(authority: TestAuthority) -> None:
    _, owner = await authority.app_with("rpz.apps")
    app_id = (await authority.create_app(owner, whitelist=["a.example"], scopes=[], resources=[])).app_id
    async with running_dns() as server:
        server.addresses["a.example"] = ["10.0.0.1"]
        await _round(_resolver(authority, server))
    assert (await _stored(authority, app_id)).resolved == ()
    refused = await outcome(authority.update_app(app_id, as_=owner, private_names_allowed=True))
    assert refused == Reason.RIGHTS_INSUFFICIENT
    assert list((await authority.update_app(app_id, private_names_allowed=True)).resolved_addresses) == [
        "10.0.0.1"
    ]
    assert not (await authority.update_app(app_id, private_names_allowed=False)).resolved_addresses


async def test_a81_name_that_is_taken_away_takes_its_addresses_along(authority: TestAuthority) -> None:
    app_id = (await authority.create_app(whitelist=["a.example", "b.example"])).app_id
    async with running_dns() as server:
        server.addresses |= {"a.example": ["8.8.8.8"], "b.example": ["8.8.4.4"]}
        await _round(_resolver(authority, server))
    assert (await _stored(authority, app_id)).resolved == ("8.8.4.4", "8.8.8.8")
    assert list((await authority.update_app(app_id, whitelist=["b.example"])).resolved_addresses) == [
        "8.8.4.4"
    ]
    # Another App that names it begins with what is known.
    other = await authority.create_app(whitelist=["a.example"])
    assert list(other.resolved_addresses) == ["8.8.8.8"]


async def test_a81_several_processes_ask_once_and_tell_once(authority: TestAuthority) -> None:
    app_id = (await authority.create_app(whitelist=["a.example"])).app_id
    async with running_dns() as server:
        server.addresses["a.example"] = ["8.8.8.8"]
        resolvers = [_resolver(authority, server) for _ in range(4)]
        await asyncio.gather(*(resolver.look_up_due() for resolver in resolvers))
        await asyncio.gather(*(resolver.idle() for resolver in resolvers))
        await asyncio.gather(*(resolver.settle() for resolver in resolvers))
    assert sorted(server.asked) == [("a.example", "A"), ("a.example", "AAAA")]
    assert (await _stored(authority, app_id)).version == 2


async def test_a81_at_most_a_few_names_are_asked_for_at_a_time(authority: TestAuthority) -> None:
    await authority.create_app(whitelist=[f"n{number}.example" for number in range(9)])
    asking: list[int] = []
    full, release = asyncio.Event(), asyncio.Event()

    class Lookup:
        active = 0

        async def ask(self, name: str) -> Any:
            self.active += 1
            asking.append(self.active)
            if self.active == 3:
                full.set()
            await release.wait()
            self.active -= 1
            raise ValueError(name)  # what nobody thought of ends no other work

    resolver = Resolver(authority.store, Lookup(), at_a_time=3)
    async with asyncio.timeout(20):
        await resolver.look_up_due()
        await full.wait()
        release.set()
        await resolver.idle()
    assert (max(asking), len(asking)) == (3, 9)


async def test_a81_real_verifier_lets_a_named_host_pass_until_the_name_leads_elsewhere(
    tmp_path: Path,
) -> None:
    async with (
        running_authority(tmp_path / "authority", time=FakeTime()) as authority,
        running_dns() as server,
    ):
        client = await authority.create_client(whitelist=["a.example", "127.0.0.1"])
        token = str((await authority.sign_in(client)).access_token)
        await authority.update_app(client.app_id, whitelist=["a.example"])
        path = await authority.verifier_file(tmp_path / "orders.json")
        with contextlib.ExitStack() as leaving:
            # In a thread: it waits for the authority, which runs in this one.
            service = await asyncio.to_thread(lambda: leaving.enter_context(_Service(path)))
            resolver = _resolver(authority, server)

            async def until(address: str, expected: str | None) -> None:
                async with asyncio.timeout(20):
                    while await asyncio.to_thread(service.answer, token, address) != expected:  # noqa: ASYNC110 - another thread
                        await asyncio.sleep(0.02)  # the change is on its way to the service

            await until("8.8.8.8", "ORIGIN_NOT_ALLOWED")
            server.addresses["a.example"] = ["8.8.8.8"]
            await authority.advance(30)
            await _round(resolver)
            await until("8.8.8.8", None)
            await until("8.8.4.4", "ORIGIN_NOT_ALLOWED")
            server.addresses["a.example"] = ["8.8.4.4"]
            await authority.advance(30)
            await _round(resolver)
            await until("8.8.8.8", "ORIGIN_NOT_ALLOWED")
            await until("8.8.4.4", None)


async def test_a81_app_has_at_most_a_hundred_names(authority: TestAuthority) -> None:
    names: Sequence[str] = [f"n{number}.example" for number in range(101)]
    assert len((await authority.create_app(whitelist=names[:100])).whitelist) == 100
    assert await outcome(authority.create_app(whitelist=names)) == Reason.REQUEST_INVALID
