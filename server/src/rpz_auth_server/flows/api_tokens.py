"""API tokens of Apps: made, replaced, changed, listed, revoked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.caller import Caller

from rpz_auth_server.crypto.handles import (
    HandleKind,
    new_id,
    new_salt,
)
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.bound import ApiTokensOfApp
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.credential import ApiToken, deadline, is_live, retire
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import (
    NotFound,
    RequestInvalid,
    ScopeInvalid,
    TargetInvalid,
)
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.creations import may_show_again, read_request
from rpz_auth_server.flows.credentials import (
    CredentialFields,
    Ends,
    Replacement,
    as_asked,
    change,
    deadline_of,
)
from rpz_auth_server.flows.rights import check_grantable, commit_change, find_app
from rpz_auth_server.storage.store import Commit


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A new API token, and the one that it replaces."""

    record: ApiToken
    text: str = field(repr=False)
    """Empty in a repeated answer that comes too late."""
    replaced: ApiToken | None = None


async def create_api_token(
    authority: Authority,
    caller: Caller,
    app_id: str,
    *,
    display_name: str,
    scopes: Collection[str],
    resources: Collection[str],
    expires_at: Ends,
    request_id: str = "",
) -> MadeToken:
    """Make an API token; the text is returned this once.

    Raises:
        NotFound: The App is missing, or not the caller's.
        ScopeInvalid: No scopes, or some that are not registered for the App.
        TargetInvalid: No resources, or some that are not registered for the App.
        RightsInsufficient: More than the caller may grant.
        RequestInvalid: A deadline that has passed, or too many tokens.
    """
    content = [app_id, display_name, sorted(scopes), sorted(resources), as_asked(expires_at)]
    request = read_request(caller, "api_token", request_id, content)

    async def attempt() -> MadeToken:
        app = await find_app(authority, caller, app_id)
        if earlier := await request.find(authority):
            return await _repeat(authority, caller, earlier)
        now = authority.store.now()
        token = await _new(authority, caller, app, display_name, scopes, resources, expires_at)
        await commit_change(
            authority,
            caller,
            Commit(
                rows=(token, *request.rows(token.api_token_id, now)),
                audit=(_audit_of(caller, "api_token.create", token),),
                bounds=(_room(authority, app),),
            ),
        )
        return MadeToken(token, _text(authority, token))

    return await retry_conflicts(attempt)


async def rotate_api_token(
    authority: Authority, caller: Caller, app_id: str, api_token_id: str, wanted: Replacement
) -> MadeToken:
    """Make a successor that may do the same, and put a deadline on the old one; both or neither.

    Raises:
        NotFound: The App or the token is missing, or not the caller's.
        RequestInvalid: The token has ended, or the successor cannot be made.
        ScopeInvalid, TargetInvalid: Nothing of what the token allowed is the App's any more.
        RightsInsufficient: More than the caller may grant.
    """
    content = [app_id, api_token_id, wanted.overlap, wanted.display_name, as_asked(wanted.expires_at)]
    request = read_request(caller, "api_token.rotate", wanted.request_id, content)

    async def attempt() -> MadeToken:
        app, old = await _find(authority, caller, app_id, api_token_id)
        if earlier := await request.find(authority):
            return await _repeat(authority, caller, earlier)
        now = authority.store.now()
        if not is_live(old, now):
            raise RequestInvalid("this API token has ended; create another")
        name = wanted.display_name or old.display_name
        scopes, resources = old.scopes & app.scopes, old.resources & app.resources
        token = await _new(authority, caller, app, name, scopes, resources, wanted.expires_at)
        retired, told = retire(old, now + wanted.overlap), _ask_anew(app)
        ended = () if is_live(retired, now) else (revocation_of(api_token_id, now),)
        await commit_change(
            authority,
            caller,
            Commit(
                rows=(told, token, retired, *request.rows(token.api_token_id, now)),
                events=(told.state, *ended),
                audit=(
                    _audit_of(caller, "api_token.create", token),
                    _audit_of(caller, "api_token.retire", retired),
                ),
                # For the time of the overlap there is one more.
                bounds=(_room(authority, app),) if wanted.overlap > 0 else (),
            ),
        )
        return MadeToken(token, _text(authority, token), retired)

    return await retry_conflicts(attempt)


