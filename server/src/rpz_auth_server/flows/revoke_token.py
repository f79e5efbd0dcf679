"""Revoking a token on behalf of its own client (RFC 7009)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth import access_token
from rpz_auth.errors import TokenExpired, TokenInvalid
from rpz_auth.view import Revocation

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.grant import AFTER_EXPIRY, Grant, GrantState, revoke
from rpz_auth_server.domain.refusal import GrantInvalid
from rpz_auth_server.flows.api_tokens import token_revocation_commit
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.pipeline import ClientCredentials, authenticate_client, load_grant, open_handle
from rpz_auth_server.flows.verify_api_token import find_api_token
from rpz_auth_server.storage.store import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeToken:
    """One request, as parsed. A hint would only make the search shorter, and the kinds look different."""

    client: ClientCredentials
    token: str = field(repr=False)


async def revoke_token(authority: Authority, request: RevokeToken) -> None:
    """Revoke a refresh token with its grant, a single access token, or an API token.

    Succeeds also for what is unknown, expired, or another client's: nothing is revoked then (RFC 7009
    §2.2).

    Raises:
        ClientInvalid: The App did not authenticate.
        OriginNotAllowed: The App's whitelist does not have the peer.
        RateLimited: The App failed too often, or revoked too many access tokens.
    """
    app = (await authenticate_client(authority, request.client)).app
    try:
        if request.token.startswith(HandleKind.REFRESH.value):
            await _revoke_grant(authority, app, request)
        elif request.token.startswith(HandleKind.API_TOKEN.value):
            await _revoke_api_token(authority, app, request)
        else:
            await _revoke_access_token(authority, app, request)
    except (GrantInvalid, TokenInvalid, TokenExpired):
        return


async def _revoke_grant(authority: Authority, app: App, request: RevokeToken) -> None:
    opened = open_handle(authority, HandleKind.REFRESH, request.token)

    async def attempt() -> None:
        grant = await load_grant(authority, opened)
        if grant.app_id == app.app_id and grant.state is not GrantState.REVOKED:
            await authority.store.commit(
                revocation_commit(authority, grant, actor=f"app:{app.app_id}", peer=str(request.client.peer))
            )

    await retry_conflicts(attempt)


async def _revoke_api_token(authority: Authority, app: App, request: RevokeToken) -> None:
    async def attempt() -> None:
        token = await find_api_token(authority, request.token)
        if token is not None and token.app_id == app.app_id and token.revoked_at is None:
            await authority.store.commit(
                token_revocation_commit(
                    authority, token, actor=f"app:{app.app_id}", peer=str(request.client.peer)
                )
            )

    await retry_conflicts(attempt)


async def _revoke_access_token(authority: Authority, app: App, request: RevokeToken) -> None:
    now = authority.store.now()
    verdict = access_token.verify(
        request.token, authority.view.keys, issuer=authority.issuer, resources=None, now=now
    )
    authority.view.check(verdict, None)  # what has ended already writes nothing, however often it is repeated
    if verdict.app_id == app.app_id:
        # No longer than the token could be presented.
        event = Revocation(verdict.token_id, verdict.expires_at + AFTER_EXPIRY)
        audit = Audit(
            actor=f"app:{app.app_id}",
            action="access_token.revoke",
            app_id=app.app_id,
            peer=str(request.client.peer),
            details={"jti": verdict.token_id},
        )
        # Grants and API tokens are bounded where they are made; of these an App gets any number.
        authority.limiter.take_revocation(app.app_id)
        await authority.store.commit(Commit(events=(event,), audit=(audit,)))


def revocation_commit(authority: Authority, grant: Grant, *, actor: str, peer: str) -> Commit:
    """Everything that is written when a grant is revoked."""
    audit = Audit(
        actor=actor,
        action="grant.revoke",
        app_id=grant.app_id,
        peer=peer,
        details={"grant_id": grant.grant_id},
    )
    event = revocation_of(grant.grant_id, authority.store.now())
    return Commit(rows=(revoke(grant),), events=(event,), audit=(audit,))
