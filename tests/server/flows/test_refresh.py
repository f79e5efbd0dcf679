from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth import access_token
from rpz_auth.caller import Verdict
from rpz_auth.errors import BackendUnavailable, Reason
from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.grant import MAX_REPEATS
from server.authority import ORDERS, STOCK, Client, TestAuthority, basic, outcome, refusal
from server.storage.build import statement

DAY = 86400


def read(authority: TestAuthority, token: str) -> Verdict:
    """What an access token says."""
    return access_token.verify(
        token,
        authority.authority.view.keys,
        issuer=authority.settings.issuer,
        resources=None,
        now=authority.store.now(),
    )


async def test_r062_rotation_gives_a_new_token_and_the_same_lifetime(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    await authority.advance(1000)
    second = await authority.refresh(client, first.refresh_token)
    assert second.refresh_token != first.refresh_token
    assert (second.token_type, second.expires_in, list(second.scopes)) == ("Bearer", 7200, ["orders.read"])
    assert await authority.is_alive(second.access_token)
    assert await authority.is_alive(first.access_token)
    assert read(authority, second.access_token).token_id != read(authority, first.access_token).token_id


async def test_client_authenticates_in_the_metadata(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    metadata = basic(client.app_id, client.secret, "x-rpz-auth")
    renewed = authority.refresh(
        client, first.refresh_token, metadata=metadata, client_id="", client_secret=""
    )
    assert (await renewed).access_token
    both = authority.refresh(client, first.refresh_token, metadata=metadata)
    assert await refusal(both) == Reason.CREDENTIALS_AMBIGUOUS


async def test_r015_confidential_client_must_authenticate(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    for secret in ("", "wrong"):
        found = authority.refresh(client, first.refresh_token, client_secret=secret)
        assert await refusal(found) == Reason.CLIENT_INVALID
    assert (await authority.refresh(client, first.refresh_token)).access_token


async def test_public_app_renews_with_its_id_alone(authority: TestAuthority) -> None:
    client = await authority.create_public_client()
    first = await authority.sign_in(client)
    assert (await authority.refresh(client, first.refresh_token)).access_token


async def test_r060_token_of_another_app_is_refused_and_stays_good(authority: TestAuthority) -> None:
    client, thief = await authority.create_client(), await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.advance(100)
    for token in (first.refresh_token, second.refresh_token):
        assert await refusal(authority.refresh(thief, token)) == Reason.GRANT_INVALID
    assert await authority.is_alive(second.access_token)
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_r063_a22_lost_answer_is_given_again_and_extends_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    await authority.advance(100)
    second = await authority.refresh(client, first.refresh_token)
    await authority.advance(30)
    again = await authority.refresh(client, first.refresh_token)
    assert again.refresh_token == second.refresh_token
    assert again.expires_in == second.expires_in - 30
    old, new = read(authority, second.access_token), read(authority, again.access_token)
    assert (new.expires_at, new.issued_at) == (old.expires_at, int(authority.store.now()))
    assert new.token_id != old.token_id
    await authority.advance(DAY * 30 - 30)
    assert await refusal(authority.refresh(client, again.refresh_token)) == Reason.GRANT_INVALID


@pytest.mark.parametrize("age", [60, 61, 3600])
async def test_r062_a22_after_the_grace_the_family_is_dead(authority: TestAuthority, age: float) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.advance(age)
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.GRANT_INVALID
    assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.GRANT_INVALID
    for token in (first.access_token, second.access_token):
        assert not await authority.is_alive(token)
    assert "grant.reuse" in await authority.actions()


async def test_a23_token_whose_successor_was_used_is_reuse_even_within_the_grace(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    third = await authority.refresh(client, second.refresh_token)
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.GRANT_INVALID
    assert not await authority.is_alive(third.access_token)
    assert await refusal(authority.refresh(client, third.refresh_token)) == Reason.GRANT_INVALID


async def test_a20_a24_token_of_two_generations_back_kills_the_family(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.advance(3600)
    third = await authority.refresh(client, second.refresh_token)
    await authority.advance(3600)
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.GRANT_INVALID
    assert not await authority.is_alive(third.access_token)


async def test_a25_revoked_family_stays_dead_within_the_grace(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.anonymous.tokens.RevokeToken(
        pb.RevokeTokenRequest(token=second.refresh_token, **client.body)
    )
    audit = await authority.audit()
    for token in (first.refresh_token, second.refresh_token):
        assert await refusal(authority.refresh(client, token)) == Reason.GRANT_INVALID
    assert await authority.audit() == audit


async def test_a22_repeats_end_without_harm_to_the_successor(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    for _ in range(MAX_REPEATS):
        assert (await authority.refresh(client, first.refresh_token)).refresh_token == second.refresh_token
    found = await refusal(authority.refresh(client, first.refresh_token))
    assert found == Reason.RATE_LIMITED
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_repeat_from_elsewhere_is_audited_and_from_the_same_peer_is_not(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.refresh(client, first.refresh_token)
    assert "grant.repeated_from_elsewhere" not in await authority.actions()
    grant_id = read(authority, second.access_token).grant_id
    assert grant_id is not None
    moved = await authority.store.inner._write(statement("UPDATE grants SET peer = '192.0.2.1'"))
    assert moved == 1
    await authority.refresh(client, first.refresh_token)
    assert (await authority.audit())[-1].audit.action == "grant.repeated_from_elsewhere"


@pytest.mark.parametrize("callers", [2, 20])
async def test_r063_a21_simultaneous_refreshes_continue_one_lineage(
    authority: TestAuthority, callers: int
) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    arrived = asyncio.Event()
    waiting = 0

    async def together(*_: Any) -> None:
        nonlocal waiting
        waiting += 1
        if waiting >= callers:
            arrived.set()
        await arrived.wait()

    authority.store.before["commit"] = together
    answers = await asyncio.gather(
        *(outcome(authority.refresh(client, first.refresh_token)) for _ in range(callers))
    )
    assert waiting > callers  # each had decided to advance; all but one decided again
    authority.store.before.clear()
    good = [answer for answer in answers if answer != Reason.RATE_LIMITED]
    assert len(good) == min(callers, 1 + MAX_REPEATS)
    assert len({answer.refresh_token for answer in good}) == 1
    assert (await authority.refresh(client, good[0].refresh_token)).access_token


async def test_a26_retry_after_an_unknown_outcome_gets_the_same_successor(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)

    async def commit_and_fail(commit: Any) -> None:
        authority.store.before.clear()
        await authority.store.inner.commit(commit)
        raise BackendUnavailable

    authority.store.before["commit"] = commit_and_fail
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.BACKEND_UNAVAILABLE
    second = await authority.refresh(client, first.refresh_token)
    third = await authority.refresh(client, second.refresh_token)
    assert await authority.is_alive(third.access_token)


async def test_commit_whose_client_gave_up_is_carried_out_and_can_be_repeated(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    at_commit, cancelled = asyncio.Event(), asyncio.Event()

    async def hold(commit: Any) -> None:
        authority.store.before.clear()
        pending = asyncio.ensure_future(authority.store.inner.heartbeat())  # the writer is at work
        committing = asyncio.ensure_future(authority.store.inner.commit(commit))
        at_commit.set()
        try:
            await asyncio.shield(committing)
            await asyncio.Event().wait()
        finally:
            await pending
            cancelled.set()

    authority.store.before["commit"] = hold
    call = asyncio.ensure_future(authority.refresh(client, first.refresh_token))
    await at_commit.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await cancelled.wait()
    second = await authority.refresh(client, first.refresh_token)
    (row,) = await authority.store.inner.grants_of_subject("user:1", limit=10)
    assert (row.generation, row.repeats) == (2, 1)
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_r064_refresh_token_that_is_not_used_expires(authority: TestAuthority) -> None:
    client = await authority.create_client()
    kept, idle = await authority.sign_in(client), await authority.sign_in(client)
    await authority.advance(30 * DAY - 1)
    assert (await authority.refresh(client, kept.refresh_token)).access_token
    await authority.advance(1)
    assert await refusal(authority.refresh(client, idle.refresh_token)) == Reason.GRANT_INVALID


async def test_r064_grant_ends_however_often_it_is_renewed(authority: TestAuthority) -> None:
    client = await authority.create_client()
    answer: Any = await authority.sign_in(client)
    for _ in range(8):
        await authority.advance(20 * DAY)
        answer = await authority.refresh(client, answer.refresh_token)
    await authority.advance(20 * DAY - 60)
    answer = await authority.refresh(client, answer.refresh_token)
    assert answer.expires_in == 60
    await authority.advance(60)
    assert await refusal(authority.refresh(client, answer.refresh_token)) == Reason.GRANT_INVALID


async def test_r065_nothing_else_is_a_refresh_token(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = await authority.sign_in(client)
    api_token = (await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])).api_token
    bad = [
        "",
        "x",
        code,
        tokens.access_token,
        client.secret,
        api_token,
        "rpzr_" + code[5:],
        tokens.refresh_token + "=",
        tokens.refresh_token[:-1],
        "rpzr_" + "A" * 64,
        tokens.refresh_token.upper(),
    ]
    answers = [await refusal(authority.refresh(client, token)) for token in bad]
    assert answers[0] == Reason.GRANT_INVALID
    assert all(answer == answers[0] for answer in answers)


async def test_r061_scopes_are_a_part_of_the_granted_and_the_grant_keeps_all(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client(scopes=["a", "b", "c"])
    first: Any = await authority.sign_in(client, scopes=["a", "b"])
    narrow = await authority.refresh(client, first.refresh_token, scopes=["a"])
    assert list(narrow.scopes) == ["a"]
    assert read(authority, narrow.access_token).scopes == {"a"}
    full = await authority.refresh(client, narrow.refresh_token)
    assert list(full.scopes) == ["a", "b"]
    for scopes in (["c"], ["a", "c"], ["a b"], [""], ["rpz.admin"], ["A"]):
        found = await refusal(authority.refresh(client, full.refresh_token, scopes=scopes))
        assert found == Reason.SCOPE_INVALID
    assert (await authority.refresh(client, full.refresh_token)).access_token


async def test_a27_scope_taken_from_the_app_is_gone_from_its_grants(authority: TestAuthority) -> None:
    client = await authority.create_client(scopes=["a", "b"])
    first: Any = await authority.sign_in(client, scopes=["a", "b"])
    await authority.update_app(client.app_id, scopes=["a"])
    asked = authority.refresh(client, first.refresh_token, scopes=["a", "b"])
    assert await refusal(asked) == Reason.SCOPE_INVALID
    second = await authority.refresh(client, first.refresh_token)
    assert list(second.scopes) == ["a"]
    await authority.update_app(client.app_id, scopes=["other"])
    assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.SCOPE_INVALID
    await authority.update_app(client.app_id, scopes=["a", "b", "other"])
    assert list((await authority.refresh(client, second.refresh_token)).scopes) == ["a", "b"]


async def test_r209_a27_resource_is_one_of_the_granted(authority: TestAuthority) -> None:
    other = "https://other.example"
    client = await authority.create_client(resources=[ORDERS, STOCK, other])
    code = await authority.issue_code(client, resources=[ORDERS, STOCK])
    first = await authority.exchange(client, code, resource=ORDERS)
    for resource in ("", other, ORDERS + "/"):
        found = authority.refresh(client, first.refresh_token, resource=resource)
        assert await refusal(found) == Reason.TARGET_INVALID
    second = await authority.refresh(client, first.refresh_token, resource=STOCK)
    assert read(authority, second.access_token).resources == {STOCK}
    await authority.update_app(client.app_id, resources=[ORDERS])
    third = await authority.refresh(client, second.refresh_token)
    assert read(authority, third.access_token).resources == {ORDERS}


async def test_a20_reuse_with_a_bad_scope_or_resource_is_reuse_all_the_same(authority: TestAuthority) -> None:
    client = await authority.create_client()
    extras: list[dict[str, Any]] = [{"scopes": ["nonsense"]}, {"resource": "https://x"}]
    for extra in extras:
        first = await authority.sign_in(client)
        second = await authority.refresh(client, first.refresh_token)
        await authority.advance(61)
        found = authority.refresh(client, first.refresh_token, **extra)
        assert await refusal(found) == Reason.GRANT_INVALID
        assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.GRANT_INVALID


async def test_r066_a28_locked_app_renews_nothing_until_it_is_unlocked(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.CLIENT_INVALID
    assert not await authority.is_alive(first.access_token)
    await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id))
    second = await authority.refresh(client, first.refresh_token)
    assert await authority.is_alive(second.access_token)
    assert not await authority.is_alive(first.access_token)


async def test_r066_a28_deleted_app_and_removed_user_renew_nothing(authority: TestAuthority) -> None:
    gone, client = await authority.create_client(), await authority.create_client()
    of_gone, first = await authority.sign_in(gone), await authority.sign_in(client)
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=gone.app_id))
    assert await refusal(authority.refresh(gone, of_gone.refresh_token)) == Reason.CLIENT_INVALID
    assert not await authority.is_alive(of_gone.access_token)
    await authority.admin.tokens.RevokeSubject(pb.RevokeSubjectRequest(subject="user:1"))
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.GRANT_INVALID


async def test_r066_r211_of_two_secrets_only_the_revoked_one_stops(authority: TestAuthority) -> None:
    client = await authority.create_client()
    newer = Client(client.app_id, await authority.create_secret(client.app_id))
    first: Any = await authority.sign_in(client)
    second = await authority.refresh(newer, first.refresh_token)
    records = await authority.admin.apps.ListClientSecrets(
        app_pb.ListClientSecretsRequest(app_id=client.app_id)
    )
    oldest = records.client_secrets[0].secret_id
    await authority.admin.apps.RevokeClientSecret(
        app_pb.RevokeClientSecretRequest(app_id=client.app_id, secret_id=oldest)
    )
    stopped = {await _is_known(authority, candidate, second.refresh_token) for candidate in (client, newer)}
    assert stopped == {True, False}


async def _is_known(authority: TestAuthority, client: Client, refresh_token: str) -> bool:
    return bool(await outcome(authority.refresh(client, refresh_token)) != Reason.CLIENT_INVALID)


async def test_r211_secret_stops_at_its_deadline(authority: TestAuthority) -> None:
    client = await authority.create_client()
    request = app_pb.CreateClientSecretRequest(app_id=client.app_id)
    request.expire_time.FromSeconds(int(authority.store.now()) + 100)
    created = await authority.admin.apps.CreateClientSecret(request)
    short = Client(client.app_id, created.client_secret)
    first: Any = await authority.sign_in(client)
    await authority.advance(99)
    second = await authority.refresh(short, first.refresh_token)
    await authority.advance(1)
    assert await refusal(authority.refresh(short, second.refresh_token)) == Reason.CLIENT_INVALID
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_r092_whitelist_holds_for_a_refresh_and_its_repeat(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.update_app(client.app_id, whitelist=["192.0.2.1"])
    for token in (first.refresh_token, second.refresh_token):
        assert await refusal(authority.refresh(client, token)) == Reason.ORIGIN_NOT_ALLOWED
    await authority.update_app(client.app_id, whitelist=["127.0.0.0/8"])
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_token_from_before_lost_writes_is_taken_with_an_alarm(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    verdict = read(authority, first.access_token)
    assert verdict.grant_id is not None
    row = await authority.store.inner.grant(verdict.grant_id)
    assert row is not None
    ahead = authority.authority.handles.seal(
        HandleKind.REFRESH, row.grant_id, 5, salt=row.salt, key_number=row.key_number
    )
    assert (await authority.refresh(client, ahead)).access_token
    assert (await authority.audit())[-1].audit.action == "grant.recovered"
    assert await refusal(authority.refresh(client, first.refresh_token)) == Reason.GRANT_INVALID
