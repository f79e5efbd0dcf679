"""What is a person's own: what it allowed Apps, where it is signed in, its password, its theme."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.refusal import RateLimited
from rpz_auth_server.flows import consents, passwords, sign_in
from rpz_auth_server.flows.external_identities import list_identities
from rpz_auth_server.flows.sign_in import SignInRefused
from rpz_auth_server.transport.console import cookies
from rpz_auth_server.transport.console.desk import HOME, MENDABLE, Desk, Visit
from rpz_auth_server.transport.console.forms import Forged
from rpz_auth_server.transport.console.sign_in import own_path

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class AccountPages:
    """The signed-in person's own pages."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        return [
            Route(HOME + "/allowed", page(self.allowed), methods=["GET"]),
            Route(HOME + "/allowed/{app_id}/withdraw", page(self.withdraw), methods=["POST"]),
            Route(HOME + "/account", page(self.account), methods=["GET"]),
            Route(HOME + "/account/password", page(self.password), methods=["POST"]),
            Route(HOME + "/account/sessions/end-others", page(self.end_others), methods=["POST"]),
            Route(HOME + "/account/sessions/{session_id}/end", page(self.end), methods=["POST"]),
            Route("/theme", self.theme, methods=["POST"]),
        ]

    async def allowed(self, visit: Visit) -> Response:
        """Show what the person allowed Apps."""
        authority = self.desk.authority
        found = await consents.list_consents(authority, visit.person, after="", limit=_SHOWN)
        apps = [await authority.store.app(consent.app_id) for consent in found]
        rows = [(consent, _named(app)) for consent, app in zip(found, apps, strict=True)]
        return self.desk.show(visit, "allowed.html", rows=rows)

    async def withdraw(self, visit: Visit) -> Response:
        """Withdraw what the person allowed one App."""
        await consents.withdraw(self.desk.authority, visit.person, visit.named("app_id"))
        return self.desk.go(HOME + "/allowed", said="withdrawn")

    async def account(self, visit: Visit) -> Response:
        """Show where the person is signed in, and how."""
        return await self._show(visit)

    async def password(self, visit: Visit) -> Response:
        """Change the password."""
        form = visit.form
        if form.one("chosen") != form.one("again"):
            return await self._show(visit, wrong="the two new passwords differ")
        try:
            await passwords.change_password(
                self.desk.authority, visit.person, current=form.one("current"), chosen=form.one("chosen")
            )
        except SignInRefused:
            return await self._show(visit, wrong="the current password is another")
        except RateLimited as refusal:
            return await self._show(visit, wrong=refusal.message)
        except MENDABLE as refusal:
            return await self._show(visit, wrong=refusal.message)
        return self.desk.go(HOME + "/account", said="password")

    async def end(self, visit: Visit) -> Response:
        """Sign one browser out."""
        session_id = visit.named("session_id")
        await sign_in.end_session(self.desk.authority, visit.person, session_id)
        return self.desk.go(HOME + "/account", said="session-ended")

    async def end_others(self, visit: Visit) -> Response:
        """Sign all other browsers out."""
        await sign_in.end_other_sessions(self.desk.authority, visit.person)
        return self.desk.go(HOME + "/account", said="sessions-ended")

    async def theme(self, request: Request) -> Response:
        """Remember light or dark, in the browser alone."""
        try:
            try:
                await self.desk.who(request)
                form = await self.desk.genuine_form(request)
            except SignInRefused:
                form = await self.desk.anonymous_form(request)
        except Forged:
            return self.desk.forged(request)
        except Refusal as refusal:
            return self.desk.refused(request, refusal)
        answer = self.desk.go(own_path(form.one("next")))
        chosen = form.one("theme")
        if chosen in cookies.THEMES:
            cookies.put(answer, cookies.THEME, chosen, lasting=True)
        else:
            cookies.drop(answer, cookies.THEME)
        return answer

    async def _show(self, visit: Visit, *, wrong: str | None = None) -> Response:
        sessions = await sign_in.list_sessions(self.desk.authority, visit.person)
        return self.desk.show(
            visit,
            "account.html",
            status=400 if wrong else 200,
            form_action=f"'self' {self.desk.provider_origin}".strip(),
            wrong=wrong,
            identities=await list_identities(self.desk.authority, visit.person),
            sessions=sorted(sessions, key=lambda session: -session.seen_at),
        )


def _named(app: App | None) -> str:
    return app.display_name if app is not None and not app.deleted else "An App that is gone"
