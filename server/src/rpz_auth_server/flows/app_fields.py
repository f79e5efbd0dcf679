"""What a caller may say of an App, and whether it may say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rpz_auth.caller import APP_ID, APP_SUBJECT_PREFIX, Caller
from rpz_auth.whitelist import MAX_ENTRIES

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App, AppKind, SignIn
from rpz_auth_server.domain.credential import is_live
from rpz_auth_server.domain.grant import MAX_ACCESS_TOKEN_LIFETIME, MAX_REFRESH_LIFETIME, MIN_LIFETIME
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import RequestInvalid, RightsInsufficient
from rpz_auth_server.domain.resolution import MAX_NAMES, names_in
from rpz_auth_server.domain.uri import check_redirect_uri, check_resource
from rpz_auth_server.domain.whitelist import read_entry
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.names import with_names_resolved
from rpz_auth_server.flows.rights import check_grantable, is_administrator

_MAX_LIST = 100

NO_SIGN_IN = SignIn(client_ids=frozenset(), subject_prefix="")
DEFAULT_LIFETIME = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFields:
    """What a caller may say of an App, by the names of the contract; None for what it leaves as it is."""

    display_name: str | None = None
    owner: str | None = None
    redirect_uris: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    resources: Sequence[str] | None = None
    whitelist: Sequence[str] | None = None
    private_names_allowed: bool | None = None
    confidential: bool | None = None
    pkce_exempt: bool | None = None
    query_token_allowed: bool | None = None
    require_pushed_authorization_requests: bool | None = None
    sign_in: SignIn | None = None
    """`NO_SIGN_IN` takes the right away."""
    access_token_lifetime: float | None = None
    """In seconds, as those below; `DEFAULT_LIFETIME` for the authority's own."""
    refresh_token_idle_lifetime: float | None = None
    refresh_token_lifetime: float | None = None


async def apply(
    authority: Authority, caller: Caller, app: App, fields: AppFields, *, allow_any_peer: bool
) -> App:
    """The App as it will be.

    Raises:
        RequestInvalid: A field is not of its form; the message says what to change.
        RightsInsufficient: It would have more than the caller may grant.
    """
    scopes = app.scopes if fields.scopes is None else scope.check_scopes(fields.scopes)
    resources = app.resources if fields.resources is None else _resources(fields.resources)
    await check_grantable(authority, caller, scopes - app.scopes, resources - app.resources)
    _check_administrators(caller, app, fields)
    changed = replace(
        app,
        display_name=app.display_name
        if fields.display_name is None
        else check_name(fields.display_name, "display_name"),
        owner=app.owner if fields.owner is None else check_name(fields.owner, "owner"),
        redirect_uris=app.redirect_uris
        if fields.redirect_uris is None
        else _redirect_uris(fields.redirect_uris),
        scopes=scopes,
        resources=resources,
        whitelist=app.whitelist
        if fields.whitelist is None
        else _whitelist(app, fields.whitelist, allow_any_peer=allow_any_peer),
        private_names_allowed=app.private_names_allowed
        if fields.private_names_allowed is None
        else fields.private_names_allowed,
        confidential=await _confidential(authority, app, fields),
        pkce_exempt=app.pkce_exempt if fields.pkce_exempt is None else fields.pkce_exempt,
        query_token_allowed=app.query_token_allowed
        if fields.query_token_allowed is None
        else fields.query_token_allowed,
        require_pushed_authorization_requests=app.require_pushed_authorization_requests
        if fields.require_pushed_authorization_requests is None
        else fields.require_pushed_authorization_requests,
        sign_in=app.sign_in if fields.sign_in is None else _sign_in(fields.sign_in),
    )
    if changed.pkce_exempt and app.kind is not AppKind.BACKEND:
        raise RequestInvalid("only a backend, which has a secret, can do without PKCE (RFC 9700 §2.1.1)")
    if changed.query_token_allowed and app.kind is not AppKind.FRONTEND:
        raise RequestInvalid("only a frontend, which cannot set headers everywhere, may send ?token=")
    changed = await with_names_resolved(authority.store, changed)
    return _lifetimes(authority, caller, changed, fields)


def _check_administrators(caller: Caller, app: App, fields: AppFields) -> None:
    if is_administrator(caller):
        return
    if fields.owner not in (None, app.owner):
        raise RightsInsufficient("only an administrator gives an App to another owner")
    if fields.private_names_allowed not in (None, app.private_names_allowed):
        raise RightsInsufficient("only an administrator lets names lead to private addresses")
    if fields.sign_in is not None:
        raise RightsInsufficient("only an administrator lists for whom a sign-in service may issue codes")


