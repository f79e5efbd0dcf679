"""`rpz-auth apps`: registers Apps and Devices, changes, locks and deletes them."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import output, secret_file
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.options import AppIdArgument, CredentialsOption, JsonOption
from rpz_auth_server.cli.verifier import create_verifier

app = typer.Typer(
    help="Apps and Devices: create, change, lock, delete.", no_args_is_help=True, rich_markup_mode=None
)

_PAGE = 1000


class Kind(enum.StrEnum):
    """Where an App runs."""

    BACKEND = "backend"
    DEVICE = "device"
    FRONTEND = "frontend"


_KIND_NUMBERS = {
    Kind.BACKEND: pb.APP_KIND_BACKEND,
    Kind.DEVICE: pb.APP_KIND_DEVICE,
    Kind.FRONTEND: pb.APP_KIND_FRONTEND,
}
_KIND_NAMES = {number: str(kind) for kind, number in _KIND_NUMBERS.items()}

_ALLOW_HELP = (
    "From where it may call: an address, a network such as 192.0.2.0/24, san:NAME, unix, or, for pages in "
    "browsers, origin:https://NAME."
)
_REDIRECT_HELP = "https, or http on 127.0.0.1 or [::1]."
_SCOPE_HELP = "What users may grant it, and its API tokens may carry."
_RESOURCE_HELP = "A service that its tokens may be used at."


@app.command()
def create(  # noqa: PLR0913, PLR0917 - one for each field of an App
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people will know it by.")],
    kind: Annotated[Kind | None, typer.Option(help="Where it runs; a frontend never has a secret.")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(metavar="URI", help=_REDIRECT_HELP)] = None,
    scope: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help=_SCOPE_HELP)] = None,
    resource: Annotated[list[str] | None, typer.Option(metavar="URI", help=_RESOURCE_HELP)] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help=_ALLOW_HELP)] = None,
    owner: Annotated[str, typer.Option(metavar="SUBJECT", help="Who administers it; else you.")] = "",
    sign_in_for: Annotated[
        list[str] | None,
        typer.Option(
            metavar="APP_ID",
            help="An App that this sign-in service may issue codes for; it also needs the scope "
            "rpz.codes.issue and the authority's issuer as a resource.",
        ),
    ] = None,
    subject_prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="What the subjects begin with that it may sign in.")
    ] = "",
    verifier: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Make the identity of a service that verifies tokens for --resource, and write it to this "
            "new file of mode 0600.",
        ),
    ] = None,
    credentials: CredentialsOption = None,
    *,
    pkce_exempt: Annotated[
        bool, typer.Option("--pkce-exempt", help="A backend that cannot do PKCE.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Register an App. Options for lists may be repeated.

    For a service that verifies tokens: rpz-auth apps create orders --verifier orders.json --resource
    https://orders
    """
    if verifier is not None:
        contradictions = (redirect_uri, scope, pkce_exempt, sign_in_for, subject_prefix)
        if kind not in (None, Kind.BACKEND) or any(contradictions):
            raise typer.BadParameter(
                "a verifier is a backend App that can verify and nothing else; give it --resource, "
                "and --allow or --owner if need be",
                param_hint="--verifier",
            )
        wanted = pb.App(display_name=name, owner=owner, resources=resource or (), whitelist=allow or ())
        _create_verifier(wanted, verifier, credentials, as_json=as_json)
        return
    if kind is None:
        raise typer.BadParameter("say where the App runs", param_hint="--kind")
    if bool(sign_in_for) != bool(subject_prefix):
        raise typer.BadParameter("goes together with --sign-in-for", param_hint="--subject-prefix")
    wanted = pb.App(
        kind=_KIND_NUMBERS[kind],
        display_name=name,
        owner=owner,
        redirect_uris=redirect_uri or (),
        scopes=scope or (),
        resources=resource or (),
        whitelist=allow or (),
        pkce_exempt=pkce_exempt,
        sign_in=pb.SignIn(client_ids=sign_in_for, subject_prefix=subject_prefix) if sign_in_for else None,
    )
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.CreateApp, pb.CreateAppRequest(app=wanted))
    _show(answer, as_json=as_json)


