"""OAuth 2 over HTTP: each request parsed into what a flow takes, each answer written out."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Route

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.transport.oauth import (
    authorize,
    introspect,
    keys,
    metadata,
    paths,
    push,
    revoke,
    token,
)
from rpz_auth_server.transport.oauth.form import endpoint
from rpz_auth_server.transport.oauth.people import People


def routes(authority: Authority, people: People) -> Sequence[Route]:
    """The endpoints, below the issuer's path; who signs in and consents is behind `people`."""
    return [
        Route(paths.AUTHORIZE, authorize.serve(authority, people), methods=["GET", "POST"]),
        Route(paths.TOKEN, endpoint(authority, token.answer(authority)), methods=["POST"]),
        Route(paths.PUSH, endpoint(authority, push.answer(authority)), methods=["POST"]),
        Route(paths.REVOKE, endpoint(authority, revoke.answer(authority)), methods=["POST"]),
        Route(paths.INTROSPECT, introspect.serve(authority), methods=["POST"]),
        Route(paths.JWKS, keys.endpoint(authority), methods=["GET"]),
    ]


def metadata_route(authority: Authority, issuer_path: str) -> Route:
    """The metadata, in front of the issuer's path (RFC 8414 §3.1)."""
    return Route(paths.METADATA + issuer_path, metadata.endpoint(authority), methods=["GET"])
