"""Registering Apps and Devices, changing them, locking and deleting them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import structlog
from rpz_auth.caller import Caller
from rpz_auth.view import Change

from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.bound import AppsOfOwner
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import Conflict, RequestInvalid, RightsInsufficient
from rpz_auth_server.flows.app_fields import NO_SIGN_IN as NO_SIGN_IN
from rpz_auth_server.flows.app_fields import AppFields as AppFields
from rpz_auth_server.flows.app_fields import apply
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.creations import read_request
from rpz_auth_server.flows.rights import commit_change, find_app, is_administrator
from rpz_auth_server.storage.store import Commit

_log = structlog.get_logger("rpz_auth_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppQuery:
    """Which Apps a caller asks for; None for any."""

    name_part: str = ""
    """In any case."""
    kind: AppKind | None = None
    owner: str | None = None


EVERY = AppQuery()
_TAKES_AWAY = frozenset({"app.lock", "app.delete"})


async def create_app(
    authority: Authority, caller: Caller, kind: AppKind, fields: AppFields, *, request_id: str = ""
) -> App:
    """Register an App, owned by the caller unless an administrator says otherwise.

    Raises:
        RequestInvalid: A field is not of its form, or the caller has too many Apps; the message says what to
            change.
        RightsInsufficient: It would have more than the caller may grant.
        RateLimited: The caller made or changed too much.
    """
    content = [str(kind), {name: _plain(value) for name, value in asdict(fields).items()}]
    request = read_request(caller, "app", request_id, content)

    async def attempt() -> App:
        if earlier := await request.find(authority):
            return await find_app(authority, caller, earlier.object_id)
        now = authority.store.now()
        empty = App(
            app_id=str(uuid.uuid4()),
            kind=kind,
            display_name="",
            owner=caller.subject,
            created_at=now,
            updated_at=now,
        )
        app = await apply(authority, caller, empty, fields, allow_any_peer=False)
        if not app.display_name:
            raise RequestInvalid("give the App a display_name")
        most = AppsOfOwner(app.owner, authority.bounds.apps_per_owner)
        events: tuple[Change, ...] = (app.state,) if app.whitelist or app.query_token_allowed else ()
        await commit_change(
            authority,
            caller,
            Commit(
                rows=(app, *request.rows(app.app_id, now)),
                events=events,
                audit=(_audit(caller, "app.create", empty, app),),
                bounds=() if is_administrator(caller) else (most,),
            ),
        )
        _warn(caller, empty, app)
        return app

    return await retry_conflicts(attempt)


def _plain(value: object) -> object:
    """A field's value as JSON holds it, the same for the same value."""
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case frozenset():
            return sorted(value)
        case _:
            return value


async def get_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Show an App.

    Raises:
        NotFound: Missing, or not the caller's.
    """
    return await find_app(authority, caller, app_id)


async def list_apps(
    authority: Authority, caller: Caller, *, query: AppQuery = EVERY, after: str, limit: int
) -> Sequence[App]:
    """Show the caller's Apps in order of their IDs, an administrator all, beyond the ID `after`."""
    owner = query.owner
    if not is_administrator(caller):
        if owner not in (None, caller.subject):
            return ()
        owner = caller.subject
    return await authority.store.apps(
        owner=owner, kind=query.kind, name_part=query.name_part, after=after, limit=limit
    )


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
        RateLimited: The caller made or changed too much.
    """

    async def change(app: App) -> App:
        if expected_version is not None and app.version != expected_version:
            raise Conflict("the App was changed since it was read; read it again")
        return await apply(authority, caller, app, fields, allow_any_peer=allow_any_peer)

    return await _change(authority, caller, app_id, "app.update", change)


async def lock_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Stop every credential of an App; the access tokens issued so far for good."""
    by_administrator = is_administrator(caller)

    async def change(app: App) -> App:
        if app.locked and (app.locked_by_administrator or not by_administrator):
            return app
        return replace(
            app,
            locked=True,
            locked_by=caller.subject,
            locked_by_administrator=by_administrator,
            epoch=app.epoch if app.locked else app.epoch + 1,
        )

    return await _change(authority, caller, app_id, "app.lock", change)


async def unlock_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Revive an App's refresh and API tokens.

    Raises:
        NotFound: Missing, or not the caller's.
        RightsInsufficient: An administrator locked it, and the caller is none.
        RateLimited: The caller made or changed too much.
    """

    async def change(app: App) -> App:
        if app.locked_by_administrator and not is_administrator(caller):
            raise RightsInsufficient("an administrator locked this App; only an administrator unlocks it")
        return replace(app, locked=False, locked_by="", locked_by_administrator=False)

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
        commit = Commit(
            rows=(changed,), events=(changed.state,), audit=(_audit(caller, action, app, changed),)
        )
        if action in _TAKES_AWAY:
            await authority.store.commit(commit)
        else:
            await commit_change(authority, caller, commit)
        _warn(caller, app, changed)
        return changed

    return await retry_conflicts(attempt)


def _warn(caller: Caller, before: App, after: App) -> None:
    for warning in sorted(set(after.warnings) - set(before.warnings)):
        _log.warning("an App was weakened", app_id=after.app_id, by=caller.subject, warning=warning)


_ALWAYS_CHANGING = {"app_id", "resolved", "version", "created_at", "updated_at"}


def _audit(caller: Caller, action: str, before: App, after: App) -> Audit:
    changed = [
        field.name
        for field in fields(App)
        if field.name not in _ALWAYS_CHANGING and getattr(before, field.name) != getattr(after, field.name)
    ]
    details = {"changed": " ".join(changed)}
    if new := set(after.warnings) - set(before.warnings):
        details["warnings"] = " ".join(sorted(new))
    return Audit(
        actor=caller.subject, action=action, app_id=after.app_id, peer=str(caller.peer), details=details
    )
