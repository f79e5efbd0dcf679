"""Signing in by an outside OpenID Connect provider, over HTTP on both sides."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.transport.console import cookies
from rpz_auth_server.transport.console.provider import MAX_BACK, Journey, Provider, ProviderFailed
from rpz_auth_server.transport.console.provider_settings import ProviderSettings
from server.authority import FakeTime, TestAuthority, running_authority
from server.openid_provider import CLIENT_ID, CLIENT_SECRET, SmallProvider, running_provider, shared_secret
from server.people import PASSWORD, sign_in_again, signed_in
from server.visitor import Visitor

TIMEOUT = 10.0
ACCOUNT = "/console/account"


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, ending: str = "", **fields: Any
) -> AsyncIterator[tuple[TestAuthority, SmallProvider]]:
    async with (
        running_provider(ending) as provider,
        running_authority(
            folder,
            time=FakeTime(),
            oidc_issuer=provider.issuer,
            oidc_client_id=CLIENT_ID,
            oidc_client_secret=CLIENT_SECRET,
            oidc_name="Shop <Directory>",
            **fields,
        ) as authority,
    ):
        yield authority, provider


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[TestAuthority, SmallProvider]]:
    async with running(tmp_path / "authority") as pair:
        yield pair


async def travel(visitor: Visitor, left: httpx.Response) -> str:
    """Go to the provider; return the path that it sends the browser back to."""
    assert left.status_code == 303
    async with httpx.AsyncClient(trust_env=False) as browser:
        returned = await browser.get(left.headers["location"])
    place = returned.headers["location"]
    assert place.startswith(f"{visitor.authority.settings.issuer}/sign-in/provider/callback?")
    return str(place.removeprefix(visitor.authority.settings.issuer))


async def arrive(visitor: Visitor, back: str = "/console") -> httpx.Response:
    """Sign in by the provider."""
    left = await visitor.client.get("/sign-in/provider", params={"next": back})
    return await visitor.get(await travel(visitor, left))


async def linked(authority: TestAuthority) -> Visitor:
    """Somebody who has linked the provider's identity."""
    visitor = await Visitor.of(authority)
    await visitor.get(ACCOUNT)
    answer = await visitor.get(await travel(visitor, await visitor.send(f"{ACCOUNT}/link", current=PASSWORD)))
    assert answer.headers["location"] == f"{ACCOUNT}?said=linked"
    return visitor


async def test_person_links_an_identity_and_signs_in_by_it(both: tuple[TestAuthority, SmallProvider]) -> None:
    authority, provider = both
    bob = await linked(authority)
    await bob.get(ACCOUNT)
    assert provider.subject in bob.page
    visitor = Visitor(authority)
    await visitor.get("/sign-in")
    assert "Continue with Shop <Directory>" in visitor.page
    entered = await arrive(visitor, "/console/account?x=1")
    assert entered.headers["location"] == "/console/account?x=1"
    assert not any(name.startswith(cookies.JOURNEY) for name in visitor.client.cookies)
    await visitor.get(ACCOUNT)
    assert bob.person.subject in visitor.page


