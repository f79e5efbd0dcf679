"""What the authority tells of itself (RFC 8414): nothing that is not enforced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.transport.oauth import paths
from rpz_auth_server.transport.oauth.token import GRANT_TYPES

CACHED = 300
"""Seconds."""
_CLIENT_METHODS = ["client_secret_basic", "client_secret_post"]


def endpoint(authority: Authority) -> Callable[[Request], Awaitable[Response]]:
    """Publish the metadata; built from the issuer alone, whatever host a request names (A61)."""
    issuer = authority.issuer
    document: dict[str, object] = {
        "issuer": issuer,
        "authorization_endpoint": issuer + paths.AUTHORIZE,
        "pushed_authorization_request_endpoint": issuer + paths.PUSH,
        "token_endpoint": issuer + paths.TOKEN,
        "token_endpoint_auth_methods_supported": [*_CLIENT_METHODS, "none"],
        "grant_types_supported": list(GRANT_TYPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "revocation_endpoint": issuer + paths.REVOKE,
        "revocation_endpoint_auth_methods_supported": [*_CLIENT_METHODS, "none"],
        "introspection_endpoint": issuer + paths.INTROSPECT,
        "introspection_endpoint_auth_methods_supported": _CLIENT_METHODS,
        "jwks_uri": issuer + paths.JWKS,
        "authorization_response_iss_parameter_supported": True,
    }

    async def metadata(_request: Request) -> Response:
        return JSONResponse(document, headers={"Cache-Control": f"public, max-age={CACHED}"})

    return metadata
