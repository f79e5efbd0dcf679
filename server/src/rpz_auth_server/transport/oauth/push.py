"""Pushed authorization requests (RFC 9126)."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import ClientCredentials
from rpz_auth_server.flows.push_request import push_request
from rpz_auth_server.transport.oauth.form import Answer, Form


def answer(authority: Authority) -> Answer:
    """Serve clients that send their requests ahead."""

    async def push(form: Form, client: ClientCredentials) -> Response:
        request_uri, expires_in = await push_request(authority, client, form.parameters)
        return JSONResponse({"request_uri": request_uri, "expires_in": expires_in}, 201)

    return push
