"""My Apps/Devices: the cards, a new App, and the parts of an App's page that change the App itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows import apps
from rpz_auth_server.flows.app_fields import AppFields
from rpz_auth_server.flows.apps import AppQuery
from rpz_auth_server.transport.console.desk import HOME, MENDABLE, Desk, Visit
from rpz_auth_server.transport.console.try_it import lines_for

_PAGE = 60
_NUMBER = re.compile(r"[0-9]{1,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AppPages:
    """Cards, registration, settings, locks."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        app = HOME + "/apps/{app_id}"
        return [
            Route(HOME, page(self.cards), methods=["GET"]),
            Route(HOME + "/apps/new", page(self.new), methods=["GET", "POST"]),
            Route(app, page(self.overview), methods=["GET"]),
            Route(app + "/settings", page(self.settings), methods=["GET", "POST"]),
            Route(app + "/lock", page(self.lock), methods=["POST"]),
            Route(app + "/unlock", page(self.unlock), methods=["POST"]),
            Route(app + "/end-tokens", page(self.end_tokens), methods=["POST"]),
            Route(app + "/delete", page(self.delete), methods=["POST"]),
        ]

    async def cards(self, visit: Visit) -> Response:
        """Show the person's Apps."""
        query = visit.request.query_params.get("q", "").strip()[:100]
        kind = visit.request.query_params.get("kind", "")
        after = visit.request.query_params.get("after", "")
        wanted = AppQuery(name_part=query, kind=AppKind(kind) if kind in set(AppKind) else None)
        found = await apps.list_apps(
            self.desk.authority, visit.person, query=wanted, after=after, limit=_PAGE
        )
        return self.desk.show(
            visit,
            "cards.html",
            apps=found,
            used=await self.desk.authority.store.last_uses([app.app_id for app in found]),
            query=query,
            kind=kind,
            kinds=list(AppKind),
            filtered=bool(query or kind),
            next_after=found[-1].app_id if len(found) == _PAGE else None,
        )

    async def new(self, visit: Visit) -> Response:
        """Register an App."""
        form = visit.form
        if visit.request.method == "GET":
            return self._new(visit)
        try:
            app = await apps.create_app(
                self.desk.authority,
                visit.person,
                _kind(form.one("kind")),
                AppFields(
                    display_name=form.one("display_name").strip(),
                    redirect_uris=form.lines("redirect_uris"),
                    scopes=form.lines("scopes"),
                    resources=form.lines("resources"),
                ),
            )
        except MENDABLE as refusal:
            return self._new(visit, wrong=refusal.message)
        return self.desk.go(f"{HOME}/apps/{app.app_id}/authorizations", said="created")

    def _new(self, visit: Visit, wrong: str | None = None) -> Response:
        written = {
            name: visit.form.one(name) for name in ("display_name", "redirect_uris", "scopes", "resources")
        }
        if not visit.form.fields:
            written["scopes"] = "\n".join(sorted(visit.person.account.scopes))
            written["resources"] = "\n".join(sorted(visit.person.account.resources))
        return self.desk.show(
            visit,
            "new.html",
            status=400 if wrong else 200,
            wrong=wrong,
            written=written,
            kind=visit.form.one("kind") or AppKind.BACKEND.value,
        )

    async def overview(self, visit: Visit) -> Response:
        """Show an App, and the lines to call with."""
        app = await self.desk.app(visit)
        lines = lines_for(app, self.desk.connection)
        return self.desk.show(visit, "overview.html", app=app, tab="overview", lines=lines)

    async def settings(self, visit: Visit) -> Response:
        """Change what an App is called, where it may send people back to, and what it may ask for."""
        app = await self.desk.app(visit)
        form = visit.form
        if visit.request.method == "GET":
            return self._settings(visit, app)
        try:
            await apps.update_app(
                self.desk.authority,
                visit.person,
                app.app_id,
                AppFields(
                    display_name=form.one("display_name").strip(),
                    redirect_uris=form.lines("redirect_uris"),
                    scopes=form.lines("scopes"),
                    resources=form.lines("resources"),
                    pkce_exempt=_switch(visit, app, AppKind.BACKEND, "pkce_exempt"),
                    query_token_allowed=_switch(visit, app, AppKind.FRONTEND, "query_token_allowed"),
                    confidential=_switch(visit, app, AppKind.DEVICE, "confidential"),
                ),
                allow_any_peer=False,
                expected_version=_version(form.one("version")),
            )
        except MENDABLE as refusal:
            return self._settings(visit, app, wrong=refusal.message)
        return self.desk.go(f"{HOME}/apps/{app.app_id}/settings", said="saved")

    def _settings(self, visit: Visit, app: App, wrong: str | None = None) -> Response:
        form = visit.form
        written = {
            "display_name": app.display_name,
            "redirect_uris": "\n".join(app.redirect_uris),
            "scopes": "\n".join(sorted(app.scopes)),
            "resources": "\n".join(sorted(app.resources)),
        }
        if form.fields:
            written = {name: form.one(name) for name in written}
        return self.desk.show(
            visit,
            "settings.html",
            status=400 if wrong else 200,
            wrong=wrong,
            app=app,
            tab="settings",
            written=written,
        )

    async def lock(self, visit: Visit) -> Response:
        """Stop everything that an App holds."""
        app_id = visit.named("app_id")
        await apps.lock_app(self.desk.authority, visit.person, app_id)
        return self.desk.go(f"{HOME}/apps/{app_id}", said="locked")

    async def unlock(self, visit: Visit) -> Response:
        """Let an App call again."""
        app_id = visit.named("app_id")
        await apps.unlock_app(self.desk.authority, visit.person, app_id)
        return self.desk.go(f"{HOME}/apps/{app_id}", said="unlocked")

    async def end_tokens(self, visit: Visit) -> Response:
        """End the access tokens that an App holds."""
        app_id = visit.named("app_id")
        await apps.end_all_tokens(self.desk.authority, visit.person, app_id)
        return self.desk.go(f"{HOME}/apps/{app_id}/settings", said="ended")

    async def delete(self, visit: Visit) -> Response:
        """Delete an App whose name was typed."""
        app = await self.desk.app(visit)
        if visit.form.one("confirm").strip() != app.display_name:
            return self._settings_after(visit, app)
        await apps.delete_app(self.desk.authority, visit.person, app.app_id)
        return self.desk.go(HOME, said="deleted")

    def _settings_after(self, visit: Visit, app: App) -> Response:
        blank = Visit(request=visit.request, person=visit.person, csrf=visit.csrf)
        return self._settings(blank, app, wrong="type the App's name exactly to delete it")


def _kind(text: str) -> AppKind:
    try:
        return AppKind(text)
    except ValueError:
        raise RequestInvalid("choose where the App runs") from None


def _switch(visit: Visit, app: App, kind: AppKind, name: str) -> bool | None:
    """A switch that Apps of one kind have; None for the others, which do not show it."""
    return bool(visit.form.one(name)) if app.kind is kind else None


def _version(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
