"""The steps that requests of OAuth 2 clients share, in the order that no flow can change.

Open the handle (no database), limit, authenticate the App, check its whitelist, decide by the row, sign,
commit. A flow brings the decision and nothing else.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from rpz_auth.address import Peer
from rpz_auth.caller import APP_ID
from rpz_auth.whitelist import Whitelist

from rpz_auth_server.crypto.handles import HandleInvalid, HandleKind, OpenedHandle, check_key, new_id
from rpz_auth_server.crypto.signing import AccessTokenClaims
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.credential import ClientSecret, is_live
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.grant import Grant, Issued, Lifetimes, Reused
from rpz_auth_server.domain.refusal import ClientInvalid, GrantInvalid, ScopeInvalid, TargetInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.storage.store import Commit

_log = structlog.get_logger("rpz_auth_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """What an OAuth 2 client presents of itself (RFC 6749 §2.3), from header or body; unverified."""

    client_id: str
    client_secret: str = field(default="", repr=False)
    peer: Peer


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """An App that has proved who it is, as far as it can."""

    app: App
    secret: ClientSecret | None
    """What it was proved with; None where nothing was presented and nothing is demanded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSet:
    """A successful answer of the token endpoint (RFC 6749 §5.1)."""

    access_token: str = field(repr=False)
    expires_in: int
    """In seconds."""
    refresh_token: str = field(repr=False)
    """Empty where there is no grant to renew."""
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Selection:
    """What an access token will be for."""

    scopes: frozenset[str]
    resource: str


@dataclass(frozen=True, slots=True)
class _Answer:
    tokens: TokenSet
    recovered: bool


class GrantFlow(Protocol):
    """What tells redeeming a code from renewing."""

    kind: HandleKind

    def select(self, grant: Grant, app: App) -> Selection:
        """Choose scopes and resource of an access token, or refuse; nothing is changed then."""
        ...

    def decide(
        self, grant: Grant, generation: int, now: float, authority: Authority, lifetimes: Lifetimes
    ) -> Issued | Reused:
        """Apply the rule to the row; `lifetimes` are the App's."""
        ...


async def authenticate_client(authority: Authority, client: ClientCredentials) -> AuthenticatedClient:
    """Find out which App speaks, and check that it may from where it does.

    A confidential App must give a secret, also when it has no live one any more. Unknown, locked, deleted,
    wrong: one answer.

    Raises:
        ClientInvalid: RFC 6749 §5.2 `invalid_client`.
        OriginNotAllowed: The App's whitelist does not have the peer.
        RateLimited: It failed too often.
    """
    secret = try_open(authority, HandleKind.SECRET, client.client_secret)
    with limited(authority, client, secret):
        return await authenticate(authority, client, secret)


async def authenticate(
    authority: Authority, client: ClientCredentials, opened: OpenedHandle | None, *, vouched: bool = False
) -> AuthenticatedClient:
    """Do the same for a flow that stands inside `limited` already.

    Args:
        authority: The authority.
        client: As presented.
        opened: Its secret, as far as it could be read; None for none, and for a forgery.
        vouched: Whether another credential of the App was verified, so that a secret may be left out.

    Raises:
        ClientInvalid: As above.
        OriginNotAllowed: As above.
    """
    if client.client_secret and opened is None:
        raise ClientInvalid
    app = await authority.store.app(client.client_id) if APP_ID.fullmatch(client.client_id) else None
    if app is None or app.locked or app.deleted or authority.view.locked:
        raise ClientInvalid
    if opened is None and app.confidential and not vouched:
        raise ClientInvalid
    secret = None if opened is None else await _verify_secret(authority, opened, app)
    compiled(app.effective_whitelist).check(client.peer)
    if secret is not None:
        authority.uses.note(secret.secret_id, at=authority.store.now(), place=str(client.peer))
    return AuthenticatedClient(app, secret)


async def issue(authority: Authority, client: ClientCredentials, presented: str, flow: GrantFlow) -> TokenSet:
    """Run a flow that hands out tokens of a grant.

    Raises:
        GrantInvalid: The code or refresh token is good for nothing; after reuse the grant is revoked.
        RateLimited: The peer failed, or the grant was used, too often.
        Refusal: Any that authentication, selection or the store raise.
    """
    opened = try_open(authority, flow.kind, presented)
    secret = try_open(authority, HandleKind.SECRET, client.client_secret)
    with limited(authority, client, opened, *([secret] if client.client_secret else [])):
        if opened is None:
            raise GrantInvalid
        authority.limiter.check_use(opened.id)
        authenticated = await authenticate(authority, client, secret)
        return await _issue(authority, client, authenticated.app, opened, flow)


async def _issue(
    authority: Authority, client: ClientCredentials, app: App, opened: OpenedHandle, flow: GrantFlow
) -> TokenSet:
    counted = False

    async def attempt() -> _Answer | Reused:
        nonlocal counted
        grant = await load_grant(authority, opened)
        if grant.app_id != app.app_id:
            raise GrantInvalid
        if not counted:  # only now, or strangers could use up what the App may use
            authority.limiter.take_use(grant.grant_id)
            counted = True
        now = authority.store.now()
        # Decided first: reuse is reuse whatever else is wrong with a request, and a dead grant tells nothing.
        lifetimes = app.lifetimes(authority.lifetimes)
        outcome = flow.decide(grant, opened.generation, now, authority, lifetimes)
        # Signed before the commit, so that what cannot be signed consumes nothing; handed out after it.
        answer = (
            outcome
            if isinstance(outcome, Reused)
            else _Answer(
                _token_set(authority, outcome.grant, app, flow.select(grant, app), now), outcome.recovered
            )
        )
        await authority.store.commit(_commit(outcome, client.peer, now))
        return answer

    answer = await retry_conflicts(attempt)
    if isinstance(answer, Reused):
        _log.warning("reuse detected, grant revoked", grant_id=answer.grant.grant_id, app_id=app.app_id)
        raise GrantInvalid
    if answer.recovered:
        _log.error("a refresh token is newer than the database, which has lost writes", app_id=app.app_id)
    return answer.tokens


