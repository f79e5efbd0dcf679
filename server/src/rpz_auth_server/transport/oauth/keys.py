"""The public signing keys (RFC 7517 §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.flows.authority import Authority

CACHED = 300
"""Seconds; a new key is published long before it signs."""


def endpoint(authority: Authority) -> Callable[[Request], Awaitable[Response]]:
    """Publish the keys."""

    async def keys(_request: Request) -> Response:
        return Response(
            authority.signing.jwks(),
            media_type="application/jwk-set+json",
            headers={"Cache-Control": f"public, max-age={CACHED}"},
        )

    return keys
