"""`rpz-auth apps`: registers Apps and Devices, changes, locks and deletes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import inputs, output, secret_file
from rpz_auth_server.cli.app_output import KIND_NUMBERS, Kind, kind_name, print_app, show
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.options import AppIdArgument, CredentialsOption, JsonOption, RequestIdOption
from rpz_auth_server.cli.verifier import ClientPair, create_verifier

app = typer.Typer(
    help="Apps and Devices: create, change, lock, delete.", no_args_is_help=True, rich_markup_mode=None
)

_PAGE = 1000


_ALLOW_HELP = (
    "From where it may call: an address, a network such as 192.0.2.0/24, san:NAME, dns:NAME, unix, or, for "
    "pages in browsers, origin:https://NAME. A bare NAME means origin: for a frontend, else dns:."
)
_REDIRECT_HELP = "https, or http on 127.0.0.1 or [::1]."
_SCOPE_HELP = "What users may grant it, and its API tokens may carry."
_OWN_LIFETIME_HELP = "As in 30m or 90d; without it, the authority's."
_PAR_HELP = "Take its authorization requests only if pushed beforehand (RFC 9126)."
_PRIVATE_HELP = "Let the names in its whitelist lead to private addresses (administrators)."
_QUERY_HELP = "Let a frontend's API tokens travel in URLs (?token=). Discouraged: URLs stand in logs."
AccessLifetimeOption = Annotated[
    str | None,
    typer.Option(
        "--access-token-lifetime",
        metavar="DURATION",
        help=f"How long its access tokens live. {_OWN_LIFETIME_HELP}",
    ),
]
IdleLifetimeOption = Annotated[
    str | None,
    typer.Option(
        "--refresh-idle-lifetime",
        metavar="DURATION",
        help=f"Until a refresh token that is not used expires. {_OWN_LIFETIME_HELP}",
    ),
]
RefreshLifetimeOption = Annotated[
    str | None,
    typer.Option(
        "--refresh-lifetime",
        metavar="DURATION",
        help=f"Until users must sign in again in any case. {_OWN_LIFETIME_HELP}",
    ),
]
_RESOURCE_HELP = "A service that its tokens may be used at."


@app.command()
def create(  # noqa: PLR0913, PLR0917 - one for each field of an App
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people will know it by.")],
    kind: Annotated[Kind | None, typer.Option(help="Where it runs; a frontend never has a secret.")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(metavar="URI", help=_REDIRECT_HELP)] = None,
    scope: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help=_SCOPE_HELP)] = None,
    resource: Annotated[list[str] | None, typer.Option(metavar="URI", help=_RESOURCE_HELP)] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help=_ALLOW_HELP)] = None,
    owner: Annotated[
        str,
        typer.Option(
            metavar="SUBJECT",
            help="Who administers it, as in app:ID, or user:ID of an Account page; else you.",
        ),
    ] = "",
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
    client_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --verifier: what the service shows to an authority that demands client certificates.",
        ),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key of --client-certificate.")
    ] = None,
    access_token_lifetime: AccessLifetimeOption = None,
    refresh_idle_lifetime: IdleLifetimeOption = None,
    refresh_lifetime: RefreshLifetimeOption = None,
    request_id: RequestIdOption = "",
    credentials: CredentialsOption = None,
    *,
    confidential: Annotated[
        bool, typer.Option("--confidential", help="A device that must authenticate from the start.")
    ] = False,
    pkce_exempt: Annotated[
        bool,
        typer.Option(
            "--pkce-exempt", help="A backend that cannot do PKCE. Discouraged: leaked codes can be injected."
        ),
    ] = False,
    query_token: Annotated[bool, typer.Option("--query-token", help=_QUERY_HELP)] = False,
    require_par: Annotated[bool, typer.Option("--require-par", help=_PAR_HELP)] = False,
    private_names: Annotated[bool, typer.Option("--private-names", help=_PRIVATE_HELP)] = False,
    as_json: JsonOption = False,
) -> None:
    """Register an App. Options for lists may be repeated.

    For a service that verifies tokens: rpz-auth apps create orders --verifier orders.json --resource
    https://orders
    """
    if verifier is not None:
        contradictions = (
            *(redirect_uri, scope, pkce_exempt, sign_in_for, subject_prefix, confidential, query_token),
            *(
                access_token_lifetime,
                refresh_idle_lifetime,
                refresh_lifetime,
                request_id,
                require_par,
                private_names,
            ),
        )
        if kind not in (None, Kind.BACKEND) or any(contradictions):
            raise typer.BadParameter(
                "a verifier is a backend App that can verify and nothing else; give it --resource, "
                "and --allow or --owner if need be",
                param_hint="--verifier",
            )
        wanted = pb.App(display_name=name, owner=owner, resources=resource or (), whitelist=allow or ())
        pair = ClientPair.read(client_certificate, client_key)
        _create_verifier(wanted, verifier, pair, credentials, as_json=as_json)
        return
    if client_certificate is not None or client_key is not None:
        raise typer.BadParameter("is written into verifier files only", param_hint="--client-certificate")
    if kind is None:
        raise typer.BadParameter("say where the App runs", param_hint="--kind")
    if bool(sign_in_for) != bool(subject_prefix):
        raise typer.BadParameter("goes together with --sign-in-for", param_hint="--subject-prefix")
    wanted = pb.App(
        kind=KIND_NUMBERS[kind],
        display_name=name,
        owner=owner,
        redirect_uris=redirect_uri or (),
        scopes=scope or (),
        resources=resource or (),
        whitelist=allow or (),
        confidential=confidential,
        pkce_exempt=pkce_exempt,
        query_token_allowed=query_token,
        require_pushed_authorization_requests=require_par,
        private_names_allowed=private_names,
        **_lifetimes(access_token_lifetime, refresh_idle_lifetime, refresh_lifetime),
        sign_in=pb.SignIn(client_ids=sign_in_for, subject_prefix=subject_prefix) if sign_in_for else None,
    )
    with connect(credentials) as authority:
        request = pb.CreateAppRequest(app=wanted, request_id=request_id)
        answer = authority.call(authority.apps.CreateApp, request)
    show(answer, as_json=as_json)


@app.command("list")
def list_apps(
    query: Annotated[str, typer.Option(metavar="TEXT", help="A part of the name, in any case.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="Only those that run there.")] = None,
    owner: Annotated[str, typer.Option(metavar="SUBJECT", help="Only those of one owner.")] = "",
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List your Apps; an administrator sees all."""
    number = KIND_NUMBERS[kind] if kind else pb.APP_KIND_UNSPECIFIED
    wanted = pb.ListAppsRequest(page_size=_PAGE, query=query, kind=number, owner=owner)
    with connect(credentials) as authority:
        found = list(_all_apps(authority, wanted))
    if as_json:
        output.print_json({"apps": [output.to_dict(each) for each in found]})
        return
    output.print_table(
        ("APP ID", "KIND", "STATE", "NAME"),
        [
            (each.app_id, kind_name(each), "locked" if each.locked else "open", each.display_name)
            for each in found
        ],
        fixed=3,
    )


