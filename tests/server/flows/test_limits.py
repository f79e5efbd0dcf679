from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2
from rpz.auth.v1 import app_service_pb2, token_service_pb2, verification_service_pb2
from rpz_auth.address import UNKNOWN, Peer, parse_address
from rpz_auth.errors import BackendUnavailable, Reason, TokenInvalid
from rpz_auth_server.domain import pushed_request
from rpz_auth_server.domain.limits import Limits
from rpz_auth_server.domain.refusal import ClientInvalid, RateLimited, TooManyGuesses
from rpz_auth_server.flows import consents, limits, turns
from rpz_auth_server.flows.issue_code import IssueCode, issue_code
from rpz_auth_server.flows.limits import Limiter, prefix_of
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    Client,
    FakeTime,
    Stubs,
    TestAuthority,
    basic,
    bearer,
    challenge_of,
    code_request,
    outcome,
    refusal,
    running_authority,
)
from server.oauth import PUSH, authorization, for_itself, post
from server.visitor import Visitor
from support.clock import Clock

NOW = 1_700_000_000.0
FORGED_SECRET = "rpzs_" + "A" * 64
FORGED_TOKEN = "rpzt_" + "A" * 64
FORGED_REFRESH_TOKEN = "rpzr_" + "A" * 64
ATTACKER, OWNER = "198.51.100.1", "203.0.113.1"
FAILURES, PEER_FAILURES, APP_FAILURES, USES, VERIFICATIONS = 3, 20, 40, 4, 6
REVOCATIONS = 10
"""At once; a tenth of them each minute."""
CHANGES = 4
PUSHES = Limits().pushes


def seen_from(authority: TestAuthority, address: str, credential: rpz_auth.ApiToken | None = None) -> Stubs:
    """The services as called from an address, through the proxy that the authority trusts."""
    fields = [("x-forwarded-for", address)]
    if credential is not None:
        fields.append(("authorization", credential.field_value()))

    class Fields(grpc.AuthMetadataPlugin):
        def __call__(self, _context: Any, callback: Any) -> None:
            callback(fields, None)

    tls = grpc.composite_channel_credentials(authority.tls, grpc.metadata_call_credentials(Fields()))
    channel = grpc.aio.secure_channel(authority.address, tls)
    authority._channels.append(channel)
    return Stubs(channel)


@pytest.fixture
async def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestAuthority]:
    """An authority behind a proxy on this machine, with small limits and time that stands."""
    monkeypatch.setattr(turns, "HELD_FOR", 0)
    async with running_authority(
        tmp_path / "limited",
        time=FakeTime(),
        trusted_proxies=("127.0.0.1",),
        failure_limit=FAILURES,
        failure_longest_delay=60,
        peer_failure_limit=PEER_FAILURES,
        app_failure_limit=APP_FAILURES,
        refresh_limit=USES,
        verification_limit=VERIFICATIONS,
        revocation_limit=REVOCATIONS // 10,
        change_limit=CHANGES,
    ) as running:
        administrator = rpz_auth.ApiToken(running.bootstrap["app_id"], running.bootstrap["api_token"])
        running.admin = seen_from(running, "::1", administrator)
        running.anonymous = seen_from(running, OWNER)
        yield running


def refresh_request(client: Client, refresh_token: str, **fields: Any) -> token_service_pb2.RefreshRequest:
    return token_service_pb2.RefreshRequest(**{"refresh_token": refresh_token, **client.body, **fields})


async def guess_secret(stubs: Stubs, app_id: str, secret: str = FORGED_SECRET) -> Reason | None:
    request = token_service_pb2.RevokeTokenRequest(token="x", client_id=app_id, client_secret=secret)
    return (await refusal(stubs.tokens.RevokeToken(request))).reason


async def guess_api_token(stubs: Stubs, app_id: str, number: int) -> Reason | None:
    guess = f"rpzt_{number:064}"
    request = token_service_pb2.ListApiTokensRequest(app_id=app_id)
    return (await refusal(stubs.tokens.ListApiTokens(request, metadata=basic(app_id, guess)))).reason


