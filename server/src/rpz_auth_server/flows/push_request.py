"""Taking an authorization request ahead of the browser (RFC 9126)."""

from __future__ import annotations

from rpz_auth.errors import Refusal

from rpz_auth_server.domain import pushed_request
from rpz_auth_server.domain.authorization import (
    NAMES,
    AuthorizationError,
    Parameters,
    Unredirectable,
    read,
)
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.domain.refusal import RateLimited, RequestInvalid, ScopeInvalid, TargetInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import ClientCredentials, authenticate_client
from rpz_auth_server.storage.store import Commit

_MAX_LENGTH = 8192
_REFUSALS: dict[str, type[Refusal]] = {"invalid_scope": ScopeInvalid, "invalid_target": TargetInvalid}


async def push_request(
    authority: Authority, client: ClientCredentials, parameters: Parameters
) -> tuple[str, int]:
    """Keep a request until the browser comes with its `request_uri`; judged as it will be then.

    Returns:
        The `request_uri`, and in how many seconds it expires.

    Raises:
        ClientInvalid: The App did not authenticate.
        OriginNotAllowed: Its whitelist does not have the peer.
        RequestInvalid: The browser would be refused with it, or it has a `request_uri` of its own.
        ScopeInvalid: As when issuing a code.
        TargetInvalid: As when issuing a code.
        RateLimited: The App pushes more than it uses, or without a secret its peer does.
    """
    authenticated = await authenticate_client(authority, client)
    app = authenticated.app
    kept = tuple((name, value) for name, value in parameters if name in NAMES)
    if any(name == "request_uri" for name, _ in kept):
        raise RequestInvalid("a pushed request has no request_uri (RFC 9126 §2.1)")
    if sum(len(name) + len(value) for name, value in kept) > _MAX_LENGTH:
        raise RequestInvalid(f"a pushed request has at most {_MAX_LENGTH} characters")
    uri = pushed_request.new_request_uri()
    now = authority.store.now()
    pushed = PushedRequest(
        request_id=pushed_request.request_id(uri) or "",
        app_id=app.app_id,
        parameters=kept,
        created_at=now,
        expires_at=now + pushed_request.LIFETIME,
    )
    try:
        judged = read(kept, app, pushed)
    except Unredirectable:
        raise RequestInvalid("the redirect_uri is missing, or not registered for the App") from None
    if isinstance(judged, AuthorizationError):
        raise _REFUSALS.get(judged.error, RequestInvalid)(judged.description)
    if authenticated.secret is None:
        authority.limiter.take_push(app.app_id, client.peer)
    if await authority.store.count_pushed_requests(app.app_id) >= pushed_request.MAX_LIVE:
        raise RateLimited(retry_after=pushed_request.LIFETIME)
    await authority.store.commit(Commit(rows=(pushed,)))
    return uri, int(pushed_request.LIFETIME)


async def use_up(authority: Authority, pushed: PushedRequest) -> None:
    """Take it that a request has had its answer, though that was no code: it leads to no other one.

    Raises:
        Conflict: It has had one already.
    """
    used = pushed_request.use(pushed, authority.store.now())
    await authority.store.commit(Commit(rows=(used,)))
