"""From where an App may call: the entries, and what is wrong with one while it is being typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rpz_auth.whitelist import DNS, MAX_ENTRIES, ORIGIN, SAN, normalise
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.resolution import Resolution, names_in
from rpz_auth_server.flows import apps
from rpz_auth_server.flows.app_fields import AppFields
from rpz_auth_server.transport.console import show
from rpz_auth_server.transport.console.desk import HOME, MENDABLE, Desk, Visit

_MAX_TYPED = 300
_DOMAIN = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WhitelistPages:
    """An App's whitelist."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        place = HOME + "/apps/{app_id}/whitelist"
        return [
            Route(place, page(self.list), methods=["GET"]),
            Route(place + "/check", page(self.check), methods=["POST"]),
            Route(place + "/add", page(self.add), methods=["POST"]),
            Route(place + "/remove", page(self.remove), methods=["POST"]),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show the entries."""
        return await self._show(visit, await self.desk.app(visit))

    async def check(self, visit: Visit) -> Response:
        """Say what an entry means, or what to type instead; nothing is changed."""
        app = await self.desk.app(visit)
        typed = visit.form.one("entry").strip()[:_MAX_TYPED]
        try:
            entry = normalise(as_meant(app, typed), allow_any=True)
        except ValueError as error:
            return JSONResponse({"good": False, "text": show.sentence(str(error))})
        if entry in app.whitelist:
            return JSONResponse({"good": False, "text": "This entry is there already."})
        return JSONResponse({"good": True, "entry": entry, "text": explain(entry)})

    async def add(self, visit: Visit) -> Response:
        """Add an entry."""
        app = await self.desk.app(visit)
        typed = visit.form.one("entry").strip()
        entries = (*app.whitelist, as_meant(app, typed))
        try:
            await apps.update_app(
                self.desk.authority,
                visit.person,
                app.app_id,
                AppFields(whitelist=entries),
                allow_any_peer=bool(visit.form.one("allow_any_peer")) or _allows_any(app),
                expected_version=app.version,
            )
        except MENDABLE as refusal:
            return await self._show(visit, app, wrong=_without_number(refusal.message), typed=typed)
        return self.desk.go(f"{HOME}/apps/{app.app_id}/whitelist", said="saved")

    async def remove(self, visit: Visit) -> Response:
        """Take an entry away; the last one only on purpose."""
        app = await self.desk.app(visit)
        entry = visit.form.one("entry")
        entries = [kept for kept in app.whitelist if kept != entry]
        await apps.update_app(
            self.desk.authority,
            visit.person,
            app.app_id,
            AppFields(whitelist=entries),
            allow_any_peer=bool(visit.form.one("allow_any_peer")) or bool(entries),
            expected_version=app.version,
        )
        return self.desk.go(f"{HOME}/apps/{app.app_id}/whitelist", said="saved")

    async def _show(self, visit: Visit, app: App, *, wrong: str | None = None, typed: str = "") -> Response:
        names = names_in(app.whitelist)
        known = {found.name: found for found in await self.desk.authority.store.resolutions(names)}
        return self.desk.show(
            visit,
            "whitelist.html",
            status=400 if wrong else 200,
            wrong=wrong,
            app=app,
            tab="whitelist",
            typed=typed,
            entries=[(entry, explain(entry) + _found(entry, known, app)) for entry in app.whitelist],
            most=MAX_ENTRIES,
            peer=str(visit.person.peer),
        )


def as_meant(app: App, typed: str) -> str:
    """What somebody means who types a bare domain: a page in a browser for a frontend, else a host."""
    text = typed.strip()
    if text.lower().startswith(("https://", "http://")):
        return ORIGIN + text.removesuffix("/")
    if not _DOMAIN.fullmatch(text):
        return text
    return f"{ORIGIN}https://{text}" if app.kind is AppKind.FRONTEND else DNS + text


def explain(entry: str) -> str:
    """What an entry lets pass, in words."""
    if entry.startswith(DNS):
        name = entry.removeprefix(DNS)
        return f"Hosts at the addresses of {name}, which the authority looks up in the background."
    if entry.startswith(SAN):
        return f"Callers whose client certificate names {entry.removeprefix(SAN)}."
    if entry.startswith(ORIGIN):
        return (
            f"Pages of {entry.removeprefix(ORIGIN)} in browsers. Other programs can claim to be one: "
            "this keeps misuse away, not attackers."
        )
    if entry == "unix":
        return "Callers on the same machine, over a Unix socket."
    return f"Every address in the network {entry}." if "/" in entry else f"The one address {entry}."


def _found(entry: str, known: Mapping[str, Resolution], app: App) -> str:
    """Where a name leads, for an entry that is one."""
    if not entry.startswith(DNS):
        return ""
    resolution = known.get(entry.removeprefix(DNS))
    if resolution is None or resolution.resolved_at is None:
        return " It has not been found yet, so it lets nobody pass."
    when = datetime.fromtimestamp(resolution.resolved_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    passing = [address for address in resolution.addresses if address in app.resolved]
    return f" Found at {when}: {', '.join(passing) or 'no address that may pass'}."


def _without_number(message: str) -> str:
    head, colon, rest = message.partition(": ")
    return rest if colon and head.startswith("whitelist entry ") else message


def _allows_any(app: App) -> bool:
    """Somebody said so on purpose, when the entry was added."""
    return any(entry.endswith("/0") for entry in app.whitelist)
