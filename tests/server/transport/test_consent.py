"""A person signs in and decides on the way to an App: over HTTPS, with the console's own pages."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rpz_auth_server.domain.account import QUESTION_LIFETIME, consent_id
from rpz_auth_server.flows import consents
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.transport.console import cookies
from server.authority import ORDERS, REDIRECT_URI, Client, FakeTime, TestAuthority, running_authority
from server.oauth import AUTHORIZE, STATE, Returned, authorization, redeem
from server.people import PASSWORD
from server.transport.test_console import check_page
from server.visitor import Visitor

LOCAL = "http://127.0.0.1:8000/callback"


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[TestAuthority]:
    """An authority with the console's own pages on the way to an App."""
    async with running_authority(tmp_path / "authority", time=FakeTime()) as running:
        yield running


def place(client: Client, **changes: str | None) -> str:
    return f"{AUTHORIZE}?{urllib.parse.urlencode(authorization(client, **changes))}"


def ticket_of(visitor_page: str) -> str:
    found = re.search(r'name="ticket" value="([^"]*)"', visitor_page)
    assert found is not None
    return found[1]


async def ask(visitor: Visitor, client: Client, **changes: str | None) -> str:
    """Come to the page that asks, and return its ticket."""
    answer = await visitor.get(place(client, **changes))
    assert answer.status_code == 200
    return ticket_of(answer.text)


async def test_r048_r052_a10_a13_person_signs_in_decides_and_comes_back_to_the_app(
    authority: TestAuthority,
) -> None:
    bob = await Visitor.of(authority)
    client = await authority.create_client()
    visitor = Visitor(authority)
    shown = await visitor.get(place(client, state='"><svg onload=1>\r\nX: 1'))
    assert shown.status_code == 200
    assert "location" not in shown.headers
    assert "to go on to shop" in " ".join(visitor.page.split())
    back = re.search(r'name="next" value="([^"]*)"', shown.text)
    assert back is not None
    entered = await visitor.send(
        "/sign-in", user_name="bob", password=PASSWORD, next=back[1].replace("&amp;", "&")
    )
    assert entered.status_code == 303
    asked = await visitor.get(entered.headers["location"])
    answer = await visitor.send(entered.headers["location"], ticket=ticket_of(asked.text), decision="allow")
    assert answer.status_code == 303
    returned = Returned.of(answer)
    assert returned.parameters["state"] == '"><svg onload=1>\r\nX: 1'
    tokens = (await redeem(authority, client, returned.parameters["code"])).json()
    assert await authority.is_alive(tokens["access_token"])
    (grant,) = await authority.store.grants_of_subject(bob.person.subject, limit=5)
    assert (grant.app_id, grant.scopes) == (client.app_id, frozenset({"orders.read"}))


