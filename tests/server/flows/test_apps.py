from __future__ import annotations

import asyncio
from typing import Any

import pytest
import rpz_auth
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from rpz.auth.v1 import app_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2
from rpz_auth.errors import Reason
from server.authority import (
    ORDERS,
    REDIRECT_URI,
    STOCK,
    Client,
    Refused,
    Stubs,
    TestAuthority,
    outcome,
    refusal,
)

MISSING = "00000000-0000-4000-8000-000000000000"


async def get(authority: TestAuthority, app_id: str) -> pb.App:
    app: pb.App = (await authority.admin.apps.GetApp(pb.GetAppRequest(app_id=app_id))).app
    return app


async def create(stubs: Stubs, **fields: Any) -> Any:
    app = pb.App(**{"kind": pb.APP_KIND_BACKEND, "display_name": "shop", **fields})
    return await outcome(stubs.apps.CreateApp(pb.CreateAppRequest(app=app)))


async def test_app_is_registered_as_asked_and_owned_by_the_caller(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps", scopes=["rpz.apps", "a"])
    app = await authority.create_app(
        stubs,
        app_id="11111111-1111-4111-8111-111111111111",
        locked=True,
        epoch=9,
        etag="77",
        kind=pb.APP_KIND_DEVICE,
        display_name="Lämp",
        scopes=["a"],
        resources=[authority.settings.issuer],
        whitelist=["192.0.2.0/24", "2001:db8::/32", "198.51.100.7", "san:lamp.example.com"],
    )
    assert app.app_id != "11111111-1111-4111-8111-111111111111"
    expected = pb.App(
        app_id=app.app_id,
        kind=pb.APP_KIND_DEVICE,
        display_name="Lämp",
        owner=f"app:{app_id}",
        redirect_uris=[REDIRECT_URI],
        scopes=["a"],
        resources=[authority.settings.issuer],
        whitelist=["192.0.2.0/24", "2001:db8::/32", "198.51.100.7", "san:lamp.example.com"],
        etag="1",
    )
    for time in (expected.create_time, expected.update_time):
        time.FromMilliseconds(int(authority.store.now() * 1000))
    assert app == expected
    assert await get(authority, app.app_id) == expected
    assert (await authority.audit())[-1].audit.action == "app.create"


async def test_r144_a125_foreign_missing_and_deleted_apps_get_the_same_answer(
    authority: TestAuthority,
) -> None:
    foreign, deleted = await authority.create_app(), await authority.create_app()
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=deleted.app_id))
    own_id, stubs = await authority.app_with("rpz.apps")

    async def all_of(app_id: str) -> list[Refused]:
        update = pb.UpdateAppRequest(
            app=pb.App(app_id=app_id, display_name="x"), update_mask=FieldMask(paths=["display_name"])
        )
        apps = stubs.apps
        return [
            await refusal(apps.GetApp(pb.GetAppRequest(app_id=app_id))),
            await refusal(apps.UpdateApp(update)),
            await refusal(apps.LockApp(pb.LockAppRequest(app_id=app_id))),
            await refusal(apps.UnlockApp(pb.UnlockAppRequest(app_id=app_id))),
            await refusal(apps.EndAllTokens(pb.EndAllTokensRequest(app_id=app_id))),
            await refusal(apps.DeleteApp(pb.DeleteAppRequest(app_id=app_id))),
        ]

    answers = [
        await all_of(app_id)
        for app_id in (foreign.app_id, deleted.app_id, MISSING, own_id, "", "x", foreign.app_id.upper())
    ]
    assert answers[0] == [Reason.NOT_FOUND] * 6
    assert all(answer == answers[0] for answer in answers)
    assert await get(authority, foreign.app_id) == foreign


async def test_r144_caller_lists_its_own_apps_and_an_administrator_all(authority: TestAuthority) -> None:
    one_id, one = await authority.app_with("rpz.apps")
    two_id, two = await authority.app_with("rpz.apps")
    made = {
        app_id: sorted([(await authority.create_app(owner=f"app:{app_id}")).app_id for _ in range(3)])
        for app_id in (one_id, two_id)
    }
    assert await _all_ids(one) == made[one_id]
    assert await _all_ids(two) == made[two_id]
    everything = await _all_ids(authority.admin)
    assert {*made[one_id], *made[two_id], one_id, two_id, authority.bootstrap["app_id"]} == set(everything)
    assert everything == sorted(everything)
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=made[one_id][0]))
    assert await _all_ids(one) == made[one_id][1:]


