"""The revocation endpoint (RFC 7009)."""

from __future__ import annotations

from starlette.responses import Response

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import ClientCredentials
from rpz_auth_server.flows.revoke_token import RevokeToken, revoke_token
from rpz_auth_server.transport.oauth.form import Answer, Form


def answer(authority: Authority) -> Answer:
    """Serve revocations; what is unknown or another client's gets the same empty answer (§2.2)."""

    async def revoke(form: Form, client: ClientCredentials) -> Response:
        await revoke_token(authority, RevokeToken(client=client, token=form.require("token")))
        return Response(status_code=200)

    return revoke
