"""When credentials were used last, and from where."""

from __future__ import annotations

import pytest
from rpz.auth.v1 import app_service_pb2, token_service_pb2, verification_service_pb2
from rpz_auth.errors import BackendUnavailable, Reason
from rpz_auth_server.domain.use import Use, read_place
from rpz_auth_server.flows.uses import Uses
from rpz_auth_server.live.recorder import record
from server.authority import ORDERS, Client, TestAuthority, refusal


def _use(name: str, at: float, place: str = "192.0.2.1") -> Use:
    return Use(credential_id=name, used_at=at, used_from=place)


def test_of_several_uses_the_last_is_kept_and_of_too_many_credentials_none_more() -> None:
    uses = Uses(limit=2)
    for number in range(1000):
        uses.note("a", at=number, place="192.0.2.1")
        uses.note(f"b{number}", at=number, place="")
    assert uses.take(9) == [_use("a", 999), _use("b0", 0, "")]
    assert uses.take(9) == []


def test_what_could_not_be_written_gives_way_to_a_later_use() -> None:
    uses = Uses()
    uses.note("a", at=1, place="192.0.2.1")
    uses.note("b", at=1, place="192.0.2.1")
    taken = uses.take(2)
    uses.note("b", at=2, place="192.0.2.1")
    uses.put_back(taken)
    assert sorted(uses.take(9), key=lambda use: use.credential_id) == [_use("a", 1), _use("b", 2)]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("unix", "unix"),
        ("", ""),
        ("<script>", ""),
        ("192.0.2.1\n", ""),
        ("unknown", ""),
    ],
)
def test_only_a_place_is_taken_from_a_verifier(text: str, place: str) -> None:
    assert read_place(text) == place


async def _secret(authority: TestAuthority, client: Client) -> app_service_pb2.ClientSecret:
    request = app_service_pb2.ListClientSecretsRequest(app_id=client.app_id)
    secret: app_service_pb2.ClientSecret
    (secret,) = (await authority.admin.apps.ListClientSecrets(request)).client_secrets
    return secret


async def _token(authority: TestAuthority, app_id: str) -> token_service_pb2.ApiToken:
    request = token_service_pb2.ListApiTokensRequest(app_id=app_id)
    token: token_service_pb2.ApiToken
    (token,) = (await authority.admin.tokens.ListApiTokens(request)).api_tokens
    return token


async def test_use_of_a_secret_is_recorded_without_a_write_of_the_call(authority: TestAuthority) -> None:
    client = await authority.create_client()
    await record(authority.authority.store, authority.authority.uses)
    code = await authority.issue_code(client)
    wrong = authority.exchange(client, code, code_verifier="w" * 43)  # the secret is right
    authority.store.calls.clear()
    assert await refusal(wrong) == Reason.GRANT_INVALID
    assert "commit" not in authority.asked()
    assert "record_uses" not in authority.asked()
    assert not (await _secret(authority, client)).HasField("last_use_time")
    await record(authority.authority.store, authority.authority.uses)
    used = await _secret(authority, client)
    assert used.last_use_address == "127.0.0.1"
    assert used.last_use_time.ToSeconds() == int(authority.store.now())
    await authority.advance(60)
    bad = Client(client.app_id, client.secret[:-4] + "AAAA")
    assert await refusal(authority.exchange(bad, code)) == Reason.CLIENT_INVALID
    await record(authority.authority.store, authority.authority.uses)
    assert await _secret(authority, client) == used  # who fails has used nothing


async def test_verifiers_tell_where_an_api_token_was_presented(authority: TestAuthority) -> None:
    app = await authority.create_app()
    created = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])
    _, verifier = await authority.create_verifier(ORDERS)
    _, stranger = await authority.create_verifier("https://stock.example")
    request = verification_service_pb2.VerifyApiTokenRequest(
        app_id=app.app_id, api_token=created.api_token, peer="203.0.113.9"
    )
    assert not (await stranger.verification.VerifyApiToken(request)).active
    await record(authority.authority.store, authority.authority.uses)
    assert not (await _token(authority, app.app_id)).HasField("last_use_time")
    assert (await verifier.verification.VerifyApiToken(request)).active
    await record(authority.authority.store, authority.authority.uses)
    assert (await _token(authority, app.app_id)).last_use_address == "203.0.113.9"


async def test_use_at_the_authority_itself_is_recorded(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    await stubs.apps.ListApps(app_service_pb2.ListAppsRequest())
    await record(authority.authority.store, authority.authority.uses)
    assert (await _token(authority, app_id)).last_use_address == "127.0.0.1"


async def test_no_call_fails_because_uses_cannot_be_written(authority: TestAuthority) -> None:
    client = await authority.create_client()
    authority.store.faults["record_uses"] = BackendUnavailable()
    assert (await authority.sign_in(client)).access_token
    await record(authority.authority.store, authority.authority.uses)
    authority.store.faults.clear()
    await record(authority.authority.store, authority.authority.uses)
    assert (await _secret(authority, client)).HasField("last_use_time")