async def _all_ids(stubs: Stubs) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = await stubs.apps.ListApps(pb.ListAppsRequest(page_size=2, page_token=token))
        found += [app.app_id for app in page.apps]
        token = page.next_page_token
        if not token:
            return found


async def test_list_of_a_page_that_cannot_be_is_refused(authority: TestAuthority) -> None:
    app = await authority.create_app()
    for fields in ({"page_size": -1}, {"kind": 99}, {"page_token": "x"}, {"page_token": f"0.{app.app_id}"}):
        request = pb.ListAppsRequest(**fields)
        assert await refusal(authority.admin.apps.ListApps(request)) == Reason.REQUEST_INVALID, fields


async def _names(stubs: Stubs, **fields: Any) -> list[str]:
    listed = await stubs.apps.ListApps(pb.ListAppsRequest(**fields))
    return sorted(app.display_name for app in listed.apps)


async def test_list_is_narrowed_by_name_kind_and_owner(authority: TestAuthority) -> None:
    await authority.create_app(display_name="Shop 100%", owner="user:ann")
    await authority.create_app(display_name="STRASSE shop", owner="user:bob", kind=pb.APP_KIND_FRONTEND)
    await authority.create_app(display_name="stra\u00dfe_\\", owner="user:bob", kind=pb.APP_KIND_DEVICE)
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({"query": "SHOP"}, ["STRASSE shop", "Shop 100%"]),
        ({"query": "Stra\u00dfe"}, ["STRASSE shop", "stra\u00dfe_\\"]),
        ({"query": "%"}, ["Shop 100%"]),
        ({"query": "_"}, ["stra\u00dfe_\\"]),
        ({"query": "\\"}, ["stra\u00dfe_\\"]),
        ({"query": "' OR 1=1 --"}, []),
        ({"kind": pb.APP_KIND_FRONTEND}, ["STRASSE shop"]),
        ({"owner": "user:bob"}, ["STRASSE shop", "stra\u00dfe_\\"]),
        ({"owner": "user:bob", "kind": pb.APP_KIND_DEVICE, "query": "stra"}, ["stra\u00dfe_\\"]),
        ({"owner": "user:eve"}, []),
    ]
    for fields, names in expected:
        assert await _names(authority.admin, **fields) == names, fields


async def test_renamed_app_is_found_by_its_new_name_only(authority: TestAuthority) -> None:
    app = await authority.create_app(display_name="before")
    await authority.update_app(app.app_id, display_name="after")
    assert await _names(authority.admin, query="before") == []
    assert await _names(authority.admin, query="AFTER") == ["after"]


async def test_r144_owner_cannot_list_by_another_owner(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    await authority.create_app(owner=f"app:{app_id}", display_name="mine")
    await authority.create_app(owner="user:ann", display_name="hers")
    assert await _names(stubs, owner="user:ann") == []
    assert await _names(stubs, owner=f"app:{app_id}") == await _names(stubs) == ["mine"]
    assert await _names(stubs, query="hers") == []


async def test_pages_are_stable_while_apps_come_and_go_and_belong_to_their_filters(
    authority: TestAuthority,
) -> None:
    ids = sorted([(await authority.create_app(owner="user:ann")).app_id for _ in range(5)])
    first = await authority.admin.apps.ListApps(pb.ListAppsRequest(owner="user:ann", page_size=2))
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=ids[1]))
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=ids[2]))
    request = pb.ListAppsRequest(owner="user:ann", page_size=9, page_token=first.next_page_token)
    rest = await authority.admin.apps.ListApps(request)
    assert [app.app_id for page in (first, rest) for app in page.apps] == [*ids[:2], *ids[3:]]
    assert not rest.next_page_token
    request.owner = "user:bob"
    assert await refusal(authority.admin.apps.ListApps(request)) == Reason.REQUEST_INVALID
    request.owner, request.page_token = "user:ann", first.next_page_token.partition(".")[0]
    assert await refusal(authority.admin.apps.ListApps(request)) == Reason.REQUEST_INVALID