@app.command("list")
def list_apps(credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """List your Apps; an administrator sees all."""
    with connect(credentials) as authority:
        found = list(_all_apps(authority))
    if as_json:
        output.print_json({"apps": [output.to_dict(each) for each in found]})
        return
    output.print_table(
        ("APP ID", "KIND", "STATE", "NAME"),
        [
            (each.app_id, _kind_name(each), "locked" if each.locked else "open", each.display_name)
            for each in found
        ],
        fixed=3,
    )


@app.command()
def get(app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """Show an App."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.GetApp, pb.GetAppRequest(app_id=app_id))
    _show(answer, as_json=as_json)


@app.command()
def update(  # noqa: PLR0913 - one for each field of an App
    app_id: AppIdArgument,
    display_name: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(metavar="URI", help=_REDIRECT_HELP)] = None,
    scope: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help=_SCOPE_HELP)] = None,
    resource: Annotated[list[str] | None, typer.Option(metavar="URI", help=_RESOURCE_HELP)] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help=_ALLOW_HELP)] = None,
    credentials: CredentialsOption = None,
    *,
    clear_whitelist: Annotated[
        bool, typer.Option("--clear-whitelist", help="Let it call from anywhere.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Change an App. A list that is given replaces the whole list of before."""
    if allow and clear_whitelist:
        raise typer.BadParameter("give one of --allow and --clear-whitelist", param_hint="--allow")
    changed = pb.App(
        app_id=app_id,
        display_name=display_name or "",
        redirect_uris=redirect_uri or (),
        scopes=scope or (),
        resources=resource or (),
        whitelist=allow or (),
    )
    given = {
        "display_name": display_name is not None,
        "redirect_uris": bool(redirect_uri),
        "scopes": bool(scope),
        "resources": bool(resource),
        "whitelist": bool(allow) or clear_whitelist,
    }
    mask = FieldMask(paths=[name for name, is_given in given.items() if is_given])
    if not mask.paths:
        raise typer.BadParameter("say what to change, as in --display-name NAME", param_hint="OPTIONS")
    request = pb.UpdateAppRequest(app=changed, update_mask=mask, allow_any_peer=clear_whitelist)
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.UpdateApp, request)
    _show(answer, as_json=as_json)


@app.command()
def delete(
    app_id: AppIdArgument,
    credentials: CredentialsOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an App and everything that it could call with; there is no way back."""
    with connect(credentials) as authority:
        if not yes:
            found = authority.call(authority.apps.GetApp, pb.GetAppRequest(app_id=app_id)).app
            name = output.escape(found.display_name)
            typer.confirm(f"Delete the App {name} with all its credentials?", abort=True, err=True)
        answer = authority.call(authority.apps.DeleteApp, pb.DeleteAppRequest(app_id=app_id))
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line(f"{app_id} is deleted")


@app.command()
def lock(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """Stop every credential of an App at once."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.LockApp, pb.LockAppRequest(app_id=app_id))
    _show(answer, as_json=as_json)


@app.command()
def unlock(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """Undo a lock; access tokens issued before it stay refused."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.UnlockApp, pb.UnlockAppRequest(app_id=app_id))
    _show(answer, as_json=as_json)


@app.command("end-tokens")
def end_tokens(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """End all access tokens issued to an App so far; refresh and API tokens go on."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.EndAllTokens, pb.EndAllTokensRequest(app_id=app_id))
    _show(answer, as_json=as_json)


def _create_verifier(wanted: pb.App, path: Path, credentials: Path | None, *, as_json: bool) -> None:
    if not wanted.resources:
        raise typer.BadParameter("name the service that verifies", param_hint="--resource")
    secret_file.check_free(path, option="--verifier")
    with connect(credentials) as authority:
        created, record = create_verifier(authority, wanted, path)
    if as_json:
        content = {"app": output.to_dict(created), "record": output.to_dict(record)}
        output.print_json({**content, "verifier_file": str(path)})
        return
    _print_app(created)
    output.print_line()
    output.print_line(f"Written to {path}, readable by you only. The service opens it by:")
    output.print_line(f'rpz_auth.connect("{path}")')


_AppAnswer = (
    pb.CreateAppResponse
    | pb.GetAppResponse
    | pb.UpdateAppResponse
    | pb.LockAppResponse
    | pb.UnlockAppResponse
    | pb.EndAllTokensResponse
)


def _all_apps(authority: Authority) -> Iterator[pb.App]:
    token = ""
    while True:
        page = authority.call(authority.apps.ListApps, pb.ListAppsRequest(page_size=_PAGE, page_token=token))
        yield from page.apps
        token = page.next_page_token
        if not token:
            return


def _show(answer: _AppAnswer, *, as_json: bool) -> None:
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        _print_app(answer.app)


def _print_app(shown: pb.App) -> None:
    sign_in = shown.HasField("sign_in")
    output.print_record(
        {
            "App ID": shown.app_id,
            "Name": shown.display_name,
            "Kind": _kind_name(shown),
            "State": "locked" if shown.locked else "open",
            "Owner": shown.owner,
            "Redirect URIs": shown.redirect_uris,
            "Scopes": shown.scopes,
            "Resources": shown.resources,
            "Whitelist": shown.whitelist or "calls from anywhere",
            "PKCE": "exempt" if shown.pkce_exempt else "required",
            "Signs in for": shown.sign_in.client_ids if sign_in else (),
            "Subjects": f"that begin with {shown.sign_in.subject_prefix}" if sign_in else "",
            "Epoch": str(shown.epoch),
            "Created (UTC)": output.format_time(shown.create_time),
            "Changed (UTC)": output.format_time(shown.update_time),
        }
    )


def _kind_name(shown: pb.App) -> str:
    return _KIND_NAMES.get(shown.kind, "unknown")
