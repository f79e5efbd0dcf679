from __future__ import annotations

import asyncio

import rpz_auth
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2 as pb
from rpz_auth.errors import Reason
from server.authority import ORDERS, STOCK, Client, Stubs, TestAuthority, outcome, refusal


async def listed(authority: TestAuthority, app_id: str) -> list[pb.ClientSecret]:
    request = pb.ListClientSecretsRequest(app_id=app_id)
    return list((await authority.admin.apps.ListClientSecrets(request)).client_secrets)


async def test_secret_is_shown_once_and_its_record_never_holds_it(authority: TestAuthority) -> None:
    app = await authority.create_app()
    request = pb.CreateClientSecretRequest(app_id=app.app_id, display_name="first")
    request.expire_time.FromSeconds(2_000_000_000)
    created = await authority.admin.apps.CreateClientSecret(request)
    assert created.client_secret.startswith("rpzs_")
    expected = pb.ClientSecret(secret_id=created.record.secret_id, app_id=app.app_id, display_name="first")
    expected.create_time.FromMilliseconds(int(authority.store.now() * 1000))
    expected.expire_time.FromSeconds(2_000_000_000)
    assert created.record == expected
    assert await listed(authority, app.app_id) == [expected]
    assert created.client_secret not in repr(await authority.audit())


async def test_frontend_never_has_a_secret(authority: TestAuthority) -> None:
    app = await authority.create_app(kind=pb.APP_KIND_FRONTEND)
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    assert await refusal(authority.admin.apps.CreateClientSecret(request)) == Reason.REQUEST_INVALID


async def test_r211_revoked_secret_stops_and_makes_room_for_another(authority: TestAuthority) -> None:
    app = await authority.create_app()
    secrets = [await authority.create_secret(app.app_id) for _ in range(10)]
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    assert await refusal(authority.admin.apps.CreateClientSecret(request)) == Reason.REQUEST_INVALID
    first = (await listed(authority, app.app_id))[0].secret_id
    revoke = pb.RevokeClientSecretRequest(app_id=app.app_id, secret_id=first)
    await authority.admin.apps.RevokeClientSecret(revoke)
    audit = await authority.audit()
    await authority.admin.apps.RevokeClientSecret(revoke)
    assert await authority.audit() == audit
    secrets.append(await authority.create_secret(app.app_id))
    good = 0
    for secret in secrets:
        client = Client(app.app_id, secret)
        code = await authority.issue_code(client)
        found = await refusal(authority.exchange(client, code, code_verifier="w" * 43))
        good += found == Reason.GRANT_INVALID
        assert found in (Reason.GRANT_INVALID, Reason.CLIENT_INVALID)
    assert good == 10


async def test_secret_of_another_app_cannot_be_revoked_through_ones_own(authority: TestAuthority) -> None:
    mine, other = await authority.create_client(), await authority.create_client()
    (record,) = await listed(authority, other.app_id)
    for secret_id in (record.secret_id, "nonsense", "", "\x00"):
        request = pb.RevokeClientSecretRequest(app_id=mine.app_id, secret_id=secret_id)
        assert await refusal(authority.admin.apps.RevokeClientSecret(request)) == Reason.NOT_FOUND
    assert (await authority.sign_in(other)).access_token


async def _of(stubs: Stubs, app_id: str, secret_id: str) -> list[object]:
    revoke = pb.RevokeClientSecretRequest(app_id=app_id, secret_id=secret_id)
    return [
        await refusal(stubs.apps.CreateClientSecret(pb.CreateClientSecretRequest(app_id=app_id))),
        await refusal(stubs.apps.ListClientSecrets(pb.ListClientSecretsRequest(app_id=app_id))),
        await refusal(stubs.apps.RevokeClientSecret(revoke)),
    ]


async def test_r144_a125_foreign_and_missing_apps_get_the_same_answer(authority: TestAuthority) -> None:
    foreign = await authority.create_client()
    (record,) = await listed(authority, foreign.app_id)
    _, stubs = await authority.app_with("rpz.apps")
    answers = [
        await _of(stubs, app_id, record.secret_id)
        for app_id in (foreign.app_id, "00000000-0000-4000-8000-000000000000", "x", "")
    ]
    assert answers[0] == [Reason.NOT_FOUND] * 3
    assert all(answer == answers[0] for answer in answers)


async def an_owner(authority: TestAuthority, *scopes: str) -> tuple[str, Stubs]:
    """An App that may have Apps, and give them what is its own: these scopes, for orders."""
    return await authority.app_with("rpz.apps", *scopes, resources=[authority.settings.issuer, ORDERS])