async def retry_delay(call: Any) -> float:
    """The RetryInfo of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    details = dict(raised.value.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    (delay,) = [d for d in status_pb2.Status.FromString(details).details if d.Unpack(info)]
    del delay
    return float(info.retry_delay.ToNanoseconds() / 1e9)


# Guessing


async def test_r131_a106_guesses_at_a_secret_wait_longer_each_time_and_ask_nothing(
    limited: TestAuthority,
) -> None:
    client = await limited.create_client()
    attacker = seen_from(limited, ATTACKER)
    for _ in range(FAILURES):
        assert await guess_secret(attacker, client.app_id) is Reason.CLIENT_INVALID
    limited.store.calls.clear()
    for _ in range(3):
        assert await guess_secret(attacker, client.app_id) is Reason.RATE_LIMITED
    assert limited.asked() == []
    request = token_service_pb2.RevokeTokenRequest(
        token="x", client_id=client.app_id, client_secret=FORGED_SECRET
    )
    assert await retry_delay(attacker.tokens.RevokeToken(request)) == 1
    delays = []
    for _ in range(9):
        delays.append(await retry_delay(attacker.tokens.RevokeToken(request)))
        await limited.advance(delays[-1] + 0.001)
        assert await guess_secret(attacker, client.app_id) is Reason.CLIENT_INVALID
    assert delays == sorted(delays)
    assert delays[5] > 16
    assert 50 < delays[-1] <= 60


async def test_r131_a109_attacker_locks_nobody_out(limited: TestAuthority) -> None:
    client = await limited.create_client()
    first = await limited.sign_in(client)
    attackers = [seen_from(limited, f"198.51.100.{number}") for number in range(20)]
    for number in range(100):
        await guess_secret(attackers[number % 20], client.app_id)
    assert await guess_secret(seen_from(limited, "192.0.2.9"), client.app_id) is Reason.RATE_LIMITED
    # The owner, elsewhere, and even behind the same address as an attacker.
    second = await limited.refresh(client, first.refresh_token)
    behind_the_same = seen_from(limited, "198.51.100.1")
    request = refresh_request(client, second.refresh_token)
    assert (await behind_the_same.tokens.Refresh(request)).refresh_token != second.refresh_token


async def test_a109_guesses_at_an_app_slow_down_only_peers_that_were_not_right_lately(
    limited: TestAuthority,
) -> None:
    client = await limited.create_client()
    await limited.sign_in(client)
    for number in range(APP_FAILURES):
        stubs = seen_from(limited, f"198.51.{number}.1")
        assert await guess_secret(stubs, client.app_id) is Reason.CLIENT_INVALID
    assert await guess_secret(seen_from(limited, "192.0.2.9"), client.app_id) is Reason.RATE_LIMITED
    # Where the App was right a moment ago, a mistyped secret is told what it is.
    assert await guess_secret(limited.anonymous, client.app_id) is Reason.CLIENT_INVALID


async def test_r131_peer_is_limited_over_all_apps_by_the_first_64_bits_of_its_address(
    limited: TestAuthority,
) -> None:
    for number in range(PEER_FAILURES):
        stubs = seen_from(limited, f"2001:db8:0:1:{number:x}::1")
        assert await guess_secret(stubs, str(uuid.uuid4())) is Reason.CLIENT_INVALID
    assert (
        await guess_secret(seen_from(limited, "2001:db8:0:1::ffff"), str(uuid.uuid4())) is Reason.RATE_LIMITED
    )
    assert (
        await guess_secret(seen_from(limited, "2001:db8:0:2::1"), str(uuid.uuid4())) is Reason.CLIENT_INVALID
    )


async def test_r131_a126_guesses_at_an_api_token_are_limited_where_the_authority_is_called(
    limited: TestAuthority,
) -> None:
    app_id, owner = await limited.app_with("rpz.apps")
    owner = seen_from(limited, OWNER, await _api_token_of(limited, app_id))
    attacker = seen_from(limited, ATTACKER)
    for number in range(FAILURES):
        assert await guess_api_token(attacker, app_id, number) is Reason.TOKEN_INVALID
    limited.store.calls.clear()
    assert await guess_api_token(attacker, app_id, 99) is Reason.RATE_LIMITED
    assert limited.asked() == []
    request = token_service_pb2.ListApiTokensRequest(app_id=limited.bootstrap["app_id"])
    assert await refusal(owner.tokens.ListApiTokens(request)) == Reason.NOT_FOUND


async def _api_token_of(limited: TestAuthority, app_id: str) -> rpz_auth.ApiToken:
    created = await limited.create_api_token(app_id, ["rpz.apps"], [limited.settings.issuer])
    return rpz_auth.ApiToken(app_id, created.api_token)


@pytest.mark.parametrize("kind", ["code", "refresh token"])
async def test_r131_a15_guessed_codes_and_refresh_tokens_are_limited_without_harm_to_the_app_that_sent_them(
    limited: TestAuthority, kind: str
) -> None:
    client = await limited.create_client()

    async def guess() -> Reason | None:
        if kind == "code":
            return (await refusal(limited.exchange(client, "rpzc_" + secrets.token_urlsafe(48)))).reason
        return (await refusal(limited.refresh(client, FORGED_REFRESH_TOKEN))).reason

    for _ in range(FAILURES):
        assert await guess() is Reason.GRANT_INVALID
    limited.store.calls.clear()
    assert await guess() is Reason.RATE_LIMITED
    assert limited.asked() == []
    # A service passes on what browsers send it: their guesses must not end everybody's sign-in.
    assert (await limited.sign_in(client)).refresh_token


async def test_r131_credential_that_was_made_here_and_is_dead_is_slowed_down_by_itself(
    limited: TestAuthority,
) -> None:
    client = await limited.create_client()
    other = await limited.create_client()
    limited_to = 10
    for _ in range(limited_to):
        assert await guess_secret(limited.anonymous, client.app_id, other.secret) is Reason.CLIENT_INVALID
    limited.store.calls.clear()
    assert await guess_secret(limited.anonymous, client.app_id, other.secret) is Reason.RATE_LIMITED
    assert limited.asked() == []
    assert (await limited.sign_in(client)).refresh_token
    assert (await limited.sign_in(other)).refresh_token
    await limited.advance(5)
    assert await guess_secret(limited.anonymous, client.app_id, other.secret) is Reason.CLIENT_INVALID


async def test_a109_client_that_calls_itself_by_somebody_elses_name_holds_up_nobody(
    limited: TestAuthority,
) -> None:
    """People, and peers who come from an outside provider, are counted beside Apps."""
    others = ["user bob", f"provider {OWNER}", "code abc"]
    for name in others:
        for number in range(APP_FAILURES):
            stubs = seen_from(limited, f"198.51.{number}.1")
            assert await guess_secret(stubs, name) in (Reason.CLIENT_INVALID, Reason.RATE_LIMITED)
    for name in others:
        with limited.authority.limiter.guarded(name, Peer(parse_address(OWNER))):
            pass


@pytest.mark.parametrize("kind", ["secret", "API token"])
async def test_r131_credential_that_was_made_here_opens_no_way_to_ask_about_any_number_of_apps(
    limited: TestAuthority, kind: str
) -> None:
    client = await limited.create_client()
    token = await limited.create_api_token(client.app_id, ["orders.read"], [ORDERS])

    async def under(app_id: str) -> Reason | None:
        if kind == "secret":
            return await guess_secret(limited.anonymous, app_id, client.secret)
        metadata = basic(app_id, token.api_token)
        call = limited.anonymous.tokens.ListApiTokens(
            token_service_pb2.ListApiTokensRequest(), metadata=metadata
        )
        return (await refusal(call)).reason

    for _ in range(PEER_FAILURES):
        assert await under(str(uuid.uuid4())) in (Reason.CLIENT_INVALID, Reason.TOKEN_INVALID)
    limited.store.calls.clear()
    assert await under(str(uuid.uuid4())) is Reason.RATE_LIMITED
    assert limited.asked() == []
    await limited.advance(60 / PEER_FAILURES)
    assert (await limited.sign_in(client)).refresh_token


async def test_once_held_up_a_dead_credential_is_not_told_from_a_guess(limited: TestAuthority) -> None:
    client, other = await limited.create_client(), await limited.create_client()
    attacker = seen_from(limited, ATTACKER)
    for _ in range(FAILURES):
        await guess_secret(attacker, client.app_id)
    assert await guess_secret(attacker, client.app_id) is Reason.RATE_LIMITED
    assert await guess_secret(attacker, client.app_id, other.secret) is Reason.RATE_LIMITED


async def test_a17_sign_in_service_that_asks_for_others_apps_is_limited_for_each_by_itself(
    limited: TestAuthority,
) -> None:
    listed, foreign = await limited.create_client(), await limited.create_client()
    sign_in = {"client_ids": [listed.app_id], "subject_prefix": "user:"}
    app_id, _ = await limited.app_with("rpz.codes.issue", sign_in=sign_in)
    created = await limited.create_api_token(app_id, ["rpz.codes.issue"], [limited.settings.issuer])
    service = seen_from(limited, OWNER, rpz_auth.ApiToken(app_id, created.api_token))
    for _ in range(FAILURES):
        assert await refusal(service.tokens.IssueCode(code_request(foreign))) == Reason.RIGHTS_INSUFFICIENT
    limited.store.calls.clear()
    assert await refusal(service.tokens.IssueCode(code_request(foreign))) == Reason.RATE_LIMITED
    assert limited.asked() == []
    assert (await service.tokens.IssueCode(code_request(listed))).code


# Use


async def test_a29_grant_that_is_renewed_in_a_loop_is_limited_and_unharmed(limited: TestAuthority) -> None:
    client = await limited.create_client()
    token = (await limited.sign_in(client)).refresh_token
    for _ in range(USES - 1):  # redeeming the code was the first
        token = (await limited.refresh(client, token)).refresh_token
    other = (await limited.sign_in(client)).refresh_token
    limited.store.calls.clear()
    assert await refusal(limited.refresh(client, token)) == Reason.RATE_LIMITED
    assert limited.asked() == []
    assert await retry_delay(
        limited.anonymous.tokens.Refresh(refresh_request(client, token))
    ) == pytest.approx(60 / USES)
    assert (await limited.refresh(client, other)).access_token
    await limited.advance(60 / USES)
    assert (await limited.refresh(client, token)).refresh_token != token


async def test_a29_stranger_uses_up_nothing_of_a_grant(limited: TestAuthority) -> None:
    client, other = await limited.create_client(), await limited.create_client()
    token = (await limited.sign_in(client)).refresh_token
    stranger = seen_from(limited, ATTACKER)
    for thief in (other, Client(client.app_id, other.secret), Client(client.app_id, FORGED_SECRET)):
        for _ in range(2 * USES):
            found = await refusal(stranger.tokens.Refresh(refresh_request(thief, token)))
            assert found.reason in (Reason.GRANT_INVALID, Reason.CLIENT_INVALID, Reason.RATE_LIMITED)
    for _ in range(USES - 1):
        token = (await limited.refresh(client, token)).refresh_token
    assert await refusal(limited.refresh(client, token)) == Reason.RATE_LIMITED


async def test_a108_verifier_that_asks_without_end_is_limited_by_itself(limited: TestAuthority) -> None:
    first, _ = await limited.create_verifier(ORDERS)
    second, _ = await limited.create_verifier(ORDERS)
    token = (await limited.sign_in(await limited.create_client())).access_token
    stubs, others = seen_from(limited, OWNER, first), seen_from(limited, OWNER, second)
    introspect = token_service_pb2.IntrospectTokenRequest(token=token)
    # Forged handles cost no more than their refusal would, and use up nobody's budget.
    forged = verification_service_pb2.VerifyApiTokenRequest(app_id=first.app_id, api_token=FORGED_TOKEN)
    for _ in range(3 * VERIFICATIONS):
        assert not (await stubs.verification.VerifyApiToken(forged)).active
        request = token_service_pb2.IntrospectTokenRequest(token=FORGED_TOKEN)
        assert not (await stubs.tokens.IntrospectToken(request)).active
    for _ in range(VERIFICATIONS):
        assert (await stubs.tokens.IntrospectToken(introspect)).active
    assert await refusal(stubs.tokens.IntrospectToken(introspect)) == Reason.RATE_LIMITED
    genuine = verification_service_pb2.VerifyApiTokenRequest(app_id=first.app_id, api_token=first.token)
    assert await refusal(stubs.verification.VerifyApiToken(genuine)) == Reason.RATE_LIMITED
    standing = verification_service_pb2.GetStandingRequest(app_ids=[first.app_id])
    assert await refusal(stubs.verification.GetStanding(standing)) == Reason.RATE_LIMITED
    assert (await others.tokens.IntrospectToken(introspect)).active
    await limited.advance(1)
    assert (await stubs.tokens.IntrospectToken(introspect)).active


async def test_a108_api_token_under_made_up_apps_uses_up_nothing_of_what_a_verifier_may_ask(
    limited: TestAuthority,
) -> None:
    """Any caller of a service could else have it refuse all that it does not know already."""
    verifier, _ = await limited.create_verifier(ORDERS)
    client, own = await limited.create_client(), await limited.create_client()
    tokens = [
        (await limited.create_api_token(app.app_id, ["orders.read"], [ORDERS])).api_token
        for app in (client, own)
    ]
    stubs = seen_from(limited, OWNER, verifier)

    async def ask(app_id: str, token: str) -> bool:
        request = verification_service_pb2.VerifyApiTokenRequest(app_id=app_id, api_token=token)
        answer: verification_service_pb2.VerifyApiTokenResponse = await stubs.verification.VerifyApiToken(
            request
        )
        return answer.active

    assert not await ask(str(uuid.uuid4()), tokens[0])
    limited.store.calls.clear()
    for _ in range(3 * VERIFICATIONS):
        assert not await ask(str(uuid.uuid4()), tokens[0])
    assert limited.asked() == []
    assert await ask(client.app_id, tokens[0])
    assert await ask(own.app_id, tokens[1])


async def test_a109_stranger_uses_up_nothing_of_what_a_public_app_may_push(
    limited: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its App ID is all that pushing takes, and no secret."""
    monkeypatch.setattr(pushed_request, "MAX_LIVE", 2 * PUSHES)
    client = await limited.create_public_client()

    async def push(address: str) -> int:
        answer = await limited.http.post(
            PUSH, data=authorization(client), headers={"x-forwarded-for": address}
        )
        return answer.status_code

    assert [await push(ATTACKER) for _ in range(3 * PUSHES)] == [201] * PUSHES + [429] * 2 * PUSHES
    assert await push(OWNER) == 201


