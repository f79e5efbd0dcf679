"""Access tokens of an App that speaks for itself, which end with the credential that brought them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rpz_auth.caller import APP_SUBJECT_PREFIX

from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.crypto.signing import AccessTokenClaims
from rpz_auth_server.domain.app import App
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class AppToken:
    """An access token without a refresh token: the credential stays what renews."""

    access_token: str = field(repr=False)
    expires_in: int
    """In seconds."""


def sign_app_token(
    authority: Authority, app: App, selection: Selection, *, secret_id: str, not_after: float | None
) -> AppToken:
    """Sign an access token for an App itself.

    Args:
        authority: The authority.
        app: Who speaks; its own lifetime counts, else the authority's.
        selection: What for.
        secret_id: Of the OAuth 2 secret or API token that was presented. Verifiers refuse the access token
            from the event on that revokes it.
        not_after: When that credential ends by itself; None for never.
    """
    now = authority.store.now()
    lifetime = app.lifetimes(authority.lifetimes).access_token
    claims = AccessTokenClaims(
        iss=authority.issuer,
        sub=APP_SUBJECT_PREFIX + app.app_id,
        aud=selection.resource,
        client_id=app.app_id,
        iat=int(now),
        exp=int(min(now + lifetime, math.inf if not_after is None else not_after)),
        jti=new_id(),
        scope=" ".join(sorted(selection.scopes)),
        epoch=app.epoch,
        secret_id=secret_id,
    )
    return AppToken(access_token=authority.signing.sign(claims), expires_in=max(0, claims.exp - claims.iat))