async def test_identity_without_a_link_signs_nobody_in_whatever_its_address(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, provider = both
    await Visitor.of(authority, "admin@shop.example")  # what the provider says of its e-mail address
    visitor = Visitor(authority)
    answer = await arrive(visitor)
    assert answer.status_code == 401
    assert "No account is linked" in visitor.page
    assert visitor.session is None
    await linked(authority)
    provider.subject = "another"
    assert (await arrive(visitor)).status_code == 401


async def test_identity_signs_up_where_an_administrator_lets_it(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", oidc_sign_up=True) as (authority, _):
        first, second = Visitor(authority), Visitor(authority)
        for visitor in (first, second):
            assert (await arrive(visitor)).headers["location"] == "/console"
            await visitor.get(ACCOUNT)
            assert "Jane Doe" in visitor.page
        (account,) = await authority.store.accounts(after="", limit=5)
        assert account.password_hash is None
        (identity,) = await authority.store.external_identities(account.account_id)
        only_way = await first.send(f"{ACCOUNT}/identities/{identity.identity_id}/unlink")
        assert only_way.status_code == 400


@pytest.mark.parametrize(
    "lie",
    [
        {"claims": {"nonce": "another"}},
        {"claims": {"nonce": None}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "another client"}},
        {"claims": {"aud": ["rpz:auth", "another"], "azp": "another"}},
        {"claims": {"exp": 1_000_000_000}},
        {"claims": {"exp": None}},
        {"claims": {"iat": 9_999_999_999}},
        {"claims": {"sub": None}},
        {"claims": {"sub": 7}},
        {"claims": {"sub": ""}},
        {"claims": {"sub": "x" * 256}},
        {"key": ECKey.generate_key("P-256", {"kid": "one"})},
        {"key": shared_secret(), "algorithm": "HS256"},
        {"status": 500},
    ],
    ids=[
        "another nonce",
        "no nonce",
        "another issuer",
        "another audience",
        "another party",
        "expired",
        "endless",
        "of the future",
        "nobody",
        "a number",
        "empty",
        "too long",
        "another key",
        "a shared secret",
        "a fault",
    ],
)
async def test_identity_that_cannot_be_believed_signs_nobody_in(
    both: tuple[TestAuthority, SmallProvider], lie: dict[str, Any]
) -> None:
    authority, provider = both
    await linked(authority)
    for name, value in lie.items():
        setattr(provider, name, value)
    visitor = Visitor(authority)
    assert (await arrive(visitor)).status_code == 401
    assert visitor.session is None


@pytest.mark.parametrize("subject", ["", "x" * 256], ids=["empty", "too long"])
async def test_malformed_subject_signs_nobody_up(tmp_path: Path, subject: str) -> None:
    async with running(tmp_path / "authority", oidc_sign_up=True) as (authority, provider):
        provider.subject = subject
        visitor = Visitor(authority)
        assert (await arrive(visitor)).status_code == 401
        assert visitor.session is None


async def test_provider_that_names_another_issuer_is_not_asked(tmp_path: Path) -> None:
    async with running(tmp_path / "authority") as (authority, provider):
        provider.metadata = {"issuer": "https://evil.example"}
        answer = await Visitor(authority).get("/sign-in/provider")
        assert answer.status_code == 401


@pytest.mark.parametrize("document", [["a list"], {"x": "y" * 300_000}], ids=["a list", "too long"])
async def test_provider_whose_metadata_are_none_signs_nobody_in(tmp_path: Path, document: Any) -> None:
    async with running(tmp_path / "authority") as (authority, provider):
        provider.document = document
        assert (await Visitor(authority).get("/sign-in/provider")).status_code == 401


async def test_provider_whose_answer_has_no_end_is_not_listened_to_for_long(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    """It would fill the memory of the authority."""
    authority, provider = both
    hung_up = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        hung_up.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as endless, asyncio.timeout(10):
        host, port = endless.sockets[0].getsockname()
        provider.metadata = {"token_endpoint": f"http://{host}:{port}/token"}
        assert (await arrive(Visitor(authority))).status_code == 401
        await hung_up.wait()


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_endpoints_of_a_provider_with_tls_have_tls_too(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    issuer = "https://op.example"
    settings = ProviderSettings(
        issuer=issuer, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, name="", may_sign_up=False
    )
    provider = Provider(settings)
    described = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/keys",
    }

    async def ask(_method: str, _url: str) -> dict[str, str]:
        return described

    monkeypatch.setattr(provider, "_ask", ask)
    described[name] = described[name].replace("https", "http")
    with pytest.raises(ProviderFailed, match=name):
        await provider.leave_for(Journey.begin(back="/"), "https://auth.example/callback")


async def test_issuer_may_end_with_a_slash(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", ending="/") as (authority, provider):
        bob = await linked(authority)
        (identity,) = await authority.store.external_identities(bob.person.account.account_id)
        assert identity.issuer == provider.issuer == f"{provider.base}/"
        assert (await arrive(Visitor(authority))).status_code == 303


async def test_provider_that_is_down_is_asked_once_in_a_while_and_the_log_told_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpz_auth_server.transport.console.provider._RETRY_AFTER", 3600.0)
    async with running(tmp_path / "authority") as (authority, provider):
        provider.metadata = {"issuer": "https://evil.example"}
        for _ in range(30):
            assert (await Visitor(authority).get("/sign-in/provider")).status_code == 401
        assert provider.asked == 1
        warned = authority.logged.getvalue().count("the outside provider cannot be used")
        assert 0 < warned < 30


async def test_r045_long_way_of_an_app_survives_the_way_to_the_provider(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, _ = both
    await linked(authority)
    visitor = Visitor(authority)
    start = "/oauth/authorize?state="
    back = start + "x" * (MAX_BACK - len(start))
    entered = await arrive(visitor, back)
    assert entered.headers["location"] == back
    assert len(entered.headers.get_list("set-cookie")) > 4  # the parts are gone, too
    refused = await visitor.get(f"/sign-in/provider?next={back}x")
    assert refused.status_code == 414
    assert "too long to be kept" in visitor.page


async def test_r131_peer_may_bring_so_many_codes_that_are_worth_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", failure_limit=3) as (authority, provider):
        await linked(authority)
        visitor, answers = Visitor(authority), []
        for _ in range(6):
            place = await travel(visitor, await visitor.client.get("/sign-in/provider"))
            provider.codes.clear()
            answers.append((await visitor.get(place)).status_code)
        assert answers == [401, 401, 401, 429, 429, 429]


async def test_r131_codes_that_are_brought_at_the_same_time_are_limited_like_others(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", failure_limit=3) as (authority, provider):
        visitors = [Visitor(authority) for _ in range(6)]
        places = [await travel(each, await each.client.get("/sign-in/provider")) for each in visitors]
        provider.codes.clear()
        provider.may_answer.clear()
        brought = [asyncio.create_task(each.get(place)) for each, place in zip(visitors, places, strict=True)]
        async with asyncio.timeout(TIMEOUT):
            while provider.redeeming + sum(task.done() for task in brought) < len(brought):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        provider.may_answer.set()
        answers = await asyncio.gather(*brought)
        assert sorted(answer.status_code for answer in answers) == [401, 401, 401, 429, 429, 429]
        assert provider.redeeming == 3


async def test_faults_of_the_provider_are_nobodys_failures(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", failure_limit=3) as (authority, provider):
        await linked(authority)
        provider.status = 500
        for _ in range(6):
            answer = await arrive(Visitor(authority))
            assert (answer.status_code, "cannot be reached" in answer.text) == (401, True)
        provider.status = 200
        assert (await arrive(Visitor(authority))).status_code == 303


async def test_answer_fits_the_browser_that_left_and_only_once(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, _ = both
    await linked(authority)
    visitor, other = Visitor(authority), Visitor(authority)
    place = await travel(visitor, await visitor.client.get("/sign-in/provider"))
    await other.client.get("/sign-in/provider")
    assert (await other.get(place)).status_code == 401  # login CSRF: somebody else's answer
    assert (await Visitor(authority).get(place)).status_code == 401
    assert (await visitor.get(place)).status_code == 303
    assert (await visitor.get(place)).status_code == 401
    assert other.session is None


@pytest.mark.parametrize(
    "change", [{"state": "x"}, {"state": ""}, {"code": ""}, {"code": "x"}, {"iss": "https://evil.example"}]
)
async def test_answer_that_was_changed_signs_nobody_in(
    both: tuple[TestAuthority, SmallProvider], change: dict[str, str]
) -> None:
    authority, _ = both
    await linked(authority)
    visitor = Visitor(authority)
    place = await travel(visitor, await visitor.client.get("/sign-in/provider"))
    path, _, query = place.partition("?")
    changed = {**dict(urllib.parse.parse_qsl(query)), **change}
    assert (await visitor.get(f"{path}?{urllib.parse.urlencode(changed)}")).status_code == 401
    assert visitor.session is None


async def test_identity_is_linked_to_one_account_and_unlinked_by_its_owner(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, provider = both
    bob, eve = await linked(authority), await Visitor.of(authority, "eve")
    await eve.get(ACCOUNT)
    refused = await eve.get(await travel(eve, await eve.send(f"{ACCOUNT}/link", current=PASSWORD)))
    assert refused.status_code == 400
    (identity,) = await authority.store.external_identities(bob.person.account.account_id)
    unlink = f"{ACCOUNT}/identities/{identity.identity_id}/unlink"
    await eve.get(ACCOUNT)
    assert (await eve.send(unlink)).status_code == 404
    await bob.get(ACCOUNT)
    assert (await bob.send(unlink)).status_code == 303
    assert (await arrive(Visitor(authority))).status_code == 401
    await eve.get(ACCOUNT)
    await eve.get(await travel(eve, await eve.send(f"{ACCOUNT}/link", current=PASSWORD)))
    assert (await arrive(Visitor(authority))).status_code == 303
    assert (await authority.store.external_identities(eve.person.account.account_id))[
        0
    ].subject == provider.subject


async def test_a140_link_needs_a_genuine_form_and_who_is_signed_in(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, _ = both
    visitor = await Visitor.of(authority)
    await visitor.get(ACCOUNT)
    assert (await visitor.send(f"{ACCOUNT}/link", csrf="x")).status_code == 403
    place = await travel(visitor, await visitor.send(f"{ACCOUNT}/link", current=PASSWORD))
    await visitor.send("/sign-out")
    assert (await visitor.get(place)).status_code == 401
    assert await authority.store.external_identities(visitor.person.account.account_id) == []


async def test_a143_session_alone_links_no_identity_that_would_outlive_it(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    """Whoever has it for a moment would come back after the password was changed."""
    authority, _ = both
    visitor = await Visitor.of(authority)
    await visitor.get(ACCOUNT)
    for current in ({}, {"current": ""}, {"current": "wrong"}):
        answer = await visitor.send(f"{ACCOUNT}/link", **current)
        assert answer.status_code == 403
        assert "current password is another" in visitor.page
    await visitor.get(ACCOUNT)
    assert (await visitor.send(f"{ACCOUNT}/link", current=PASSWORD)).status_code == 303


async def test_a143_link_that_nobody_gave_the_password_for_is_not_made_by_changing_cookies(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    """The browser keeps what its journey is for, and who has stolen a session knows its name."""
    authority, _ = both
    visitor = await Visitor.of(authority)
    left = await visitor.client.get("/sign-in/provider", params={"next": ACCOUNT})
    name = f"{cookies.JOURNEY}-0"
    journey = Journey.of_cookie(visitor.client.cookies[name])
    assert journey is not None
    forged = replace(journey, session_id=visitor.person.session.session_id)
    visitor.client.cookies.delete(name)
    visitor.client.cookies.set(name, forged.to_cookie(), domain="127.0.0.1", path="/")
    answer = await visitor.get(await travel(visitor, left))
    assert answer.status_code == 403
    assert await authority.authority.store.external_identities(visitor.person.account.account_id) == []


async def test_who_has_no_password_links_another_identity_without_one(tmp_path: Path) -> None:
    async with running(tmp_path / "authority", oidc_sign_up=True) as (authority, _):
        visitor = Visitor(authority)
        await arrive(visitor)
        await visitor.get(ACCOUNT)
        assert (await visitor.send(f"{ACCOUNT}/link")).status_code == 303


async def test_a140_a143_link_that_one_session_began_is_finished_in_no_other(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, _ = both
    visitor = await Visitor.of(authority, "eve")
    await visitor.get(ACCOUNT)
    place = await travel(visitor, await visitor.send(f"{ACCOUNT}/link", current=PASSWORD))
    bob = await signed_in(authority.authority, "bob")
    visitor.take_session(bob.token)  # at the same browser, with the cookies of the journey
    assert (await visitor.get(place)).status_code == 403
    assert "Nothing was linked" in visitor.page
    for account in (visitor.person.account, bob.person.account):
        assert await authority.store.external_identities(account.account_id) == []
    # Nor in a later session of the same person: whoever knows that it is meant begins again.
    await visitor.get(ACCOUNT)
    place = await travel(visitor, await visitor.send(f"{ACCOUNT}/link", current=PASSWORD))
    visitor.take_session((await sign_in_again(authority.authority)).token)
    assert (await visitor.get(place)).status_code == 403


async def test_disabled_person_does_not_come_in_by_the_provider_either(
    both: tuple[TestAuthority, SmallProvider],
) -> None:
    authority, _ = both
    bob = await linked(authority)
    account = await authority.store.account(bob.person.account.account_id)
    await authority.store.commit(Commit(rows=(replace(account, disabled=True, version=account.version + 1),)))
    assert (await arrive(Visitor(authority))).status_code == 401


async def test_password_still_works_beside_the_provider(both: tuple[TestAuthority, SmallProvider]) -> None:
    authority, _ = both
    await linked(authority)
    assert (await Visitor(authority).sign_in("bob", PASSWORD)).status_code == 303


async def test_client_secret_and_journey_are_in_no_log(both: tuple[TestAuthority, SmallProvider]) -> None:
    authority, _ = both
    await linked(authority)
    await arrive(Visitor(authority))
    assert CLIENT_SECRET not in authority.logged.getvalue()
    assert CLIENT_SECRET not in repr(authority.settings)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def altered(number: int, value: str) -> str:
    """A journey's cookie with the JSON of one of its fields replaced."""
    fields = [*['"x"'] * 6, "9999999999"]
    fields[number] = value
    return encoded(f"[{','.join(fields)}]")


@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "{}", "W10", "é" * 9, "A" * 15_000),
        *(encoded("[" * 9000), encoded("9" * 5000)),
        *(altered(number, value) for number in range(6) for value in (r'"\ud800"', "1", "[]", "true")),
        *(altered(6, value) for value in ("1e400", "-1e400", "NaN", "null", "[]", '"9999999999"')),
    ],
)
def test_cookie_that_is_no_journey_is_none(value: str) -> None:
    assert Journey.of_cookie(value) is None


def test_cookie_has_one_spelling() -> None:
    value = Journey.begin(back="/console").to_cookie()
    assert Journey.of_cookie(value) is not None
    assert Journey.of_cookie(f"....{value}") is None


def test_cookie_that_is_altered_to_the_same_is_a_journey() -> None:
    assert Journey.of_cookie(altered(4, "null")) == Journey(
        state="x", nonce="x", code_verifier="x", back="x", session_id=None, proof="x", until=9999999999
    )


def test_journey_comes_back_as_it_left_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey.begin(back="/console?x=ü", session_id="one")
    assert Journey.of_cookie(journey.to_cookie()) == journey
    assert journey.nonce not in repr(journey)
    monkeypatch.setattr("time.time", lambda: float(journey.until))
    assert Journey.of_cookie(journey.to_cookie()) is None


def test_longest_way_fits_into_the_cookies() -> None:
    longest = Journey.begin(back="/" + "x" * (MAX_BACK - 1), session_id="f" * 64)
    assert len(longest.to_cookie()) <= cookies.LONGEST
    assert Journey.of_cookie(longest.to_cookie()) == longest


@pytest.mark.parametrize(
    "fields",
    [
        {"oidc_issuer": "http://op.example"},
        {"oidc_issuer": "https://op.example//", "oidc_client_id": "x", "oidc_client_secret": "y"},
        {"oidc_issuer": "https://op.example?x", "oidc_client_id": "x", "oidc_client_secret": "y"},
        {"oidc_issuer": "https://op.example"},
        {"oidc_issuer": "https://op.example", "oidc_client_id": "x"},
    ],
)
def test_provider_that_is_half_set_up_is_an_error(tmp_path: Path, fields: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Settings.load({"data_dir": str(tmp_path), **fields}, {})