async def test_r216_page_says_who_asks_for_what_how_long_and_where_it_leads(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client(display_name="Corner shop")
    await visitor.get(place(client))
    text = " ".join(visitor.page.split())
    for words in (
        "Allow Corner shop?",
        "orders.read",
        ORDERS,
        "Up to 6 months, or 1 month without use",
        "https://shop.example",
        "bob",
    ):
        assert words in text
    assert "orders.write" not in text


async def test_r049_r051_a14_a141_page_is_closed_to_others_but_for_the_way_back(
    authority: TestAuthority,
) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    stranger = Visitor(authority)
    for answer, action in (
        (await visitor.get(place(client)), "'self' https://shop.example"),
        (await stranger.get(place(client)), "'self' https: http:"),
    ):
        assert f"form-action {action};" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        check_page(answer.text)


async def test_r047_r052_person_who_declines_is_not_asked_to_be_remembered(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    ticket = await ask(visitor, client)
    returned = Returned.of(await visitor.send(place(client), ticket=ticket, decision="deny"))
    assert returned.parameters["error"] == "access_denied"
    assert returned.parameters["state"] == STATE
    assert returned.parameters["iss"] == authority.settings.issuer
    assert await authority.store.consent(consent_id(visitor.person.subject, client.app_id)) is None


async def test_consent_is_remembered_for_so_much_until_it_is_withdrawn(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    first = await visitor.send(place(client), ticket=await ask(visitor, client), decision="allow")
    tokens = (await redeem(authority, client, Returned.of(first).parameters["code"])).json()
    assert "code" in Returned.of(await visitor.get(place(client))).parameters
    assert (await visitor.get(place(client, scope="orders.read orders.write"))).status_code == 200
    await visitor.get("/console/allowed")
    assert "shop" in visitor.page
    await visitor.send(f"/console/allowed/{client.app_id}/withdraw")
    assert not await authority.is_alive(tokens["access_token"])
    assert (await visitor.get(place(client))).status_code == 200
    await visitor.get("/console/allowed")
    assert "No App acts for you" in visitor.page


async def test_native_app_is_asked_for_every_time(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_public_client(redirect_uris=[LOCAL])
    for _ in range(2):
        ticket = await ask(visitor, client, redirect_uri=LOCAL)
        answer = await visitor.send(place(client, redirect_uri=LOCAL), ticket=ticket, decision="allow")
        assert answer.headers["location"].startswith(LOCAL)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "orders.read orders.write"},
        {"state": "another"},
        {"redirect_uri": "https://shop.example/other"},
        {"code_challenge": "B" * 43},
    ],
)
async def test_a150_decision_counts_for_nothing_but_what_the_page_showed(
    authority: TestAuthority, changes: dict[str, str]
) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client(redirect_uris=[REDIRECT_URI, "https://shop.example/other"])
    ticket = await ask(visitor, client)
    answer = await visitor.send(place(client, **changes), ticket=ticket, decision="allow")
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert await authority.store.grants_of_subject(visitor.person.subject, limit=5) == []


async def test_a150_decision_of_another_app_session_or_person_counts_for_nothing(
    authority: TestAuthority,
) -> None:
    visitor, eve = await Visitor.of(authority), await Visitor.of(authority, "eve")
    client, other = await authority.create_client(), await authority.create_client()
    ticket = await ask(visitor, client)
    again = Visitor(authority)
    await again.sign_in("bob", PASSWORD)
    for somebody, where in ((eve, client), (again, client), (visitor, other)):
        answer = await somebody.send(place(where), ticket=ticket, decision="allow")
        assert answer.status_code == 200
    assert await authority.store.grants_of_subject(visitor.person.subject, limit=5) == []


async def test_a150_decision_counts_once(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    ticket = await ask(visitor, client)
    assert (await visitor.send(place(client), ticket=ticket, decision="allow")).status_code == 303
    await consents.withdraw(authority.authority, visitor.person, client.app_id)
    await authority.store.collect(limit=10)  # what is left of it says that the page has been answered
    assert (await visitor.send(place(client), ticket=ticket, decision="allow")).status_code == 200
    assert await authority.store.grants_of_subject(visitor.person.subject, limit=5) == []


async def test_a150_page_that_was_open_for_too_long_asks_again(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    ticket = await ask(visitor, client)
    await authority.advance(QUESTION_LIFETIME + 1)
    assert (await visitor.send(place(client), ticket=ticket, decision="allow")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"ticket": ""}, {}),
        ({"ticket": "1.0." + "A" * 43}, {}),
        ({"ticket": "9" * 12 + ".0." + "A" * 43}, {}),
        ({"decision": ""}, {}),
        ({"decision": "ALLOW"}, {}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"origin": "https://evil.example"}),
    ],
)
async def test_a140_a150_decision_that_no_page_of_ours_sent_counts_for_nothing(
    authority: TestAuthority, fields: dict[str, str], headers: dict[str, str]
) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    form = {"ticket": await ask(visitor, client), "decision": "allow", **fields}
    answer = await visitor.send(place(client), headers=headers, **form)
    assert answer.status_code == 200
    assert await authority.store.grants_of_subject(visitor.person.subject, limit=5) == []


async def test_session_that_ended_meanwhile_must_sign_in_again(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    ticket = await ask(visitor, client)
    account = await authority.store.account(visitor.person.account.account_id)
    disabled = replace(account, disabled=True, version=account.version + 1)
    await authority.store.commit(Commit(rows=(disabled,)))
    answer = await visitor.send(place(client), ticket=ticket, decision="allow")
    assert answer.status_code == 200
    assert 'name="password"' in answer.text


async def test_somebody_else_signs_in_and_goes_on(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    client = await authority.create_client()
    await visitor.get(place(client))
    answer = await visitor.send("/sign-out", next=place(client))
    assert answer.headers["location"] == place(client)
    assert visitor.session is None
    assert cookies.SESSION not in visitor.client.cookies
    assert 'name="password"' in (await visitor.get(place(client))).text


async def test_r044_r143_page_for_a_broken_link_is_ours_and_echoes_nothing(authority: TestAuthority) -> None:
    stranger = Visitor(authority)
    client = await authority.create_client()
    answer = await stranger.get(place(client, redirect_uri="https://evil.example/<script>"))
    assert answer.status_code == 400
    assert "evil.example" not in answer.text
    check_page(answer.text)


async def test_r131_guesses_at_a_password_are_limited_by_name_and_peer(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "limited", time=FakeTime(), failure_limit=5) as limited:
        await Visitor.of(limited)
        for name in ("bob", "nobody"):
            visitor = Visitor(limited)
            await visitor.get("/sign-in")
            fields = {"user_name": name, "next": "/console"}
            tries = [await visitor.send("/sign-in", password="wrong password", **fields) for _ in range(6)]
            assert [answer.status_code for answer in tries] == [401] * 5 + [429]
            assert "Too many tries" in visitor.page
            assert (await visitor.send("/sign-in", password=PASSWORD, **fields)).status_code == 429
        await limited.advance(3600)
        assert (await Visitor(limited).sign_in("bob", PASSWORD)).status_code == 303