@app.command()
def get(app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """Show an App."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.GetApp, pb.GetAppRequest(app_id=app_id))
    show(answer, as_json=as_json)


@app.command()
def update(  # noqa: PLR0913, PLR0917 - one for each field of an App
    app_id: AppIdArgument,
    display_name: Annotated[str | None, typer.Option(metavar="NAME", help="What people know it by.")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(metavar="URI", help=_REDIRECT_HELP)] = None,
    scope: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help=_SCOPE_HELP)] = None,
    resource: Annotated[list[str] | None, typer.Option(metavar="URI", help=_RESOURCE_HELP)] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="ENTRY", help=_ALLOW_HELP)] = None,
    add_allow: Annotated[
        list[str] | None, typer.Option(metavar="ENTRY", help="As --allow, beside the entries that are there.")
    ] = None,
    remove_allow: Annotated[
        list[str] | None, typer.Option(metavar="ENTRY", help="An entry to take away, as `apps get` shows it.")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(
            metavar="SUBJECT",
            help="Give it to another owner, as in app:ID, or user:ID of an Account page (administrators).",
        ),
    ] = None,
    sign_in_for: Annotated[
        list[str] | None,
        typer.Option(metavar="APP_ID", help="An App that it may issue codes for (administrators)."),
    ] = None,
    subject_prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="What the subjects begin with that it may sign in.")
    ] = "",
    access_token_lifetime: AccessLifetimeOption = None,
    refresh_idle_lifetime: IdleLifetimeOption = None,
    refresh_lifetime: RefreshLifetimeOption = None,
    if_unchanged: Annotated[
        str | None,
        typer.Option(metavar="ETAG", help="Refuse if it has changed since `apps get` has shown this ETag."),
    ] = None,
    credentials: CredentialsOption = None,
    *,
    confidential: Annotated[
        bool | None,
        typer.Option(
            "--confidential/--public",
            help="Whether a device must authenticate. After a secret it must, until you say --public.",
        ),
    ] = None,
    pkce_exempt: Annotated[
        bool | None,
        typer.Option("--pkce-exempt/--pkce-required", help="Whether a backend does without PKCE."),
    ] = None,
    query_token: Annotated[
        bool | None, typer.Option("--query-token/--no-query-token", help=_QUERY_HELP)
    ] = None,
    require_par: Annotated[bool | None, typer.Option("--require-par/--any-request", help=_PAR_HELP)] = None,
    private_names: Annotated[
        bool | None, typer.Option("--private-names/--no-private-names", help=_PRIVATE_HELP)
    ] = None,
    no_sign_in: Annotated[
        bool, typer.Option("--no-sign-in", help="Take away the right to issue codes.")
    ] = False,
    default_lifetimes: Annotated[
        bool, typer.Option("--default-lifetimes", help="Go back to the authority's lifetimes.")
    ] = False,
    clear_redirect_uris: Annotated[
        bool, typer.Option("--clear-redirect-uris", help="Take all its redirect URIs away.")
    ] = False,
    clear_scopes: Annotated[bool, typer.Option("--clear-scopes", help="Take all its scopes away.")] = False,
    clear_resources: Annotated[
        bool, typer.Option("--clear-resources", help="Take all its resources away.")
    ] = False,
    clear_whitelist: Annotated[
        bool, typer.Option("--clear-whitelist", help="Let it call from anywhere.")
    ] = False,
    allow_any_peer: Annotated[
        bool,
        typer.Option(
            "--allow-any-peer", help="Take a network of every address, or the last entry's removal, as meant."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Change an App. A list that is given replaces the whole list of before."""
    edits_whitelist = bool(add_allow or remove_allow)
    _check_one({"--redirect-uri": redirect_uri, "--clear-redirect-uris": clear_redirect_uris})
    _check_one({"--scope": scope, "--clear-scopes": clear_scopes})
    _check_one({"--resource": resource, "--clear-resources": clear_resources})
    _check_one(
        {
            "--allow": allow,
            "--add-allow or --remove-allow": edits_whitelist,
            "--clear-whitelist": clear_whitelist,
        }
    )
    if allow_any_peer and not (allow or clear_whitelist or edits_whitelist):
        raise typer.BadParameter(
            "goes together with --allow, --add-allow, --remove-allow or --clear-whitelist",
            param_hint="--allow-any-peer",
        )
    if if_unchanged == "":
        raise typer.BadParameter("is what `apps get` has shown", param_hint="--if-unchanged")
    if bool(sign_in_for) != bool(subject_prefix):
        raise typer.BadParameter("goes together with --sign-in-for", param_hint="--subject-prefix")
    _check_one({"--sign-in-for": sign_in_for, "--no-sign-in": no_sign_in})
    lifetimes = _lifetimes(access_token_lifetime, refresh_idle_lifetime, refresh_lifetime)
    if lifetimes and default_lifetimes:
        raise typer.BadParameter("contradicts the lifetimes that are given", param_hint="--default-lifetimes")
    changed = pb.App(
        app_id=app_id,
        display_name=display_name or "",
        redirect_uris=redirect_uri or (),
        scopes=scope or (),
        resources=resource or (),
        whitelist=allow or (),
        owner=owner or "",
        sign_in=pb.SignIn(client_ids=sign_in_for, subject_prefix=subject_prefix) if sign_in_for else None,
        confidential=confidential or False,
        pkce_exempt=pkce_exempt or False,
        query_token_allowed=query_token or False,
        require_pushed_authorization_requests=require_par or False,
        private_names_allowed=private_names or False,
        etag=if_unchanged or "",
        **lifetimes,
    )
    given = {
        "display_name": display_name is not None,
        "redirect_uris": bool(redirect_uri) or clear_redirect_uris,
        "scopes": bool(scope) or clear_scopes,
        "resources": bool(resource) or clear_resources,
        "whitelist": bool(allow) or clear_whitelist or edits_whitelist,
        "owner": owner is not None,
        "sign_in": bool(sign_in_for) or no_sign_in,
        "confidential": confidential is not None,
        "pkce_exempt": pkce_exempt is not None,
        "query_token_allowed": query_token is not None,
        "require_pushed_authorization_requests": require_par is not None,
        "private_names_allowed": private_names is not None,
        **{name: name in lifetimes or default_lifetimes for name in _LIFETIMES},
    }
    mask = FieldMask(paths=[name for name, is_given in given.items() if is_given])
    if not mask.paths:
        raise typer.BadParameter("say what to change, as in --display-name NAME", param_hint="OPTIONS")
    request = pb.UpdateAppRequest(
        app=changed, update_mask=mask, allow_any_peer=clear_whitelist or allow_any_peer
    )
    with connect(credentials) as authority:
        if edits_whitelist:
            found = authority.call(authority.apps.GetApp, pb.GetAppRequest(app_id=app_id)).app
            _edit_whitelist(request, found, add=add_allow or (), remove=remove_allow or ())
        answer = authority.call(authority.apps.UpdateApp, request)
    show(answer, as_json=as_json)


@app.command()
def delete(
    app_id: AppIdArgument,
    credentials: CredentialsOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an App with all its credentials; there is no way back."""
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
    show(answer, as_json=as_json)


@app.command()
def unlock(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """Undo a lock; access tokens issued before it stay refused."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.UnlockApp, pb.UnlockAppRequest(app_id=app_id))
    show(answer, as_json=as_json)


@app.command("end-tokens")
def end_tokens(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """End all access tokens of an App; refresh and API tokens go on."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.EndAllTokens, pb.EndAllTokensRequest(app_id=app_id))
    show(answer, as_json=as_json)


def _create_verifier(
    wanted: pb.App, path: Path, pair: ClientPair | None, credentials: Path | None, *, as_json: bool
) -> None:
    if not wanted.resources:
        raise typer.BadParameter("name the service that verifies", param_hint="--resource")
    secret_file.check_free(path, option="--verifier")
    with connect(credentials) as authority:
        created, record = create_verifier(authority, wanted, path, pair)
    if as_json:
        content = {"app": output.to_dict(created), "record": output.to_dict(record)}
        output.print_json({**content, "verifier_file": str(path)})
        return
    print_app(created)
    output.print_line()
    output.print_line(f"Written to {path}, readable by you only. The service opens it by:")
    output.print_line(f'rpz_auth.connect("{path}")')


def _check_one(options: Mapping[str, object]) -> None:
    """Let pass at most one of several ways to say what a field is to be.

    Raises:
        typer.BadParameter: More were given.
    """
    if sum(map(bool, options.values())) > 1:
        *names, last = options
        raise typer.BadParameter(f"give one of {', '.join(names)} and {last}", param_hint=last)


def _edit_whitelist(
    request: pb.UpdateAppRequest, found: pb.App, *, add: Sequence[str], remove: Sequence[str]
) -> None:
    """Ask for the whitelist that was found with some entries more and some less, unless the App has changed.

    Raises:
        typer.BadParameter: What is to be taken away is not there.
    """
    for entry in remove:
        if entry not in found.whitelist:
            has = ", ".join(found.whitelist) or "no entry"
            raise typer.BadParameter(f"{entry} is not there; the list has {has}", param_hint="--remove-allow")
    kept = [entry for entry in found.whitelist if entry not in remove]
    request.app.whitelist.extend([*kept, *add])
    request.app.etag = request.app.etag or found.etag
    # Of an entry that stays somebody has said already that it is meant.
    request.allow_any_peer |= any(entry.endswith("/0") for entry in kept)


def _all_apps(authority: Authority, wanted: pb.ListAppsRequest) -> Iterator[pb.App]:
    while True:
        page = authority.call(authority.apps.ListApps, wanted)
        yield from page.apps
        wanted.page_token = page.next_page_token
        if not wanted.page_token:
            return


_LIFETIMES = ("access_token_lifetime", "refresh_token_idle_lifetime", "refresh_token_lifetime")


def _lifetimes(access_token: str | None, idle: str | None, absolute: str | None) -> dict[str, Any]:
    """Those that were given, by the names of the contract."""
    options = ("--access-token-lifetime", "--refresh-idle-lifetime", "--refresh-lifetime")
    texts = (access_token, idle, absolute)
    return {
        name: inputs.read_duration(text, option=option)
        for name, option, text in zip(_LIFETIMES, options, texts, strict=True)
        if text is not None
    }
