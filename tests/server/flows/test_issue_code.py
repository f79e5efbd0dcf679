from __future__ import annotations

from typing import Any

import pytest
from rpz.auth.v1 import administration_service_pb2 as administration_pb
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz_auth.errors import Reason
from rpz_auth_server.domain.refusal import RightsInsufficient
from rpz_auth_server.flows import accounts, consents
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.issue_code import IssueCode, issue_code
from rpz_auth_server.flows.person import Person
from rpz_auth_server.storage.store import Commit
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    STOCK,
    Client,
    Stubs,
    TestAuthority,
    challenge_of,
    code_request,
    refusal,
)
from server.people import a_person, an_administrator, hurried, sign_in_again

READ, WRITE = frozenset({"orders.read"}), frozenset({"orders.write"})
PLACES = frozenset({ORDERS})


async def sign_in_service(authority: TestAuthority, *clients: Client, prefix: str = "user:") -> Stubs:
    """A service that may issue codes for these Apps and subjects."""
    listed = app_pb.SignIn(client_ids=[client.app_id for client in clients], subject_prefix=prefix)
    _, stubs = await authority.app_with("rpz.codes.issue", sign_in=listed)
    return stubs


async def test_a110_code_names_its_lifetime_and_leaves_no_record_but_its_grant(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    service = await sign_in_service(authority, client)
    before = await authority.audit()
    answer = await service.tokens.IssueCode(code_request(client))
    assert answer.expires_in == 60
    assert answer.code.startswith("rpzc_")
    assert await authority.audit() == before


async def test_a17_sign_in_service_issues_only_for_listed_apps(authority: TestAuthority) -> None:
    listed, other = await authority.create_client(), await authority.create_client()
    service = await sign_in_service(authority, listed)
    unknown = Client("00000000-0000-4000-8000-000000000000")
    answers = [
        await refusal(service.tokens.IssueCode(code_request(client)))
        for client in (other, unknown, Client(""), Client(listed.app_id.upper()), Client(listed.app_id + " "))
    ]
    assert answers[0] == Reason.RIGHTS_INSUFFICIENT
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    "subject", ["", "user", "User:1", "admin:1", " user:1", "app:1", "xuser:1", "us\u0435r:1"], ids=repr
)
async def test_a17_sign_in_service_names_only_subjects_of_its_prefix(
    authority: TestAuthority, subject: str
) -> None:
    client = await authority.create_client()
    service = await sign_in_service(authority, client)
    assert (
        await refusal(service.tokens.IssueCode(code_request(client, subject=subject)))
        == Reason.RIGHTS_INSUFFICIENT
    )


async def test_a17_scope_alone_lets_nobody_issue_codes(authority: TestAuthority) -> None:
    client = await authority.create_client()
    _, stubs = await authority.app_with("rpz.codes.issue")
    assert await refusal(stubs.tokens.IssueCode(code_request(client))) == Reason.RIGHTS_INSUFFICIENT