async def test_app_that_revokes_the_access_tokens_it_makes_without_end_is_limited(
    limited: TestAuthority,
) -> None:
    client, other = await limited.create_client(), await limited.create_client()

    async def make(app: Client) -> str:
        return str((await for_itself(limited, app)).json()["access_token"])

    async def revoke(app: Client, token: str) -> Any:
        request = token_service_pb2.RevokeTokenRequest(token=token, **app.body)
        return await outcome(limited.anonymous.tokens.RevokeToken(request))

    done = token_service_pb2.RevokeTokenResponse()
    revoked = [await make(client) for _ in range(REVOCATIONS)]
    for token in revoked:
        assert await revoke(client, token) == done
    token, audit = await make(client), await limited.audit()
    assert await revoke(client, token) == Reason.RATE_LIMITED
    request = token_service_pb2.RevokeTokenRequest(token=token, **client.body)
    assert await retry_delay(limited.anonymous.tokens.RevokeToken(request)) == pytest.approx(60)
    response = await post(limited, "/oauth/revoke", client, token=token)
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert await limited.audit() == audit
    assert limited.authority.limiter.held_up["revocation"] == 3
    # What writes nothing is answered as always, and costs nothing.
    await limited.catch_up()
    for nothing in (*revoked, "nonsense", FORGED_REFRESH_TOKEN, await make(other)):
        assert await revoke(client, nothing) == done
    assert await revoke(other, await make(other)) == done
    # Users sign out all the same, and what goes with their grants is not revoked once more.
    signed_in = await limited.sign_in(client)
    assert await revoke(client, signed_in.refresh_token) == done
    api_token = (await limited.create_api_token(client.app_id, ["orders.read"], [ORDERS])).api_token
    assert await revoke(client, api_token) == done
    await limited.catch_up()
    assert await revoke(client, signed_in.access_token) == done
    await limited.advance(60)
    assert await revoke(client, token) == done
    assert not await limited.is_alive(token)


