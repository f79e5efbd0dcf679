"""Whether an API token is good, for whoever presents it or asks about it."""

from __future__ import annotations

from dataclasses import replace

from rpz_auth.address import Peer

from rpz_auth_server.crypto.handles import HandleInvalid, HandleKind, KeyUnknown, check_key
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.credential import ApiToken, is_live
from rpz_auth_server.domain.refusal import ApiTokenInvalid, TokenUndecided
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import try_open


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
