"""`rpz-auth apps`."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from rpz.auth.v1 import app_service_pb2 as pb
from server.cli.command import REDIRECT_URI, RESOURCE, Cli
from server.cli.conftest import FalseAuthority
from support.authority import AuthorityProcess


def test_created_app_has_what_was_asked_for(cli: Cli, authority: AuthorityProcess) -> None:
    client_id = cli.create_app("client")
    created = cli.json(
        *("apps", "create", "sign-in", "--kind", "backend", "--redirect-uri", REDIRECT_URI),
        *("--redirect-uri", "http://127.0.0.1/cb", "--scope", "rpz.codes.issue", "--scope", "orders.read"),
        *("--resource", RESOURCE, "--resource", authority.bootstrap["issuer"]),
        *("--allow", "192.0.2.0/24", "--allow", "san:shop.example", "--owner", "user:7", "--pkce-exempt"),
        *("--sign-in-for", client_id, "--subject-prefix", "user:"),
    )["app"]
    assert str(uuid.UUID(created["app_id"])) == created["app_id"]
    assert created == {
        "app_id": created["app_id"],
        "kind": "APP_KIND_BACKEND",
        "display_name": "sign-in",
        "owner": "user:7",
        "redirect_uris": [REDIRECT_URI, "http://127.0.0.1/cb"],
        "scopes": ["orders.read", "rpz.codes.issue"],
        "resources": sorted([RESOURCE, authority.bootstrap["issuer"]]),
        "whitelist": ["192.0.2.0/24", "san:shop.example"],
        "resolved_addresses": [],
        "private_names_allowed": False,
        "locked": False,
        "locked_by": "",
        "locked_by_administrator": False,
        "confidential": True,
        "epoch": "0",
        "pkce_exempt": True,
        "query_token_allowed": False,
        "require_pushed_authorization_requests": False,
        "sign_in": {"client_ids": [client_id], "subject_prefix": "user:"},
        "create_time": created["create_time"],
        "update_time": created["create_time"],
        "etag": "1",
    }
    shown = cli.json("apps", "get", created["app_id"])
    assert shown == {"app": created, "warnings": shown["warnings"]}
    assert len(shown["warnings"]) == 1


def test_app_is_shown_a_field_a_line(cli: Cli) -> None:
    result = cli("apps", "get", cli.create_app("shop", "--allow", "192.0.2.1"))
    assert (result.code, result.err) == (0, "")
    fields = dict(re.findall(r"^(\S.*?)  +(.*?) *$", result.out, re.MULTILINE))
    assert fields["Name"] == "shop"
    assert fields["Kind"] == "backend"
    assert fields["Whitelist"] == "192.0.2.1"
    assert re.search(r"^Scopes +orders\.read *\n +orders\.write *$", result.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x"], "--kind"),
        (["x", "--kind", "desktop"], "desktop"),
        (["x", "--kind", "backend", "--sign-in-for", str(uuid.UUID(int=1))], "--subject-prefix"),
        (["x", "--kind", "backend", "--subject-prefix", "user:"], "--subject-prefix"),
        ([], "NAME"),
    ],
)
def test_creation_that_makes_no_sense_is_wrong_usage(cli: Cli, arguments: list[str], problem: str) -> None:
    result = cli("apps", "create", *arguments)
    assert (result.code, result.out) == (2, "")
    assert problem in result.err


def test_refusal_is_told_by_its_reason(cli: Cli) -> None:
    result = cli("apps", "create", "x", "--kind", "backend", "--redirect-uri", "http://shop.example/")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"REQUEST_INVALID: .*https://.*\n", result.err)
    result = cli("apps", "get", "nobody")
    assert (result.code, result.out) == (1, "")
    assert result.err == "NOT_FOUND: no such object among those of the caller\n"


def test_list_has_every_app_with_its_whole_id(cli: Cli) -> None:
    app_id = cli.create_app("a name with several words that is longer than a column of a narrow terminal")
    result = cli("apps", "list")
    assert (result.code, result.err) == (0, "")
    assert re.search(rf"^{app_id}  backend  open   a name .* narrow terminal *$", result.out, re.MULTILINE)
    listed = cli.json("apps", "list")
    assert [app["app_id"] for app in listed["apps"]].count(app_id) == 1
    assert list(listed) == ["apps"]


def test_list_goes_on_to_the_last_page(false_authority: FalseAuthority) -> None:
    def list_apps(request: pb.ListAppsRequest, _context: Any) -> pb.ListAppsResponse:
        number = int(request.page_token or "1")
        following = str(number + 1) if number < 3 else ""
        return pb.ListAppsResponse(apps=[pb.App(app_id=f"app-{number}")], next_page_token=following)

    listed = false_authority(ListApps=list_apps).json("apps", "list")
    assert [app["app_id"] for app in listed["apps"]] == ["app-1", "app-2", "app-3"]


def test_update_changes_what_is_named_and_nothing_else(cli: Cli) -> None:
    before = cli.json("apps", "get", cli.create_app())["app"]
    changed = cli.json(
        *("apps", "update", before["app_id"], "--display-name", "store", "--scope", "orders.read"),
        *("--redirect-uri", "https://store.example/cb", "--resource", "https://two.example"),
        *("--allow", "192.0.2.7"),
    )["app"]
    assert changed == {
        **before,
        "display_name": "store",
        "scopes": ["orders.read"],
        "redirect_uris": ["https://store.example/cb"],
        "resources": ["https://two.example"],
        "whitelist": ["192.0.2.7"],
        "update_time": changed["update_time"],
        "etag": "2",
    }


def test_whitelist_is_emptied_by_its_own_option_only(cli: Cli) -> None:
    app_id = cli.create_app("shop", "--allow", "192.0.2.7")
    assert cli("apps", "update", app_id).code == 2
    assert cli("apps", "update", app_id, "--allow", "192.0.2.8", "--clear-whitelist").code == 2
    assert cli("apps", "update", app_id, "--allow", "").code == 1
    assert cli.json("apps", "get", app_id)["app"]["whitelist"] == ["192.0.2.7"]
    assert cli.json("apps", "update", app_id, "--clear-whitelist")["app"]["whitelist"] == []
    assert "calls from anywhere" in cli("apps", "get", app_id).out


def test_entries_are_added_to_the_whitelist_and_taken_from_it(cli: Cli) -> None:
    app_id = cli.create_app("shop", "--allow", "192.0.2.7", "--allow", "192.0.2.8")

    def update(*options: str) -> list[str]:
        whitelist: list[str] = cli.json("apps", "update", app_id, *options)["app"]["whitelist"]
        return whitelist

    assert update("--add-allow", "api.example") == ["192.0.2.7", "192.0.2.8", "dns:api.example"]
    assert update("--remove-allow", "192.0.2.7", "--add-allow", "192.0.2.9") == [
        "192.0.2.8",
        "dns:api.example",
        "192.0.2.9",
    ]
    assert update("--remove-allow", "192.0.2.8", "--remove-allow", "192.0.2.9") == ["dns:api.example"]
    for options in (
        ("--remove-allow", "192.0.2.7"),  # it is gone already
        ("--add-allow", "192.0.2.1", "--allow", "192.0.2.1"),
        ("--remove-allow", "dns:api.example", "--clear-whitelist"),
    ):
        assert cli("apps", "update", app_id, *options).code == 2
    assert cli("apps", "update", app_id, "--remove-allow", "dns:api.example").code == 1  # the last one
    assert update("--remove-allow", "dns:api.example", "--allow-any-peer") == []


def test_network_of_every_address_is_allowed_on_purpose_only(cli: Cli) -> None:
    app_id = cli.create_app("shop", "--allow", "192.0.2.7")
    assert cli("apps", "update", app_id, "--allow", "0.0.0.0/0").code == 1
    assert cli("apps", "update", app_id, "--add-allow", "0.0.0.0/0").code == 1
    assert cli("apps", "update", app_id, "--display-name", "store", "--allow-any-peer").code == 2
    everyone = cli.json("apps", "update", app_id, "--add-allow", "0.0.0.0/0", "--allow-any-peer")["app"]
    assert everyone["whitelist"] == ["192.0.2.7", "0.0.0.0/0"]
    # What is there already was said on purpose.
    assert cli("apps", "update", app_id, "--add-allow", "192.0.2.8").code == 0
    replaced = cli.json("apps", "update", app_id, "--allow", "::/0", "--allow-any-peer")["app"]
    assert replaced["whitelist"] == ["::/0"]
    emptied = cli.json("apps", "update", app_id, "--clear-whitelist", "--allow-any-peer")["app"]
    assert emptied["whitelist"] == []


def test_app_that_was_changed_meanwhile_is_left_as_it_is(cli: Cli) -> None:
    app_id = cli.create_app()
    read = cli.json("apps", "get", app_id)["app"]["etag"]
    assert re.search(rf"^ETag +{read}$", cli("apps", "get", app_id).out, re.MULTILINE)
    assert cli("apps", "update", app_id, "--display-name", "store", "--if-unchanged", read).code == 0
    for change in (["--display-name", "late"], ["--add-allow", "192.0.2.7"]):
        late = cli("apps", "update", app_id, *change, "--if-unchanged", read)
        assert (late.code, late.err.partition(":")[0]) == (1, "CONFLICT")
    assert cli("apps", "update", app_id, "--display-name", "late", "--if-unchanged", "").code == 2
    assert cli.json("apps", "get", app_id)["app"]["display_name"] == "store"


def test_entry_is_added_to_the_whitelist_that_was_read_or_not_at_all(false_authority: FalseAuthority) -> None:
    updates: list[pb.UpdateAppRequest] = []

    def get_app(request: pb.GetAppRequest, _context: Any) -> pb.GetAppResponse:
        return pb.GetAppResponse(app=pb.App(app_id=request.app_id, whitelist=["192.0.2.7"], etag="3"))

    def update_app(request: pb.UpdateAppRequest, _context: Any) -> pb.UpdateAppResponse:
        updates.append(request)
        return pb.UpdateAppResponse(app=request.app)

    false_authority(GetApp=get_app, UpdateApp=update_app).json("apps", "update", "x", "--add-allow", "unix")
    assert updates == [
        pb.UpdateAppRequest(
            app=pb.App(app_id="x", whitelist=["192.0.2.7", "unix"], etag="3"),
            update_mask=FieldMask(paths=["whitelist"]),
        )
    ]


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("scope", "scopes", "orders.read"),
        ("resource", "resources", RESOURCE),
        ("redirect-uri", "redirect_uris", REDIRECT_URI),
    ],
)
def test_list_is_emptied_by_its_own_option(cli: Cli, option: str, field: str, value: str) -> None:
    app_id = cli.create_app()
    clear = f"--clear-{field.replace('_', '-')}"
    assert cli("apps", "update", app_id, f"--{option}", value, clear).code == 2
    assert cli.json("apps", "get", app_id)["app"][field] != []
    assert cli.json("apps", "update", app_id, clear)["app"][field] == []


def test_lock_unlock_and_end_tokens_show_the_app(cli: Cli) -> None:
    app_id = cli.create_app()
    seen = [cli.json("apps", verb, app_id)["app"] for verb in ("lock", "unlock", "end-tokens")]
    assert [(app["locked"], app["epoch"]) for app in seen] == [(True, "1"), (False, "1"), (False, "2")]
    assert re.search(r"^State +locked by app:", cli("apps", "lock", app_id).out, re.MULTILINE)
    assert re.search(rf"^{app_id}  backend  locked", cli("apps", "list").out, re.MULTILINE)


def test_delete_asks_first_and_takes_nothing_but_yes(cli: Cli) -> None:
    app_id = cli.create_app("precious")
    for answer in ("", "n\n", "\n"):
        result = cli("apps", "delete", app_id, stdin=answer)
        assert (result.code, result.out.strip()) == (1, "")
        assert "Delete the App precious" in result.err
    assert cli("apps", "get", app_id).code == 0
    result = cli("apps", "delete", app_id, stdin="y\n")
    assert (result.code, result.out.strip()) == (0, f"{app_id} is deleted")
    assert cli("apps", "get", app_id).err.startswith("NOT_FOUND: ")


def test_delete_does_not_ask_whoever_says_yes_at_once(cli: Cli) -> None:
    assert cli.json("apps", "delete", cli.create_app(), "--yes") == {}


def test_lifetimes_kind_of_client_and_urls_are_set_shown_and_taken_back(cli: Cli) -> None:
    app_id = cli.create_app("tv", kind="device")
    options = ["--access-token-lifetime", "30m", "--refresh-idle-lifetime", "7d", "--refresh-lifetime", "8d"]
    updated = cli("apps", "update", app_id, *options, "--confidential")
    assert (updated.code, updated.err) == (0, "")
    for line in (
        r"Authenticates +with a secret",
        r"Access tokens +live 30 minutes",
        r"Refresh tokens +expire after 7 days without use",
        r"Sign-ins +last 8 days",
    ):
        assert re.search(line, updated.out), line
    back = cli.json("apps", "update", app_id, "--default-lifetimes", "--public")["app"]
    assert "access_token_lifetime" not in back
    assert back["confidential"] is False


@pytest.mark.parametrize("text", ["", "30", "1y", "-1h", "9" * 9 + "w"])
def test_lifetime_that_cannot_be_read_is_wrong_usage(cli: Cli, text: str) -> None:
    result = cli("apps", "update", cli.create_app(), "--refresh-lifetime", text)
    assert result.code in (1, 2)
    assert "--refresh-lifetime" in result.err or "refresh_token_lifetime" in result.err


def test_exemption_from_pkce_is_given_with_a_warning(cli: Cli) -> None:
    created = cli("apps", "create", "old", "--kind", "backend", "--pkce-exempt")
    assert created.code == 0
    assert created.err.startswith("warning: This App is exempt from PKCE")
    shown = cli.json("apps", "create", "old", "--kind", "backend", "--pkce-exempt")
    assert shown["warnings"][0].startswith("This App is exempt from PKCE")
    taken_back = cli("apps", "update", shown["app"]["app_id"], "--pkce-required")
    assert (taken_back.code, taken_back.err) == (0, "")


def test_list_is_narrowed_by_name_kind_and_owner(cli: Cli) -> None:
    app_id = cli.create_app("A very Rare name", kind="device")
    for options in (["--query", "very rare"], ["--query", "RARE", "--kind", "device"]):
        assert [app["app_id"] for app in cli.json("apps", "list", *options)["apps"]] == [app_id]
    assert cli.json("apps", "list", "--query", "rare", "--kind", "frontend") == {"apps": []}
    assert cli.json("apps", "list", "--query", "rare", "--owner", "user:nobody") == {"apps": []}


def test_app_changes_hands_and_a_sign_in_service_its_rights(cli: Cli) -> None:
    app_id = cli.create_app("portal")
    options = ["--owner", "user:ann", "--sign-in-for", app_id, "--subject-prefix", "user:"]
    app = cli.json("apps", "update", app_id, *options)["app"]
    assert app["owner"] == "user:ann"
    assert app["sign_in"] == {"client_ids": [app_id], "subject_prefix": "user:"}
    assert "sign_in" not in cli.json("apps", "update", app_id, "--no-sign-in")["app"]
    assert cli("apps", "update", app_id, "--sign-in-for", app_id).code == 2


def test_who_locked_an_app_is_shown(cli: Cli) -> None:
    app_id = cli.create_app()
    assert re.search(r"State +locked by app:\S+, an administrator", cli("apps", "lock", app_id).out)
