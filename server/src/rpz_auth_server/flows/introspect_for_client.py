"""Telling an OAuth 2 client what a token means (RFC 7662): its own, and those for what it protects."""

from __future__ import annotations

from rpz_auth.caller import APP_SUBJECT_PREFIX, Caller, How, Verdict

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.refusal import ClientInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.introspect_token import introspect_token
from rpz_auth_server.flows.pipeline import ClientCredentials, authenticate_client


async def introspect_for_client(
    authority: Authority, client: ClientCredentials, token: str
) -> Verdict | None:
    """Tell a client that authenticates with its secret.

    Returns:
        None for all that is not active, and for tokens of others, unless the App has `rpz.introspect` and
        protects a resource that they are for.

    Raises:
        ClientInvalid: It did not authenticate; a public client cannot (RFC 7662 §2.1).
        OriginNotAllowed: Its whitelist does not have the peer.
    """
    authenticated = await authenticate_client(authority, client)
    app = authenticated.app
    if authenticated.secret is None:
        raise ClientInvalid
    # As if it came with an API token for all that is registered for it.
    speaks_for = Verdict(
        how=How.API_TOKEN,
        app_id=app.app_id,
        subject=APP_SUBJECT_PREFIX + app.app_id,
        scopes=app.scopes,
        resources=app.resources,
        token_id="",
    )
    verdict = await introspect_token(authority, Caller(speaks_for, client.peer), token)
    if verdict is None or (verdict.app_id != app.app_id and scope.INTROSPECT not in app.scopes):
        return None
    return verdict
