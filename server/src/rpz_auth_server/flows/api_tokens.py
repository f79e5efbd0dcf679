"""API tokens of Apps: made, replaced, changed, listed, revoked, verified."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.address import Peer
from rpz_auth.caller import Caller

from rpz_auth_server.crypto.handles import (
    HandleInvalid,
    HandleKind,
    KeyUnknown,
    check_key,
    new_id,
    new_salt,
)
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import ApiToken, App, deadline, is_live, retire
from rpz_auth_server.domain.bound import ApiTokensOfApp
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import (
    ApiTokenInvalid,
    NotFound,
    RequestInvalid,
    ScopeInvalid,
    TargetInvalid,
    TokenUndecided,
)
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.creations import may_show_again, read_request
from rpz_auth_server.flows.credentials import CredentialFields, Replacement, change, check_deadline
from rpz_auth_server.flows.pipeline import try_open
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
    expires_at: float | None,
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
    content = [app_id, display_name, sorted(scopes), sorted(resources), expires_at]
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
    content = [app_id, api_token_id, wanted.overlap, wanted.display_name, wanted.expires_at]
    request = read_request(caller, "api_token.rotate", wanted.request_id, content)

    async def attempt() -> MadeToken:
        app = await find_app(authority, caller, app_id)
        if earlier := await request.find(authority):
            return await _repeat(authority, caller, earlier)
        old = await _find(authority, caller, app_id, api_token_id)
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
        app = await find_app(authority, caller, app_id)
        token = await _find(authority, caller, app_id, api_token_id)
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


async def _find(authority: Authority, caller: Caller, app_id: str, api_token_id: str) -> ApiToken:
    await find_app(authority, caller, app_id)
    token = await authority.store.api_token(api_token_id)
    if token is None or token.app_id != app_id:
        raise NotFound
    return token


async def _new(
    authority: Authority,
    caller: Caller,
    app: App,
    display_name: str,
    scopes: Collection[str],
    resources: Collection[str],
    expires_at: float | None,
) -> ApiToken:
    wanted, places = scope.check_scopes(scopes), frozenset(resources)
    if not wanted or not wanted <= app.scopes:
        raise ScopeInvalid("name scopes that are registered for the App")
    if not places or not places <= app.resources:
        raise TargetInvalid("name resources that are registered for the App; there is no default")
    await check_grantable(authority, caller, wanted, places)
    now = authority.store.now()
    check_deadline(expires_at, now)
    return ApiToken(
        api_token_id=new_id(),
        app_id=app.app_id,
        display_name=check_name(display_name, "display_name", may_be_empty=True),
        scopes=wanted,
        resources=places,
        salt=new_salt(),
        key_number=authority.keyring.minting_number,
        created_at=now,
        expires_at=expires_at,
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
        token = await _find(authority, caller, app_id, api_token_id)
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


async def find_api_token(authority: Authority, text: str) -> ApiToken | None:
    """The record of the API token that a text is, whether it is live or not; None for a forgery."""
    try:
        opened = authority.handles.open(HandleKind.API_TOKEN, text)
        token = await authority.store.api_token(opened.id)
        if token is None:
            return None
        authority.handles.verify(opened, token.salt)
        check_key(opened, key_number=token.key_number)
    except HandleInvalid:
        return None
    return token


async def authenticate_api_token(
    authority: Authority, app_id: str, text: str, peer: Peer, *, for_authority: bool = False
) -> ApiToken:
    """Find the live API token that somebody presents for itself; `verify_api_token` is for those who ask.

    Raises:
        TokenInvalid: It is good for nothing.
        RateLimited: The peer failed too often.
    """
    opened = try_open(authority, HandleKind.API_TOKEN, text)
    with authority.limiter.guarded(app_id, peer, genuine=() if opened is None else (opened.id,)):
        token = await verify_api_token(authority, app_id, text, for_authority=for_authority)
        if token is None:
            raise ApiTokenInvalid
        authority.uses.note(token.api_token_id, at=authority.store.now(), place=str(peer))
        return token


def may_be_api_token(authority: Authority, text: str, app_id: str | None = None) -> bool:
    """Tell without the database whether what somebody asks about can be an API token of this authority.

    Args:
        authority: The authority.
        text: As presented.
        app_id: Whose it is said to be; None for whoever's.

    Raises:
        TokenUndecided: It names a master key that this process does not have.
    """
    try:
        opened = try_open(authority, HandleKind.API_TOKEN, text)
    except KeyUnknown:
        raise TokenUndecided from None
    if opened is None:
        return False
    # Who has one API token can make up any number of Apps for it; one of them is looked for.
    return app_id is None or authority.owners.may_own(app_id, opened.id)


async def verify_api_token(
    authority: Authority, app_id: str | None, text: str, *, for_authority: bool = False
) -> ApiToken | None:
    """Find the live API token that a text is.

    Args:
        authority: The authority.
        app_id: Whose it is said to be; None for whoever's.
        text: As presented.
        for_authority: Whether it is presented for a call to the authority itself.

    Returns:
        Its record, with what of its scopes and resources is still the App's. None for anything that is
        good for nothing: forged, unknown, expired, revoked, another App's, of a locked or deleted App, and
        while the issuer is locked all but what is needed to undo that.
    """
    token = await find_api_token(authority, text)
    if token is None:
        return None
    if app_id not in (None, token.app_id):
        authority.owners.note(token.api_token_id, token.app_id)
        return None
    if not is_live(token, authority.store.now()):
        return None
    app = await authority.store.app(token.app_id)
    if app is None or app.locked or app.deleted:
        return None
    # What was taken from the App since is taken from its tokens.
    scopes = token.scopes & app.scopes
    if authority.view.locked:
        scopes = scope.left_while_locked(scopes) if for_authority else frozenset()
        if not scopes:
            return None
    return replace(token, scopes=scopes, resources=token.resources & app.resources)


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