def open_handle(authority: Authority, kind: HandleKind, text: str) -> OpenedHandle:
    """Read a code or refresh token as far as that goes without the database.

    Raises:
        GrantInvalid: This authority never made it.
    """
    opened = try_open(authority, kind, text)
    if opened is None:
        raise GrantInvalid
    return opened


def try_open(authority: Authority, kind: HandleKind, text: str) -> OpenedHandle | None:
    """Read a credential as far as that goes without the database; None for what this authority never made."""
    try:
        return authority.handles.open(kind, text)
    except HandleInvalid:
        return None


async def load_grant(authority: Authority, opened: OpenedHandle) -> Grant:
    """Find the grant of a handle and verify that the handle is its own.

    Raises:
        GrantInvalid: There is none, or it is not.
    """
    grant = await authority.store.grant(opened.id)
    if grant is None:
        raise GrantInvalid
    try:
        authority.handles.verify(opened, grant.salt)
        if opened.generation <= grant.generation:
            check_key(opened, key_number=grant.key_number, key_since=grant.key_since)
        elif opened.key_number not in (grant.key_number, authority.keyring.minting_number):
            # The database has lost what it knew of keys, but not a key that was retired long ago.
            raise GrantInvalid
    except HandleInvalid:
        raise GrantInvalid from None
    return grant


@functools.lru_cache(maxsize=4096)
def compiled(whitelist: tuple[str, ...]) -> Whitelist:
    """A whitelist ready for checking."""
    return Whitelist(whitelist)


def choose_scopes(
    requested: frozenset[str], granted: frozenset[str], allowed: frozenset[str]
) -> frozenset[str]:
    """The scopes of an access token: those asked for, or all that were granted and are still the App's.

    Raises:
        ScopeInvalid: More was asked for (RFC 6749 §6), or nothing is left.
    """
    available = granted & allowed
    if not available or not requested <= available:
        raise ScopeInvalid
    return requested or available


def choose_resource(requested: str, granted: frozenset[str], allowed: frozenset[str]) -> str:
    """The one resource that an access token is for (RFC 8707 §2.2); there is no default among several.

    Raises:
        TargetInvalid: It was not granted, is not the App's any more, or was not named.
    """
    candidates = granted & allowed
    if requested:
        if requested not in candidates:
            raise TargetInvalid
        return requested
    if len(candidates) != 1:
        raise TargetInvalid
    return next(iter(candidates))


def _commit(outcome: Issued | Reused, peer: Peer, now: float) -> Commit:
    grant = outcome.grant

    def audit(action: str) -> Audit:
        return Audit(
            actor=f"app:{grant.app_id}",
            action=action,
            app_id=grant.app_id,
            peer=str(peer),
            details={"grant_id": grant.grant_id, "generation": str(grant.generation)},
        )

    match outcome:
        case Reused():
            event = revocation_of(grant.grant_id, now)
            return Commit(rows=(grant,), events=(event,), audit=(audit("grant.reuse"),))
        case Issued(recovered=True):
            return Commit(rows=(grant,), audit=(audit("grant.recovered"),))
        case Issued(repeated=True) if grant.peer != str(peer):
            return Commit(rows=(grant,), audit=(audit("grant.repeated_from_elsewhere"),))
        case Issued():  # routine: one row, one statement, and no table grows with it
            return Commit(rows=(grant,))


def _token_set(authority: Authority, grant: Grant, app: App, selection: Selection, now: float) -> TokenSet:
    expires_at = int(grant.access_expires_at)
    claims = AccessTokenClaims(
        iss=authority.issuer,
        sub=grant.subject,
        aud=selection.resource,
        client_id=app.app_id,
        iat=int(now),
        exp=expires_at,
        jti=new_id(),
        scope=" ".join(sorted(selection.scopes)),
        epoch=app.epoch,
        grant_id=grant.grant_id,
    )
    refresh_token = authority.handles.seal(
        HandleKind.REFRESH, grant.grant_id, grant.generation, salt=grant.salt, key_number=grant.key_number
    )
    return TokenSet(
        access_token=authority.signing.sign(claims),
        expires_in=max(0, expires_at - int(now)),
        refresh_token=refresh_token,
        scopes=selection.scopes,
    )


def limited(
    authority: Authority, client: ClientCredentials, *presented: OpenedHandle | None
) -> AbstractContextManager[None]:
    """Stand around the authentication of a client, whose failure is charged.

    What it presents is genuine if all of it is; a client that presents nothing may be anybody.
    """
    genuine = [opened.id for opened in presented if opened is not None]
    # What no App can be called may be what somebody else is counted by: a user name, a peer.
    name = client.client_id if APP_ID.fullmatch(client.client_id) else ""
    return authority.limiter.guarded(
        name, client.peer, genuine=genuine if len(genuine) == len(presented) else ()
    )


async def _verify_secret(authority: Authority, opened: OpenedHandle, app: App) -> ClientSecret:
    secret = await authority.store.client_secret(opened.id)
    if secret is None or secret.app_id != app.app_id or not is_live(secret, authority.store.now()):
        raise ClientInvalid
    try:
        authority.handles.verify(opened, secret.salt)
        check_key(opened, key_number=secret.key_number)
    except HandleInvalid:
        raise ClientInvalid from None
    return secret
