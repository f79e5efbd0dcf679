"""The emergency stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz.auth.v1 import administration_service_pb2 as pb
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz.auth.v1 import verification_service_pb2 as verification_pb
from rpz_auth.errors import Reason
from server.authority import (
    ORDERS,
    Metadata,
    TestAuthority,
    basic,
    bearer,
    outcome,
    refusal,
    running_authority,
)


async def lock(authority: TestAuthority) -> None:
    await authority.admin.administration.LockIssuer(pb.LockIssuerRequest())


async def unlock(authority: TestAuthority) -> None:
    await authority.admin.administration.UnlockIssuer(pb.UnlockIssuerRequest())


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def GetOrder(self, request: Any, _context: Any) -> Any:  # noqa: N802 - named by the contract
        return orders_pb2.GetOrderResponse(order=orders_pb2.Order(order_id=request.order_id))


@asynccontextmanager
async def orders_service(authority: TestAuthority, folder: Path) -> AsyncIterator[Any]:
    """A service that verifies by itself; how it answers a call with this metadata."""
    connection = rpz_auth.connect(await authority.verifier_file(folder / "orders.json"))
    auth = rpz_auth.AuthInterceptor(connection, resource=ORDERS, services=["orders.v1.OrderService"])
    server = grpc.aio.server(interceptors=[auth])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)  # type: ignore[abstract] # one method is enough
    port = server.add_insecure_port("127.0.0.1:0")
    async with auth, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await server.start()
        stub: Any = orders_pb2_grpc.OrderServiceStub(channel)

        async def call(metadata: Metadata) -> Any:
            return await outcome(
                stub.GetOrder(orders_pb2.GetOrderRequest(order_id="7"), metadata=metadata, timeout=10)
            )

        yield call
        await server.stop(None)


async def soon(call: Any, credentials: Sequence[Metadata], wanted: Sequence[object]) -> None:
    """Every credential is answered like this before long; how long, is measured elsewhere."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5  # on a busy machine
    while True:
        found = [await call(metadata) for metadata in credentials]
        told = [answer if hasattr(answer, "reason") else "passes" for answer in found]
        if all(answer == expected for answer, expected in zip(told, wanted, strict=True)):
            return
        assert loop.time() < deadline, told


async def test_r077_locked_issuer_stops_every_credential_at_every_verifier(tmp_path: Path) -> None:
    async with (
        running_authority(tmp_path / "authority") as authority,
        orders_service(authority, tmp_path) as call,
    ):
        client = await authority.create_client()
        tokens = await authority.sign_in(client)
        kept = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
        unused = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
        used = [bearer(tokens.access_token), basic(client.app_id, kept.api_token)]
        later = basic(client.app_id, unused.api_token)
        await soon(call, used, ["passes"] * 2)
        events = (await authority.store.inner.cursor()).sequence
        await lock(authority)
        assert (await authority.store.inner.cursor()).sequence == events + 1
        await soon(call, [*used, later], [Reason.TOKEN_INVALID] * 3)
        await unlock(authority)
        # API tokens are alive again, old access tokens never.
        await soon(call, [*used, later], [Reason.TOKEN_INVALID, "passes", "passes"])
        renewed = await authority.refresh(client, tokens.refresh_token)
        await soon(call, [bearer(renewed.access_token)], ["passes"])


async def test_locked_issuer_issues_and_refreshes_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = await authority.sign_in(client)
    created = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    _, signs_in = await authority.app_with("rpz.codes.issue", "rpz.admin")
    _, owner = await authority.app_with("rpz.apps")
    _, verifier = await authority.create_verifier()
    question = verification_pb.VerifyApiTokenRequest(app_id=client.app_id, api_token=created.api_token)
    introspection = [
        token_pb.IntrospectTokenRequest(token=token) for token in (tokens.access_token, created.api_token)
    ]
    assert (await verifier.verification.VerifyApiToken(question)).active
    await owner.apps.ListApps(app_pb.ListAppsRequest())
    await authority.issue_code(client, as_=signs_in)

    await lock(authority)
    assert await refusal(authority.exchange(client, code)) == Reason.CLIENT_INVALID
    assert await refusal(authority.refresh(client, tokens.refresh_token)) == Reason.CLIENT_INVALID
    revocation = token_pb.RevokeTokenRequest(token=tokens.refresh_token, **client.body)
    assert await refusal(authority.anonymous.tokens.RevokeToken(revocation)) == Reason.CLIENT_INVALID
    assert await refusal(authority.issue_code(client, as_=signs_in)) == Reason.SCOPE_INSUFFICIENT
    assert await refusal(owner.apps.ListApps(app_pb.ListAppsRequest())) == Reason.TOKEN_INVALID
    assert not (await verifier.verification.VerifyApiToken(question)).active
    for request in introspection:
        assert not (await verifier.tokens.IntrospectToken(request)).active

    await unlock(authority)
    assert await authority.is_alive((await authority.exchange(client, code)).access_token)
    assert not await authority.is_alive(tokens.access_token)
    assert (await verifier.verification.VerifyApiToken(question)).active
    await owner.apps.ListApps(app_pb.ListAppsRequest())
    await authority.issue_code(client, as_=signs_in)


async def test_administrator_finds_out_and_acts_while_the_issuer_is_locked(authority: TestAuthority) -> None:
    client = await authority.create_client()
    await lock(authority)
    records = await authority.admin.administration.ListAuditRecords(
        pb.ListAuditRecordsRequest(action="issuer.")
    )
    assert [record.action for record in records.records] == ["issuer.lock"]
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
    (key,) = (await authority.admin.administration.ListSigningKeys(pb.ListSigningKeysRequest())).signing_keys
    assert not key.HasField("sign_time")
    await unlock(authority)
    (key,) = (await authority.admin.administration.ListSigningKeys(pb.ListSigningKeysRequest())).signing_keys
    assert key.HasField("sign_time")


async def test_key_that_is_rotated_while_the_issuer_is_locked_signs_after_it(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    await lock(authority)
    await authority.admin.administration.RotateSigningKey(pb.RotateSigningKeyRequest())
    await unlock(authority)
    (key,) = (await authority.admin.administration.ListSigningKeys(pb.ListSigningKeysRequest())).signing_keys
    assert not key.HasField("retire_time")
    assert await authority.is_alive((await authority.sign_in(client)).access_token)


async def test_second_lock_or_unlock_changes_nothing(authority: TestAuthority) -> None:
    for change, action in ((lock, "issuer.lock"), (unlock, "issuer.unlock")):
        await change(authority)
        keys = authority.authority.signing.jwks()
        await change(authority)
        assert authority.authority.signing.jwks() == keys
        assert (await authority.actions()).count(action) == 1


async def test_lock_outlives_a_restart(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a") as first:
        client = await first.create_client()
        code = await first.issue_code(client)
        await lock(first)
    async with running_authority(tmp_path / "a") as second:
        assert await refusal(second.exchange(client, code)) == Reason.CLIENT_INVALID
        await unlock(second)
        assert (await second.exchange(client, code)).access_token


async def test_a131_lock_reaches_other_processes(tmp_path: Path) -> None:
    async with (
        running_authority(tmp_path / "a") as first,
        running_authority(tmp_path / "a") as second,
    ):
        client = await second.create_client()
        code = await second.issue_code(client)
        await lock(first)
        await second.catch_up()
        assert await refusal(second.exchange(client, code)) == Reason.CLIENT_INVALID
