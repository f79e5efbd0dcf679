"""Signing in and consenting on the way to an App: the console's answer to the authorization endpoint."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.domain.account import QUESTION_LIFETIME
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.authorization import AuthorizationRequest
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows import consents
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.sign_in import SignInRefused
from rpz_auth_server.transport.console import cookies
from rpz_auth_server.transport.console.desk import Desk
from rpz_auth_server.transport.console.forms import Forged, check_site, token_of
from rpz_auth_server.transport.console.sign_in import ANYWHERE, SignInPages

_TICKET = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?=[/?]|$)", re.ASCII)
_ALLOW, _DENY = "allow", "deny"


@dataclass(frozen=True, slots=True)
class ConsolePeople:
    """`People` of the authorization endpoint."""

    desk: Desk
    sign_in_pages: SignInPages

    async def person(self, request: Request) -> Person | None:
        """See `People.person`."""
        try:
            return await self.desk.who(request)
        except SignInRefused:
            return None

    async def sign_in(self, request: Request, app: App) -> Response:
        """See `People.sign_in`."""
        path = request.url.path.removeprefix(self.desk.prefix)
        query = request.scope["query_string"].decode("latin-1")
        return self.sign_in_pages.ask(request, f"{path}?{query}", for_app=app.display_name)

    async def has_allowed(self, person: Person, asked: AuthorizationRequest) -> bool:
        """See `People.has_allowed`."""
        return await consents.is_remembered(
            self.desk.authority, person, asked.app.app_id, asked.scopes, asked.resources
        )

    async def ask(self, request: Request, person: Person, asked: AuthorizationRequest) -> Response:
        """See `People.ask`."""
        now = self.desk.authority.store.now()
        version = await consents.version_of(self.desk.authority, person, asked.app.app_id)
        secret = cookies.session_of(request)
        origin = _ORIGIN.match(asked.redirect_uri)
        context = {
            "person": person,
            "asked": asked,
            "lifetimes": asked.app.lifetimes(self.desk.authority.lifetimes),
            "csrf": token_of(secret),
            "ticket": _ticket(secret, asked, until=int(now + QUESTION_LIFETIME), version=version),
            "back": f"{request.url.path}?{request.scope['query_string'].decode('latin-1')}",
            "leads_to": origin[0] if origin else asked.redirect_uri.partition("?")[0],
            "fresh": version == 0,
        }
        action = f"'self' {origin[0]}" if origin else ANYWHERE  # CSP knows no IPv6 addresses
        return self.desk.render(request, "consent.html", context, form_action=action)

    async def answer(
        self, request: Request, person: Person, asked: AuthorizationRequest, form: Mapping[str, str]
    ) -> bool | None:
        """See `People.answer`.

        A page counts for the session and request that it was shown for, for ten minutes, and once: what is
        allowed moves the consent on to another version than the page names (A150).
        """
        version = self._version_shown(request, asked, form.get("ticket", ""))
        decision = form.get("decision")
        if version is None or decision not in (_ALLOW, _DENY):
            return None
        if decision == _DENY:
            return False
        try:
            await consents.remember(
                self.desk.authority,
                person,
                asked.app.app_id,
                asked.scopes,
                asked.resources,
                expected_version=version,
            )
        except Conflict:
            return None
        return True

    def _version_shown(self, request: Request, asked: AuthorizationRequest, ticket: str) -> int | None:
        """The version that a page of ours named for this very request and session; None if it did not."""
        try:
            check_site(request, origins=self.desk.origins)
        except Forged:
            return None
        found = _TICKET.fullmatch(ticket)
        if found is None or int(found[1]) < self.desk.authority.store.now():
            return None
        secret, version = cookies.session_of(request), int(found[2])
        expected = _ticket(secret, asked, until=int(found[1]), version=version)
        return version if hmac.compare_digest(ticket, expected) else None

    def problem(self, request: Request, message: str) -> Response:
        """See `People.problem`."""
        context = {"title": "This link does not work", "text": message, "signed_in": False}
        return self.desk.render(request, "message.html", context, status=400)


def _ticket(secret: str, asked: AuthorizationRequest, *, until: int, version: int) -> str:
    content = f"rpz-auth consent {asked.digest} {until} {version}"
    digest = hmac.digest(secret.encode("ascii"), content.encode("ascii"), "sha256")
    return f"{until}.{version}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode('ascii')}"