async def test_lifetimes_are_set_read_and_given_back(authority: TestAuthority) -> None:
    app = await authority.create_app(
        access_token_lifetime=Duration(seconds=60),
        refresh_token_idle_lifetime=Duration(seconds=3600),
        refresh_token_lifetime=Duration(seconds=7200, nanos=500_000_000),
    )
    assert app == await get(authority, app.app_id)
    lifetimes = (app.access_token_lifetime, app.refresh_token_idle_lifetime, app.refresh_token_lifetime)
    assert [lifetime.ToMilliseconds() for lifetime in lifetimes] == [60_000, 3_600_000, 7_200_500]
    request = pb.UpdateAppRequest(
        app=pb.App(app_id=app.app_id), update_mask=FieldMask(paths=["access_token_lifetime"])
    )
    updated = (await authority.admin.apps.UpdateApp(request)).app
    assert not updated.HasField("access_token_lifetime")
    assert updated.refresh_token_lifetime == app.refresh_token_lifetime


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token_lifetime": Duration()},
        {"access_token_lifetime": Duration(seconds=-60)},
        {"access_token_lifetime": Duration(seconds=59)},
        {"access_token_lifetime": Duration(seconds=86_401)},
        {"refresh_token_idle_lifetime": Duration(seconds=59)},
        {"refresh_token_lifetime": Duration(seconds=3651 * 86_400)},
        {"refresh_token_lifetime": Duration(seconds=86_400)},  # the idle lifetime is 30 days
        {"refresh_token_idle_lifetime": Duration(seconds=181 * 86_400)},
    ],
)
async def test_lifetime_out_of_bounds_is_refused(authority: TestAuthority, fields: dict[str, Any]) -> None:
    assert await create(authority.admin, **fields) == Reason.REQUEST_INVALID
    app = await authority.create_app()
    assert await outcome(authority.update_app(app.app_id, **fields)) == Reason.REQUEST_INVALID
    assert await get(authority, app.app_id) == app