async def test_a107_verifier_that_asks_about_made_up_master_keys_is_no_guesser(
    limited: TestAuthority,
) -> None:
    credential, _ = await limited.create_verifier(ORDERS)
    stubs = seen_from(limited, OWNER, credential)
    request = verification_service_pb2.VerifyApiTokenRequest(
        app_id=credential.app_id, api_token=FORGED_TOKEN[:5] + "Af___w" + FORGED_TOKEN[11:]
    )
    for _ in range(PEER_FAILURES):
        assert await refusal(stubs.verification.VerifyApiToken(request)) == Reason.TOKEN_UNDECIDED
    assert limited.authority.limiter._held([f"peer {OWNER}"]) is None


async def test_owner_who_is_no_administrator_makes_and_changes_so_much(limited: TestAuthority) -> None:
    resources = [limited.settings.issuer, ORDERS]
    _, stubs = await limited.app_with("rpz.apps", "orders.read", resources=resources)
    app = await limited.create_app(stubs, scopes=["orders.read"])
    named: dict[str, Any] = {"app_id": app.app_id}
    mask = FieldMask(paths=["display_name"])
    make_secret = app_service_pb2.CreateClientSecretRequest(**named)
    secret = (await stubs.apps.CreateClientSecret(make_secret)).record
    make_token = token_service_pb2.CreateApiTokenRequest(
        **named, scopes=["orders.read"], resources=[ORDERS], display_name="a"
    )
    token = (await stubs.tokens.CreateApiToken(make_token)).record
    await limited.update_app(app.app_id, as_=stubs, display_name="shop 2")
    # That was all of it.
    audit = await limited.audit()
    token_id: dict[str, Any] = {"api_token_id": token.api_token_id}
    secret_id: dict[str, Any] = {"secret_id": secret.secret_id}
    for held_up in (
        limited.create_app(stubs, scopes=[]),
        limited.update_app(app.app_id, as_=stubs, display_name="shop 3"),
        stubs.apps.EndAllTokens(app_service_pb2.EndAllTokensRequest(**named)),
        stubs.apps.CreateClientSecret(make_secret),
        stubs.apps.RotateClientSecret(app_service_pb2.RotateClientSecretRequest(**named, **secret_id)),
        stubs.apps.UpdateClientSecret(
            app_service_pb2.UpdateClientSecretRequest(client_secret=secret, update_mask=mask)
        ),
        stubs.tokens.CreateApiToken(make_token),
        stubs.tokens.RotateApiToken(token_service_pb2.RotateApiTokenRequest(**named, **token_id)),
        stubs.tokens.UpdateApiToken(
            token_service_pb2.UpdateApiTokenRequest(api_token=token, update_mask=mask)
        ),
    ):
        found = await refusal(held_up)
        assert found == Reason.RATE_LIMITED
        assert "(the setting change_limit)" in found.text
    again = app_service_pb2.EndAllTokensRequest(**named)
    assert await retry_delay(stubs.apps.EndAllTokens(again)) == pytest.approx(60 / CHANGES)
    assert await limited.audit() == audit
    # Nothing holds up an administrator, another owner, or what takes away.
    await limited.update_app(app.app_id, display_name="shop 4")
    _, others = await limited.app_with("rpz.apps")
    await limited.create_app(others, scopes=[], resources=[])
    await stubs.tokens.RevokeApiToken(token_service_pb2.RevokeApiTokenRequest(**named, **token_id))
    await stubs.apps.RevokeClientSecret(app_service_pb2.RevokeClientSecretRequest(**named, **secret_id))
    await stubs.apps.LockApp(app_service_pb2.LockAppRequest(**named))
    unlock = app_service_pb2.UnlockAppRequest(**named)
    assert await refusal(stubs.apps.UnlockApp(unlock)) == Reason.RATE_LIMITED
    await stubs.apps.DeleteApp(app_service_pb2.DeleteAppRequest(**named))
    await limited.advance(60 / CHANGES)
    await limited.create_app(stubs, scopes=["orders.read"])


