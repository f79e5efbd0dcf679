"""The authorization endpoint over HTTPS, as browsers come to it."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rpz_auth_server.flows import apps
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    STOCK,
    Client,
    FakeTime,
    TestAuthority,
    challenge_of,
    running_authority,
)
from server.oauth import (
    AUTHORIZE,
    STATE,
    FakePeople,
    Returned,
    authorization,
    authorize,
    code_of,
    decide,
    redeem,
)

ISSUER = "https://localhost"
CANARY = "\"><svg onload=1>'\r\nX: 1"


@pytest.fixture
def people() -> FakePeople:
    return FakePeople()


@pytest.fixture
async def authority(tmp_path: Path, people: FakePeople) -> AsyncIterator[TestAuthority]:
    """An authority with somebody signed in at the browser."""
    async with running_authority(tmp_path / "authority", time=FakeTime(), people=people) as running:
        await people.come(running)
        yield running


async def assert_page(
    authority: TestAuthority, client: Client, query: str | None = None, **changes: str
) -> None:
    """The person is told, the client is not, and nothing is echoed (R044)."""
    answer = await authorize(authority, client, query=query, **changes)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "location" not in answer.headers
    assert "<svg" not in answer.text
    assert not any(value in answer.text for value in changes.values() if value)


async def test_r052_person_signs_in_and_decides_and_only_then_the_client_gets_its_code(
    authority: TestAuthority, people: FakePeople
) -> None:
    client = await authority.create_client()
    person, people.at_the_browser = people.at_the_browser, None
    page = await authorize(authority, client)
    assert (page.status_code, page.text) == (200, "sign in for shop")
    people.at_the_browser = person
    page = await authorize(authority, client)
    assert page.status_code == 200
    assert page.text.startswith("allow? ")
    returned = Returned.of(await decide(authority, page))
    assert returned.uri == REDIRECT_URI
    assert returned.parameters.keys() == {"code", "state", "iss"}
    answer = await redeem(authority, client, returned.parameters["code"])
    assert answer.json()["scope"] == "orders.read"
    claims = await authority.is_alive(answer.json()["access_token"])
    assert claims


async def test_subject_of_the_token_is_the_person_who_signed_in(
    authority: TestAuthority, people: FakePeople
) -> None:
    client = await authority.create_client()
    assert people.at_the_browser is not None
    await code_of(authority, client)
    (grant,) = await authority.store.grants_of_subject(people.at_the_browser.subject, limit=10)
    assert (grant.app_id, grant.scopes, grant.resources) == (client.app_id, {"orders.read"}, {ORDERS})


async def test_r047_r052_a11_person_who_declines_is_told_to_the_client(authority: TestAuthority) -> None:
    client = await authority.create_client()
    returned = Returned.of(await decide(authority, await authorize(authority, client), "deny"))
    assert returned == Returned(
        REDIRECT_URI,
        {
            "error": "access_denied",
            "error_description": "the person declined",
            "state": STATE,
            "iss": ISSUER,
        },
    )


async def test_r047_a11_issuer_stands_in_every_answer_and_is_that_of_the_metadata(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    document = (await authority.http.get("/.well-known/oauth-authorization-server")).json()
    assert document["authorization_response_iss_parameter_supported"] is True
    good = Returned.of(await decide(authority, await authorize(authority, client)))
    bad = Returned.of(await authorize(authority, client, scope="nothing.like.it"))
    assert good.parameters["iss"] == bad.parameters["iss"] == document["issuer"]


async def test_what_was_allowed_before_is_not_asked_again(
    authority: TestAuthority, people: FakePeople
) -> None:
    client = await authority.create_client()
    page = await authorize(authority, client)
    people.remembered.add(page.text.removeprefix("allow? "))
    await decide(authority, page)
    assert "code" in Returned.of(await authorize(authority, client)).parameters


async def test_remembered_consent_counts_nothing_where_anybodys_program_may_listen(
    authority: TestAuthority, people: FakePeople
) -> None:
    uri = "http://127.0.0.1/callback"
    client = await authority.create_public_client(redirect_uris=[uri])
    for port in (1024, 50_000):
        page = await authorize(authority, client, redirect_uri=f"http://127.0.0.1:{port}/callback")
        people.remembered.add(page.text.removeprefix("allow? "))
        again = await authorize(authority, client, redirect_uri=f"http://127.0.0.1:{port}/callback")
        assert again.text == page.text  # RFC 8252 §8.6


@pytest.mark.parametrize(
    "uri",
    [
        "https://good.example@evil.example/callback",
        "https://shop.example\\@evil.example/callback",
        "https://shop.example.evil.example/callback",
        "https://shop.example/callback/../x",
        "https://shop.example/callback/x",
        "https://shop.example/callback/",
        "https://shop.example/callback?x",
        "https://shop.example/callback#",
        "HTTPS://SHOP.EXAMPLE/callback",
        "https://shop.example:443/callback",
        "https://shop.example/c%61llback",
        "https://shop.example/%2e/callback",
        "https://user@shop.example/callback",
        "//shop.example/callback",
        "javascript:alert(1)",
        "https://shop.example/call\tback",
        "https://shop.example/callback\n",
        " https://shop.example/callback",
        "https://shop.example/callback\x00",
        "https://evil.example/",
        "",
    ],
)
async def test_r040_r044_a08_redirect_uri_that_is_not_registered_ends_on_a_page(
    authority: TestAuthority, uri: str
) -> None:
    await assert_page(authority, await authority.create_client(), redirect_uri=uri)


@pytest.mark.parametrize(
    "client_id", ["", CANARY, "00000000-0000-4000-8000-000000000000", "x" * 5000, "\x00", "' OR 1=1 --"]
)
async def test_r044_unknown_client_ends_on_a_page(authority: TestAuthority, client_id: str) -> None:
    await assert_page(authority, await authority.create_client(), client_id=client_id)


async def test_r044_locked_and_deleted_apps_end_on_a_page(
    authority: TestAuthority, people: FakePeople
) -> None:
    locked, deleted = await authority.create_client(), await authority.create_client()
    assert people.at_the_browser is not None
    await authority.update_app(locked.app_id, owner=people.at_the_browser.subject)
    await apps.lock_app(authority.authority, people.at_the_browser, locked.app_id)
    await authority.update_app(deleted.app_id, owner=people.at_the_browser.subject)
    await apps.delete_app(authority.authority, people.at_the_browser, deleted.app_id)
    for client in (locked, deleted):
        await assert_page(authority, client)


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
async def test_a09_client_or_redirect_given_twice_ends_on_a_page(authority: TestAuthority, name: str) -> None:
    client = await authority.create_client()
    pairs = [*authorization(client).items(), (name, authorization(client)[name])]
    await assert_page(authority, client, urllib.parse.urlencode(pairs))


async def test_a09_what_the_url_says_is_not_said_in_the_form_as_well(authority: TestAuthority) -> None:
    client = await authority.create_client()
    page = await authorize(authority, client)
    for name in ("client_id", "redirect_uri", "scope", "state", "code_challenge"):
        answer = await decide(authority, page, **{name: "other"})
        assert answer.status_code == 400
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code token"}, "unsupported_response_type"),
        ({"response_type": CANARY}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
        ({"scope": "orders.read unknown"}, "invalid_scope"),
        ({"scope": "rpz.admin"}, "invalid_scope"),
        ({"scope": CANARY}, "invalid_scope"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": "s256"}, "invalid_request"),
        ({"code_challenge": "x" * 42}, "invalid_request"),
        ({"code_challenge": "x" * 44}, "invalid_request"),
        ({"code_challenge": "=" * 43}, "invalid_request"),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
    ],
)
async def test_r018_r024_r025_r026_r053_a04_a05_other_errors_are_told_to_the_client(
    authority: TestAuthority, changes: dict[str, str | None], error: str
) -> None:
    client = await authority.create_client()
    answer = await authorize(authority, client, **changes)
    returned = Returned.of(answer)
    description = returned.parameters.pop("error_description")
    assert returned == Returned(REDIRECT_URI, {"error": error, "state": STATE, "iss": ISSUER})
    assert all(character.isprintable() and character not in '"\\' for character in description)
    assert "svg" not in answer.headers["location"]


@pytest.mark.parametrize(
    "name", ["response_type", "scope", "state", "code_challenge", "code_challenge_method"]
)
async def test_r003_other_parameters_given_twice_are_told_to_the_client(
    authority: TestAuthority, name: str
) -> None:
    client = await authority.create_client()
    pairs = [*authorization(client).items(), (name, authorization(client)[name])]
    returned = Returned.of(await authorize(authority, client, query=urllib.parse.urlencode(pairs)))
    assert returned.parameters["error"] == "invalid_request"


async def test_r004_r005_unknown_parameters_are_passed_over_and_empty_ones_absent(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    page = await authorize(
        authority, client, prompt="consent", nonce="1", response_mode="", resource="", state=""
    )
    returned = Returned.of(await decide(authority, page))
    assert returned.parameters.keys() == {"code", "iss"}


async def test_a10_nobody_is_redirected_before_somebody_has_signed_in(
    authority: TestAuthority, people: FakePeople
) -> None:
    client = await authority.create_client()
    people.at_the_browser = None
    for changes in ({"scope": "unknown"}, {"response_type": "token"}, {"code_challenge": ""}, {}):
        answer = await authorize(authority, client, **changes)
        assert (answer.status_code, answer.text) == (200, "sign in for shop")
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    "state", ["x" * 2000, CANARY, "ünïcødé 😀", "a+b c%20d&e=f#g", "\udcff\udc80", "\x00\x7f", " "]
)
async def test_r045_a12_state_comes_back_byte_by_byte(authority: TestAuthority, state: str) -> None:
    client = await authority.create_client()
    query = urllib.parse.urlencode(authorization(client, state=state), errors="surrogateescape")
    page = await authorize(authority, client, query=query)
    answer = await decide(authority, page)
    assert Returned.of(answer).parameters["state"] == state
    assert "\r" not in answer.headers["location"]
    refused = urllib.parse.urlencode(authorization(client, state=state, scope="x"), errors="surrogateescape")
    assert Returned.of(await authorize(authority, client, query=refused)).parameters["state"] == state


async def test_r046_query_of_a_registered_redirect_is_kept(authority: TestAuthority) -> None:
    uri = "https://shop.example/callback?tenant=7&x=%2F"
    client = await authority.create_client(redirect_uris=[uri])
    answer = await decide(authority, await authorize(authority, client, redirect_uri=uri))
    assert answer.headers["location"].startswith(uri + "&code=rpzc_")


async def test_r041_loopback_redirect_may_differ_in_its_port_only(authority: TestAuthority) -> None:
    client = await authority.create_public_client(
        redirect_uris=["http://127.0.0.1/callback", "http://[::1]:80/x"]
    )
    for uri in ("http://127.0.0.1:51234/callback", "http://[::1]:1/x"):
        page = await authorize(authority, client, redirect_uri=uri)
        returned = Returned.of(await decide(authority, page))
        assert returned.uri == uri
        answer = await redeem(authority, client, returned.parameters["code"], redirect_uri=uri)
        assert answer.status_code == 200
    for uri in ("http://localhost:51234/callback", "http://127.0.0.1:1/other", "http://127.0.0.2/callback"):
        await assert_page(authority, client, redirect_uri=uri)


async def test_r048_a13_answer_to_a_form_is_a_303(authority: TestAuthority) -> None:
    answer = await decide(authority, await authorize(authority, await authority.create_client()))
    assert answer.status_code == 303


async def test_r049_a14_codes_leak_neither_by_referrer_nor_by_cache_nor_on_a_page(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    page = await authorize(authority, client)
    answer = await decide(authority, page)
    for response in (page, answer):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "rpzc_" not in response.text


async def test_r050_no_page_of_another_origin_reads_the_endpoint(tmp_path: Path, people: FakePeople) -> None:
    origin = "https://app.example"
    async with running_authority(tmp_path, people=people, cors_origins=[origin]) as authority:
        client = await authority.create_client()
        answer = await authority.http.get(AUTHORIZE, params=authorization(client), headers={"origin": origin})
        assert answer.text == "sign in for shop"
        preflight = await authority.http.options(
            AUTHORIZE, headers={"origin": origin, "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 405
        for response in (answer, preflight):
            assert not any(name.startswith("access-control-") for name in response.headers)


async def test_a03_code_of_another_browsers_flow_is_of_no_use(authority: TestAuthority) -> None:
    client = await authority.create_client()
    other = "y" * 50
    mine = await code_of(authority, client)
    theirs = await code_of(authority, client, code_challenge=challenge_of(other))
    for code, verifier in ((theirs, CODE_VERIFIER), (mine, other)):
        answer = await redeem(authority, client, code, code_verifier=verifier)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_a15_code_for_one_redirect_is_not_redeemed_with_another(authority: TestAuthority) -> None:
    uris = [REDIRECT_URI, REDIRECT_URI + "2"]
    client = await authority.create_client(redirect_uris=uris)
    code = await code_of(authority, client)
    answer = await redeem(authority, client, code, redirect_uri=uris[1])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert (await redeem(authority, client, code)).status_code == 200


async def test_a150_decision_counts_for_nothing_but_what_was_shown(authority: TestAuthority) -> None:
    client = await authority.create_client()
    other = await authority.create_client()
    page = await authorize(authority, client)
    digest = page.text.removeprefix("allow? ")
    for changes in (
        {"scope": "orders.read orders.write"},
        {"client_id": other.app_id},
        {"state": "another"},
        {"code_challenge": challenge_of("z" * 43)},
    ):
        query = urllib.parse.urlencode(authorization(client, **changes))
        answer = await authority.http.post(
            f"{AUTHORIZE}?{query}", data={"digest": digest, "decision": "allow"}
        )
        assert answer.status_code == 200
        assert answer.text.startswith("allow? ")
        assert answer.text != page.text


async def test_several_resources_may_be_asked_for_and_one_is_chosen_for_the_token(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    assert Returned.of(await authorize(authority, client)).parameters["error"] == "invalid_target"
    pairs = [*authorization(client).items(), ("resource", ORDERS), ("resource", STOCK)]
    page = await authorize(authority, client, query=urllib.parse.urlencode(pairs))
    code = Returned.of(await decide(authority, page)).parameters["code"]
    assert (await redeem(authority, client, code)).json()["error"] == "invalid_target"
    answer = await redeem(authority, client, code, resource=STOCK)
    assert await authority.is_alive(answer.json()["access_token"], STOCK)


async def test_app_that_changes_between_page_and_decision_gets_what_it_still_has(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    page = await authorize(authority, client)
    await authority.update_app(client.app_id, scopes=["orders.write"])
    assert Returned.of(await decide(authority, page)).parameters["error"] == "invalid_scope"


async def test_backend_that_is_exempt_does_without_pkce(authority: TestAuthority) -> None:
    client = await authority.create_client(pkce_exempt=True)
    code = await code_of(authority, client, code_challenge=None, code_challenge_method=None)
    answer = await redeem(authority, client, code)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")  # R028
    assert (await redeem(authority, client, code, code_verifier="")).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_a149_browsers_come_by_get_and_post_only(authority: TestAuthority, method: str) -> None:
    query = urllib.parse.urlencode(authorization(await authority.create_client()))
    assert (await authority.http.request(method, f"{AUTHORIZE}?{query}")).status_code == 405


async def test_form_that_is_none_ends_on_a_page(authority: TestAuthority) -> None:
    client = await authority.create_client()
    page = await authorize(authority, client)
    for content_type, body in (("application/json", "{}"), ("application/x-www-form-urlencoded", "a=1&a=2")):
        answer = await authority.http.post(
            str(page.request.url), content=body, headers={"content-type": content_type}
        )
        assert answer.status_code == 400
        assert "location" not in answer.headers