async def test_owner_gives_its_app_a_secret(authority: TestAuthority) -> None:
    app_id, stubs = await an_owner(authority, "orders.read", "orders.write")
    app = await authority.create_app(owner=f"app:{app_id}")
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    created = await stubs.apps.CreateClientSecret(request)
    assert (await authority.sign_in(Client(app.app_id, created.client_secret))).access_token


async def test_owner_gets_no_more_by_a_secret_than_by_an_api_token(authority: TestAuthority) -> None:
    app_id, stubs = await an_owner(authority, "orders.read")
    strong = await authority.create_app(owner=f"app:{app_id}", scopes=["orders.read", "orders.write"])
    elsewhere = await authority.create_app(
        owner=f"app:{app_id}", scopes=["orders.read"], resources=[ORDERS, STOCK]
    )
    mask = FieldMask(paths=["expire_time"])
    for app in (strong, elsewhere):
        until = Timestamp(seconds=int(authority.store.now()) + 100)
        make = pb.CreateClientSecretRequest(app_id=app.app_id, expire_time=until)
        secret = (await authority.admin.apps.CreateClientSecret(make)).record
        update = pb.UpdateClientSecretRequest(client_secret=secret, update_mask=mask)
        update.client_secret.expire_time.seconds += 1
        rotate = pb.RotateClientSecretRequest(app_id=app.app_id)
        for call in (
            stubs.apps.CreateClientSecret(make),
            stubs.apps.RotateClientSecret(rotate),
            stubs.apps.UpdateClientSecret(update),
        ):
            assert await refusal(call) == Reason.RIGHTS_INSUFFICIENT
        assert await listed(authority, app.app_id) == [secret]
        # What makes it safer is the owner's to do.
        update.client_secret.expire_time.seconds -= 2
        shortened = (await stubs.apps.UpdateClientSecret(update)).client_secret
        assert shortened.expire_time == update.client_secret.expire_time
        await stubs.apps.RevokeClientSecret(
            pb.RevokeClientSecretRequest(app_id=app.app_id, secret_id=secret.secret_id)
        )


async def test_a128_bound_of_secrets_holds_for_those_that_are_made_at_the_same_time(
    authority: TestAuthority,
) -> None:
    app = await authority.create_app()
    for _ in range(8):
        await authority.create_secret(app.app_id)
    arrived, waiting = asyncio.Event(), 0

    async def together(*_: object) -> None:
        nonlocal waiting
        waiting += 1
        if waiting >= 5:
            arrived.set()
        await arrived.wait()

    authority.store.before["commit"] = together
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    calls = [outcome(authority.admin.apps.CreateClientSecret(request)) for _ in range(5)]
    answers = await asyncio.gather(*calls)
    assert waiting > 5  # all had counted eight before any was written
    assert sum(isinstance(answer, pb.CreateClientSecretResponse) for answer in answers) == 2
    assert answers.count(Reason.REQUEST_INVALID) == 3
    assert len(await listed(authority, app.app_id)) == 10


async def test_expired_secret_makes_room_for_another(authority: TestAuthority) -> None:
    app = await authority.create_app()
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    request.expire_time.FromSeconds(int(authority.store.now()) + 10)
    for _ in range(10):
        await authority.admin.apps.CreateClientSecret(request)
    request.ClearField("expire_time")
    assert await refusal(authority.admin.apps.CreateClientSecret(request)) == Reason.REQUEST_INVALID
    await authority.advance(10)
    assert (await authority.admin.apps.CreateClientSecret(request)).client_secret


async def test_token_that_was_cut_gets_no_scopes_of_the_authority_back_by_a_secret(
    authority: TestAuthority,
) -> None:
    issuer = authority.settings.issuer
    app_id, _ = await authority.app_with("rpz.admin", "rpz.apps")
    await authority.update_app(app_id, owner=f"app:{app_id}")
    narrow = await authority.create_api_token(app_id, ["rpz.apps"], [issuer])
    stubs = authority.stubs(rpz_auth.ApiToken(app_id, narrow.api_token))
    made = pb.CreateClientSecretRequest(app_id=app_id)
    assert await refusal(stubs.apps.CreateClientSecret(made)) == Reason.RIGHTS_INSUFFICIENT
    rotated = pb.RotateClientSecretRequest(app_id=app_id)
    assert await refusal(stubs.apps.RotateClientSecret(rotated)) == Reason.RIGHTS_INSUFFICIENT
    assert await listed(authority, app_id) == []