async def test_person_makes_and_allows_so_much(limited: TestAuthority) -> None:
    visitor, client = await Visitor.of(limited), await limited.create_public_client()
    person, scopes = visitor.person, frozenset({"orders.read"})
    await visitor.get("/console/apps/new")
    await consents.remember(limited.authority, person, client.app_id, scopes, frozenset({ORDERS}))
    request = IssueCode(
        client_id=client.app_id,
        redirect_uri=REDIRECT_URI,
        scopes=scopes,
        subject=person.subject,
        code_challenge=challenge_of(CODE_VERIFIER),
        code_challenge_method="S256",
    )
    for _ in range(CHANGES):
        await issue_code(limited.authority, person, request)
    with pytest.raises(RateLimited):
        await issue_code(limited.authority, person, request)
    answer = await visitor.send("/console/apps/new", display_name="shop", kind="frontend")
    assert (answer.status_code, "(the setting change_limit)" in visitor.page) == (429, True)
    # A service that signs many people in, and an administrator, are not held up by that.
    listed = app_service_pb2.SignIn(client_ids=[client.app_id], subject_prefix="user:")
    _, service = await limited.app_with("rpz.codes.issue", sign_in=listed)
    for _ in range(2 * CHANGES):
        await limited.issue_code(client, as_=service)
        await limited.issue_code(client)


