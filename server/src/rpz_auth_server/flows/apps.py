"""Registering Apps and Devices, changing them, locking and deleting them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rpz_auth.caller import APP_ID, APP_SUBJECT_PREFIX, Caller
from rpz_auth.view import Change
from rpz_auth.whitelist import DNS, MAX_ENTRIES, normalise

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App, AppKind, SignIn
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import Conflict, RequestInvalid, RightsInsufficient
from rpz_auth_server.domain.uri import check_redirect_uri, check_resource
from rpz_auth_server.flows.pipeline import Authority, retry_conflicts
from rpz_auth_server.flows.rights import check_grantable, find_app, is_administrator
from rpz_auth_server.storage.store import Commit

_MAX_LIST = 100


NO_SIGN_IN = SignIn(client_ids=frozenset(), subject_prefix="")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFields:
    """What a caller may say of an App; None for what it leaves as it is."""

    display_name: str | None = None
    owner: str | None = None
    redirect_uris: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    resources: Sequence[str] | None = None
    whitelist: Sequence[str] | None = None
    pkce_exempt: bool | None = None
    sign_in: SignIn | None = None
    """`NO_SIGN_IN` takes the right away."""


async def create_app(authority: Authority, caller: Caller, kind: AppKind, fields: AppFields) -> App:
    """Register an App, owned by the caller unless an administrator says otherwise.

    Raises:
        RequestInvalid: A field is not of its form; the message says what to change.
        RightsInsufficient: It would have more than the caller may grant.
    """
    now = authority.store.now()
    empty = App(
        app_id=str(uuid.uuid4()),
        kind=kind,
        display_name="",
        owner=caller.subject,
        created_at=now,
        updated_at=now,
    )
    app = await _apply(authority, caller, empty, fields, allow_any_peer=False)
    if not app.display_name:
        raise RequestInvalid("give the App a display_name")
    events: tuple[Change, ...] = (app.state,) if app.whitelist else ()
    await authority.store.commit(
        Commit(rows=(app,), events=events, audit=(_audit(caller, "app.create", app),))
    )
    return app


async def get_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Show an App.

    Raises:
        NotFound: Missing, or not the caller's.
    """
    return await find_app(authority, caller, app_id)


async def list_apps(authority: Authority, caller: Caller, *, after: str, limit: int) -> Sequence[App]:
    """Show the caller's Apps in order of their IDs, an administrator all, beyond the ID `after`."""
    owner = None if is_administrator(caller) else caller.subject
    return await authority.store.apps(owner=owner, after=after, limit=limit)


async def update_app(
    authority: Authority,
    caller: Caller,
    app_id: str,
    fields: AppFields,
    *,
    allow_any_peer: bool,
    expected_version: int | None = None,
) -> App:
    """Change an App; verifiers learn of a new whitelist at once.

    Args:
        authority: The authority.
        caller: Who asks.
        app_id: Which App.
        fields: What to change.
        allow_any_peer: Must be set to empty a whitelist, or to allow a network of all addresses.
        expected_version: Refuse when the App is in another one by now; None for whichever it is in.

    Raises:
        NotFound: Missing, or not the caller's.
        RequestInvalid: A field is not of its form.
        RightsInsufficient: It would have more than the caller may grant.
        Conflict: The App is in another version.
    """

    async def change(app: App) -> App:
        if expected_version is not None and app.version != expected_version:
            raise Conflict("the App was changed since it was read; read it again")
        return await _apply(authority, caller, app, fields, allow_any_peer=allow_any_peer)

    return await _change(authority, caller, app_id, "app.update", change)


async def lock_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Stop every credential of an App; the access tokens issued so far for good."""

    async def change(app: App) -> App:
        return app if app.locked else replace(app, locked=True, epoch=app.epoch + 1)

    return await _change(authority, caller, app_id, "app.lock", change)


async def unlock_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Revive an App's refresh and API tokens."""

    async def change(app: App) -> App:
        return replace(app, locked=False)

    return await _change(authority, caller, app_id, "app.unlock", change)


