"""API Authorizations: the locks that make an OAuth 2 secret or an API token, and what they made."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.credential import is_live
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows import api_tokens, client_secrets
from rpz_auth_server.flows.credentials import Lifetime, Replacement
from rpz_auth_server.transport.console.desk import HOME, MENDABLE, Desk, Visit

LIFETIMES = {"7": "1 week", "30": "30 days", "90": "90 days", "365": "1 year", "": "no end"}
"""What the forms offer, in days."""
OVERLAPS = {
    "0": "stops now",
    "3600": "goes on for 1 hour",
    "86400": "goes on for 1 day",
    "604800": "goes on for 1 week",
}
"""How long an old credential goes on beside its successor, in seconds."""
_DAY = 86400.0
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """A credential that was made just now, for this one page."""

    kind: str
    name: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthorizationPages:
    """An App's long-lived credentials."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        app = HOME + "/apps/{app_id}"
        return [
            Route(app + "/authorizations", page(self.list), methods=["GET"]),
            Route(app + "/secrets", page(self.new_secret), methods=["POST"]),
            Route(app + "/secrets/{secret_id}/rotate", page(self.rotate_secret), methods=["POST"]),
            Route(app + "/secrets/{secret_id}/revoke", page(self.revoke_secret), methods=["POST"]),
            Route(app + "/tokens", page(self.new_token), methods=["POST"]),
            Route(app + "/tokens/{token_id}/rotate", page(self.rotate_token), methods=["POST"]),
            Route(app + "/tokens/{token_id}/revoke", page(self.revoke_token), methods=["POST"]),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show both sections."""
        return await self._show(visit, await self.desk.app(visit))

    async def new_secret(self, visit: Visit) -> Response:
        """Make an OAuth 2 secret and show it this once."""
        app, form = await self.desk.app(visit), visit.form
        try:
            made = await client_secrets.create_client_secret(
                self.desk.authority,
                visit.person,
                app.app_id,
                display_name=form.one("display_name").strip(),
                expires_at=_lifetime(form.one("days")),
                request_id=form.one("request_id"),
            )
        except MENDABLE as refusal:
            return await self._show(visit, app, wrong=refusal.message, wrong_in="secret")
        return await self._reveal(visit, app, Shown("secret", made.record.display_name, made.text))

    async def new_token(self, visit: Visit) -> Response:
        """Make an API token and show it this once."""
        app, form = await self.desk.app(visit), visit.form
        try:
            made = await api_tokens.create_api_token(
                self.desk.authority,
                visit.person,
                app.app_id,
                display_name=form.one("display_name").strip(),
                scopes=form.all("scope"),
                resources=form.all("resource"),
                expires_at=_lifetime(form.one("days")),
                request_id=form.one("request_id"),
            )
        except MENDABLE as refusal:
            return await self._show(visit, app, wrong=refusal.message, wrong_in="token")
        return await self._reveal(visit, app, Shown("token", made.record.display_name, made.text))

    async def rotate_secret(self, visit: Visit) -> Response:
        """Make a secret's successor, and put a deadline on the old one."""
        app, secret_id = await self.desk.app(visit), visit.named("secret_id")
        try:
            made = await client_secrets.rotate_client_secret(
                self.desk.authority, visit.person, app.app_id, secret_id, _replacement(visit)
            )
        except MENDABLE as refusal:
            return await self._show(visit, app, wrong=refusal.message, wrong_in="secret")
        return await self._reveal(visit, app, Shown("secret", made.record.display_name, made.text))

    async def rotate_token(self, visit: Visit) -> Response:
        """Make an API token's successor, and put a deadline on the old one."""
        app, token_id = await self.desk.app(visit), visit.named("token_id")
        try:
            made = await api_tokens.rotate_api_token(
                self.desk.authority, visit.person, app.app_id, token_id, _replacement(visit)
            )
        except MENDABLE as refusal:
            return await self._show(visit, app, wrong=refusal.message, wrong_in="token")
        return await self._reveal(visit, app, Shown("token", made.record.display_name, made.text))

    async def revoke_secret(self, visit: Visit) -> Response:
        """Stop a secret."""
        app_id, secret_id = visit.named("app_id"), visit.named("secret_id")
        await client_secrets.revoke_client_secret(self.desk.authority, visit.person, app_id, secret_id)
        return self.desk.go(f"{HOME}/apps/{app_id}/authorizations", said="revoked")

    async def revoke_token(self, visit: Visit) -> Response:
        """Stop an API token."""
        app_id, token_id = visit.named("app_id"), visit.named("token_id")
        await api_tokens.revoke_api_token(self.desk.authority, visit.person, app_id, token_id)
        return self.desk.go(f"{HOME}/apps/{app_id}/authorizations", said="revoked")

    async def _reveal(self, visit: Visit, app: App, shown: Shown) -> Response:
        """Show what was made; a form that is sent again much later makes and shows nothing."""
        if not shown.text:
            wrong = "this was created already, and its value was shown then; create another if it is lost"
            return await self._show(visit, app, wrong=wrong, wrong_in=shown.kind)
        return await self._show(visit, app, shown=shown)

    async def _show(
        self,
        visit: Visit,
        app: App,
        *,
        shown: Shown | None = None,
        wrong: str | None = None,
        wrong_in: str = "",
    ) -> Response:
        authority, now = self.desk.authority, visit.now
        secrets = await client_secrets.list_client_secrets(authority, visit.person, app.app_id)
        tokens = await api_tokens.list_api_tokens(authority, visit.person, app.app_id, after="", limit=_SHOWN)
        return self.desk.show(
            visit,
            "authorizations.html",
            status=400 if wrong else 200,
            wrong=wrong,
            wrong_in=wrong_in,
            app=app,
            tab="authorizations",
            shown=shown,
            lifetimes=LIFETIMES,
            overlaps=OVERLAPS,
            fresh=lambda: str(uuid.uuid4()),
            secrets=[secret for secret in secrets if is_live(secret, now)],
            ended_secrets=[secret for secret in secrets if not is_live(secret, now)],
            tokens=sorted(
                (token for token in tokens if is_live(token, now)), key=lambda token: -token.created_at
            ),
            ended_tokens=[token for token in tokens if not is_live(token, now)],
        )


def _replacement(visit: Visit) -> Replacement:
    overlap = visit.form.one("overlap")
    if overlap not in OVERLAPS:
        raise RequestInvalid("choose for how long the old one goes on")
    return Replacement(
        overlap=float(overlap),
        expires_at=_lifetime(visit.form.one("days")),
        request_id=visit.form.one("request_id"),
    )


def _lifetime(days: str) -> Lifetime | None:
    if days not in LIFETIMES:
        raise RequestInvalid("choose how long it is good for")
    return Lifetime(float(days) * _DAY) if days else None