async def test_a109_simultaneous_guesses_are_all_counted(limited: TestAuthority) -> None:
    client = await limited.create_client()
    attacker = seen_from(limited, ATTACKER)
    request = token_service_pb2.RevokeTokenRequest(
        token="x", client_id=client.app_id, client_secret=FORGED_SECRET
    )
    outcomes = await asyncio.gather(*(outcome(attacker.tokens.RevokeToken(request)) for _ in range(50)))
    reasons = [found.reason for found in outcomes]
    assert reasons.count(Reason.CLIENT_INVALID) == FAILURES
    assert reasons.count(Reason.RATE_LIMITED) == 50 - FAILURES


async def test_r131_guesses_that_are_checked_at_the_same_time_are_limited_like_others() -> None:
    limiter, peer = Limiter(Limits(failures=3), FakeTime().wall), Peer(parse_address(ATTACKER))
    checked = asyncio.Event()

    async def guess() -> None:
        with limiter.guarded("user somebody", peer, slow=True):
            await checked.wait()
            raise ClientInvalid

    tasks = [asyncio.create_task(guess()) for _ in range(10)]
    await asyncio.sleep(0)  # all have begun
    checked.set()
    refused = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in refused] == [ClientInvalid] * 3 + [TooManyGuesses] * 7


async def test_slow_check_that_succeeds_costs_nothing() -> None:
    limiter, peer = Limiter(Limits(failures=3), FakeTime().wall), Peer(parse_address(OWNER))
    for _ in range(10):
        with limiter.guarded("user somebody", peer, slow=True):
            pass
    assert list(limiter.untold(limit=100)) == []


