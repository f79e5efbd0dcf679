"""The console as browsers meet it: sessions, forged forms, foreign Apps, headers, what is shown once."""

from __future__ import annotations

import asyncio
import html.parser
import re
import urllib.parse
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import rpz_auth
from rpz.auth.v1 import app_service_pb2
from rpz_auth_server import first_sign_in
from rpz_auth_server.domain.account import Role
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.use import Use
from rpz_auth_server.first_sign_in import Link
from rpz_auth_server.flows import accounts, sign_in
from rpz_auth_server.flows.accounts import SETUP_LIFETIME, AccountFields
from rpz_auth_server.flows.sign_in import IDLE_LIFETIME
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.transport.console import cookies
from server.authority import ORDERS, TestAuthority
from server.people import PASSWORD, a_person
from server.visitor import Visitor, hurry

HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"
ANONYMOUS_PAGES = ["/sign-in", "/welcome"]
PAGES = ["/console", "/console/apps/new", "/console/allowed", "/console/account"]
ADMINISTRATOR_PAGES = [
    "/console/people",
    "/console/people/new",
    "/console/verifiers",
    "/console/keys",
    "/console/audit",
]
TABS = ["", "/authorizations", "/whitelist", "/grants", "/audit", "/settings"]
ACTS: list[tuple[str, dict[str, str]]] = [
    ("/settings", {"display_name": "mine now"}),
    ("/lock", {}),
    ("/unlock", {}),
    ("/end-tokens", {}),
    ("/delete", {"confirm": "shop"}),
    ("/secrets", {"days": ""}),
    ("/secrets/x/revoke", {}),
    ("/tokens", {"days": "", "scope": "orders.read", "resource": ORDERS}),
    ("/tokens/x/revoke", {}),
    ("/secrets/x/rotate", {"days": "", "overlap": "0"}),
    ("/tokens/x/rotate", {"days": "", "overlap": "0"}),
    ("/grants/x/revoke", {}),
    ("/whitelist/check", {"entry": "10.0.0.1"}),
    ("/whitelist/add", {"entry": "10.0.0.1"}),
    ("/whitelist/remove", {"entry": "10.0.0.1"}),
]


async def owned_app(authority: TestAuthority, visitor: Visitor, **fields: Any) -> str:
    """An App of the visitor's, made by an administrator."""
    app = await authority.create_app(owner=visitor.person.subject, **fields)
    return app.app_id