async def test_owner_shortens_lifetimes_and_an_administrator_lengthens_them(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    app = await authority.create_app(owner=f"app:{app_id}")
    longer: dict[str, Any] = {"access_token_lifetime": Duration(seconds=7201)}
    found = await outcome(authority.update_app(app.app_id, as_=stubs, **longer))
    assert found == Reason.RIGHTS_INSUFFICIENT
    assert await create(stubs, **longer) == Reason.RIGHTS_INSUFFICIENT
    await authority.update_app(app.app_id, as_=stubs, access_token_lifetime=Duration(seconds=7199))
    await authority.update_app(app.app_id, **longer)
    # What an administrator gave is kept by an owner who repeats it, and by one who changes something else.
    kept = await authority.update_app(app.app_id, as_=stubs, display_name="mine", **longer)
    assert kept.access_token_lifetime == longer["access_token_lifetime"]


async def test_tokens_live_as_long_as_their_app_says(authority: TestAuthority) -> None:
    client = await authority.create_client(
        access_token_lifetime=Duration(seconds=90),
        refresh_token_idle_lifetime=Duration(seconds=200),
        refresh_token_lifetime=Duration(seconds=300),
    )
    tokens = await authority.sign_in(client)
    assert tokens.expires_in == 90
    await authority.advance(150)
    renewed = await authority.refresh(client, tokens.refresh_token)
    assert renewed.expires_in == 90
    await authority.advance(149)
    last = await authority.refresh(client, renewed.refresh_token)
    assert last.expires_in == 1  # no longer than the grant
    await authority.advance(1)
    assert await refusal(authority.refresh(client, last.refresh_token)) == Reason.GRANT_INVALID
    idle = await authority.sign_in(client)
    await authority.advance(200)
    assert await refusal(authority.refresh(client, idle.refresh_token)) == Reason.GRANT_INVALID


async def test_shortened_lifetimes_hold_from_the_next_refresh_on(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    await authority.update_app(client.app_id, access_token_lifetime=Duration(seconds=60))
    assert (await authority.refresh(client, tokens.refresh_token)).expires_in == 60


async def test_r024_exemption_from_pkce_is_given_with_a_warning(authority: TestAuthority) -> None:
    request = pb.CreateAppRequest(app=pb.App(kind=pb.APP_KIND_BACKEND, display_name="old", pkce_exempt=True))
    created = await authority.admin.apps.CreateApp(request)
    (warning,) = created.warnings
    assert "PKCE" in warning
    assert (await authority.audit())[-1].audit.details["warnings"] == warning
    assert authority.logged.getvalue().count("an App was weakened") == 1
    shown = await authority.admin.apps.GetApp(pb.GetAppRequest(app_id=created.app.app_id))
    assert list(shown.warnings) == [warning]
    mask = FieldMask(paths=["pkce_exempt"])
    ended = pb.UpdateAppRequest(app=pb.App(app_id=created.app.app_id), update_mask=mask)
    assert not (await authority.admin.apps.UpdateApp(ended)).warnings
    assert "warnings" not in (await authority.audit())[-1].audit.details
    again = pb.UpdateAppRequest(app=pb.App(app_id=created.app.app_id, pkce_exempt=True), update_mask=mask)
    assert list((await authority.admin.apps.UpdateApp(again)).warnings) == [warning]
    assert authority.logged.getvalue().count("an App was weakened") == 2


async def test_tokens_in_urls_are_for_frontends_and_come_with_a_warning(authority: TestAuthority) -> None:
    for kind in (pb.APP_KIND_BACKEND, pb.APP_KIND_DEVICE):
        assert await create(authority.admin, kind=kind, query_token_allowed=True) == Reason.REQUEST_INVALID
    created = await create(authority.admin, kind=pb.APP_KIND_FRONTEND, query_token_allowed=True)
    (warning,) = created.warnings
    assert "URL" in warning
    state = (await authority.store.inner.snapshot()).apps
    assert [app.app_id for app in state if app.query_token_allowed] == [created.app.app_id]


async def test_device_that_had_a_secret_stays_confidential(authority: TestAuthority) -> None:
    app = await authority.create_app(kind=pb.APP_KIND_DEVICE)
    assert not app.confidential
    device = Client(app.app_id)
    assert (await authority.sign_in(device)).access_token
    tokens = await authority.sign_in(device)
    request = pb.CreateClientSecretRequest(app_id=app.app_id)
    revoked = (await authority.admin.apps.CreateClientSecret(request)).record.secret_id
    request.expire_time.FromSeconds(int(authority.store.now()) + 60)
    await authority.admin.apps.CreateClientSecret(request)
    assert (await get(authority, app.app_id)).confidential
    await authority.admin.apps.RevokeClientSecret(
        pb.RevokeClientSecretRequest(app_id=app.app_id, secret_id=revoked)
    )
    found = await outcome(authority.update_app(app.app_id, confidential=False))
    assert found == Reason.REQUEST_INVALID  # one is live
    await authority.advance(60)
    assert await refusal(authority.refresh(device, tokens.refresh_token)) == Reason.CLIENT_INVALID
    code = await authority.issue_code(device)
    assert await refusal(authority.exchange(device, code)) == Reason.CLIENT_INVALID
    # The way back is the owner's, and stands in the audit.
    assert not (await authority.update_app(app.app_id, confidential=False)).confidential
    assert (await authority.audit())[-1].audit.details == {"changed": "confidential"}
    assert (await authority.exchange(device, code)).access_token


async def test_confidential_is_what_the_kind_demands(authority: TestAuthority) -> None:
    backend = await authority.create_app()
    frontend = await authority.create_app(kind=pb.APP_KIND_FRONTEND)
    assert (backend.confidential, frontend.confidential) == (True, False)
    assert await outcome(authority.update_app(backend.app_id, confidential=False)) == Reason.REQUEST_INVALID
    assert await outcome(authority.update_app(frontend.app_id, confidential=True)) == Reason.REQUEST_INVALID
    assert (
        await create(authority.admin, kind=pb.APP_KIND_FRONTEND, confidential=True) == Reason.REQUEST_INVALID
    )
    device = await authority.create_app(kind=pb.APP_KIND_DEVICE, confidential=True)
    code = await authority.issue_code(Client(device.app_id))
    assert await refusal(authority.exchange(Client(device.app_id), code)) == Reason.CLIENT_INVALID


async def test_owner_cannot_unlock_what_an_administrator_locked(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    app = await authority.create_app(owner=f"app:{app_id}")
    lock, unlock = pb.LockAppRequest(app_id=app.app_id), pb.UnlockAppRequest(app_id=app.app_id)
    mine = (await stubs.apps.LockApp(lock)).app
    assert (mine.locked_by, mine.locked_by_administrator) == (f"app:{app_id}", False)
    theirs = (await authority.admin.apps.LockApp(lock)).app
    administrator = f"app:{authority.bootstrap['app_id']}"
    assert (theirs.locked_by, theirs.locked_by_administrator) == (administrator, True)
    assert theirs.epoch == mine.epoch
    assert (await stubs.apps.LockApp(lock)).app == theirs  # locking again does not make it one's own
    assert await refusal(stubs.apps.UnlockApp(unlock)) == Reason.RIGHTS_INSUFFICIENT
    for name in ("locked", "locked_by", "locked_by_administrator"):
        request = pb.UpdateAppRequest(app=pb.App(app_id=app.app_id), update_mask=FieldMask(paths=[name]))
        assert await refusal(stubs.apps.UpdateApp(request)) == Reason.REQUEST_INVALID
    assert (await get(authority, app.app_id)).locked
    unlocked = (await authority.admin.apps.UnlockApp(unlock)).app
    assert (unlocked.locked, unlocked.locked_by) == (False, "")
    await stubs.apps.LockApp(lock)
    assert not (await stubs.apps.UnlockApp(unlock)).app.locked


async def test_token_grants_no_more_than_itself_has_whatever_its_app_has(authority: TestAuthority) -> None:
    issuer = authority.settings.issuer
    app_id, _ = await authority.app_with(scopes=["rpz.apps", "a", "b"], resources=[issuer, ORDERS])
    narrow = await authority.create_api_token(app_id, ["rpz.apps", "a"], [issuer])
    stubs = authority.stubs(rpz_auth.ApiToken(app_id, narrow.api_token))
    for fields in ({"scopes": ["b"]}, {"scopes": ["a", "b"]}, {"scopes": ["a"], "resources": [ORDERS]}):
        assert await create(stubs, **fields) == Reason.RIGHTS_INSUFFICIENT, fields
    app = await authority.create_app(
        owner=f"app:{app_id}", scopes=["a", "b"], resources=[issuer, ORDERS], redirect_uris=[]
    )
    for scope, resource in (("b", issuer), ("a", ORDERS)):
        message = _token_request(app.app_id, scope, resource)
        assert await refusal(stubs.tokens.CreateApiToken(message)) == Reason.RIGHTS_INSUFFICIENT
    assert (await stubs.tokens.CreateApiToken(_token_request(app.app_id, "a", issuer))).api_token


async def test_update_changes_what_the_mask_names_and_nothing_else(authority: TestAuthority) -> None:
    app = await authority.create_app(whitelist=["192.0.2.1"], scopes=["a", "b"])
    await authority.advance(10)
    request = pb.UpdateAppRequest(
        app=pb.App(app_id=app.app_id, display_name="new", scopes=["a"], whitelist=["198.51.100.1"], epoch=7),
        update_mask=FieldMask(paths=["display_name", "scopes"]),
    )
    updated = (await authority.admin.apps.UpdateApp(request)).app
    expected = pb.App()
    expected.CopyFrom(app)
    expected.display_name = "new"
    expected.scopes[:] = ["a"]
    expected.etag = "2"
    expected.update_time.FromMilliseconds(int(authority.store.now() * 1000))
    assert updated == expected == await get(authority, app.app_id)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["*"],
        [""],
        ["app_id"],
        ["kind"],
        ["locked"],
        ["epoch"],
        ["etag"],
        ["create_time"],
        ["sign_in.subject_prefix"],
        ["displayName"],
        ["display_name", "epoch"],
        ["access_token_lifetime.seconds"],
        ["display_name", "locked_by"],
    ],
)
async def test_mask_with_anything_else_changes_nothing(authority: TestAuthority, paths: list[str]) -> None:
    app = await authority.create_app()
    request = pb.UpdateAppRequest(
        app=pb.App(app_id=app.app_id, display_name="new", locked=True, epoch=9),
        update_mask=FieldMask(paths=paths),
    )
    assert await refusal(authority.admin.apps.UpdateApp(request)) == Reason.REQUEST_INVALID
    assert await get(authority, app.app_id) == app


async def test_update_of_what_was_changed_since_is_a_conflict(authority: TestAuthority) -> None:
    app = await authority.create_app()
    changed = await authority.update_app(app.app_id, display_name="one", etag=app.etag)
    stale = authority.update_app(app.app_id, display_name="two", etag=app.etag)
    assert await refusal(stale) == Reason.CONFLICT
    for etag in ("x", "-1", "1.0", "\u0661", " 1", "9" * 5000):
        found = await outcome(authority.update_app(app.app_id, display_name="two", etag=etag))
        assert found == Reason.REQUEST_INVALID
    assert await get(authority, app.app_id) == changed


async def test_update_that_changes_nothing_writes_nothing(authority: TestAuthority) -> None:
    app = await authority.create_app()
    audit = await authority.audit()
    assert await authority.update_app(app.app_id, display_name=app.display_name) == app
    assert await authority.audit() == audit


async def test_simultaneous_updates_of_different_fields_are_both_kept(authority: TestAuthority) -> None:
    app = await authority.create_app()
    arrived = asyncio.Event()
    waiting = 0

    async def together(*_: Any) -> None:
        nonlocal waiting
        waiting += 1
        if waiting >= 2:
            arrived.set()
        await arrived.wait()

    authority.store.before["commit"] = together
    await asyncio.gather(
        authority.update_app(app.app_id, display_name="new"),
        authority.update_app(app.app_id, scopes=["other"]),
    )
    assert waiting == 3  # the slower one decided again
    both = await get(authority, app.app_id)
    assert (both.display_name, list(both.scopes), both.etag) == ("new", ["other"], "3")


async def test_whitelist_is_emptied_only_explicitly(authority: TestAuthority) -> None:
    app = await authority.create_app(whitelist=["192.0.2.1"])
    found = await refusal(authority.update_app(app.app_id, whitelist=[]))
    assert found == Reason.REQUEST_INVALID
    assert "allow_any_peer" in found.text
    assert list((await get(authority, app.app_id)).whitelist) == ["192.0.2.1"]
    assert not (await authority.update_app(app.app_id, whitelist=[], allow_any_peer=True)).whitelist
    assert not (await authority.update_app(app.app_id, whitelist=[])).whitelist


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
async def test_r095_network_of_all_addresses_is_taken_only_explicitly(
    authority: TestAuthority, network: str
) -> None:
    assert await create(authority.admin, whitelist=[network]) == Reason.REQUEST_INVALID
    app = await authority.create_app(whitelist=["192.0.2.1"])
    found = await refusal(authority.update_app(app.app_id, whitelist=[network]))
    assert found == Reason.REQUEST_INVALID
    assert "whitelist entry 1" in found.text
    updated = await authority.update_app(app.app_id, whitelist=[network], allow_any_peer=True)
    assert list(updated.whitelist) == [network]


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " 192.0.2.1",
        "192.0.2.1/24",
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/0.0.0.255",
        "010.0.0.1",
        "1",
        "*.example.com",
        "https://example.com/cart",
        "san:",
        "san:*.example.com",
        "san:a b",
        "dns:*.example.com",
        "dns:10.0.0.1",
        "*",
        "\x00",
    ],
)
async def test_r095_a78_whitelist_entry_that_cannot_be_read_is_refused_by_its_number(
    authority: TestAuthority, entry: str
) -> None:
    found = await create(authority.admin, whitelist=["192.0.2.1", entry])
    assert found == Reason.REQUEST_INVALID
    assert found.text.startswith("whitelist entry 2: ")