async def test_r131_peer_that_floods_with_access_tokens_is_found_out_too(limited: TestAuthority) -> None:
    attacker = seen_from(limited, ATTACKER)
    request = token_service_pb2.ListApiTokensRequest(app_id=limited.bootstrap["app_id"])
    for number in range(PEER_FAILURES):
        call = attacker.tokens.ListApiTokens(request, metadata=bearer(f"forged-{number}"))
        assert await refusal(call) == Reason.TOKEN_INVALID
    limiter = limited.authority.limiter
    assert limiter._held([f"peer {ATTACKER}"]) is not None
    assert limiter._held([f"peer {OWNER}"]) is None


# In memory


def fail(limiter: Limiter, name: str, peer: Peer, *genuine: str) -> None:
    with pytest.raises((ClientInvalid, RateLimited)), limiter.guarded(name, peer, genuine=genuine):
        raise ClientInvalid


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_r131_what_one_party_can_have_is_one_peer(address: str, prefix: str) -> None:
    assert prefix_of(Peer(parse_address(address))) == prefix
    assert (prefix_of(UNKNOWN), prefix_of(Peer(None, unix=True))) == ("unknown", "unix")


def test_a110_any_number_of_names_and_peers_takes_a_bounded_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_KEPT", 100)
    limiter = Limiter(Limits(), Clock(NOW))
    flooder = Peer(parse_address("198.51.100.1"))
    for number in range(1000):
        fail(limiter, str(number) * 100, flooder)
        fail(limiter, "x", Peer(parse_address(f"10.0.{number // 256}.{number % 256}")))
        with limiter.guarded("y", Peer(parse_address(f"10.1.{number // 256}.{number % 256}"))):
            pass
    assert len(limiter._entries) == len(limiter._right) == 100
    assert len(limiter._untold) <= 100
    assert max(map(len, limiter._entries)) < 200
    # The flooder is looked at all the time, so it is never among those that are forgotten.
    with pytest.raises(RateLimited), limiter.guarded("new", flooder):
        pass