async def _confidential(authority: Authority, app: App, fields: AppFields) -> bool:
    wanted = fields.confidential
    match app.kind:
        case AppKind.BACKEND if wanted is False:
            raise RequestInvalid("a backend can keep a secret, so it always authenticates")
        case AppKind.BACKEND:
            return True
        case AppKind.FRONTEND if wanted:
            raise RequestInvalid("a frontend App runs where nothing can be kept secret; it uses PKCE alone")
        case AppKind.FRONTEND:
            return False
        case AppKind.DEVICE if wanted is False and app.confidential:
            now = authority.store.now()
            if any(is_live(secret, now) for secret in await authority.store.client_secrets(app.app_id)):
                raise RequestInvalid("revoke its live secrets first; an App with a live secret authenticates")
            return False
        case AppKind.DEVICE:
            return app.confidential if wanted is None else wanted


def _lifetimes(authority: Authority, caller: Caller, app: App, fields: AppFields) -> App:
    default = authority.lifetimes

    def read(name: str, most: float, of_authority: float, before: float | None) -> float | None:
        wanted: float | None = getattr(fields, name)
        if wanted is None:
            return before
        if wanted == DEFAULT_LIFETIME:
            return None
        if not MIN_LIFETIME <= wanted <= most:
            raise RequestInvalid(f"{name} is {MIN_LIFETIME} to {most} seconds, or unset")
        if wanted > of_authority and wanted != before and not is_administrator(caller):
            raise RightsInsufficient(
                f"only an administrator sets {name} beyond the authority's {of_authority:g} seconds"
            )
        return wanted

    app = replace(
        app,
        access_token_lifetime=read(
            "access_token_lifetime",
            MAX_ACCESS_TOKEN_LIFETIME,
            default.access_token,
            app.access_token_lifetime,
        ),
        refresh_idle_lifetime=read(
            "refresh_token_idle_lifetime",
            MAX_REFRESH_LIFETIME,
            default.refresh_idle,
            app.refresh_idle_lifetime,
        ),
        refresh_absolute_lifetime=read(
            "refresh_token_lifetime",
            MAX_REFRESH_LIFETIME,
            default.refresh_absolute,
            app.refresh_absolute_lifetime,
        ),
    )
    own = app.lifetimes(default)
    given = {fields.refresh_token_idle_lifetime, fields.refresh_token_lifetime} - {None}
    if given and own.refresh_idle > own.refresh_absolute:
        raise RequestInvalid(
            f"refresh_token_idle_lifetime ({own.refresh_idle:g} s) must not be longer than "
            f"refresh_token_lifetime ({own.refresh_absolute:g} s); set both"
        )
    return app


def _redirect_uris(uris: Sequence[str]) -> tuple[str, ...]:
    _check_length(uris, _MAX_LIST, "redirect_uris")
    for uri in uris:
        check_redirect_uri(uri)
    return tuple(dict.fromkeys(uris))


def _resources(uris: Sequence[str]) -> frozenset[str]:
    _check_length(uris, _MAX_LIST, "resources")
    for uri in uris:
        check_resource(uri)
    return frozenset(uris)


def _sign_in(listed: SignIn) -> SignIn | None:
    if listed == NO_SIGN_IN:
        return None
    _check_length(tuple(listed.client_ids), _MAX_LIST, "sign_in.client_ids")
    if not listed.client_ids or not all(map(APP_ID.fullmatch, listed.client_ids)):
        raise RequestInvalid("sign_in.client_ids lists the App IDs that codes may be issued for")
    # Not empty, either: that would begin every subject.
    prefix = check_name(listed.subject_prefix, "sign_in.subject_prefix")
    if prefix.startswith(APP_SUBJECT_PREFIX):
        raise RequestInvalid("sign_in.subject_prefix begins the subjects of users, as in 'user:'")
    return replace(listed, subject_prefix=prefix)


def _whitelist(app: App, entries: Sequence[str], *, allow_any_peer: bool) -> tuple[str, ...]:
    _check_length(entries, MAX_ENTRIES, "whitelist entries")
    if app.whitelist and not entries and not allow_any_peer:
        raise RequestInvalid("an empty whitelist allows calls from anywhere; set allow_any_peer to say so")
    read = tuple(dict.fromkeys(_entries(app.kind, entries, allow_any=allow_any_peer)))
    _check_length(names_in(read), MAX_NAMES, "dns: entries")
    return read


def _entries(kind: AppKind, entries: Iterable[str], *, allow_any: bool) -> Iterable[str]:
    for number, entry in enumerate(entries, start=1):
        try:
            yield read_entry(entry, kind, allow_any=allow_any)
        except ValueError as error:
            raise RequestInvalid(f"whitelist entry {number}: {error}") from None


def _check_length(values: Sequence[str], most: int, what: str) -> None:
    if len(values) > most:
        raise RequestInvalid(f"an App has at most {most} {what}")