async def test_r095_whitelist_is_stored_in_one_spelling(authority: TestAuthority) -> None:
    app = await authority.create_app(
        whitelist=["::ffff:192.0.2.1", "192.0.2.1/32", "2001:DB8:0:0::/32", "san:API.Example.Com.", "unix"]
    )
    assert list(app.whitelist) == ["192.0.2.1", "2001:db8::/32", "san:api.example.com", "unix"]


async def test_a78_whitelist_has_at_most_a_thousand_entries(authority: TestAuthority) -> None:
    entries = [f"2001:db8::{number:x}" for number in range(1001)]
    found = await create(authority.admin, whitelist=entries)
    assert found == Reason.REQUEST_INVALID
    assert "1000" in found.text
    assert len((await authority.create_app(whitelist=entries[:1000])).whitelist) == 1000


@pytest.mark.parametrize(
    "uri", ["http://shop.example/cb", "https://shop.example/#", "myapp:/cb", "https://a@shop.example", ""]
)
async def test_r042_r043_redirect_uri_that_cannot_be_registered(authority: TestAuthority, uri: str) -> None:
    assert await create(authority.admin, redirect_uris=[REDIRECT_URI, uri]) == Reason.REQUEST_INVALID


@pytest.mark.parametrize(
    "fields",
    [
        {"display_name": ""},
        {"display_name": "x" * 129},
        {"display_name": "a\nb"},
        {"kind": 0},
        {"kind": 99},
        {"owner": "a\x00b"},
        {"redirect_uris": [f"https://shop.example/{number}" for number in range(101)]},
        {"resources": [f"https://shop.example/{number}" for number in range(101)]},
        {"resources": ["orders"]},
        {"pkce_exempt": True, "kind": pb.APP_KIND_DEVICE},
        {"pkce_exempt": True, "kind": pb.APP_KIND_FRONTEND},
        {"sign_in": pb.SignIn(client_ids=[MISSING])},
        {"sign_in": pb.SignIn(subject_prefix="user:")},
        {"sign_in": pb.SignIn(client_ids=["x"], subject_prefix="user:")},
        {"sign_in": pb.SignIn(client_ids=[""], subject_prefix="user:")},
        {"sign_in": pb.SignIn(client_ids=[MISSING], subject_prefix="app:")},
        {"sign_in": pb.SignIn(client_ids=[MISSING], subject_prefix="app:x")},
        {"sign_in": pb.SignIn(client_ids=[MISSING], subject_prefix="a\n")},
        {
            "sign_in": pb.SignIn(
                client_ids=[f"00000000-0000-4000-8000-{number:012}" for number in range(101)],
                subject_prefix="user:",
            )
        },
    ],
)
async def test_field_that_is_not_of_its_form_is_refused(
    authority: TestAuthority, fields: dict[str, Any]
) -> None:
    found = await create(authority.admin, **fields)
    assert found == Reason.REQUEST_INVALID
    assert found.text