async def end_all_tokens(authority: Authority, caller: Caller, app_id: str) -> App:
    """End the access tokens issued to an App so far."""

    async def change(app: App) -> App:
        return replace(app, epoch=app.epoch + 1)

    return await _change(authority, caller, app_id, "app.end_all_tokens", change)


async def delete_app(authority: Authority, caller: Caller, app_id: str) -> None:
    """Delete an App with all it could call with; its ID is never given again."""

    async def change(app: App) -> App:
        return App(
            app_id=app.app_id,
            kind=app.kind,
            display_name="",
            owner=app.owner,
            deleted=True,
            epoch=app.epoch + 1,
            created_at=app.created_at,
            updated_at=app.updated_at,
            version=app.version,
        )

    await _change(authority, caller, app_id, "app.delete", change)


async def _change(
    authority: Authority, caller: Caller, app_id: str, action: str, change: Callable[[App], Awaitable[App]]
) -> App:
    async def attempt() -> App:
        app = await find_app(authority, caller, app_id)
        changed = await change(app)
        if changed == app:
            return app
        changed = replace(changed, version=app.version + 1, updated_at=authority.store.now())
        # Told also when the state looks the same: verifiers then ask anew what its API tokens may still do.
        await authority.store.commit(
            Commit(rows=(changed,), events=(changed.state,), audit=(_audit(caller, action, changed),))
        )
        return changed

    return await retry_conflicts(attempt)


async def _apply(
    authority: Authority, caller: Caller, app: App, fields: AppFields, *, allow_any_peer: bool
) -> App:
    scopes = app.scopes if fields.scopes is None else scope.check_scopes(fields.scopes)
    resources = app.resources if fields.resources is None else _resources(fields.resources)
    await check_grantable(authority, caller, scopes - app.scopes, resources - app.resources)
    if fields.owner not in (None, app.owner) and not is_administrator(caller):
        raise RightsInsufficient("only an administrator gives an App to another owner")
    if fields.sign_in is not None and not is_administrator(caller):
        raise RightsInsufficient("only an administrator lists for whom a sign-in service may issue codes")
    if fields.pkce_exempt and app.kind is not AppKind.BACKEND:
        raise RequestInvalid("only a backend, which has a secret, can do without PKCE (RFC 9700 §2.1.1)")
    return replace(
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
        pkce_exempt=app.pkce_exempt if fields.pkce_exempt is None else fields.pkce_exempt,
        sign_in=app.sign_in if fields.sign_in is None else _sign_in(fields.sign_in),
    )


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
    prefix = listed.subject_prefix
    if not prefix or prefix.startswith(APP_SUBJECT_PREFIX):  # an empty one would begin every subject
        raise RequestInvalid("sign_in.subject_prefix begins the subjects of users, as in 'user:'")
    return replace(listed, subject_prefix=check_name(prefix, "sign_in.subject_prefix"))


def _whitelist(app: App, entries: Sequence[str], *, allow_any_peer: bool) -> tuple[str, ...]:
    _check_length(entries, MAX_ENTRIES, "whitelist entries")
    if app.whitelist and not entries and not allow_any_peer:
        raise RequestInvalid("an empty whitelist allows calls from anywhere; set allow_any_peer to say so")
    return tuple(dict.fromkeys(_entries(entries, allow_any=allow_any_peer)))


def _entries(entries: Iterable[str], *, allow_any: bool) -> Iterable[str]:
    for number, entry in enumerate(entries, start=1):
        try:
            normal = normalise(entry, allow_any=allow_any)
        except ValueError as error:
            raise RequestInvalid(f"whitelist entry {number}: {error}") from None
        if normal.startswith(DNS):
            raise RequestInvalid(f"whitelist entry {number}: this version does not resolve names")
        yield normal


def _check_length(values: Sequence[str], most: int, what: str) -> None:
    if len(values) > most:
        raise RequestInvalid(f"an App has at most {most} {what}")


def _audit(caller: Caller, action: str, app: App) -> Audit:
    return Audit(actor=caller.subject, action=action, app_id=app.app_id, peer=str(caller.peer))
