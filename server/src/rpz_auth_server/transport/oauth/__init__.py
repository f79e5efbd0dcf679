"""OAuth 2 over HTTP: each request parsed into what a flow takes, each answer written out."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from rpz_auth_server.flows.pipeline import Authority
from rpz_auth_server.transport.oauth import keys

JWKS = "/oauth/jwks.json"


def routes(authority: Authority) -> Sequence[BaseRoute]:
    """The endpoints, below the issuer's path."""
    return [Route(JWKS, keys.endpoint(authority), methods=["GET"])]
