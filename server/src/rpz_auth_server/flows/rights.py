"""Who may do what: nobody sees or grants more than is their own."""

from __future__ import annotations

from rpz_auth.caller import APP_ID, Caller, Verdict
from rpz_auth.errors import ScopeInsufficient, TokenInvalid

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.refusal import NotFound, RightsInsufficient
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from rpz_auth_server.storage.store import Commit


def is_administrator(caller: Caller) -> bool:
    """Tell whether the credential carries `rpz.admin`."""
    return scope.ADMIN in caller.scopes


def take_change(authority: Authority, caller: Caller) -> None:
    """Let a caller make or change something; one who is no administrator may so often.

    Locking, deleting and revoking need no such leave: they take away what was made by it, once.

    Raises:
        RateLimited: The caller made or changed too much.
    """
    if not is_administrator(caller):
        authority.limiter.take_change(caller.subject)


async def commit_change(authority: Authority, caller: Caller, commit: Commit) -> None:
    """Write what a caller makes or changes.

    Raises:
        RateLimited: The caller made or changed too much.
        Refusal: As `Store.commit`.
    """
    take_change(authority, caller)
    await authority.store.commit(commit)


async def find_app(authority: Authority, caller: Caller, app_id: str) -> App:
    """Find an App that the caller owns; an administrator finds any.

    Raises:
        NotFound: Missing, deleted or somebody else's.
    """
    app = await authority.store.app(app_id) if APP_ID.fullmatch(app_id) else None
    if app is None or app.deleted or not (is_administrator(caller) or app.owner == caller.subject):
        raise NotFound
    return app


async def check_still_held(authority: Authority, verdict: Verdict) -> None:
    """Let pass a credential whose App still has all that the credential was given.

    For what goes on long after the call was let in; each new call is decided anew anyway.

    Raises:
        ScopeInsufficient: Scopes were taken from the App since.
        TokenInvalid: Resources were, or the App is locked or gone.
    """
    app = await authority.store.app(verdict.app_id)
    if app is None or app.deleted or app.locked or not verdict.resources <= app.resources:
        raise TokenInvalid
    if not verdict.scopes <= app.scopes:
        raise ScopeInsufficient(verdict.scopes - app.scopes)


async def check_grantable(
    authority: Authority, caller: Caller, scopes: frozenset[str], resources: frozenset[str]
) -> None:
    """Let pass what the caller may hand on: anything for an administrator, else what is its own.

    An App's own is what is registered for it; a person's, what an administrator entered in the account.

    And no more than its credential has: a token that was cut to a few scopes must not get others back by
    making another.

    Raises:
        RightsInsufficient: It asks for more.
    """
    if is_administrator(caller):
        return
    if any(name.startswith(scope.RESERVED_PREFIX) for name in scopes):
        raise RightsInsufficient("only an administrator grants the authority's own scopes")
    own = caller.account if isinstance(caller, Person) else await authority.store.app(caller.app_id)
    held = caller.account if isinstance(caller, Person) else caller.verdict
    if own is None or not (
        scopes <= own.scopes & held.scopes and resources <= own.resources & held.resources
    ):
        raise RightsInsufficient(
            "nobody grants scopes or resources beyond their own and those of the token they call with"
        )
