from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2
from rpz_auth.address import Peer, parse_address
from rpz_auth.errors import Reason
from rpz_auth_server.crypto.handles import HandleKind, Handles, new_id, new_salt
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.domain.credential import ApiToken, ClientSecret
from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.domain.refusal import ClientInvalid, GrantInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import ClientCredentials, authenticate_client, load_grant
from rpz_auth_server.flows.verify_api_token import find_api_token
from rpz_auth_server.storage.store import Commit
from server.authority import TestAuthority, basic, refusal

LEAKED, CURRENT = 1, 2


async def _rotated(authority: TestAuthority) -> Authority:
    """The same authority with a key ring in which one key has leaked and another mints."""
    ring = KeyRing({LEAKED: secrets.token_bytes(32), CURRENT: secrets.token_bytes(32)}, minting=CURRENT)
    instance = await authority.authority.store.instance()
    handles = Handles(ring, issuer=authority.settings.issuer, instance=instance)
    return replace(authority.authority, keyring=ring, handles=handles)


async def test_a_retired_key_makes_no_generation_that_is_ahead_of_the_row(authority: TestAuthority) -> None:
    rotated = await _rotated(authority)
    store, handles = rotated.store, rotated.handles
    client = await authority.create_client()
    now = store.now()
    grant = Grant(
        grant_id=new_id(),
        app_id=client.app_id,
        subject="user:1",
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders.example"}),
        redirect_uri="https://shop.example/callback",
        code_challenge=None,
        state=GrantState.ACTIVE,
        generation=9,
        salt=new_salt(),
        key_number=CURRENT,
        key_since=5,
        created_at=now,
        rotated_at=now,
        access_expires_at=now + 60,
        idle_expires_at=now + 600,
        expires_at=now + 600,
    )
    await store.commit(Commit(rows=(grant,)))

    def presented(generation: int, key_number: int) -> str:
        return handles.seal(
            HandleKind.REFRESH, grant.grant_id, generation, salt=grant.salt, key_number=key_number
        )

    for generation, key_number in ((9, CURRENT), (10, CURRENT), (4, LEAKED)):
        opened = handles.open(HandleKind.REFRESH, presented(generation, key_number))
        assert await load_grant(rotated, opened) == grant
    for generation in (9, 10, 4_000_000_000):
        opened = handles.open(HandleKind.REFRESH, presented(generation, LEAKED))
        with pytest.raises(GrantInvalid):
            await load_grant(rotated, opened)


async def test_another_key_than_the_rows_makes_no_secret_and_no_api_token(authority: TestAuthority) -> None:
    rotated = await _rotated(authority)
    store, handles = rotated.store, rotated.handles
    app = await authority.create_app()
    row: dict[str, Any] = {
        "app_id": app.app_id,
        "display_name": "",
        "salt": new_salt(),
        "key_number": CURRENT,
        "created_at": store.now(),
    }
    secret = ClientSecret(secret_id=new_id(), **row)
    token = ApiToken(api_token_id=new_id(), scopes=frozenset(), resources=frozenset(), **row)
    await store.commit(Commit(rows=(secret, token)))

    def made_with(key_number: int, kind: HandleKind, identifier: str) -> str:
        return handles.seal(kind, identifier, 0, salt=row["salt"], key_number=key_number)

    def client(key_number: int) -> ClientCredentials:
        text = made_with(key_number, HandleKind.SECRET, secret.secret_id)
        return ClientCredentials(
            client_id=app.app_id, client_secret=text, peer=Peer(parse_address("192.0.2.7"))
        )

    assert (await authenticate_client(rotated, client(CURRENT))).secret == secret
    with pytest.raises(ClientInvalid):
        await authenticate_client(rotated, client(LEAKED))
    for key_number, found in ((CURRENT, token), (LEAKED, None)):
        text = made_with(key_number, HandleKind.API_TOKEN, token.api_token_id)
        assert await find_api_token(rotated, text) == found
    unknown = made_with(CURRENT, HandleKind.API_TOKEN, new_id())
    assert await find_api_token(rotated, unknown) is None


async def test_who_has_the_master_keys_and_not_the_database_makes_no_credential(
    authority: TestAuthority,
) -> None:
    handles = authority.authority.handles
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    app_id = authority.bootstrap["app_id"]

    def forged(kind: HandleKind, text: str) -> str:
        opened = handles.open(kind, text)
        return handles.seal(kind, opened.id, opened.generation, salt=new_salt(), key_number=opened.key_number)

    secret = forged(HandleKind.SECRET, client.secret)
    assert (
        await refusal(authority.refresh(client, tokens.refresh_token, client_secret=secret))
    ).reason is Reason.CLIENT_INVALID
    refresh_token = forged(HandleKind.REFRESH, tokens.refresh_token)
    assert (await refusal(authority.refresh(client, refresh_token))).reason is Reason.GRANT_INVALID
    code = forged(HandleKind.CODE, await authority.issue_code(client))
    assert (await refusal(authority.exchange(client, code))).reason is Reason.GRANT_INVALID
    api_token = forged(HandleKind.API_TOKEN, authority.bootstrap["api_token"])
    call = authority.anonymous.apps.ListApps(
        app_service_pb2.ListAppsRequest(), metadata=basic(app_id, api_token)
    )
    assert (await refusal(call)).reason is Reason.TOKEN_INVALID
    assert (await authority.refresh(client, tokens.refresh_token)).access_token


async def test_what_is_sealed_for_a_row_that_never_was_is_good_for_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    ring = authority.authority.keyring

    def sealed(kind: HandleKind) -> str:
        handles = authority.authority.handles
        return handles.seal(kind, new_id(), 0, salt=new_salt(), key_number=ring.minting_number)

    for call, expected in (
        (authority.refresh(client, sealed(HandleKind.REFRESH)), Reason.GRANT_INVALID),
        (authority.exchange(client, sealed(HandleKind.CODE)), Reason.GRANT_INVALID),
        (
            authority.refresh(client, tokens.refresh_token, client_secret=sealed(HandleKind.SECRET)),
            Reason.CLIENT_INVALID,
        ),
    ):
        assert (await refusal(call)).reason is expected
