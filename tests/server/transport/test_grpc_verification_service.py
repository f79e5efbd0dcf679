from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.connection.messages import read_snapshot
from rpz_auth.errors import Reason
from rpz_auth.view import Revocation
from rpz_auth_server.domain.event import revocation_of
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.transport.grpc.messages import require_time
from server.authority import (
    ORDERS,
    STOCK,
    Client,
    FakeTime,
    Stubs,
    TestAuthority,
    read_refusal,
    refusal,
    running_authority,
)

TIMEOUT = 10.0
UNHEARD_OF = "rpzt_" + base64.urlsafe_b64encode(bytes([1, 255, 255, 255]) + bytes(44)).decode("ascii")
"""An API token of a master key that no process has."""


class Follower:
    """A verifier's stream, read message by message."""

    def __init__(self, stubs: Stubs, cursor: str = "") -> None:
        self.stream = stubs.verification.Watch(pb.WatchRequest(cursor=cursor), timeout=60)

    async def read(self) -> pb.WatchResponse:
        async with asyncio.timeout(TIMEOUT):
            message = await self.stream.read()
        assert isinstance(message, pb.WatchResponse), message
        return message

    async def read_until(self, kind: str) -> pb.WatchResponse:
        """The next message of a kind; heartbeats in between are passed over."""
        while True:
            message = await self.read()
            if message.WhichOneof("content") == kind:
                return message
            assert message.WhichOneof("content") == "heartbeat", message

    async def end(self) -> grpc.StatusCode | Reason | None:
        """How the stream ends."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while await self.stream.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            return read_refusal(error).reason
        code: grpc.StatusCode = await self.stream.code()
        return code

    def close(self) -> None:
        self.stream.cancel()


async def snapshot(follower: Follower) -> tuple[list[pb.Snapshot], str]:
    parts: list[pb.Snapshot] = []
    while True:
        message = await follower.read()
        assert message.HasField("snapshot")
        assert message.HasField("time")
        parts.append(message.snapshot)
        if message.snapshot.last:
            assert message.cursor
            return parts, message.cursor
        assert not message.cursor


def stamp(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromMicroseconds(round(seconds * 1e6))
    return time


async def test_api_token_is_described_for_the_verifiers_resources(authority: TestAuthority) -> None:
    app = await authority.create_app(resources=[ORDERS, STOCK])
    created = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS, STOCK])
    _, verifier = await authority.create_verifier(ORDERS)
    await authority.catch_up()
    request = pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=created.api_token)
    assert await verifier.verification.VerifyApiToken(request) == pb.VerifyApiTokenResponse(
        active=True,
        app_id=app.app_id,
        api_token_id=created.record.api_token_id,
        scopes=["orders.read"],
        resources=[ORDERS],
        cursor=str(await authority.store.cursor()),
    )


async def test_r091_everything_else_is_inactive_and_nothing_more(authority: TestAuthority) -> None:
    app, other = await authority.create_app(resources=[ORDERS, STOCK]), await authority.create_client()
    good = (await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])).api_token
    elsewhere = (await authority.create_api_token(app.app_id, ["orders.read"], [STOCK])).api_token
    own, verifier = await authority.create_verifier(ORDERS)
    admin = authority.bootstrap
    await authority.catch_up()
    inactive = pb.VerifyApiTokenResponse(active=False, cursor=str(await authority.store.cursor()))
    for app_id, token in (
        (app.app_id, elsewhere),
        (app.app_id, ""),
        (app.app_id, "wrong"),
        (app.app_id, good[:-1] + ("A" if good[-1] != "A" else "B")),
        (app.app_id, other.secret),
        (other.app_id, good),
        ("", good),
        ("nonsense", good),
        (own.app_id.upper(), own.token),
        # Tokens for the authority itself are nobody's business.
        (admin["app_id"], admin["api_token"]),
    ):
        request = pb.VerifyApiTokenRequest(app_id=app_id, api_token=token)
        assert await verifier.verification.VerifyApiToken(request) == inactive
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app.app_id))
    request = pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=good)
    assert not (await verifier.verification.VerifyApiToken(request)).active


async def test_api_token_that_expires_is_inactive_from_then_on(authority: TestAuthority) -> None:
    app = await authority.create_app()
    deadline = int(authority.store.now()) + 10
    created = await authority.create_api_token(
        app.app_id, ["orders.read"], [ORDERS], expire_time=Timestamp(seconds=deadline)
    )
    _, verifier = await authority.create_verifier()
    request = pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=created.api_token)
    answer = await verifier.verification.VerifyApiToken(request)
    assert answer.expire_time == Timestamp(seconds=deadline)
    await authority.advance(10)
    assert not (await verifier.verification.VerifyApiToken(request)).active


async def test_state_of_an_app_is_told_also_when_it_is_deleted(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    app = await authority.create_app(whitelist=["192.0.2.1"])

    async def state() -> pb.AppState:
        answer = await verifier.verification.GetStanding(pb.GetStandingRequest(app_ids=[app.app_id]))
        found: pb.AppState
        (found,) = answer.apps
        return found

    assert await state() == pb.AppState(app_id=app.app_id, version=1, whitelist=["192.0.2.1"])
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app.app_id))
    assert await state() == pb.AppState(
        app_id=app.app_id, version=2, locked=True, epoch=1, whitelist=["192.0.2.1"]
    )
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app.app_id))
    gone = await authority.store.app(app.app_id)
    assert gone is not None
    assert await state() == pb.AppState(
        app_id=app.app_id,
        version=3,
        deleted=True,
        epoch=2,
        forget_time=require_time(gone.updated_at + MARGIN),
    )


@pytest.mark.parametrize(
    "scopes",
    [
        ["rpz.verify", "rpz.apps"],
        ["rpz.verify", "rpz.admin"],
        ["rpz.verify", "rpz.codes.issue"],
        ["rpz.verify", "a"],
    ],
)
async def test_verifier_that_could_do_more_is_refused(authority: TestAuthority, scopes: list[str]) -> None:
    _, verifier = await authority.create_verifier(scopes=scopes)
    for stubs in (verifier, authority.admin):
        apps = stubs.verification
        request = pb.VerifyApiTokenRequest(app_id="x", api_token="y")
        assert await refusal(apps.VerifyApiToken(request)) == Reason.RIGHTS_INSUFFICIENT
        assert await refusal(apps.GetStanding(pb.GetStandingRequest())) == Reason.RIGHTS_INSUFFICIENT
        assert await refusal(apps.Watch(pb.WatchRequest()).read()) == Reason.RIGHTS_INSUFFICIENT


async def test_stream_begins_with_everything_and_a_heartbeat(authority: TestAuthority) -> None:
    client = await authority.create_client(whitelist=["127.0.0.1"])
    plain = await authority.create_client()
    locked = await authority.create_client()
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=locked.app_id))
    tokens = await authority.sign_in(plain)
    await authority.anonymous.tokens.RevokeToken(
        token_pb.RevokeTokenRequest(token=tokens.refresh_token, **plain.body)
    )
    _, verifier = await authority.create_verifier()
    follower = Follower(verifier)
    parts, cursor = await snapshot(follower)
    apps = {app.app_id: app for part in parts for app in part.apps}
    assert set(apps) == {authority.bootstrap["app_id"], client.app_id, locked.app_id}
    assert apps[client.app_id] == pb.AppState(app_id=client.app_id, version=2, whitelist=["127.0.0.1"])
    assert apps[locked.app_id] == pb.AppState(app_id=locked.app_id, version=3, locked=True, epoch=1)
    (revocation,) = read_snapshot(parts).revocations
    remembered_until = revocation_of("A", authority.store.now()).forget_at
    assert remembered_until <= revocation.forget_at < remembered_until + 60  # never too early
    (key,) = json.loads(parts[-1].keys.jwks)["keys"]
    assert set(key) == {"alg", "crv", "kid", "kty", "use", "x", "y"}
    beat = await follower.read()
    assert beat.heartbeat.interval_ms == authority.settings.heartbeat_interval * 1000
    assert (beat.cursor, beat.time) == (cursor, stamp(authority.store.now()))
    assert cursor == str(await authority.store.cursor())
    follower.close()


async def test_changes_are_told_as_they_are_committed(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    app = await authority.create_app()
    follower = Follower(verifier)
    await snapshot(follower)
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app.app_id))
    message = await follower.read_until("events")
    expected = pb.Event(app=pb.AppState(app_id=app.app_id, version=2, locked=True, epoch=1))
    assert message.events == pb.Events(events=[expected])
    assert message.cursor == str(await authority.store.cursor())
    assert message.time == stamp(authority.store.now())
    follower.close()


async def test_follower_resumes_from_its_cursor_without_loss_or_doubles(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    app = await authority.create_app()
    first = Follower(verifier)
    _, cursor = await snapshot(first)
    first.close()
    for number in range(1, 4):
        await authority.admin.apps.EndAllTokens(app_pb.EndAllTokensRequest(app_id=app.app_id))
        assert (await authority.store.inner.app(app.app_id)).epoch == number  # type: ignore[union-attr] # it is there
    second = Follower(verifier, cursor)
    message = await second.read()
    assert [event.app.epoch for event in message.events.events] == [1, 2, 3]
    beat = await second.read()
    assert beat.WhichOneof("content") == "heartbeat"
    await authority.admin.apps.EndAllTokens(app_pb.EndAllTokensRequest(app_id=app.app_id))
    message = await second.read_until("events")
    assert [event.app.epoch for event in message.events.events] == [4]
    second.close()
    third = Follower(verifier, message.cursor)
    assert (await third.read()).WhichOneof("content") == "heartbeat"
    third.close()


@pytest.mark.parametrize(
    "cursor", ["nonsense", "1." + "0" * 32, "999999." + "a" * 32, "0." + "1" * 32, "-1." + "0" * 32, "\x00"]
)
async def test_unknown_cursor_is_answered_with_a_snapshot(authority: TestAuthority, cursor: str) -> None:
    _, verifier = await authority.create_verifier()
    follower = Follower(verifier, cursor)
    parts, _ = await snapshot(follower)
    assert parts[-1].keys.jwks
    follower.close()


async def test_cursor_of_another_database_is_unknown(authority: TestAuthority) -> None:
    """The same place with another nonce: what a restored database holds there."""
    _, verifier = await authority.create_verifier()
    await authority.create_app(whitelist=["192.0.2.1"])
    cursor = await authority.store.cursor()
    follower = Follower(verifier, f"{cursor.sequence}.{'ab' * 16}")
    await snapshot(follower)
    follower.close()


async def test_big_snapshot_and_backlog_come_in_parts_that_any_client_takes(
    authority: TestAuthority,
) -> None:
    _, verifier = await authority.create_verifier()
    first = Follower(verifier)
    _, cursor = await snapshot(first)
    first.close()
    entries = [f"2001:db8:aaaa:bbbb:cccc:dddd:{number:x}::/112" for number in range(1000)]
    names = set()
    for _ in range(30):
        names.add((await authority.create_app(whitelist=entries)).app_id)
    ids = {f"{number:022}" for number in range(20_000)}
    revocations = tuple(Revocation(name, authority.store.now() + 1000) for name in ids)
    for start in range(0, len(revocations), 2000):
        await authority.store.commit(Commit(events=revocations[start : start + 2000]))

    new = Follower(verifier)
    parts, _ = await snapshot(new)
    new.close()
    assert len(parts) > 3
    assert max(part.ByteSize() for part in parts) < 400 * 1024
    assert names <= {app.app_id for part in parts for app in part.apps}
    assert {revocation.id for revocation in read_snapshot(parts).revocations} == ids

    behind = Follower(verifier, cursor)
    told: list[str] = []
    while True:
        message = await behind.read()
        if message.HasField("heartbeat"):
            break
        assert message.ByteSize() < 400 * 1024
        told += [event.revoked.id for event in message.events.events if event.HasField("revoked")]
    assert (len(told), set(told)) == (len(ids), ids)
    behind.close()


async def test_streams_end_when_the_authority_stops(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    followers = [Follower(verifier) for _ in range(3)]
    for follower in followers:
        await snapshot(follower)
    authority.hub.dismiss()
    assert [await follower.end() for follower in followers] == [grpc.StatusCode.OK] * 3


async def test_r124_stream_of_a_verifier_that_is_locked_ends_at_once(authority: TestAuthority) -> None:
    credential, verifier = await authority.create_verifier()
    follower = Follower(verifier)
    await snapshot(follower)
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=credential.app_id))
    assert await follower.end() is Reason.TOKEN_INVALID


async def test_r124_stream_ends_when_its_token_is_revoked(authority: TestAuthority) -> None:
    credential, verifier = await authority.create_verifier()
    follower = Follower(verifier)
    await snapshot(follower)
    request = token_pb.ListApiTokensRequest(app_id=credential.app_id)
    (record,) = (await authority.admin.tokens.ListApiTokens(request)).api_tokens
    await authority.admin.tokens.RevokeApiToken(
        token_pb.RevokeApiTokenRequest(app_id=credential.app_id, api_token_id=record.api_token_id)
    )
    assert await follower.end() is Reason.TOKEN_INVALID


async def test_r124_a92_stream_ends_when_the_whitelist_excludes_the_verifier(
    authority: TestAuthority,
) -> None:
    credential, verifier = await authority.create_verifier()
    follower = Follower(verifier)
    await snapshot(follower)
    await authority.update_app(credential.app_id, whitelist=["192.0.2.1"])
    assert await follower.end() is Reason.ORIGIN_NOT_ALLOWED


async def test_r124_a90_stream_ends_when_its_token_expires(authority: TestAuthority) -> None:
    credential, _ = await authority.create_verifier()
    deadline = int(authority.store.now()) + 100
    issuer = authority.settings.issuer
    created = await authority.create_api_token(
        credential.app_id, ["rpz.verify"], [issuer, ORDERS], expire_time=Timestamp(seconds=deadline)
    )
    verifier = authority.stubs(rpz_auth.ApiToken(credential.app_id, created.api_token))
    follower = Follower(verifier)
    await snapshot(follower)
    await authority.advance(101)
    assert await follower.end() is Reason.TOKEN_EXPIRED


async def test_r128_stream_that_cannot_be_read_is_unavailable(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    await verifier.verification.GetStanding(pb.GetStandingRequest())  # so that the credential is known
    for broken in ("heartbeat", "snapshot"):
        authority.store.faults[broken] = rpz_auth.errors.BackendUnavailable()
        found: Any = await refusal(verifier.verification.Watch(pb.WatchRequest()).read())
        assert found == Reason.BACKEND_UNAVAILABLE
        authority.store.faults.clear()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scopes": ["rpz.introspect"]}, Reason.SCOPE_INSUFFICIENT),
        ({"scopes": ["rpz.verify"]}, Reason.SCOPE_INSUFFICIENT),
        ({"resources": [STOCK]}, Reason.TOKEN_INVALID),
        ({"resources": [ORDERS]}, Reason.TOKEN_INVALID),
    ],
)
async def test_stream_ends_when_its_verifier_loses_scopes_or_resources(
    authority: TestAuthority, change: dict[str, Any], reason: Reason
) -> None:
    credential, verifier = await authority.create_verifier(ORDERS)
    follower = Follower(verifier)
    await snapshot(follower)
    await follower.read_until("heartbeat")
    await authority.update_app(credential.app_id, display_name="renamed")
    message = await follower.read_until("events")  # a change that takes nothing ends nothing
    assert message.events.events[0].app.app_id == credential.app_id
    await authority.update_app(credential.app_id, **change)
    assert await follower.end() is reason


async def test_token_may_travel_in_a_url_only_if_settings_app_and_token_say_so(tmp_path: Path) -> None:
    async with running_authority(
        tmp_path / "authority", time=FakeTime(), query_token_scopes="feed.read", query_token_lifetime=600
    ) as authority:
        app = await authority.create_app(
            kind=app_pb.APP_KIND_FRONTEND, scopes=["feed.read", "orders.read"], query_token_allowed=True
        )
        now = int(authority.store.now())
        good = await authority.create_api_token(
            app.app_id, ["feed.read"], [ORDERS], expire_time=Timestamp(seconds=now + 600)
        )
        long = await authority.create_api_token(
            app.app_id, ["feed.read"], [ORDERS], expire_time=Timestamp(seconds=now + 602)
        )
        strong = await authority.create_api_token(
            app.app_id, ["orders.read"], [ORDERS], expire_time=Timestamp(seconds=now + 60)
        )
        _, verifier = await authority.create_verifier(ORDERS)
        follower = Follower(verifier)
        parts, _ = await snapshot(follower)
        (state,) = [state for part in parts for state in part.apps if state.app_id == app.app_id]
        assert state.query_token_allowed
        for token, allowed in ((good, True), (long, False), (strong, False)):
            request = pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=token.api_token)
            answer = await verifier.verification.VerifyApiToken(request)
            assert (answer.active, answer.query_token_allowed) == (True, allowed)
        await follower.read_until("heartbeat")
        await authority.update_app(app.app_id, query_token_allowed=False)
        message = await follower.read_until("events")
        assert not message.events.events[0].app.query_token_allowed


async def test_standing_tells_what_is_refused_and_every_app_that_was_asked_about(
    authority: TestAuthority,
) -> None:
    _, verifier = await authority.create_verifier()
    client, locked = await authority.create_client(), await authority.create_client(whitelist=["127.0.0.1"])
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=locked.app_id))
    revoked = Revocation("A" * 22, authority.store.now() + 3600)
    await authority.store.commit(Commit(events=(revoked,)))
    nobody = "00000000-0000-4000-8000-00000000000f"

    async def version(client: Client) -> int:
        app = await authority.store.app(client.app_id)
        assert app is not None
        return int(app.version)

    answer = await verifier.verification.GetStanding(
        pb.GetStandingRequest(
            app_ids=[client.app_id, locked.app_id, nobody, "not an ID"], ids=[revoked.id, "B" * 22]
        )
    )
    assert [item.id for item in answer.revocations] == [revoked.id]
    assert {
        (app.app_id, app.version, app.locked, app.deleted, tuple(app.whitelist)) for app in answer.apps
    } == {
        (client.app_id, await version(client), False, False, ()),
        (locked.app_id, await version(locked), True, False, ("127.0.0.1",)),
        (nobody, 0, False, True, ()),
    }
    assert json.loads(answer.keys.jwks)["keys"]
    assert answer.cursor == str(await authority.store.cursor())


async def test_standing_of_a_database_that_takes_no_writes_is_unavailable(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, verifier = await authority.create_verifier()
    await verifier.verification.GetStanding(pb.GetStandingRequest())  # so that the credential is known

    async def refuse() -> float:
        raise rpz_auth.BackendUnavailable

    monkeypatch.setattr(authority.store, "heartbeat", refuse)
    answer = await refusal(verifier.verification.GetStanding(pb.GetStandingRequest()))
    assert answer == Reason.BACKEND_UNAVAILABLE


async def test_standing_of_too_much_at_once_is_refused(authority: TestAuthority) -> None:
    _, verifier = await authority.create_verifier()
    answer = await refusal(verifier.verification.GetStanding(pb.GetStandingRequest(app_ids=["A"] * 1_001)))
    assert answer == Reason.REQUEST_INVALID
    answer = await refusal(verifier.verification.GetStanding(pb.GetStandingRequest(ids=["A"] * 2_001)))
    assert answer == Reason.REQUEST_INVALID


async def test_r130_forged_api_token_that_a_service_asks_about_costs_no_database_read(
    authority: TestAuthority,
) -> None:
    app = await authority.create_app(resources=[ORDERS])
    good = (await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])).api_token
    _, verifier = await authority.create_verifier(ORDERS)
    assert (
        await verifier.verification.VerifyApiToken(
            pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=good)
        )
    ).active
    await authority.catch_up()
    cursor = str(await authority.store.cursor())
    authority.store.calls.clear()
    for forged in ("rpzt_" + "A" * 64, "wrong", ""):
        answer = await verifier.verification.VerifyApiToken(
            pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=forged)
        )
        assert answer == pb.VerifyApiTokenResponse(active=False, cursor=cursor)
    assert authority.asked() == []


async def test_a107_api_token_of_a_made_up_master_key_is_undecided_without_a_database_read(
    authority: TestAuthority,
) -> None:
    _, verifier = await authority.create_verifier(ORDERS)
    asking = pb.VerifyApiTokenRequest(app_id=authority.bootstrap["app_id"], api_token=UNHEARD_OF)
    introspecting = token_pb.IntrospectTokenRequest(token=UNHEARD_OF)
    await verifier.verification.VerifyApiToken(pb.VerifyApiTokenRequest())  # its own token is known from here
    authority.store.calls.clear()
    for _ in range(3):
        assert await refusal(verifier.verification.VerifyApiToken(asking)) == Reason.TOKEN_UNDECIDED
        assert await refusal(verifier.tokens.IntrospectToken(introspecting)) == Reason.TOKEN_UNDECIDED
    assert authority.asked() == []
