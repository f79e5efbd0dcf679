"""What is served over HTTP, and under which paths."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from rpz_auth_server.flows.pipeline import Authority
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport import oauth
from rpz_auth_server.transport.http.answers import plain
from rpz_auth_server.transport.http.guard import Guard


def build(authority: Authority, settings: Settings) -> ASGIApp:
    """Put the application together.

    Paths stand below the issuer's own: what a proxy forwards arrives as clients wrote it.
    """
    routes = oauth.routes(authority)
    prefix = urllib.parse.urlsplit(settings.issuer).path
    router = Router(_below(prefix, routes), redirect_slashes=False, default=_not_found)
    return Guard(router, trusted_proxies=settings.trusted_proxies)


def _below(prefix: str, routes: Sequence[BaseRoute]) -> Sequence[BaseRoute]:
    return [Mount(prefix, routes=routes)] if prefix else routes


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    answer: Response = plain(404, "There is nothing here.")
    await answer(scope, receive, send)