@pytest.mark.parametrize("prefix", ["", "app:", "app:x"])
async def test_a17_r083_subject_prefix_names_neither_everybody_nor_apps(
    authority: TestAuthority, prefix: str
) -> None:
    found = await create(authority.admin, sign_in=pb.SignIn(client_ids=[MISSING], subject_prefix=prefix))
    assert found == Reason.REQUEST_INVALID
    assert found.text.startswith("sign_in.subject_prefix")


@pytest.mark.parametrize("scopes", [["a b"], [""], ["rpz.nonsense"], ['a"'], ["x" * 129]])
async def test_scope_that_is_not_of_its_form_is_refused(authority: TestAuthority, scopes: list[str]) -> None:
    assert await create(authority.admin, scopes=scopes) == Reason.SCOPE_INVALID


async def test_owner_gives_its_apps_no_more_than_it_has(authority: TestAuthority) -> None:
    issuer = authority.settings.issuer
    app_id, stubs = await authority.app_with(
        "rpz.apps", scopes=["rpz.apps", "rpz.verify", "a"], resources=[issuer, ORDERS]
    )
    bad: list[dict[str, Any]] = [
        {"scopes": ["b"]},
        {"scopes": ["a", "b"]},
        {"scopes": ["rpz.apps"]},  # its own, but the authority's
        {"scopes": ["rpz.verify"]},
        {"scopes": ["rpz.admin"]},
        {"resources": [STOCK]},
        {"owner": "somebody"},
        {"owner": f"app:{authority.bootstrap['app_id']}"},
        {"sign_in": pb.SignIn(client_ids=[app_id], subject_prefix="user:")},
        {"sign_in": pb.SignIn()},
    ]
    for fields in bad:
        assert await create(stubs, **fields) == Reason.RIGHTS_INSUFFICIENT, fields
    app = await authority.create_app(stubs, scopes=["a"], resources=[ORDERS])
    assert app.owner == f"app:{app_id}"
    for fields in bad:
        found = await outcome(authority.update_app(app.app_id, as_=stubs, **fields))
        assert found == Reason.RIGHTS_INSUFFICIENT, fields
    assert (await create(stubs, owner=f"app:{app_id}")).app.app_id


