from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rpz.auth.v1 import administration_service_pb2 as pb
from rpz_auth.errors import Reason
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.signing_keys import keep_signing_keys
from rpz_auth_server.live.keys import keep_keys_forever
from server.authority import START, FakeTime, TestAuthority, refusal, running_authority

DAY = 86400
HOUR = 3600


def kids(authority: TestAuthority) -> list[str]:
    """Those that are published."""
    return [key["kid"] for key in json.loads(authority.authority.signing.jwks())["keys"]]


def kid_of(access_token: str) -> str:
    header = access_token.split(".", maxsplit=1)[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


async def rotate(authority: TestAuthority, *, compromised: bool = False) -> pb.SigningKey:
    request = pb.RotateSigningKeyRequest(compromised=compromised)
    key: pb.SigningKey = (await authority.admin.administration.RotateSigningKey(request)).signing_key
    return key


async def listed(authority: TestAuthority) -> list[pb.SigningKey]:
    answer = await authority.admin.administration.ListSigningKeys(pb.ListSigningKeysRequest())
    return list(answer.signing_keys)


async def test_a45_rotated_key_is_published_at_once_and_signs_later(authority: TestAuthority) -> None:
    client = await authority.create_client()
    (first,) = kids(authority)
    new = await rotate(authority)
    assert kids(authority) == [first, new.kid]
    old, _ = await listed(authority)
    assert old.retire_time.seconds == int(START + HOUR + MARGIN)
    assert (new.publish_time.seconds, new.sign_time.seconds) == (int(START), int(START) + HOUR)
    assert not new.HasField("retire_time")

    tokens = await authority.sign_in(client)
    assert kid_of(tokens.access_token) == first
    await authority.advance(HOUR)
    renewed = await authority.refresh(client, tokens.refresh_token)
    assert kid_of(renewed.access_token) == new.kid
    assert await authority.is_alive(tokens.access_token)
    assert await authority.is_alive(renewed.access_token)
    assert (await authority.actions()).count("signing_key.rotate") == 1


async def test_old_key_is_dropped_once_its_last_token_has_expired(authority: TestAuthority) -> None:
    (first,) = kids(authority)
    new = await rotate(authority)
    await authority.advance(HOUR + MARGIN - 1)
    await keep_signing_keys(authority.authority)
    await authority.catch_up()
    assert kids(authority) == [first, new.kid]
    await authority.advance(1)
    await keep_signing_keys(authority.authority)
    await authority.catch_up()
    assert kids(authority) == [new.kid]
    erased, _ = await authority.store.inner.signing_keys()
    assert (erased.kid, erased.sealed) == (first, b"")
    await authority.advance(MARGIN)
    await authority.store.inner.collect(limit=100)
    assert [key.kid for key in await authority.store.inner.signing_keys()] == [new.kid]


async def test_compromised_keys_are_dropped_with_all_that_they_signed(authority: TestAuthority) -> None:
    client = await authority.create_client()
    waiting = await rotate(authority)
    tokens = await authority.sign_in(client)
    assert await authority.is_alive(tokens.access_token)
    new = await rotate(authority, compromised=True)
    assert kids(authority) == [new.kid]
    assert waiting.kid != new.kid
    assert not await authority.is_alive(tokens.access_token)
    renewed = await authority.refresh(client, tokens.refresh_token)
    assert kid_of(renewed.access_token) == new.kid
    assert await authority.is_alive(renewed.access_token)
    assert "signing_key.drop_all" in await authority.actions()


async def test_schedule_publishes_a_successor_ahead_and_only_one(authority: TestAuthority) -> None:
    (first,) = kids(authority)
    await authority.advance(90 * DAY - HOUR - 1)
    await keep_signing_keys(authority.authority)
    assert len(await authority.store.inner.signing_keys()) == 1
    await authority.advance(1)
    for _ in range(3):
        await keep_signing_keys(authority.authority)
    old, new = await authority.store.inner.signing_keys()
    assert old.kid == first
    assert new.sign_at == START + 90 * DAY
    assert old.retire_at == new.sign_at + MARGIN
    await authority.catch_up()
    assert kids(authority) == [first, new.kid]


async def test_a128_processes_that_rotate_at_the_same_moment_make_one_key(authority: TestAuthority) -> None:
    await authority.advance(90 * DAY)
    other = replace(authority.authority, store=authority.store.inner)
    looked = asyncio.Event()

    async def let_the_other_be_faster() -> None:
        if not looked.is_set():
            looked.set()
            await keep_signing_keys(other)

    authority.store.after["signing_keys"] = let_the_other_be_faster
    with pytest.raises(Conflict):
        await keep_signing_keys(authority.authority)
    assert looked.is_set()
    assert len(await authority.store.inner.signing_keys()) == 2


async def test_background_work_rotates_on_real_time(tmp_path: Path) -> None:
    time = FakeTime()
    async with running_authority(tmp_path / "a", time=time) as authority:
        time.passed += 90 * DAY
        work = asyncio.create_task(keep_keys_forever(authority.authority))
        try:
            async with asyncio.timeout(20):
                while len(kids(authority)) < 2:
                    await authority.store.inner.wait_for_events(authority.hub._cursor)
                    await authority.catch_up()
        finally:
            work.cancel()


async def test_rotation_is_for_administrators(authority: TestAuthority) -> None:
    _, other = await authority.app_with("rpz.apps", "rpz.audit")
    for call in (
        other.administration.RotateSigningKey(pb.RotateSigningKeyRequest()),
        other.administration.ListSigningKeys(pb.ListSigningKeysRequest()),
        other.administration.LockIssuer(pb.LockIssuerRequest()),
        other.administration.UnlockIssuer(pb.UnlockIssuerRequest()),
        other.administration.ListVerifiers(pb.ListVerifiersRequest()),
    ):
        assert await refusal(call) == Reason.SCOPE_INSUFFICIENT
