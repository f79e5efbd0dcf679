"""What is served over HTTP, and under which paths."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport import console, oauth
from rpz_auth_server.transport.console.provider_settings import ProviderSettings
from rpz_auth_server.transport.console.running import Running
from rpz_auth_server.transport.console.try_it import Connection
from rpz_auth_server.transport.http.answers import plain
from rpz_auth_server.transport.http.guard import Guard
from rpz_auth_server.transport.oauth import paths
from rpz_auth_server.transport.oauth.cors import Cors
from rpz_auth_server.transport.oauth.people import People

_PAGES = "console"
"""What all pages are called where requests are timed."""


def build(
    authority: Authority,
    settings: Settings,
    connection: Connection,
    running: Running,
    *,
    people: People | None = None,
) -> Guard:
    """Put the application together.

    Paths stand below the issuer's own: what a proxy forwards arrives as clients wrote it.

    Args:
        authority: Whose flows are served.
        settings: With the issuer, trusted proxies and origins of pages.
        connection: How clients connect, for the lines that the console shows.
        running: What this process has beside the database, for the console.
        people: Who signs in and consents; None for the pages of the console.
    """
    prefix = urllib.parse.urlsplit(settings.issuer).path
    pages, own_people = console.build(
        authority, connection, running, prefix=prefix, provider=_provider(settings)
    )
    people = people or own_people
    metadata, endpoints = oauth.metadata_route(authority, prefix), oauth.routes(authority, people)
    router = Router(
        [metadata, *_below(prefix, [*endpoints, *pages])],
        redirect_slashes=False,
        default=_not_found,
    )
    app: ASGIApp = router
    if settings.cors_origins:
        open_paths = {prefix + path for path in paths.CALLED_BY_PAGES} | {paths.METADATA + prefix}
        app = Cors(app, origins=settings.cors_origins, paths=open_paths)
    names: dict[object, str] = {route.endpoint: route.path for route in (metadata, *endpoints)}
    names |= {page.endpoint: _PAGES for page in pages if isinstance(page, Route)}
    return Guard(app, trusted_proxies=settings.trusted_proxies, names=names)


def _below(prefix: str, routes: Sequence[BaseRoute]) -> Sequence[BaseRoute]:
    return [Mount(prefix, routes=routes)] if prefix else routes


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    answer: Response = plain(404, "There is nothing here.")
    await answer(scope, receive, send)


def _provider(settings: Settings) -> ProviderSettings | None:
    if settings.oidc_issuer is None:
        return None
    return ProviderSettings(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        name=settings.oidc_name,
        may_sign_up=settings.oidc_sign_up,
    )