async def test_a17_owner_of_an_app_cannot_issue_codes_for_it(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    own = await authority.create_client(owner=f"app:{app_id}")
    assert await refusal(stubs.tokens.IssueCode(code_request(own))) == Reason.SCOPE_INSUFFICIENT


async def test_r121_rights_are_checked_before_the_request(authority: TestAuthority) -> None:
    client = await authority.create_client()
    _, stubs = await authority.app_with("rpz.codes.issue")
    bad: list[dict[str, Any]] = [
        {"subject": "x\x00"},
        {"subject": "app:1"},
        {"subject": "x" * 300},
        {"redirect_uri": "javascript:alert(1)"},
        {"code_challenge_method": "plain"},
        {"scopes": []},
        {"resources": ["nonsense"]},
    ]
    expected = await refusal(stubs.tokens.IssueCode(code_request(client)))
    for fields in bad:
        assert await refusal(stubs.tokens.IssueCode(code_request(client, **fields))) == expected


async def test_withdrawn_listing_ends_the_right_at_once(authority: TestAuthority) -> None:
    client = await authority.create_client()
    listed = app_pb.SignIn(client_ids=[client.app_id], subject_prefix="user:")
    app_id, stubs = await authority.app_with("rpz.codes.issue", sign_in=listed)
    await stubs.tokens.IssueCode(code_request(client))
    request = app_pb.UpdateAppRequest(app=app_pb.App(app_id=app_id))
    request.update_mask.paths.append("sign_in")
    updated = (await authority.admin.apps.UpdateApp(request)).app
    assert not updated.HasField("sign_in")
    assert await refusal(stubs.tokens.IssueCode(code_request(client))) == Reason.RIGHTS_INSUFFICIENT


@pytest.mark.parametrize("subject", ["", "app:x", "app:", "a\nb", "a\x00", "u" * 256, "é" * 43, "😀" * 22])
async def test_r083_not_even_an_administrator_names_an_impossible_subject(
    authority: TestAuthority, subject: str
) -> None:
    client = await authority.create_client()
    request = code_request(client, subject=subject)
    assert await refusal(authority.admin.tokens.IssueCode(request)) == Reason.REQUEST_INVALID


@pytest.mark.parametrize("subject", ["u" * 255, "é" * 42, "😀" * 21, '"' * 127, "App:x", "user 1"])
async def test_longest_subject_fits_into_an_access_token_with_the_most_scopes(
    authority: TestAuthority, subject: str
) -> None:
    scopes = [f"{number:02}" + "x" * 97 for number in range(15)]
    place = "https://" + "r" * 504
    client = await authority.create_client(scopes=scopes, resources=[place])
    answer = await authority.sign_in(client, subject=subject, scopes=scopes)
    assert len(answer.access_token) < 4096
    assert sorted(answer.scopes) == scopes


@pytest.mark.parametrize(
    "presented",
    [
        "",
        REDIRECT_URI + "/",
        REDIRECT_URI + "?x=1",
        REDIRECT_URI + "#",
        REDIRECT_URI.upper(),
        "https://shop.example:443/callback",
        "https://shop.example@evil.example/callback",
        "https://shop.example\\@evil.example/callback",
        "https://shop.example.evil.example/callback",
        "https://shop.example/callback/../x",
        "https://shop.example/call\tback",
        "http://127.0.0.1:9/other",
    ],
)
async def test_r040_a08_redirect_uri_is_a_registered_one_exactly(
    authority: TestAuthority, presented: str
) -> None:
    client = await authority.create_client(redirect_uris=[REDIRECT_URI, "http://127.0.0.1/cb"])
    request = code_request(client, redirect_uri=presented)
    found = await refusal(authority.admin.tokens.IssueCode(request))
    assert found == Reason.REQUEST_INVALID
    assert "redirect_uri" in found.text
    assert "evil" not in found.text


async def test_r041_loopback_port_varies_and_the_one_presented_is_bound(authority: TestAuthority) -> None:
    client = await authority.create_client(redirect_uris=["http://127.0.0.1/cb"])
    presented = "http://127.0.0.1:51004/cb"
    code = await authority.issue_code(client, redirect_uri=presented)
    assert (
        await refusal(authority.exchange(client, code, redirect_uri="http://127.0.0.1:51005/cb"))
        == Reason.GRANT_INVALID
    )
    assert (await authority.exchange(client, code, redirect_uri=presented)).access_token


@pytest.mark.parametrize(
    ("challenge", "method"),
    [
        ("", ""),
        ("", "S256"),
        (challenge_of("v" * 43), ""),
        (challenge_of("v" * 43), "plain"),
        (challenge_of("v" * 43), "s256"),
        ("v" * 42, "S256"),
        ("v" * 44, "S256"),
        ("v" * 42 + "=", "S256"),
    ],
)
async def test_r024_r025_r026_a04_a05_pkce_is_demanded_of_every_kind(
    authority: TestAuthority, challenge: str, method: str
) -> None:
    for kind in ("APP_KIND_BACKEND", "APP_KIND_DEVICE", "APP_KIND_FRONTEND"):
        app = await authority.create_app(kind=app_pb.AppKind.Value(kind))
        request = code_request(Client(app.app_id), code_challenge=challenge, code_challenge_method=method)
        assert await refusal(authority.admin.tokens.IssueCode(request)) == Reason.REQUEST_INVALID


async def test_r024_only_a_backend_that_is_exempt_does_without_pkce(authority: TestAuthority) -> None:
    client = await authority.create_client(pkce_exempt=True)
    code = await authority.issue_code(client, code_challenge="", code_challenge_method="")
    assert (await authority.exchange(client, code, code_verifier="")).access_token
    half = code_request(client, code_challenge="", code_challenge_method="plain")
    assert await refusal(authority.admin.tokens.IssueCode(half)) == Reason.REQUEST_INVALID


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        ["orders.delete"],
        ["orders.read", "orders.delete"],
        ["orders.read orders.write"],
        [""],
        ["rpz.verify"],
    ],
    ids=repr,
)
async def test_code_has_only_scopes_of_the_app_and_none_of_the_authority(
    authority: TestAuthority, scopes: list[str]
) -> None:
    client = await authority.create_client(scopes=["orders.read", "orders.write", "rpz.verify"])
    request = code_request(client, scopes=scopes)
    assert await refusal(authority.admin.tokens.IssueCode(request)) == Reason.SCOPE_INVALID


