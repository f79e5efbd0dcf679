"""Telling what a token means (RFC 7662)."""

from __future__ import annotations

import math

from rpz_auth import access_token
from rpz_auth.caller import APP_SUBJECT_PREFIX, Caller, How, Verdict
from rpz_auth.errors import TokenExpired, TokenInvalid

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.verify_api_token import may_be_api_token, verify_api_token


async def introspect_token(authority: Authority, caller: Caller, token: str) -> Verdict | None:
    """Tell what an access token or API token allows at the caller's resources.

    Returns:
        None for everything that is not active there: the caller learns nothing of what is unknown,
        expired, revoked, or meant for others (RFC 7662 §2.2).

    Raises:
        RateLimited: The caller asks too much.
        TokenUndecided: The token names a master key that this process does not have.
    """
    resources = caller.verdict.resources - {authority.issuer}
    is_handle = token.startswith(HandleKind.API_TOKEN.value)
    if is_handle and not may_be_api_token(authority, token):
        return None
    authority.limiter.take_verification(caller.app_id)
    try:
        if is_handle:
            return await _api_token(authority, token, resources)
        verdict = access_token.verify(
            token,
            authority.view.keys,
            issuer=authority.issuer,
            resources=resources,
            now=authority.store.now(),
        )
        authority.view.check(verdict, None)
    except (TokenInvalid, TokenExpired):
        return None
    return verdict


async def _api_token(authority: Authority, token: str, resources: frozenset[str]) -> Verdict | None:
    record = await verify_api_token(authority, None, token)
    if record is None or not record.resources & resources:
        return None
    return Verdict(
        how=How.API_TOKEN,
        app_id=record.app_id,
        subject=APP_SUBJECT_PREFIX + record.app_id,
        scopes=record.scopes,
        resources=record.resources & resources,
        token_id=record.api_token_id,
        issued_at=record.created_at,
        expires_at=record.expires_at if record.expires_at is not None else math.inf,
    )