async def test_owner_keeps_what_an_administrator_gave_but_cannot_put_it_into_tokens(
    authority: TestAuthority,
) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    issuer = authority.settings.issuer
    given = ["b", "rpz.admin", "rpz.codes.issue"]
    app = await authority.create_app(owner=f"app:{app_id}", scopes=given, resources=[issuer, STOCK])
    updated = await authority.update_app(app.app_id, as_=stubs, display_name="mine", scopes=given)
    assert list(updated.scopes) == given
    for scope in given:
        message = _token_request(app.app_id, scope, STOCK)
        assert await refusal(stubs.tokens.CreateApiToken(message)) == Reason.RIGHTS_INSUFFICIENT
        assert (await authority.admin.tokens.CreateApiToken(message)).api_token
    narrowed = await authority.update_app(app.app_id, as_=stubs, scopes=["b"])
    assert list(narrowed.scopes) == ["b"]
    again = authority.update_app(app.app_id, as_=stubs, scopes=["b", "rpz.admin"])
    assert await refusal(again) == Reason.RIGHTS_INSUFFICIENT


def _token_request(app_id: str, scope: str, resource: str) -> Any:
    return token_service_pb2.CreateApiTokenRequest(app_id=app_id, scopes=[scope], resources=[resource])


async def test_scope_for_apps_is_no_scope_for_the_administrators_methods(authority: TestAuthority) -> None:
    _, stubs = await authority.app_with("rpz.admin")
    assert await refusal(stubs.apps.ListApps(pb.ListAppsRequest())) == Reason.SCOPE_INSUFFICIENT