async def test_r209_resources_are_the_apps_and_named_when_there_are_several(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    for resources in ([], ["https://other.example"], [ORDERS, "https://other.example"], [""]):
        request = code_request(client, resources=resources)
        assert await refusal(authority.admin.tokens.IssueCode(request)) == Reason.TARGET_INVALID
    none = await authority.create_client(resources=[])
    assert await refusal(authority.admin.tokens.IssueCode(code_request(none))) == Reason.TARGET_INVALID
    assert await authority.issue_code(client, resources=[STOCK])


async def test_no_code_for_an_app_that_is_locked_or_deleted_or_missing(authority: TestAuthority) -> None:
    locked, deleted = await authority.create_client(), await authority.create_client()
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=locked.app_id))
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=deleted.app_id))
    missing = Client("00000000-0000-4000-8000-000000000000")
    answers = [
        await refusal(authority.admin.tokens.IssueCode(code_request(client)))
        for client in (locked, deleted, missing)
    ]
    assert answers[0] == Reason.RIGHTS_INSUFFICIENT
    assert answers[0] == answers[1] == answers[2]


async def test_locked_sign_in_service_issues_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    listed = app_pb.SignIn(client_ids=[client.app_id], subject_prefix="user:")
    app_id, stubs = await authority.app_with("rpz.codes.issue", sign_in=listed)
    await stubs.tokens.IssueCode(code_request(client))
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app_id))
    await authority.catch_up()
    assert await refusal(stubs.tokens.IssueCode(code_request(client))) == Reason.TOKEN_INVALID


# For people who have signed in here


def asked_by(person: Person, client: Client) -> IssueCode:
    return IssueCode(
        client_id=client.app_id,
        redirect_uri=REDIRECT_URI,
        scopes=READ,
        subject=person.subject,
        code_challenge=challenge_of(CODE_VERIFIER),
        code_challenge_method="S256",
    )


@pytest.fixture
def flows(authority: TestAuthority) -> Authority:
    return hurried(authority.authority)


async def test_code_is_for_what_the_person_allows(authority: TestAuthority, flows: Authority) -> None:
    bob, shop = await a_person(flows), await authority.create_client()
    with pytest.raises(RightsInsufficient):
        await issue_code(flows, bob, asked_by(bob, shop))
    await consents.remember(flows, bob, shop.app_id, WRITE, PLACES)
    with pytest.raises(RightsInsufficient):
        await issue_code(flows, bob, asked_by(bob, shop))
    await consents.remember(flows, bob, shop.app_id, READ, PLACES)
    code, _ = await issue_code(flows, bob, asked_by(bob, shop))
    assert (await authority.exchange(shop, code)).access_token


async def test_locked_issuer_issues_no_code_whoever_allows_it(
    authority: TestAuthority, flows: Authority
) -> None:
    bob, root, shop = await a_person(flows), await an_administrator(flows), await authority.create_client()
    for person in (bob, root):
        await consents.remember(flows, person, shop.app_id, READ, PLACES)
        await issue_code(flows, person, asked_by(person, shop))
    await authority.admin.administration.LockIssuer(administration_pb.LockIssuerRequest())
    await authority.catch_up()
    for person in (bob, root):
        with pytest.raises(RightsInsufficient):
            await issue_code(flows, person, asked_by(person, shop))


async def _disable(flows: Authority, bob: Person, _shop: Client) -> None:
    await accounts.disable_account(flows, await an_administrator(flows), bob.account.account_id)


async def _withdraw(flows: Authority, bob: Person, shop: Client) -> None:
    await consents.withdraw(flows, bob, shop.app_id)


@pytest.mark.parametrize("end", [_disable, _withdraw])
async def test_r212_a128_code_that_meets_the_end_of_its_account_or_consent_is_not_issued(
    authority: TestAuthority, flows: Authority, end: Any
) -> None:
    bob, shop = await a_person(flows), await authority.create_client()
    await consents.remember(flows, bob, shop.app_id, READ, PLACES)

    async def end_first(_commit: Commit) -> None:
        authority.store.before.clear()
        await end(flows, bob, shop)

    authority.store.before["commit"] = end_first
    with pytest.raises(RightsInsufficient):
        await issue_code(flows, bob, asked_by(bob, shop))
    assert await flows.store.grants_of_subject(bob.subject, limit=5) == []
    assert authority.store.before == {}
    with pytest.raises(RightsInsufficient):
        await issue_code(flows, bob, asked_by(bob, shop))


async def _sign_in(flows: Authority, _bob: Person, _shop: Client) -> None:
    await sign_in_again(flows)


async def _allow_more(flows: Authority, bob: Person, shop: Client) -> None:
    await consents.remember(flows, bob, shop.app_id, WRITE, PLACES)


@pytest.mark.parametrize("change", [_sign_in, _allow_more])
async def test_code_that_meets_a_change_that_ends_nothing_is_issued(
    authority: TestAuthority, flows: Authority, change: Any
) -> None:
    bob, shop = await a_person(flows), await authority.create_client()
    await consents.remember(flows, bob, shop.app_id, READ, PLACES)

    async def change_first(_commit: Commit) -> None:
        authority.store.before.clear()
        await change(flows, bob, shop)

    authority.store.before["commit"] = change_first
    code, _ = await issue_code(flows, bob, asked_by(bob, shop))
    assert authority.store.before == {}
    assert (await authority.exchange(shop, code)).access_token
