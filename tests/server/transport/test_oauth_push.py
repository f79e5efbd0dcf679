"""Pushed authorization requests (RFC 9126) over HTTPS."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any

import httpx
import pytest
from rpz_auth_server.domain import pushed_request
from server.authority import Client, TestAuthority
from server.oauth import (
    PUSH,
    FakePeople,
    Returned,
    authorization,
    authorize,
    decide,
    error_of,
    post,
    redeem,
)


@pytest.fixture(autouse=True)
async def people(authority: TestAuthority) -> FakePeople:
    """Somebody is signed in at the browser."""
    assert isinstance(authority.people, FakePeople)
    await authority.people.come(authority)
    return authority.people


async def push(authority: TestAuthority, client: Client, **changes: Any) -> httpx.Response:
    return await post(authority, PUSH, client, **authorization(client, **changes))


async def pushed_uri(authority: TestAuthority, client: Client, **changes: Any) -> str:
    answer = await push(authority, client, **changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_uri"])


async def come(authority: TestAuthority, client: Client, uri: str, **more: str) -> httpx.Response:
    """The browser comes with nothing but the reference."""
    query = urllib.parse.urlencode({"client_id": client.app_id, "request_uri": uri, **more})
    return await authorize(authority, client, query=query)


async def test_r200_pushed_request_is_what_counts_when_the_browser_comes(authority: TestAuthority) -> None:
    client = await authority.create_client()
    answer = await push(authority, client)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"request_uri": answer.json()["request_uri"], "expires_in": 90}
    uri = answer.json()["request_uri"]
    # What the URL says besides counts for nothing (RFC 9126 §4).
    page = await come(
        authority, client, uri, scope="orders.read orders.write", state="other", redirect_uri="x"
    )
    returned = Returned.of(await decide_with(authority, page))
    assert returned.parameters["state"] == "a state"
    assert (await redeem(authority, client, returned.parameters["code"])).json()["scope"] == "orders.read"


async def decide_with(authority: TestAuthority, page: httpx.Response) -> httpx.Response:
    assert page.text.startswith("allow? "), page.text
    return await decide(authority, page)


async def test_r200_reference_leads_to_one_code(authority: TestAuthority) -> None:
    client = await authority.create_client()
    uri = await pushed_uri(authority, client)
    page = await come(authority, client, uri)
    assert (await come(authority, client, uri)).text == page.text  # a page may be loaded again
    answers = await asyncio.gather(*[decide_with(authority, page) for _ in range(4)])
    assert sorted(answer.status_code for answer in answers) == [303, 400, 400, 400]
    assert (await come(authority, client, uri)).status_code == 400


async def test_r200_reference_is_used_up_by_an_answer_that_is_no_code(authority: TestAuthority) -> None:
    client = await authority.create_client()
    declined = await pushed_uri(authority, client)
    page = await come(authority, client, declined)
    answers = await asyncio.gather(*[decide(authority, page, "deny") for _ in range(2)])
    assert sorted(answer.status_code for answer in answers) == [303, 400]
    assert (await come(authority, client, declined)).status_code == 400
    outdated = await pushed_uri(authority, client)
    await authority.update_app(client.app_id, scopes=["orders.write"])  # and not what was asked for
    assert Returned.of(await come(authority, client, outdated)).parameters["error"] == "invalid_scope"
    assert (await come(authority, client, outdated)).status_code == 400


async def test_r200_reference_is_bound_to_its_client_and_expires(authority: TestAuthority) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    uri = await pushed_uri(authority, client)
    assert (await come(authority, other, uri)).status_code == 400
    for wrong in (
        uri[:-1],
        uri + "x",
        "urn:ietf:params:oauth:request_uri:",
        "https://evil.example/r",
        "x" * 9000,
    ):
        answer = await come(authority, client, wrong)
        assert answer.status_code == 400
        assert "location" not in answer.headers
    await authority.advance(89.9)
    assert (await come(authority, client, uri)).status_code == 200
    await authority.advance(0.1)
    assert (await come(authority, client, uri)).status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"redirect_uri": None}, "invalid_request"),
        ({"redirect_uri": "https://evil.example/"}, "invalid_request"),
        ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"),
        ({"response_type": "token"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"scope": "unknown"}, "invalid_scope"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"state": "x" * 9000}, "invalid_request"),
    ],
)
async def test_r200_what_the_browser_would_be_refused_with_is_refused_at_once(
    authority: TestAuthority, changes: dict[str, str | None], error: str
) -> None:
    assert error_of(await push(authority, await authority.create_client(), **changes)) == (400, error)


async def test_r200_public_client_may_push_and_confidential_one_authenticates(
    authority: TestAuthority,
) -> None:
    public = await authority.create_public_client()
    page = await come(authority, public, await pushed_uri(authority, public))
    assert "code" in Returned.of(await decide_with(authority, page)).parameters
    client = await authority.create_client()
    assert error_of(await push(authority, Client(client.app_id))) == (401, "invalid_client")


async def test_r201_app_may_be_held_to_pushing_its_requests(authority: TestAuthority) -> None:
    client = await authority.create_client(require_pushed_authorization_requests=True)
    returned = Returned.of(await authorize(authority, client))
    assert returned.parameters["error"] == "invalid_request"
    page = await come(authority, client, await pushed_uri(authority, client))
    assert "code" in Returned.of(await decide_with(authority, page)).parameters
    await authority.update_app(client.app_id, require_pushed_authorization_requests=False)
    assert (await authorize(authority, client)).text.startswith("allow? ")


async def test_a110_who_pushes_more_than_it_uses_is_told_to_wait(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed_request, "MAX_LIVE", 2)
    client, other = await authority.create_client(), await authority.create_client()
    for _ in range(2):
        await pushed_uri(authority, client)
    refused = await push(authority, client)
    assert error_of(refused) == (429, "temporarily_unavailable")
    assert refused.headers["retry-after"] == "90"
    await pushed_uri(authority, other)
    await authority.advance(90)
    await pushed_uri(authority, client)


async def test_reference_is_stored_as_a_hash_and_parameters_without_the_secret(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    uri = await pushed_uri(authority, client, unknown="passed over")
    identifier = pushed_request.request_id(uri)
    assert identifier is not None
    stored = await authority.store.pushed_request(identifier)
    assert dict(stored.parameters) == {**authorization(client)}
    database = b"".join(path.read_bytes() for path in authority.settings.data_dir.glob("rpz-auth.db*"))
    assert uri.rpartition(":")[2].encode() not in database
