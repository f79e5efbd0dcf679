"""Signing in by an outside provider, and linking its identities to an account."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

import structlog
from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.refusal import ClientInvalid
from rpz_auth_server.flows import external_identities
from rpz_auth_server.flows.external_identities import OutsideIdentity
from rpz_auth_server.flows.limits import prefix_of
from rpz_auth_server.flows.sign_in import SignInRefused, check_current_password
from rpz_auth_server.transport.console import cookies
from rpz_auth_server.transport.console.desk import HOME, Desk, Visit
from rpz_auth_server.transport.console.provider import (
    LIFETIME,
    MAX_BACK,
    Journey,
    NotBelieved,
    Provider,
    ProviderFailed,
)
from rpz_auth_server.transport.console.sign_in import SignInPages, browser_of, own_path
from rpz_auth_server.transport.log_budget import LogBudget

_log = structlog.get_logger("rpz_auth_server")
_WARNINGS = 10
"""A minute, about the provider."""

START = "/sign-in/provider"
CALLBACK = START + "/callback"
_FAILED = "Your sign-in provider did not say who you are in a way that can be believed. Try again."
_UNREACHABLE = "Your sign-in provider cannot be reached at the moment. Try again."
_TOO_LONG = (
    "The App's link is too long to be kept while you are away at your sign-in provider. Sign in with your "
    "password, or open the console, sign in there, and go back to the App."
)
_ANOTHER = (
    "Somebody else has signed in at this browser since the linking was begun. Nothing was linked. "
    "Begin again under Account."
)
_NOT_PROVED = "The current password is another. Nothing was linked. Begin again under Account."
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
    warnings: LogBudget = field(default_factory=lambda: LogBudget(_log, records=_WARNINGS, seconds=60.0))

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
        back = own_path(request.query_params.get("next", ""))
        if len(back) > MAX_BACK:
            return self._wrong(request, _TOO_LONG, status=414)
        return await self._leave(request, Journey.begin(back=back))

    async def link(self, visit: Visit) -> Response:
        """Send somebody who is signed in to the provider, to link who it says that it is.

        With the password: what is linked outlives the session, and would do so for whoever has stolen that.
        """
        person = visit.person
        if person.account.password_hash is not None:
            try:
                await check_current_password(self.desk.authority, person, visit.form.one("current"))
            except SignInRefused:
                return self._wrong(visit.request, _NOT_PROVED, status=403)
        journey = Journey.begin(
            back=HOME + "/account", session_id=person.session.session_id, account=person.account
        )
        return await self._leave(visit.request, journey)

    async def unlink(self, visit: Visit) -> Response:
        """Take a link away."""
        linked_id = visit.named("identity_id")
        await external_identities.unlink(self.desk.authority, visit.person, linked_id)
        return self.desk.go(HOME + "/account", said="unlinked")

    async def callback(self, request: Request) -> Response:
        """Take somebody back, from a provider that this browser was sent to."""
        journey = Journey.of_cookie(cookies.long_of(request, cookies.JOURNEY))
        answer = await self._arrive(request, journey)
        cookies.drop_long(answer, cookies.JOURNEY)
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
            return await self._finish(request, journey, await self._identify(request, journey, code))
        except ProviderFailed as error:
            return self._wrong(request, _FAILED if isinstance(error, NotBelieved) else _UNREACHABLE)
        except SignInRefused:
            return self._wrong(request, _STRANGER)
        except Refusal as refusal:
            return self.desk.refused(request, refusal)

    async def _finish(self, request: Request, journey: Journey, identity: OutsideIdentity) -> Response:
        """Do what somebody left for.

        Raises:
            SignInRefused: Nobody may sign in by this identity, or nobody is signed in any more to link it.
            RequestInvalid: It signs somebody else in.
        """
        if journey.session_id is None:
            signed_in = await external_identities.sign_in_with(
                self.desk.authority,
                identity,
                browser_of(request),
                may_sign_up=self.provider.settings.may_sign_up,
            )
            return self.sign_in_pages.enter(signed_in, own_path(journey.back))
        person = await self.desk.who(request)
        if person.session.session_id != journey.session_id:
            return self._wrong(request, _ANOTHER, status=403)
        if not journey.is_proved(person.account):
            return self._wrong(request, _NOT_PROVED, status=403)
        await external_identities.link(self.desk.authority, person, identity)
        return self.desk.go(HOME + "/account", said="linked")

    async def _identify(self, request: Request, journey: Journey, code: str) -> OutsideIdentity:
        """Ask the provider who a code stands for; each peer may bring so many that are worth nothing.

        Raises:
            RateLimited: It brought too many.
            ProviderFailed: Nobody, or the provider cannot be reached.
        """
        peer = request.state.peer
        try:
            with self.desk.authority.limiter.guarded(f"provider {prefix_of(peer)}", peer, slow=True):
                try:
                    return await self.provider.come_back(journey, code, self._redirect_uri(request))
                except NotBelieved as error:
                    raise ClientInvalid from error
                except ProviderFailed as error:  # a failure of nobody's here, and so not to be charged
                    failure = error
        except ClientInvalid as counted:
            self._warn("the outside provider was not believed", counted.__cause__)
            raise NotBelieved from None
        self._warn("the outside provider cannot be used", failure)
        raise failure

    async def _leave(self, request: Request, journey: Journey) -> Response:
        try:
            place = await self.provider.leave_for(journey, self._redirect_uri(request))
        except ProviderFailed as error:
            self._warn("the outside provider cannot be used", error)
            return self._wrong(request, _UNREACHABLE)
        answer = RedirectResponse(place, 303, {"Cache-Control": "no-store"})
        cookies.put_long(answer, cookies.JOURNEY, journey.to_cookie(), lifetime=LIFETIME)
        return answer

    def _warn(self, event: str, reason: BaseException | None) -> None:
        if self.warnings.take():
            _log.warning(event, reason=str(reason))

    def _redirect_uri(self, request: Request) -> str:
        """Back to where the cookie is: without TLS that is this machine, whose name was checked."""
        if request.url.scheme == "https":
            return self.desk.authority.issuer + CALLBACK
        return f"http://{request.headers['host']}{self.desk.prefix}{CALLBACK}"

    def _wrong(self, request: Request, text: str, *, status: int = 401) -> Response:
        context = {"title": "Not signed in", "text": text, "signed_in": False, "again": True}
        return self.desk.render(request, "message.html", context, status=status)
