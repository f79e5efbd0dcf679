"""Credentials that follow one another without a gap, deadlines that move, creations that are repeated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import rpz_auth
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.errors import Reason
from rpz_auth_server.flows.credentials import MAX_OVERLAP
from rpz_auth_server.live.endings import tell
from rpz_auth_server.live.expiry import warn
from rpz_auth_server.storage.store import Commit
from server.authority import ORDERS, STOCK, Client, TestAuthority, outcome, refusal
from server.oauth import for_itself

UUID = "5f0c8ae6-0f2b-4c6e-9d7b-2f2f1a1c9a10"
OTHER_UUID = "5f0c8ae6-0f2b-4c6e-9d7b-2f2f1a1c9a11"
DAY = 86400


def at(authority: TestAuthority, seconds: int) -> Timestamp:
    return Timestamp(seconds=int(authority.store.now()) + seconds)


async def rotate_secret(authority: TestAuthority, app_id: str, **fields: Any) -> Any:
    request = pb.RotateClientSecretRequest(app_id=app_id, **fields)
    return await outcome(authority.admin.apps.RotateClientSecret(request))


async def works(authority: TestAuthority, client: Client) -> bool:
    code = await authority.issue_code(client)
    found = await refusal(authority.exchange(client, code, code_verifier="w" * 43))
    assert found in (Reason.GRANT_INVALID, Reason.CLIENT_INVALID)
    return found == Reason.GRANT_INVALID


async def test_r211_secret_and_its_successor_overlap_and_the_old_one_stops_at_its_deadline(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    made = await rotate_secret(authority, client.app_id, overlap=Duration(seconds=60), display_name="new")
    new = Client(client.app_id, made.client_secret)
    (old,) = made.replaced
    assert old.expire_time.ToMilliseconds() == int(authority.store.now() * 1000) + 60_000
    assert [record.audit.action for record in (await authority.audit())[-2:]] == [
        "client_secret.create",
        "client_secret.retire",
    ]
    assert await works(authority, client)
    assert await works(authority, new)
    await authority.advance(60)
    assert not await works(authority, client)
    assert await works(authority, new)


async def test_rotation_without_overlap_stops_the_old_one_at_once_also_when_there_is_no_more_room(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    for _ in range(9):
        await authority.create_secret(client.app_id)
    found = await rotate_secret(authority, client.app_id, overlap=Duration(seconds=60))
    assert found == Reason.REQUEST_INVALID
    made = await rotate_secret(authority, client.app_id)
    assert len(made.replaced) == 10
    assert not await works(authority, client)
    assert await works(authority, Client(client.app_id, made.client_secret))


async def test_rotation_of_one_leaves_the_others_and_an_earlier_deadline(authority: TestAuthority) -> None:
    app = await authority.create_app()
    request = pb.CreateClientSecretRequest(app_id=app.app_id, expire_time=at(authority, 30))
    one = (await authority.admin.apps.CreateClientSecret(request)).record
    other = (await authority.admin.apps.CreateClientSecret(request)).record
    made = await rotate_secret(authority, app.app_id, secret_id=one.secret_id, overlap=Duration(seconds=3600))
    assert [(each.secret_id, each.expire_time) for each in made.replaced] == [
        (one.secret_id, one.expire_time)
    ]
    listed = await authority.admin.apps.ListClientSecrets(pb.ListClientSecretsRequest(app_id=app.app_id))
    assert other in listed.client_secrets


async def test_rotation_that_cannot_be_changes_nothing(authority: TestAuthority) -> None:
    client, foreign = await authority.create_client(), await authority.create_client()
    listing = pb.ListClientSecretsRequest(app_id=client.app_id)
    before = await authority.admin.apps.ListClientSecrets(listing)
    (theirs,) = (
        await authority.admin.apps.ListClientSecrets(pb.ListClientSecretsRequest(app_id=foreign.app_id))
    ).client_secrets
    for fields, reason in (
        ({"secret_id": theirs.secret_id}, Reason.NOT_FOUND),
        ({"secret_id": "x"}, Reason.NOT_FOUND),
        ({"overlap": Duration(seconds=-1)}, Reason.REQUEST_INVALID),
        ({"expire_time": at(authority, -1)}, Reason.REQUEST_INVALID),
        ({"display_name": "x" * 129}, Reason.REQUEST_INVALID),
        ({"request_id": "x"}, Reason.REQUEST_INVALID),
    ):
        assert await rotate_secret(authority, client.app_id, **fields) == reason, fields
    assert await authority.admin.apps.ListClientSecrets(listing) == before
    assert await rotate_secret(authority, "x") == Reason.NOT_FOUND


async def _update_secret(authority: TestAuthority, record: pb.ClientSecret, *paths: str) -> Any:
    request = pb.UpdateClientSecretRequest(client_secret=record, update_mask=FieldMask(paths=paths))
    return await outcome(authority.admin.apps.UpdateClientSecret(request))


async def test_deadline_of_a_secret_moves_both_ways_and_never_revives(authority: TestAuthority) -> None:
    client = await authority.create_client()
    listing = pb.ListClientSecretsRequest(app_id=client.app_id)
    (record,) = (await authority.admin.apps.ListClientSecrets(listing)).client_secrets
    record.expire_time.CopyFrom(at(authority, 100))
    record.display_name = "not in the mask"
    changed = (await _update_secret(authority, record, "expire_time")).client_secret
    assert (changed.expire_time, changed.display_name) == (record.expire_time, "")
    record.expire_time.CopyFrom(at(authority, 10))
    await _update_secret(authority, record, "expire_time")
    record.ClearField("expire_time")
    assert not (await _update_secret(authority, record, "expire_time")).client_secret.HasField("expire_time")
    await authority.advance(200)
    assert await works(authority, client)
    for paths in ((), ("secret_id",), ("expire_time", "revoke_time"), ("*",)):
        assert await _update_secret(authority, record, *paths) == Reason.REQUEST_INVALID
    record.expire_time.CopyFrom(at(authority, -1))
    assert await _update_secret(authority, record, "expire_time") == Reason.REQUEST_INVALID
    record.expire_time.CopyFrom(at(authority, 10))
    await _update_secret(authority, record, "expire_time")
    await authority.advance(10)
    record.ClearField("expire_time")
    assert await _update_secret(authority, record, "expire_time") == Reason.REQUEST_INVALID
    assert not await works(authority, client)


async def test_r211_api_token_and_its_successor_overlap(authority: TestAuthority) -> None:
    app = await authority.create_app(resources=[ORDERS, STOCK])
    old = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS, STOCK], display_name="ci")
    request = token_pb.RotateApiTokenRequest(
        app_id=app.app_id, api_token_id=old.record.api_token_id, overlap=Duration(seconds=60)
    )
    made = await authority.admin.tokens.RotateApiToken(request)
    assert (made.record.display_name, made.record.scopes, made.record.resources) == (
        "ci",
        old.record.scopes,
        old.record.resources,
    )
    assert made.replaced.expire_time.ToMilliseconds() == int(authority.store.now() * 1000) + 60_000
    assert await authority.is_alive(old.api_token)
    assert await authority.is_alive(made.api_token)
    await authority.advance(60)
    assert not await authority.is_alive(old.api_token)
    assert await authority.is_alive(made.api_token)
    assert await refusal(authority.admin.tokens.RotateApiToken(request)) == Reason.REQUEST_INVALID


@pytest.mark.parametrize("seconds", [MAX_OVERLAP + 1, 315_576_000_000])  # the longest that a Duration can be
async def test_overlap_beyond_its_bound_is_refused_and_leaves_what_is_listed_as_it_was(
    authority: TestAuthority, seconds: int
) -> None:
    client = await authority.create_client()
    token = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    secrets = pb.ListClientSecretsRequest(app_id=client.app_id)
    tokens = token_pb.ListApiTokensRequest(app_id=client.app_id)
    before = (
        await authority.admin.apps.ListClientSecrets(secrets),
        await authority.admin.tokens.ListApiTokens(tokens),
    )
    rotation = token_pb.RotateApiTokenRequest(
        app_id=client.app_id, api_token_id=token.record.api_token_id, overlap=Duration(seconds=seconds)
    )
    refused = await rotate_secret(authority, client.app_id, overlap=rotation.overlap)
    assert refused == Reason.REQUEST_INVALID
    assert await refusal(authority.admin.tokens.RotateApiToken(rotation)) == Reason.REQUEST_INVALID
    after = (
        await authority.admin.apps.ListClientSecrets(secrets),
        await authority.admin.tokens.ListApiTokens(tokens),
    )
    assert after == before
    rotation.overlap.seconds = MAX_OVERLAP
    (replaced,) = (await rotate_secret(authority, client.app_id, overlap=rotation.overlap)).replaced
    assert (
        replaced.expire_time == (await authority.admin.tokens.RotateApiToken(rotation)).replaced.expire_time
    )


async def test_verifiers_ask_anew_when_the_deadline_of_a_token_moves(authority: TestAuthority) -> None:
    app_id, _ = await authority.app_with("rpz.apps")
    created = await authority.create_api_token(app_id, ["rpz.apps"], [authority.settings.issuer])
    stubs = authority.stubs(rpz_auth.ApiToken(app_id, created.api_token))
    await stubs.apps.ListApps(pb.ListAppsRequest())  # its verdict is kept for minutes from here
    record = token_pb.ApiToken(
        app_id=app_id, api_token_id=created.record.api_token_id, expire_time=at(authority, 10)
    )
    request = token_pb.UpdateApiTokenRequest(api_token=record, update_mask=FieldMask(paths=["expire_time"]))
    updated = (await authority.admin.tokens.UpdateApiToken(request)).api_token
    assert updated.expire_time == record.expire_time
    await authority.advance(10)
    assert await refusal(stubs.apps.ListApps(pb.ListAppsRequest())) == Reason.TOKEN_INVALID


async def test_owner_shortens_but_does_not_lengthen_or_replace_what_it_could_not_grant(
    authority: TestAuthority,
) -> None:
    owner_id, stubs = await authority.app_with("rpz.apps")
    app = await authority.create_app(owner=f"app:{owner_id}", scopes=["strong"], redirect_uris=[])
    created = await authority.create_api_token(
        app.app_id, ["strong"], [ORDERS], expire_time=at(authority, 100)
    )
    record = token_pb.ApiToken(app_id=app.app_id, api_token_id=created.record.api_token_id)
    request = token_pb.UpdateApiTokenRequest(api_token=record, update_mask=FieldMask(paths=["expire_time"]))
    assert await refusal(stubs.tokens.UpdateApiToken(request)) == Reason.RIGHTS_INSUFFICIENT
    request.api_token.expire_time.CopyFrom(at(authority, 101))
    assert await refusal(stubs.tokens.UpdateApiToken(request)) == Reason.RIGHTS_INSUFFICIENT
    rotation = token_pb.RotateApiTokenRequest(app_id=app.app_id, api_token_id=record.api_token_id)
    assert await refusal(stubs.tokens.RotateApiToken(rotation)) == Reason.RIGHTS_INSUFFICIENT
    request.api_token.expire_time.CopyFrom(at(authority, 50))
    assert (await stubs.tokens.UpdateApiToken(request)).api_token.expire_time == at(authority, 50)


async def test_r144_a125_strangers_rotate_and_update_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    token = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    listing = pb.ListClientSecretsRequest(app_id=client.app_id)
    (secret,) = (await authority.admin.apps.ListClientSecrets(listing)).client_secrets
    _, stubs = await authority.app_with("rpz.apps")
    mask = FieldMask(paths=["display_name"])
    for call in (
        stubs.apps.RotateClientSecret(pb.RotateClientSecretRequest(app_id=client.app_id)),
        stubs.apps.UpdateClientSecret(pb.UpdateClientSecretRequest(client_secret=secret, update_mask=mask)),
        stubs.tokens.RotateApiToken(
            token_pb.RotateApiTokenRequest(app_id=client.app_id, api_token_id=token.record.api_token_id)
        ),
        stubs.tokens.UpdateApiToken(token_pb.UpdateApiTokenRequest(api_token=token.record, update_mask=mask)),
    ):
        assert await refusal(call) == Reason.NOT_FOUND


# Creations that are repeated


async def test_r215_repeated_creation_gives_the_first_one_and_its_secret_for_a_while(
    authority: TestAuthority,
) -> None:
    app = await authority.create_app(resources=[ORDERS])
    secret = pb.CreateClientSecretRequest(app_id=app.app_id, display_name="a", request_id=UUID)
    token = token_pb.CreateApiTokenRequest(
        app_id=app.app_id, scopes=["orders.read"], resources=[ORDERS], request_id=UUID
    )
    rotation = pb.RotateClientSecretRequest(app_id=app.app_id, request_id=UUID)
    calls = (
        (authority.admin.apps.CreateClientSecret, secret, "client_secret"),
        (authority.admin.tokens.CreateApiToken, token, "api_token"),
        (authority.admin.apps.RotateClientSecret, rotation, "client_secret"),
    )
    firsts = [await call(request) for call, request, _ in calls]
    await authority.advance(599)
    audit = await authority.audit()
    for (call, request, text), first in zip(calls[1:], firsts[1:], strict=True):
        again = await call(request)
        assert (again.record, getattr(again, text)) == (first.record, getattr(first, text))
    # The first secret was replaced meanwhile: its record shows that, and its text is not shown.
    again = await calls[0][0](secret)
    assert (again.record.secret_id, again.client_secret) == (firsts[0].record.secret_id, "")
    await authority.advance(1)
    for (call, request, text), first in zip(calls[1:], firsts[1:], strict=True):
        again = await call(request)
        assert (again.record, getattr(again, text)) == (first.record, "")
    assert await authority.audit() == audit


async def test_r215_app_is_created_once_also_by_requests_at_the_same_time(authority: TestAuthority) -> None:
    message = pb.App(kind=pb.APP_KIND_BACKEND, display_name="shop", scopes=["b", "a"])
    request = pb.CreateAppRequest(app=message, request_id=UUID)
    arrived, waiting = asyncio.Event(), 0

    async def together(*_: object) -> None:
        nonlocal waiting
        waiting += 1
        if waiting >= 4:
            arrived.set()
        await arrived.wait()

    authority.store.before["commit"] = together
    answers = await asyncio.gather(*(authority.admin.apps.CreateApp(request) for _ in range(4)))
    authority.store.before.clear()
    assert waiting == 4  # none had found another's
    assert all(answer == answers[0] for answer in answers)
    listed = await authority.admin.apps.ListApps(pb.ListAppsRequest(query="shop"))
    assert list(listed.apps) == [answers[0].app]


async def test_r215_request_id_is_its_callers_and_stands_for_one_thing(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    app = await authority.create_app(owner=f"app:{app_id}", scopes=[], resources=[])
    request = pb.CreateClientSecretRequest(app_id=app.app_id, request_id=UUID)
    first = await authority.admin.apps.CreateClientSecret(request)
    other = await stubs.apps.CreateClientSecret(request)
    assert other.record.secret_id != first.record.secret_id
    request.display_name = "another"
    assert await refusal(authority.admin.apps.CreateClientSecret(request)) == Reason.REQUEST_INVALID
    request.request_id = OTHER_UUID
    assert (await authority.admin.apps.CreateClientSecret(request)).client_secret
    for text in ("x", UUID + "0", UUID.replace("-", ""), "'; --", "\u0661" * 36):
        request.request_id = text
        assert await refusal(authority.admin.apps.CreateClientSecret(request)) == Reason.REQUEST_INVALID
        assert (
            await refusal(authority.admin.apps.CreateApp(pb.CreateAppRequest(app=pb.App(), request_id=text)))
            == Reason.REQUEST_INVALID
        )


async def test_r215_repeating_shows_nothing_that_was_taken_away_since(authority: TestAuthority) -> None:
    owner_id, stubs = await authority.app_with("rpz.apps")
    app = await authority.create_app(owner=f"app:{owner_id}", scopes=[], resources=[])
    request = pb.CreateClientSecretRequest(app_id=app.app_id, request_id=UUID)
    made = await stubs.apps.CreateClientSecret(request)
    await stubs.apps.RevokeClientSecret(
        pb.RevokeClientSecretRequest(app_id=app.app_id, secret_id=made.record.secret_id)
    )
    assert (await stubs.apps.CreateClientSecret(request)).client_secret == ""
    await authority.update_app(app.app_id, owner="user:ann")
    assert await refusal(stubs.apps.CreateClientSecret(request)) == Reason.NOT_FOUND


async def test_r215_repeating_gives_nothing_that_could_not_be_granted_any_more(
    authority: TestAuthority,
) -> None:
    owner_id, stubs = await authority.app_with("rpz.apps", "a", resources=[authority.settings.issuer, ORDERS])
    app = await authority.create_app(owner=f"app:{owner_id}", scopes=["a"])
    token = token_pb.CreateApiTokenRequest(
        app_id=app.app_id, scopes=["a"], resources=[ORDERS], request_id=UUID
    )
    made = await stubs.tokens.CreateApiToken(token)
    rotation = token_pb.RotateApiTokenRequest(
        app_id=app.app_id, api_token_id=made.record.api_token_id, request_id=UUID
    )
    rotation.overlap.seconds = 60
    assert (await stubs.tokens.RotateApiToken(rotation)).api_token
    secret = pb.CreateClientSecretRequest(app_id=app.app_id, request_id=UUID)
    assert (await stubs.apps.CreateClientSecret(secret)).client_secret
    assert (await stubs.tokens.CreateApiToken(token)).api_token == made.api_token
    await authority.update_app(owner_id, scopes=["rpz.apps"])
    await authority.catch_up()
    for call in (
        stubs.tokens.CreateApiToken(token),
        stubs.tokens.RotateApiToken(rotation),
        stubs.apps.CreateClientSecret(secret),
    ):
        assert await refusal(call) == Reason.RIGHTS_INSUFFICIENT


# What was issued by a credential that is replaced


async def access_token_of(authority: TestAuthority, app_id: str, api_token: str) -> str:
    """Exchanged for an API token."""
    request = token_pb.TokenExchangeRequest(
        client_id=app_id, subject_token=api_token, subject_token_type="urn:rpz:token-type:api_token"
    )
    return str((await authority.anonymous.tokens.TokenExchange(request)).access_token)


@pytest.mark.parametrize("overlap", [0, 60])
async def test_r211_rotation_without_overlap_ends_what_the_old_one_brought(
    authority: TestAuthority, overlap: int
) -> None:
    client = await authority.create_client()
    token = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    by_secret = (await for_itself(authority, client)).json()["access_token"]
    by_token = await access_token_of(authority, client.app_id, token.api_token)
    made = await rotate_secret(authority, client.app_id, overlap=Duration(seconds=overlap))
    rotation = token_pb.RotateApiTokenRequest(app_id=client.app_id, api_token_id=token.record.api_token_id)
    rotation.overlap.seconds = overlap
    successor = await authority.admin.tokens.RotateApiToken(rotation)
    assert [await authority.is_alive(old) for old in (by_secret, by_token)] == [overlap > 0] * 2
    new = Client(client.app_id, made.client_secret)
    assert await authority.is_alive((await for_itself(authority, new)).json()["access_token"])
    assert await authority.is_alive(await access_token_of(authority, client.app_id, successor.api_token))


async def test_r211_access_token_of_an_app_for_itself_never_outlives_its_secret(
    authority: TestAuthority,
) -> None:
    app = await authority.create_app()
    request = pb.CreateClientSecretRequest(app_id=app.app_id, expire_time=at(authority, 100))
    client = Client(app.app_id, (await authority.admin.apps.CreateClientSecret(request)).client_secret)
    answer = (await for_itself(authority, client)).json()
    assert answer["expires_in"] == 100
    await authority.advance(99)
    assert await authority.is_alive(answer["access_token"])
    await authority.advance(1)
    assert not await authority.is_alive(answer["access_token"])


async def test_r211_what_an_old_one_has_brought_ends_with_its_overlap(authority: TestAuthority) -> None:
    client = await authority.create_client()
    token = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    by_secret = (await for_itself(authority, client)).json()["access_token"]
    by_token = await access_token_of(authority, client.app_id, token.api_token)
    await rotate_secret(authority, client.app_id, overlap=Duration(seconds=60))
    rotation = token_pb.RotateApiTokenRequest(app_id=client.app_id, api_token_id=token.record.api_token_id)
    rotation.overlap.seconds = 60
    await authority.admin.tokens.RotateApiToken(rotation)
    began = authority.store.now()
    await authority.advance(59)
    told = await tell(authority.authority, began)
    assert [await authority.is_alive(old) for old in (by_secret, by_token)] == [True, True]
    await authority.advance(1)
    told = await tell(authority.authority, told)
    assert [await authority.is_alive(old) for old in (by_secret, by_token)] == [False, False]
    authority.store.calls.clear()
    await tell(authority.authority, began)  # as after a start, or in another process
    assert "commit" not in authority.store.calls
    assert told == authority.store.now()


async def test_a_deadline_that_is_committed_late_is_told_all_the_same(authority: TestAuthority) -> None:
    """A failover may hold a commit until after the deadline in it, and until others have looked."""
    client = await authority.create_client()
    brought = (await for_itself(authority, client)).json()["access_token"]
    began, looked = authority.store.now(), []

    async def hold(_commit: Commit) -> None:
        del authority.store.before["commit"]
        await authority.advance(50)
        looked.append(await tell(authority.authority, began))

    authority.store.before["commit"] = hold
    await rotate_secret(authority, client.app_id, overlap=Duration(seconds=1))
    assert await authority.is_alive(brought)
    await tell(authority.authority, *looked)
    assert not await authority.is_alive(brought)


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_deadline_that_moves_as_it_is_reached_is_told_or_moves_and_not_both(
    authority: TestAuthority, *, told_first: bool
) -> None:
    client = await authority.create_client()
    listing = pb.ListClientSecretsRequest(app_id=client.app_id)
    (record,) = (await authority.admin.apps.ListClientSecrets(listing)).client_secrets
    record.expire_time.CopyFrom(at(authority, 60))
    await _update_secret(authority, record, "expire_time")
    began, reading, moved = authority.store.now(), asyncio.Event(), asyncio.Event()
    telling: list[asyncio.Task[float]] = []

    async def hold_the_move(_commit: Commit) -> None:
        del authority.store.before["commit"]
        await authority.advance(60)
        telling.append(asyncio.create_task(tell(authority.authority, began)))
        await (telling[0] if told_first else reading.wait())

    async def hold_the_telling() -> None:
        if not told_first:
            reading.set()
            await moved.wait()

    authority.store.before["commit"] = hold_the_move
    authority.store.after["ended"] = hold_the_telling
    record.expire_time.CopyFrom(at(authority, 3600))
    found = await _update_secret(authority, record, "expire_time")
    moved.set()
    await asyncio.gather(*telling)
    await authority.catch_up()
    assert (found == Reason.REQUEST_INVALID) is told_first
    assert authority.authority.view.is_revoked(record.secret_id) is told_first
    assert await works(authority, client) is not told_first


# Warnings


async def test_what_expires_soon_is_warned_of_in_lists_and_log(authority: TestAuthority) -> None:
    _, admin = await authority.app_with("rpz.admin", "rpz.apps")  # the bootstrap token lives for a week
    app = await authority.create_app()
    request = pb.CreateClientSecretRequest(app_id=app.app_id, display_name="yearly")
    request.expire_time.CopyFrom(at(authority, 365 * DAY))
    yearly = (await admin.apps.CreateClientSecret(request)).record
    await authority.advance(350 * DAY)
    listing = pb.ListClientSecretsRequest(app_id=app.app_id)
    assert not (await admin.apps.ListClientSecrets(listing)).warnings
    # Made for a short time on purpose, or without an end: neither is warned of.
    request.expire_time.CopyFrom(at(authority, 13 * DAY))
    await admin.apps.CreateClientSecret(request)
    await admin.apps.CreateClientSecret(pb.CreateClientSecretRequest(app_id=app.app_id))
    await authority.advance(2 * DAY)
    (warning,) = (await admin.apps.ListClientSecrets(listing)).warnings
    assert warning.startswith(f"yearly ({yearly.secret_id}) expires in 12 days")
    await warn(authority.authority)
    (line,) = [line for line in authority.logged.getvalue().splitlines() if "expires soon" in line]
    assert yearly.secret_id in line
    assert '"last_used": "never"' in line


@pytest.mark.parametrize("overlap", [0, 60])
async def test_retired_secret_is_not_revived_by_a_repeated_rotation(
    authority: TestAuthority, overlap: int
) -> None:
    client = await authority.create_client()
    fields = {"overlap": Duration(seconds=overlap), "request_id": UUID}
    first = await rotate_secret(authority, client.app_id, **fields)
    await authority.advance(60)
    again = await rotate_secret(authority, client.app_id, **fields)
    assert (again.record, again.client_secret, list(again.replaced)) == (
        first.record,
        first.client_secret,
        [],
    )
    assert not await works(authority, client)