async def update_api_token(
    authority: Authority, caller: Caller, app_id: str, api_token_id: str, fields: CredentialFields
) -> ApiToken:
    """Change the name or the deadline of an API token that has not ended.

    Raises:
        NotFound: The App or the token is missing, or not the caller's.
        RequestInvalid: It has ended, or a field is not of its form.
        RightsInsufficient: It would live longer, and allows more than the caller may grant.
    """

    async def attempt() -> ApiToken:
        app, token = await _find(authority, caller, app_id, api_token_id)
        changed = change(token, fields, authority.store.now())
        if deadline(changed) > deadline(token):
            await check_grantable(authority, caller, token.scopes, token.resources)
        told = _ask_anew(app)
        await commit_change(
            authority,
            caller,
            Commit(
                rows=(told, changed),
                events=(told.state,),
                audit=(_audit_of(caller, "api_token.update", changed),),
            ),
        )
        return changed

    return await retry_conflicts(attempt)


def _room(authority: Authority, app: App) -> ApiTokensOfApp:
    return ApiTokensOfApp(app.app_id, authority.bounds.api_tokens_per_app)


def _ask_anew(app: App) -> App:
    """The App's row as it is written and told when the deadline of a token moves.

    Verifiers keep answers about its tokens, and ask again when it has changed.
    """
    return replace(app, version=app.version + 1)


async def _find(authority: Authority, caller: Caller, app_id: str, api_token_id: str) -> tuple[App, ApiToken]:
    app = await find_app(authority, caller, app_id)
    token = await authority.store.api_token(api_token_id)
    if token is None or token.app_id != app_id:
        raise NotFound
    return app, token


async def _new(
    authority: Authority,
    caller: Caller,
    app: App,
    display_name: str,
    scopes: Collection[str],
    resources: Collection[str],
    expires_at: Ends,
) -> ApiToken:
    wanted, places = scope.check_scopes(scopes), frozenset(resources)
    if not wanted or not wanted <= app.scopes:
        raise ScopeInvalid("name scopes that are registered for the App")
    if not places or not places <= app.resources:
        raise TargetInvalid("name resources that are registered for the App; there is no default")
    await check_grantable(authority, caller, wanted, places)
    now = authority.store.now()
    return ApiToken(
        api_token_id=new_id(),
        app_id=app.app_id,
        display_name=check_name(display_name, "display_name", may_be_empty=True),
        scopes=wanted,
        resources=places,
        salt=new_salt(),
        key_number=authority.keyring.minting_number,
        created_at=now,
        expires_at=deadline_of(expires_at, now),
    )


def _text(authority: Authority, token: ApiToken) -> str:
    return authority.handles.seal(
        HandleKind.API_TOKEN, token.api_token_id, 0, salt=token.salt, key_number=token.key_number
    )


async def _repeat(authority: Authority, caller: Caller, earlier: Creation) -> MadeToken:
    """What a creation gave that is now repeated; its text too, if the first answer was probably lost."""
    token, now = await authority.store.api_token(earlier.object_id), authority.store.now()
    if token is None:
        raise NotFound
    # Rights may have been lost since.
    await check_grantable(authority, caller, token.scopes, token.resources)
    shown = may_show_again(earlier, now) and is_live(token, now)
    return MadeToken(token, _text(authority, token) if shown else "")


async def list_api_tokens(
    authority: Authority, caller: Caller, app_id: str, *, after: str, limit: int
) -> Sequence[ApiToken]:
    """Show the records of an App's API tokens, in order of their IDs, beyond the ID `after`.

    Raises:
        NotFound: The App is missing, or not the caller's.
    """
    await find_app(authority, caller, app_id)
    return await authority.store.api_tokens(app_id, after=after, limit=limit)


async def revoke_api_token(authority: Authority, caller: Caller, app_id: str, api_token_id: str) -> None:
    """Stop an API token everywhere, at once; a second time does nothing.

    Raises:
        NotFound: The App or the token is missing, or not the caller's.
    """

    async def attempt() -> None:
        _, token = await _find(authority, caller, app_id, api_token_id)
        if token.revoked_at is not None:
            return
        await authority.store.commit(
            token_revocation_commit(authority, token, actor=caller.subject, peer=str(caller.peer))
        )

    await retry_conflicts(attempt)


def token_revocation_commit(authority: Authority, token: ApiToken, *, actor: str, peer: str) -> Commit:
    """Everything that is written when an API token is revoked."""
    now = authority.store.now()
    return Commit(
        rows=(replace(token, revoked_at=now, version=token.version + 1),),
        events=(revocation_of(token.api_token_id, now),),
        audit=(_audit(actor, peer, "api_token.revoke", token),),
    )


def _audit_of(caller: Caller, action: str, token: ApiToken) -> Audit:
    return _audit(caller.subject, str(caller.peer), action, token)


def _audit(actor: str, peer: str, action: str, token: ApiToken) -> Audit:
    return Audit(
        actor=actor,
        action=action,
        app_id=token.app_id,
        peer=peer,
        details={"api_token_id": token.api_token_id},
    )
