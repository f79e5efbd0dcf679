"""The console: pages for the people who own Apps, rendered here, with the flows behind them that gRPC has."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.transport.console.account import AccountPages
from rpz_auth_server.transport.console.apps import AppPages
from rpz_auth_server.transport.console.authorizations import AuthorizationPages
from rpz_auth_server.transport.console.consent import ConsolePeople
from rpz_auth_server.transport.console.desk import HOME, Desk
from rpz_auth_server.transport.console.people import PeoplePages
from rpz_auth_server.transport.console.provider_settings import ProviderSettings
from rpz_auth_server.transport.console.records import RecordPages
from rpz_auth_server.transport.console.running import Running, RunningPages
from rpz_auth_server.transport.console.sign_in import SignInPages
from rpz_auth_server.transport.console.static import static
from rpz_auth_server.transport.console.try_it import Connection
from rpz_auth_server.transport.console.whitelist import WhitelistPages


def build(
    authority: Authority,
    connection: Connection,
    running: Running,
    *,
    prefix: str,
    provider: ProviderSettings | None = None,
) -> tuple[Sequence[BaseRoute], ConsolePeople]:
    """All pages, below the issuer's path, which is `prefix`, and those on the way to an App."""
    origin = _origin(provider.issuer) if provider else ""
    desk = Desk(
        authority=authority,
        connection=connection,
        prefix=prefix,
        provider_name=provider.name if provider else "",
        provider_origin=origin,
    )
    sign_in_pages = SignInPages(desk)

    async def home(_request: Request) -> Response:
        return desk.go(HOME)

    routes: list[BaseRoute] = [
        Route("/", home, methods=["GET"]),
        Route(HOME + "/static/{name:path}", static, methods=["GET"]),
        *sign_in_pages.routes(),
        *AppPages(desk).routes(),
        *AuthorizationPages(desk).routes(),
        *WhitelistPages(desk).routes(),
        *AccountPages(desk).routes(),
        *PeoplePages(desk).routes(),
        *RecordPages(desk).routes(),
        *RunningPages(desk, running).routes(),
    ]
    if provider is not None:
        from rpz_auth_server.transport.console.outside import OutsidePages  # noqa: PLC0415 - most have none
        from rpz_auth_server.transport.console.provider import Provider  # noqa: PLC0415

        routes += OutsidePages(desk, Provider(provider), sign_in_pages).routes()
    return routes, ConsolePeople(desk, sign_in_pages)


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