def check_headers(answer: httpx.Response) -> None:
    """What every page has (R049, R142, A141, A145)."""
    policy = dict(
        directive.split(" ", 1) for directive in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "font-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "object-src": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    expected = {
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "strict-transport-security": "max-age=31536000",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert "access-control-allow-origin" not in answer.headers


class Elements(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts += data.strip()


def check_page(text: str) -> None:
    """No inline code, nothing from elsewhere, nothing that a policy would have to allow (R051, R142)."""
    page = Elements(text)
    assert page.scripts == ""
    assert {tag for tag, _ in page.found}.isdisjoint({"style", "iframe", "object", "embed", "base"})
    names = {name for _, attributes in page.found for name in attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    loaded = [
        attributes.get("src") or attributes.get("href")
        for tag, attributes in page.found
        if tag in ("script", "link", "img", "source", "video", "audio")
    ]
    assert len(loaded) == 3
    assert all(str(url).startswith("/console/static/") for url in loaded)
    led = [
        value
        for _, attributes in page.found
        for name, value in attributes.items()
        if name in ("href", "action")
    ]
    assert all(re.match(r"/|#content$", str(url)) for url in led)


# Sessions


async def test_r140_a143_cookie_is_strict_new_at_sign_in_and_dead_at_sign_out(
    authority: TestAuthority,
) -> None:
    visitor = await Visitor.of(authority)
    before = visitor.session
    await visitor.get("/console")
    await visitor.send("/sign-out")
    assert visitor.session is None
    entered = await visitor.sign_in("bob", PASSWORD)
    assert (entered.status_code, entered.headers["location"]) == (303, "/console")
    session_cookie = next(
        value for value in entered.headers.get_list("set-cookie") if value.startswith(cookies.SESSION)
    )
    attributes = set(session_cookie.split("; ")[1:])
    assert attributes == {"HttpOnly", "Path=/", "SameSite=lax", "Secure"}
    assert session_cookie.startswith("__Host-")
    assert visitor.session not in (None, before)
    assert (await visitor.get("/console")).status_code == 200
    kept = visitor.session
    await visitor.send("/sign-out")
    for dead in (before, kept):
        visitor.take_session(str(dead))
        assert (await visitor.get("/console")).status_code == 303


async def test_a143_session_that_somebody_planted_is_not_taken_over(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    await visitor.get("/console")
    await visitor.send("/sign-out")
    planted = "p" * 43
    visitor.take_session(planted)
    await visitor.sign_in("bob", PASSWORD)
    assert visitor.session != planted
    visitor.take_session(planted)
    assert (await visitor.get("/console")).status_code == 303


async def test_session_ends_when_it_is_left_alone(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    await authority.advance(IDLE_LIFETIME)
    answer = await visitor.get("/console/account?x=1")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/sign-in?next=%2Fconsole%2Faccount%3Fx%3D1",
    )


async def test_a143_person_sees_and_ends_other_sessions(authority: TestAuthority) -> None:
    visitor, other = await Visitor.of(authority), Visitor(authority)
    await other.sign_in("bob", PASSWORD)
    await visitor.get("/console/account")
    sessions = await authority.store.sessions(visitor.person.account.account_id)
    (theirs,) = [one for one in sessions if one.session_id != visitor.person.session.session_id]
    assert "This browser" in visitor.page
    ended = await visitor.send(f"/console/account/sessions/{theirs.session_id}/end")
    assert ended.status_code == 303
    assert (await other.get("/console")).status_code == 303
    assert (await visitor.get("/console")).status_code == 200


async def test_a143_changed_password_signs_others_out_and_shows_nothing_of_it(
    authority: TestAuthority,
) -> None:
    visitor, other = await Visitor.of(authority), Visitor(authority)
    await other.sign_in("bob", PASSWORD)
    await visitor.get("/console/account")
    chosen = "another good password"
    for fields, words in (
        ({"current": "wrong", "chosen": chosen, "again": chosen}, "current password is another"),
        ({"current": PASSWORD, "chosen": chosen, "again": "x"}, "two new passwords differ"),
        ({"current": PASSWORD, "chosen": "short", "again": "short"}, "12 to 256 characters"),
    ):
        answer = await visitor.send("/console/account/password", **fields)
        assert answer.status_code == 400
        assert words in visitor.page
        assert chosen not in answer.text
    changed = await visitor.send("/console/account/password", current=PASSWORD, chosen=chosen, again=chosen)
    assert changed.headers["location"] == "/console/account?said=password"
    assert (await other.get("/console")).status_code == 303
    assert (await Visitor(authority).sign_in("bob", chosen)).status_code == 303


async def test_a143_form_that_was_held_back_until_its_session_ended_changes_nothing(
    authority: TestAuthority,
) -> None:
    """Whoever is about to be thrown out could begin to send forms, and finish them afterwards."""
    visitor = await Visitor.of(authority, role=Role.ADMINISTRATOR)
    await visitor.get("/console/people/new")
    form = urllib.parse.urlencode({"csrf": visitor.csrf, "user_name": "eve", "role": "administrator"})
    answers: list[Any] = []

    async def receive() -> Any:
        await sign_in.end_session(authority.authority, visitor.person, visitor.person.session.session_id)
        return {"type": "http.request", "body": form.encode()}

    async def send(message: Any) -> None:
        answers.append(message)

    headers = {
        "host": "localhost",
        "content-type": "application/x-www-form-urlencoded",
        "cookie": f"{cookies.SESSION}={visitor.session}",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "https",
        "path": "/console/people/new",
        "raw_path": b"/console/people/new",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "state": {},
    }
    await authority.guard(scope, receive, send)
    assert answers[0]["status"] == 303
    assert await authority.authority.store.account_of_user("eve") is None


@pytest.mark.parametrize(
    ("user_name", "password"), [("bob", "wrong password"), ("eve", PASSWORD), ("", ""), ("new", PASSWORD)]
)
async def test_r145_answer_is_equal_for_unknown_user_and_wrong_password(
    authority: TestAuthority, user_name: str, password: str
) -> None:
    await Visitor.of(authority)
    await accounts.make_account(authority.authority, "new", AccountFields(), actor="test")

    async def refused(name: str, word: str) -> tuple[int, str, list[str]]:
        visitor = Visitor(authority)
        answer = await visitor.sign_in(name, word)
        text = answer.text.replace(f'value="{name}"', "").replace(visitor.csrf, "").replace(" autofocus", "")
        return answer.status_code, text, sorted(answer.headers)

    expected = await refused("bob", "some other password")
    assert expected[0] == httpx.codes.UNAUTHORIZED
    assert await refused(user_name, password) == expected


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example/console",
        "/\\evil.example",
        "/console\r\nX: 1",
        "/console/../../evil",
        "javascript:alert(1)",
        "/sign-out",
        "/consolex",
        "",
    ],
)
async def test_a144_sign_in_leads_to_pages_of_ours_only(authority: TestAuthority, back: str) -> None:
    await Visitor.of(authority)
    visitor = Visitor(authority)
    entered = await visitor.sign_in("bob", PASSWORD, back)
    # The browser resolves .. before it asks, so such a path stays on this host.
    assert entered.headers["location"] in ("/console", "/console/../../evil")
    assert "x" not in entered.headers
    shown = await visitor.client.get("/sign-in", params={"next": back})
    assert shown.headers["location"] in ("/console", "/console/../../evil")


async def test_a144_sign_in_leads_back_to_the_page_that_was_asked_for(authority: TestAuthority) -> None:
    await Visitor.of(authority)
    back = "/oauth/authorize?client_id=a&state=%22x%0d&scope=a+b"
    visitor = Visitor(authority)
    assert (await visitor.sign_in("bob", PASSWORD, back)).headers["location"] == back


# Forged forms


async def genuine(visitor: Visitor) -> dict[str, str]:
    await visitor.get("/console/apps/new")
    return {"csrf": visitor.csrf, "display_name": "forged", "kind": "frontend"}


@pytest.mark.parametrize(
    ("changed", "headers"),
    [
        ({"csrf": ""}, {}),
        ({"csrf": "A" * 43}, {}),
        ({"csrf": "ü"}, {}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"sec-fetch-site": "same-site"}),
        ({}, {"sec-fetch-site": "none"}),
        ({}, {"origin": "https://evil.example"}),
        ({}, {"origin": "https://127.0.0.1"}),
        ({}, {"origin": "null"}),
    ],
)
async def test_r141_a140_form_that_no_page_of_ours_sent_changes_nothing(
    authority: TestAuthority, changed: dict[str, str], headers: dict[str, str]
) -> None:
    visitor = await Visitor.of(authority)
    form = await genuine(visitor)
    answer = await visitor.client.post("/console/apps/new", data={**form, **changed}, headers=headers)
    assert answer.status_code == 403
    assert await authority.store.apps(owner=visitor.person.subject, after="", limit=5) == []
    taken = await visitor.client.post("/console/apps/new", data=form, headers={"origin": authority.url})
    assert taken.status_code == 303


async def test_r141_a140_form_of_somebody_elses_page_changes_nothing(authority: TestAuthority) -> None:
    visitor, eve = await Visitor.of(authority), await Visitor.of(authority, "eve")
    form = await genuine(eve)
    assert (await visitor.client.post("/console/apps/new", data=form)).status_code == 403


async def test_r141_a140_form_that_is_no_form_changes_nothing(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    form = await genuine(visitor)
    as_json = await visitor.client.post("/console/apps/new", json=form)
    as_parts = await visitor.client.post(
        "/console/apps/new", files={name: (None, value) for name, value in form.items()}
    )
    twice = await visitor.client.post(
        "/console/apps/new",
        content=f"csrf={form['csrf']}&csrf={form['csrf']}",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert [as_json.status_code, as_parts.status_code, twice.status_code] == [400, 400, 403]


async def test_r141_a140_nobody_is_signed_in_by_another_sites_form(authority: TestAuthority) -> None:
    await Visitor.of(authority)
    attacked = Visitor(authority)
    await attacked.get("/sign-in")
    fields = {"user_name": "bob", "password": PASSWORD, "next": "/console"}
    foreign = Visitor(authority)
    await foreign.get("/sign-in")
    for token in ("", foreign.csrf):
        answer = await attacked.send("/sign-in", **{**fields, "csrf": token})
        assert answer.status_code == 403
    without_cookie = await Visitor(authority).send("/sign-in", **fields)
    assert without_cookie.status_code == 403
    assert attacked.session is None


@pytest.mark.parametrize(
    "act", ["/sign-out", "/theme", *(f"/console/apps/x{path}" for path, _ in ACTS if path != "/settings")]
)
async def test_r141_changes_are_made_by_post_only(authority: TestAuthority, act: str) -> None:
    visitor = await Visitor.of(authority)
    assert (await visitor.client.get(act)).status_code == 405


# Foreign Apps


async def test_r144_a125_foreign_and_missing_apps_look_alike_to_every_page_and_act(
    authority: TestAuthority,
) -> None:
    bob, eve = await Visitor.of(authority), await Visitor.of(authority, "eve")
    foreign = await owned_app(authority, bob)
    before = await authority.store.app(foreign)
    await eve.get("/console")
    missing = "0f9f3a52-8d0c-4d0e-9c39-6cf1f9b7a001"
    for tab in TABS:
        answers = [await eve.client.get(f"/console/apps/{app_id}{tab}") for app_id in (foreign, missing)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text == answers[1].text.replace(missing, foreign)
    for act, fields in ACTS:
        answers = [await eve.send(f"/console/apps/{app_id}{act}", **fields) for app_id in (foreign, missing)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text == answers[1].text
    assert await authority.store.app(foreign) == before
    assert await authority.store.client_secrets(foreign) == []
    assert (await bob.get(f"/console/apps/{foreign}")).status_code == 200


async def test_r144_another_persons_app_is_on_no_card(authority: TestAuthority) -> None:
    bob, eve = await Visitor.of(authority), await Visitor.of(authority, "eve")
    await owned_app(authority, bob, display_name="bobs shop")
    assert "bobs shop" in (await bob.get("/console")).text
    assert "bobs shop" not in (await eve.get("/console")).text
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    assert "bobs shop" in (await root.get("/console")).text


async def test_r144_pages_of_administrators_are_theirs(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    await visitor.get("/console")
    for page in ADMINISTRATOR_PAGES:
        assert (await visitor.client.get(page)).status_code == 403
        assert page not in visitor.page
    for path, fields in (
        ("/new", {"user_name": "mallory", "role": "administrator"}),
        (f"/{visitor.person.account.account_id}", {"role": "administrator"}),
        (f"/{visitor.person.account.account_id}/invite", {}),
    ):
        assert (await visitor.send(f"/console/people{path}", **fields)).status_code == 403
    assert await authority.store.account_of_user("mallory") is None


# Headers and pages


async def test_r049_r051_r142_a141_a145_every_page_is_closed_to_others(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    app_id = await owned_app(authority, root)
    stranger = Visitor(authority)
    for page in ANONYMOUS_PAGES:
        answer = await stranger.get(page)
        assert answer.status_code == 200
        check_headers(answer)
        check_page(answer.text)
    for page in [*PAGES, *ADMINISTRATOR_PAGES, *(f"/console/apps/{app_id}{tab}" for tab in TABS)]:
        answer = await root.get(page)
        assert answer.status_code == 200
        check_headers(answer)
        check_page(answer.text)
    for answer in (
        await root.get("/console/apps/x"),
        await root.client.post("/sign-out", data={"csrf": "x"}),
    ):
        check_headers(answer)
        check_page(answer.text)


async def test_r050_a147_origins_are_not_echoed(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    for origin in ("https://evil.example", "null", authority.url):
        answer = await visitor.client.get("/console", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a146_links_do_not_follow_the_host_header(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    await root.get("/console/people/new")
    answer = await root.send(
        "/console/people/new",
        headers={"host": "evil.example", "origin": authority.settings.issuer},
        user_name="bob",
        role="member",
    )
    assert answer.status_code == 200
    assert "evil.example" not in answer.text
    assert f"{authority.settings.issuer}/welcome#" in answer.text


async def test_r051_what_pages_load_is_served_here_and_may_be_kept(authority: TestAuthority) -> None:
    stranger = Visitor(authority)
    page = (await stranger.get("/sign-in")).text
    loaded = re.findall(r'(?:src|href)="(/console/static/[^"]*)"', page)
    style = (await stranger.client.get(next(url for url in loaded if ".css" in url))).text
    loaded += [f"/console/static/{name}" for name in re.findall(r'url\("([^"]*)"\)', style)]
    for url in loaded:
        answer = await stranger.client.get(url)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "http" not in re.sub(r"http://www\.w3\.org", "", style)
    for name in ("../__init__.py", "templates/page.html", "console.css/", "%2e%2e/desk.py"):
        assert (await stranger.client.get(f"/console/static/{name}")).status_code == 404


# Names that would be code


async def test_r143_a142_hostile_names_stay_text(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR, display_name=HOSTILE)
    app_id = await owned_app(
        authority,
        root,
        display_name=HOSTILE,
        scopes=["<b>scope</b>'"],
        whitelist=["origin:https://a.example"],
    )
    for page in [
        "/console",
        f"/console?q={HOSTILE}",
        "/console/account",
        "/console/people",
        *(f"/console/apps/{app_id}{tab}" for tab in TABS),
    ]:
        answer = await root.get(page)
        assert answer.status_code == 200
        check_page(answer.text)
        for raw in ("<script>alert", "<img src=x", "<b>scope"):
            assert raw not in answer.text
        assert "alert(1)" in answer.text
    for path, fields in (
        (
            "/console/apps/new",
            {"display_name": HOSTILE, "redirect_uris": HOSTILE, "scopes": HOSTILE, "kind": HOSTILE},
        ),
        (f"/console/apps/{app_id}/settings", {"display_name": HOSTILE, "redirect_uris": HOSTILE}),
        (f"/console/apps/{app_id}/whitelist/add", {"entry": HOSTILE}),
        ("/console/people/new", {"user_name": HOSTILE, "display_name": HOSTILE, "resources": HOSTILE}),
    ):
        answer = await root.send(path, **fields)
        assert answer.status_code == 400
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
    stranger = Visitor(authority)
    refused = await stranger.sign_in(HOSTILE, HOSTILE, HOSTILE)
    assert refused.status_code == 401
    assert "<script>alert" not in refused.text
    checked = await root.send(f"/console/apps/{app_id}/whitelist/check", entry=HOSTILE)
    assert checked.headers["content-type"] == "application/json"


async def test_r143_said_says_only_what_we_say(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    answer = await visitor.get("/console?said=<script>alert(1)</script>")
    assert 'class="note' not in answer.text
    assert "Saved" in (await visitor.get("/console?said=saved")).text


# What a person does with an App


async def test_person_registers_an_app_and_makes_its_credentials(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority, scopes=["orders.read"], resources=[ORDERS])
    await visitor.get("/console/apps/new")
    made = await visitor.send(
        "/console/apps/new",
        display_name="My shop",
        kind="backend",
        scopes="orders.read",
        resources=f" {ORDERS}\r\n",
        redirect_uris="https://shop.example/callback",
    )
    place = made.headers["location"].partition("?")[0]
    app_id = place.split("/")[3]
    await visitor.get(place)
    secret_page = (
        await visitor.send(f"/console/apps/{app_id}/secrets", days="365", display_name="first")
    ).text
    (secret,) = re.findall(r"rpzs_[\w-]{64}", secret_page)
    token_page = await visitor.send(
        f"/console/apps/{app_id}/tokens", days="", scope="orders.read", resource=ORDERS
    )
    (token,) = re.findall(r"rpzt_[\w-]{64}", token_page.text)
    assert await authority.is_alive(token)
    again = await visitor.get(place)
    assert not re.search(r"rpz[st]_[\w-]{64}", again.text)
    assert secret not in again.text
    (record,) = await authority.store.client_secrets(app_id)
    assert (record.display_name, record.expires_at) == ("first", authority.store.now() + 365 * 86400)
    (api_token,) = await authority.store.api_tokens(app_id, after="", limit=5)
    revoked = await visitor.send(f"/console/apps/{app_id}/tokens/{api_token.api_token_id}/revoke")
    assert revoked.headers["location"] == f"{place}?said=revoked"
    assert not await authority.is_alive(token)


async def test_r211_person_rotates_with_overlap_and_sends_a_form_once(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority, scopes=["orders.read"], resources=[ORDERS])
    app_id = await owned_app(authority, visitor, scopes=["orders.read"])
    place = f"/console/apps/{app_id}"
    await visitor.get(f"{place}/authorizations")
    once = {"days": "", "scope": "orders.read", "resource": ORDERS, "request_id": str(uuid.uuid4())}
    found = [(await visitor.send(f"{place}/tokens", **once)).text for _ in range(2)]
    (token,) = {match for text in found for match in re.findall(r"rpzt_[\w-]{64}", text)}
    (record,) = await authority.store.api_tokens(app_id, after="", limit=5)
    act = f"{place}/tokens/{record.api_token_id}/rotate"
    assert (await visitor.send(act, days="90", overlap="1")).status_code == 400
    rotated = await visitor.send(act, days="90", overlap="3600")
    (successor,) = re.findall(r"rpzt_[\w-]{64}", rotated.text)
    assert await authority.is_alive(token)
    assert await authority.is_alive(successor)
    await authority.advance(3600)
    assert not await authority.is_alive(token)
    assert await authority.is_alive(successor)
    await visitor.send(f"{place}/secrets", days="")
    (secret,) = await authority.store.client_secrets(app_id)
    rotated = await visitor.send(f"{place}/secrets/{secret.secret_id}/rotate", days="90", overlap="0")
    assert re.findall(r"rpzs_[\w-]{64}", rotated.text)
    assert "1 ended" in visitor.page


@pytest.mark.parametrize(("kind", "prefix"), [("secrets", "rpzs"), ("tokens", "rpzt")])
async def test_form_that_is_sent_again_shows_the_same_credential_with_the_same_deadline(
    authority: TestAuthority, kind: str, prefix: str
) -> None:
    visitor = await Visitor.of(authority, scopes=["orders.read"], resources=[ORDERS])
    app_id = await owned_app(authority, visitor, scopes=["orders.read"])
    place = f"/console/apps/{app_id}/{kind}"
    await visitor.get(f"/console/apps/{app_id}/authorizations")
    fields = {"days": "90", "scope": "orders.read", "resource": ORDERS, "overlap": "3600"}

    async def send_twice(act: str) -> str:
        once = {**fields, "request_id": str(uuid.uuid4())}
        texts: list[str] = []
        for _ in range(2):  # a reload, or the other half of a double click
            texts += re.findall(prefix + r"_[\w-]{64}", (await visitor.send(act, **once)).text)
            await authority.advance(1)
        assert len(texts) == 2
        assert texts[0] == texts[1]
        otherwise = await visitor.send(act, **{**once, "days": "365"})
        assert otherwise.status_code == 400
        assert "request_id was used" in otherwise.text
        return texts[0]

    made = await send_twice(place)
    if kind == "secrets":
        (secret,) = await authority.store.client_secrets(app_id)
        made_id, expires_at, created_at = secret.secret_id, secret.expires_at, secret.created_at
    else:
        (token,) = await authority.store.api_tokens(app_id, after="", limit=5)
        made_id, expires_at, created_at = token.api_token_id, token.expires_at, token.created_at
    assert expires_at == created_at + 90 * 86400
    assert await send_twice(f"{place}/{made_id}/rotate") != made


async def test_a127_credential_is_in_no_log_and_no_address(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor, scopes=[], resources=[])
    await visitor.get(f"/console/apps/{app_id}/authorizations")
    answer = await visitor.send(f"/console/apps/{app_id}/secrets", days="")
    (secret,) = re.findall(r"rpzs_[\w-]{64}", answer.text)
    assert "location" not in answer.headers
    assert secret not in str(answer.headers)
    for word in (secret, PASSWORD, str(visitor.session), visitor.csrf):
        assert word not in authority.logged.getvalue()


async def test_member_is_told_what_it_may_not_hand_on(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    await visitor.get("/console/apps/new")
    answer = await visitor.send("/console/apps/new", display_name="x", kind="backend", scopes="orders.read")
    assert answer.status_code == 400
    assert "nobody grants scopes or resources beyond their own" in visitor.page.lower()


async def test_whitelist_is_checked_while_it_is_typed_and_when_it_is_sent(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor, whitelist=["10.0.0.1"])
    place = f"/console/apps/{app_id}/whitelist"
    await visitor.get(place)

    async def check(entry: str) -> Any:
        return (await visitor.send(f"{place}/check", entry=entry)).json()

    assert await check(" 192.0.2.0/24 ") == {
        "good": True,
        "entry": "192.0.2.0/24",
        "text": "Every address in the network 192.0.2.0/24.",
    }
    assert (await check("10.0.0.1"))["text"] == "This entry is there already."
    for wrong in ("10.0.0.1/8", "010.0.0.1", "exa mple", ""):
        said = await check(wrong)
        assert said["good"] is False
        assert said["text"].endswith(".")
    assert (await visitor.send(f"{place}/add", entry="10.0.0.1/8")).status_code == 400
    assert (await visitor.send(f"{place}/add", entry="0.0.0.0/0")).status_code == 400
    assert (await visitor.send(f"{place}/add", entry="192.0.2.0/24")).status_code == 303
    assert (await authority.store.app(app_id)).whitelist == ("10.0.0.1", "192.0.2.0/24")
    await visitor.send(f"{place}/remove", entry="10.0.0.1")
    assert (await visitor.send(f"{place}/remove", entry="192.0.2.0/24")).status_code == 400
    assert (await authority.store.app(app_id)).whitelist == ("192.0.2.0/24",)
    await visitor.send(f"{place}/remove", entry="192.0.2.0/24", allow_any_peer="1")
    assert (await authority.store.app(app_id)).whitelist == ()


@pytest.mark.parametrize(
    ("kind", "typed", "entry"),
    [
        (app_service_pb2.APP_KIND_FRONTEND, "shop.example", "origin:https://shop.example"),
        (app_service_pb2.APP_KIND_BACKEND, "https://shop.example/", "origin:https://shop.example"),
        (app_service_pb2.APP_KIND_BACKEND, "shop.example", "dns:shop.example"),
        (app_service_pb2.APP_KIND_FRONTEND, "192.0.2.1", "192.0.2.1"),
        (app_service_pb2.APP_KIND_BACKEND, "san:api.shop.example", "san:api.shop.example"),
        (app_service_pb2.APP_KIND_BACKEND, "2001:db8::1", "2001:db8::1"),
    ],
)
async def test_a_bare_domain_means_pages_for_a_frontend_and_hosts_for_others(
    authority: TestAuthority, kind: Any, typed: str, entry: str
) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor, kind=kind)
    await visitor.get("/console")
    said = (await visitor.send(f"/console/apps/{app_id}/whitelist/check", entry=typed)).json()
    assert (said["good"], said["entry"]) == (True, entry)


async def test_person_changes_locks_and_deletes_an_app(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor)
    place = f"/console/apps/{app_id}"
    await visitor.get(place)
    stale = await visitor.send(f"{place}/settings", display_name="late", version="0")
    assert stale.status_code == 409
    saved = await visitor.send(
        f"{place}/settings", display_name="Shop 2", version="1", scopes="orders.read", resources=ORDERS
    )
    assert saved.headers["location"] == f"{place}/settings?said=saved"
    await visitor.send(f"{place}/lock")
    assert "This App is locked" in (await visitor.get(place)).text
    await visitor.send(f"{place}/unlock")
    await visitor.send(f"{place}/end-tokens")
    app = await authority.store.app(app_id)
    assert (app.display_name, app.locked, app.epoch, app.redirect_uris) == ("Shop 2", False, 2, ())
    assert (await visitor.send(f"{place}/delete", confirm="shop")).status_code == 400
    await visitor.send(f"{place}/delete", confirm="Shop 2")
    assert (await visitor.get(place)).status_code == 404


async def test_cards_are_searched_by_name_and_kind(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    await owned_app(authority, visitor, display_name="Shop")
    await owned_app(authority, visitor, display_name="Till", kind=app_service_pb2.APP_KIND_DEVICE)
    found = await visitor.get("/console?q=SHO")
    assert "Shop" in visitor.page
    assert "Till" not in visitor.page
    found = await visitor.get("/console?kind=device")
    assert found.status_code == 200
    assert "Till" in visitor.page
    assert "Shop" not in visitor.page
    await visitor.get("/console?q=nothing")
    assert "No App is called that" in visitor.page


async def test_r212_owner_lists_and_revokes_what_users_granted(authority: TestAuthority) -> None:
    visitor, eve = await Visitor.of(authority), await Visitor.of(authority, "eve")
    client = await authority.create_client(owner=visitor.person.subject)
    tokens = await authority.sign_in(client, subject="user:customer")
    (grant,) = await authority.store.grants_of_subject("user:customer", limit=5)
    place = f"/console/apps/{client.app_id}/grants"
    await visitor.get(place)
    assert "user:customer" in visitor.page
    await eve.get("/console")
    foreign = await authority.create_app(owner=eve.person.subject)
    for app_id in (client.app_id, foreign.app_id):
        act = f"/console/apps/{app_id}/grants/{grant.grant_id}/revoke"
        assert (await eve.send(act)).status_code == 404
    assert await authority.is_alive(tokens.access_token)
    assert (await visitor.send(f"{place}/{grant.grant_id}/revoke")).status_code == 303
    assert not await authority.is_alive(tokens.access_token)


async def test_audit_log_of_an_app_shows_its_own_records_the_newest_first(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor)
    await owned_app(authority, visitor, display_name="other")
    await visitor.get(f"/console/apps/{app_id}")
    await visitor.send(f"/console/apps/{app_id}/lock")
    text = (await visitor.get(f"/console/apps/{app_id}/audit")).text
    assert re.findall(r"<td><code>([\w.]+)</code></td>", text) == ["app.lock", "app.create"]
    assert "<td>you</td>" in text
    older = await visitor.get(f"/console/apps/{app_id}/audit?before=1")
    assert "Nothing" in older.text


async def test_administrator_reads_the_whole_log_a_page_at_a_time(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR, display_name="Rita Root")
    await root.get("/console/audit?action=account.")
    assert "account.sign_in" in root.page
    assert "Rita Root" in root.page
    assert "app.create" not in root.page
    for _ in range(101):
        audit = Audit(actor="test", action="test.many")
        await authority.store.commit(Commit(audit=(audit,)))
    first = await root.get("/console/audit?action=test.many")
    assert first.text.count("test.many</code>") == 100
    (older,) = re.findall(r'href="(/console/audit\?before=[^"]*)"', first.text)
    second = await root.get(older.replace("&amp;", "&"))
    assert second.text.count("test.many</code>") == 1
    assert "?before=" not in second.text  # there is nothing older


async def test_verifiers_show_how_fresh_they_are(authority: TestAuthority, tmp_path: Path) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    await root.get("/console/verifiers")
    assert "No service is connected" in root.page
    path = await authority.verifier_file(tmp_path / "orders.json")
    connection = await asyncio.to_thread(rpz_auth.connect, path)
    await asyncio.to_thread(connection.start)
    try:
        await asyncio.to_thread(connection.wait, 20)
        await root.get("/console/verifiers")
        assert "orders" in root.page
        assert "Up to date" in root.page
        assert ORDERS in root.page
    finally:
        await asyncio.to_thread(connection.close)


async def test_administrator_rotates_keys_and_stops_everything(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    await root.get("/console/keys")
    assert root.page.count("Signs now") == 1
    await root.send("/console/keys/rotate")
    await root.get("/console/keys")
    assert "Coming" in root.page
    await root.send("/console/keys/lock")
    await root.get("/console/keys")
    assert "The authority is locked" in root.page
    await root.send("/console/keys/unlock")
    assert not await authority.is_alive(tokens.access_token)
    assert {"signing_key.rotate", "issuer.lock", "issuer.unlock"} <= set(await authority.actions())


async def test_query_token_switch_warns_and_is_the_frontends(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    frontend = await owned_app(authority, visitor, kind=app_service_pb2.APP_KIND_FRONTEND)
    backend = await owned_app(authority, visitor)
    for app_id, offered in ((frontend, True), (backend, False)):
        place = f"/console/apps/{app_id}/settings"
        await visitor.get(place)
        assert ("?token=" in visitor.page) is offered
        await visitor.send(place, display_name="shop", query_token_allowed="1")
        assert (await authority.store.app(app_id)).query_token_allowed is offered
    await visitor.get(f"/console/apps/{frontend}")
    assert "may travel in URLs" in visitor.page


async def test_what_an_administrator_has_locked_no_owner_unlocks(authority: TestAuthority) -> None:
    visitor, root = await Visitor.of(authority), await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    app_id = await owned_app(authority, visitor)
    await root.get("/console")
    await root.send(f"/console/apps/{app_id}/lock")
    await visitor.get(f"/console/apps/{app_id}")
    assert "only an administrator unlocks it" in visitor.page
    assert "Unlock this App" not in visitor.page
    assert (await visitor.send(f"/console/apps/{app_id}/unlock")).status_code == 403
    await root.send(f"/console/apps/{app_id}/unlock")
    assert (await authority.store.app(app_id)).locked is False


# People


async def test_administrator_invites_somebody_who_then_signs_in(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    await root.get("/console/people/new")
    invited = await root.send("/console/people/new", user_name="Carol", role="member", scopes="orders.read")
    (code,) = re.findall(r"/welcome#([\w.-]+)", invited.text)
    carol = Visitor(authority)
    await carol.get("/welcome")
    for fields, status in (
        ({"code": code, "password": PASSWORD, "again": "x"}, 400),
        ({"code": code, "password": "short", "again": "short"}, 400),
        ({"code": "wrong.code", "password": PASSWORD, "again": PASSWORD}, 401),
        ({"code": code, "password": PASSWORD, "again": PASSWORD}, 303),
    ):
        answer = await carol.send("/welcome", **fields)
        assert answer.status_code == status
        assert code not in str(answer.headers)
        # A code that is good once more stays in its field: the link has given it away.
        assert (f'value="{code}"' in answer.text) is (status == 400)
    assert (await carol.get("/console")).status_code == 200
    account = await authority.store.account_of_user("carol")
    assert account.scopes == frozenset({"orders.read"})
    for act in ("disable", "enable"):
        assert (await root.send(f"/console/people/{account.account_id}/{act}")).status_code == 303
    assert (await carol.get("/console")).status_code == 303
    again = await root.send(f"/console/people/{account.account_id}/invite")
    assert code not in again.text


async def test_theme_is_kept_in_the_browser_alone(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    assert "data-theme" not in (await visitor.get("/console")).text
    await visitor.send("/theme", theme="dark", next="/console/account")
    assert 'data-theme="dark"' in (await visitor.get("/console")).text
    await visitor.send("/theme", theme='"><script>', next="/console")
    assert "data-theme" not in (await visitor.get("/console")).text


# The first person


async def test_first_person_comes_in_by_a_private_file_from_this_machine(authority: TestAuthority) -> None:
    hurry(authority)
    folder = authority.settings.data_dir
    path = await first_sign_in.ensure_first_person(authority.authority, folder, authority.url)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert "sign in as admin." in path.read_text()
    (code,) = re.findall(r"/welcome#([\w.-]+)", path.read_text())
    again = await first_sign_in.ensure_first_person(authority.authority, folder, "http://127.0.0.1:1")
    assert f"http://127.0.0.1:1/welcome#{code}\n" in path.read_text()
    assert again == path
    visitor = Visitor(authority)
    await visitor.get("/welcome")
    assert (await visitor.send("/welcome", code=code, password=PASSWORD, again=PASSWORD)).status_code == 303
    assert "People" in (await visitor.get("/console")).text
    assert await first_sign_in.ensure_first_person(authority.authority, folder, authority.url) is None
    assert not path.exists()


async def test_link_that_expired_or_was_lost_is_made_anew(authority: TestAuthority) -> None:
    hurry(authority)
    folder = authority.settings.data_dir
    path = await first_sign_in.ensure_first_person(authority.authority, folder, authority.url)
    assert path is not None
    codes = [path.read_text()]
    await authority.advance(SETUP_LIFETIME)
    await first_sign_in.ensure_first_person(authority.authority, folder, authority.url)
    codes.append(path.read_text())
    path.unlink()
    await first_sign_in.ensure_first_person(authority.authority, folder, authority.url)
    codes.append(path.read_text())
    assert len(set(codes)) == 3


async def test_processes_that_start_at_the_same_moment_leave_one_good_link(authority: TestAuthority) -> None:
    hurry(authority)
    folder = authority.settings.data_dir
    starts = [first_sign_in.ensure_first_person(authority.authority, folder, authority.url) for _ in range(4)]
    (path,) = set(await asyncio.gather(*starts))
    assert path is not None
    (code,) = re.findall(r"/welcome#([\w.-]+)", path.read_text())
    visitor = Visitor(authority)
    await visitor.get("/welcome")
    assert (await visitor.send("/welcome", code=code, password=PASSWORD, again=PASSWORD)).status_code == 303


async def test_link_lets_in_who_is_locked_out(authority: TestAuthority) -> None:
    hurry(authority)
    bob = await a_person(authority.authority)
    disabled = replace(bob.account, disabled=True, version=bob.account.version + 1)
    await authority.store.commit(Commit(rows=(disabled,)))
    folder = authority.settings.data_dir
    link = await first_sign_in.make_link(authority.authority, folder, "bob", authority.url)
    assert link == Link(folder / "first-sign-in.txt", is_new=False)
    text = link.path.read_text()
    assert "sign in as bob." in text
    (code,) = re.findall(r"/welcome#([\w.-]+)", text)
    visitor = Visitor(authority)
    await visitor.get("/welcome")
    await visitor.send("/welcome", code=code, password="a new good password", again="a new good password")
    assert (await visitor.get("/console")).status_code == 200


async def test_card_says_when_the_app_was_active_last(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    backend = await owned_app(authority, visitor)
    await visitor.get("/console")
    assert "Last activity none yet" in " ".join(visitor.page.split())
    request = app_service_pb2.CreateClientSecretRequest(app_id=backend)
    secret = (await authority.admin.apps.CreateClientSecret(request)).record
    await authority.store.record_uses(
        [Use(credential_id=secret.secret_id, used_at=authority.store.now(), used_from="192.0.2.1")]
    )
    await authority.advance(3600.0)
    await visitor.get("/console")
    assert "Last activity 1 hour ago" in " ".join(visitor.page.split())


async def test_a120_nul_in_an_address_or_form_is_refused_before_a_database_sees_it(
    authority: TestAuthority,
) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    authority.store.calls.clear()
    for path in ("/console?q=%00", "/console?after=a%00", "/console/people/%00", "/console/apps/%00x"):
        assert (await root.get(path)).status_code == 400
    assert set(authority.store.calls) <= {"session", "account"}
    await root.get("/console/people/new")
    assert (await root.send("/console/people/new", user_name="a", display_name="\0")).status_code == 400


async def test_form_that_no_page_has_is_refused(authority: TestAuthority) -> None:
    visitor = await Visitor.of(authority)
    app_id = await owned_app(authority, visitor, scopes=[], resources=[])
    headers = {"content-type": "application/x-www-form-urlencoded"}
    page = urllib.parse.urlencode(await genuine(visitor))
    for extra in ("display_name=another", "x=%00"):
        content = f"{page}&{extra}"
        answer = await visitor.client.post("/console/apps/new", content=content, headers=headers)
        assert answer.status_code == 400
    for act in ("secrets", "tokens"):
        assert (await visitor.send(f"/console/apps/{app_id}/{act}", days="366")).status_code == 400
    assert [app.app_id for app in await authority.store.apps(owner=None, after="", limit=9)].count(
        app_id
    ) == 1
    assert await authority.store.client_secrets(app_id) == []


async def test_without_a_provider_no_page_leads_to_one(authority: TestAuthority) -> None:
    page = await Visitor(authority).get("/sign-in")
    assert "/sign-in/provider" not in page.text


async def test_people_sign_in_and_unlock_while_the_issuer_is_locked(authority: TestAuthority) -> None:
    root = await Visitor.of(authority, "root", role=Role.ADMINISTRATOR)
    bob = await Visitor.of(authority, "bob")
    app_id = await owned_app(authority, bob)
    await root.get("/console/keys")
    await root.send("/console/keys/lock")
    for visitor, page in (
        (bob, f"/console/apps/{app_id}"),
        (bob, "/console/allowed"),
        (root, "/console/keys"),
    ):
        assert (await visitor.get(page)).status_code == 200
    assert (await Visitor(authority).sign_in("root", PASSWORD)).status_code == 303
    await root.get("/console/keys")
    assert (await root.send("/console/keys/unlock")).headers[
        "location"
    ] == "/console/keys?said=issuer-unlocked"
