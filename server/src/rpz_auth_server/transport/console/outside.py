"""Signing in by an outside provider, and linking its identities to an account."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

import structlog
from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.flows import external_identities
from rpz_auth_server.flows.sign_in import SignInRefused
from rpz_auth_server.transport.console import cookies
from rpz_auth_server.transport.console.desk import HOME, Desk, Visit
from rpz_auth_server.transport.console.provider import Journey, Provider, ProviderFailed
from rpz_auth_server.transport.console.sign_in import SignInPages, browser_of, own_path

_log = structlog.get_logger("rpz_auth_server")

START = "/sign-in/provider"
CALLBACK = START + "/callback"
_FAILED = "Your sign-in provider did not say who you are in a way that can be believed. Try again."
_STRANGER = (
    "No account is linked with this identity. Sign in with your password and link it under Account, "
    "or ask an administrator for an invitation."
)


@dataclass(frozen=True, slots=True)
class OutsidePages:
    """The way to a provider and back."""

    desk: Desk
    provider: Provider
    sign_in_pages: SignInPages

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        return [
            Route(START, self.start, methods=["GET"]),
            Route(CALLBACK, self.callback, methods=["GET"]),
            Route(HOME + "/account/link", page(self.link), methods=["POST"]),
            Route(HOME + "/account/identities/{identity_id}/unlink", page(self.unlink), methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        """Send somebody who wants to sign in to the provider."""
        return await self._leave(request, own_path(request.query_params.get("next", "")), links=False)

    async def link(self, visit: Visit) -> Response:
        """Send somebody who is signed in to the provider, to link who it says that it is."""
        return await self._leave(visit.request, HOME + "/account", links=True)

    async def unlink(self, visit: Visit) -> Response:
        """Take a link away."""
        linked_id = visit.request.path_params["identity_id"]
        await external_identities.unlink(self.desk.authority, visit.person, linked_id)
        return self.desk.go(HOME + "/account", said="unlinked")

    async def callback(self, request: Request) -> Response:
        """Take somebody back, from a provider that this browser was sent to."""
        journey = Journey.of_cookie(request.cookies.get(cookies.JOURNEY, ""))
        answer = await self._arrive(request, journey)
        cookies.drop(answer, cookies.JOURNEY)
        return answer

    async def _arrive(self, request: Request, journey: Journey | None) -> Response:
        query = request.query_params
        state, code, issuer = query.get("state", ""), query.get("code", ""), query.get("iss")
        if (
            journey is None
            or not hmac.compare_digest(state.encode(), journey.state.encode())
            or not code
            or issuer not in (None, self.provider.settings.issuer)  # RFC 9207 §2.4
        ):
            return self._wrong(request, _FAILED)
        try:
            identity = await self.provider.come_back(journey, code, self._redirect_uri(request))
        except ProviderFailed as error:
            _log.warning("the outside provider was not believed", reason=str(error))
            return self._wrong(request, _FAILED)
        try:
            if journey.links:
                person = await self.desk.who(request)
                await external_identities.link(self.desk.authority, person, identity)
                return self.desk.go(HOME + "/account", said="linked")
            signed_in = await external_identities.sign_in_with(
                self.desk.authority,
                identity,
                browser_of(request),
                may_sign_up=self.provider.settings.may_sign_up,
            )
        except SignInRefused:
            return self._wrong(request, _STRANGER)
        except Refusal as refusal:
            return self.desk.refused(request, refusal)
        return self.sign_in_pages.enter(signed_in, own_path(journey.back))

    async def _leave(self, request: Request, back: str, *, links: bool) -> Response:
        journey = Journey.begin(back=back, links=links)
        try:
            place = await self.provider.leave_for(journey, self._redirect_uri(request))
        except ProviderFailed as error:
            _log.warning("the outside provider cannot be used", reason=str(error))
            return self._wrong(request, "Your sign-in provider cannot be reached at the moment. Try again.")
        answer = RedirectResponse(place, 303, {"Cache-Control": "no-store"})
        cookies.put(answer, cookies.JOURNEY, journey.to_cookie())
        return answer

    def _redirect_uri(self, request: Request) -> str:
        """Back to where the cookie is: without TLS that is this machine, whose name was checked."""
        if request.url.scheme == "https":
            return self.desk.authority.issuer + CALLBACK
        return f"http://{request.headers['host']}{self.desk.prefix}{CALLBACK}"

    def _wrong(self, request: Request, text: str) -> Response:
        context = {"title": "Not signed in", "text": text, "signed_in": False, "again": True}
        return self.desk.render(request, "message.html", context, status=401)