def test_a110_flood_of_names_and_peers_pushes_out_nothing_that_is_nearly_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has many networks would else begin anew with every allowance, its own and others'."""
    monkeypatch.setattr(limits, "_KEPT", 100)
    limiter = Limiter(Limits(changes=4), Clock(NOW))
    for _ in range(4):
        limiter.take_change("member")
    for number in range(1000):
        fail(limiter, str(uuid.uuid4()), Peer(parse_address(f"2001:db8:0:{number:x}::1")))
    assert len(limiter._entries) == 100
    with pytest.raises(RateLimited):
        limiter.take_change("member")
    # And those that are nearly used up take no more room than there is.
    for number in range(1000):
        for _ in range(4):
            limiter.take_change(str(number))
    assert len(limiter._entries) == 100


def test_switched_off_limits_count_nothing() -> None:
    limiter = Limiter(
        Limits(
            failures=0, peer_failures=0, app_failures=0, uses=0, verifications=0, revocations=0, changes=0
        ),
        Clock(NOW),
    )
    for _ in range(1000):
        limiter.take_use("grant")
        limiter.take_verification("app")
        limiter.take_revocation("app")
        limiter.take_change("user")
        with pytest.raises(ClientInvalid), limiter.guarded("name", UNKNOWN):
            raise ClientInvalid
    assert limiter._entries == {}


async def test_only_guessers_wait_for_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "HELD_FOR", 3600)
    limiter = Limiter(Limits(peer_failures=1), Clock(NOW))
    peer = Peer(parse_address(ATTACKER))
    await limiter.hold_back(TokenInvalid(), peer)
    for guess in (TokenInvalid(), TooManyGuesses()):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await limiter.hold_back(guess, peer)
    for harmless in (RateLimited(), BackendUnavailable(), ClientInvalid()):
        await limiter.hold_back(harmless, peer)