async def test_lock_raises_the_epoch_once_and_unlock_leaves_it(authority: TestAuthority) -> None:
    app = await authority.create_app()

    async def lock() -> pb.App:
        locked: pb.App = (await authority.admin.apps.LockApp(pb.LockAppRequest(app_id=app.app_id))).app
        return locked

    async def unlock() -> pb.App:
        request = pb.UnlockAppRequest(app_id=app.app_id)
        unlocked: pb.App = (await authority.admin.apps.UnlockApp(request)).app
        return unlocked

    states = [await lock(), await lock(), await unlock(), await unlock(), await lock()]
    assert [(state.locked, state.epoch) for state in states] == [
        (True, 1),
        (True, 1),
        (False, 1),
        (False, 1),
        (True, 2),
    ]
    assert [action for action in await authority.actions() if "lock" in action] == [
        "app.lock",
        "app.unlock",
        "app.lock",
    ]


async def test_end_all_tokens_ends_access_tokens_and_spares_the_rest(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    api_token = (await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])).api_token
    request = pb.EndAllTokensRequest(app_id=client.app_id)
    assert (await authority.admin.apps.EndAllTokens(request)).app.epoch == 1
    assert not await authority.is_alive(first.access_token)
    assert await authority.is_alive(api_token)
    second = await authority.refresh(client, first.refresh_token)
    assert await authority.is_alive(second.access_token)


async def test_deleted_app_is_gone_with_its_name_and_its_id_is_not_given_again(
    authority: TestAuthority,
) -> None:
    app = await authority.create_app(display_name="personal name")
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=app.app_id))
    row = await authority.store.inner.app(app.app_id)
    assert row is not None
    assert (row.deleted, row.display_name, row.redirect_uris, row.scopes) == (True, "", (), frozenset())
    again = authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=app.app_id))
    assert await refusal(again) == Reason.NOT_FOUND
