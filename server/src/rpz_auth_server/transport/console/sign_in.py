"""Pages for people who are not signed in yet: signing in, and choosing a first password."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.refusal import RateLimited, RequestInvalid
from rpz_auth_server.flows import passwords, sign_in
from rpz_auth_server.flows.sign_in import Browser, SignedIn, SignInRefused
from rpz_auth_server.transport.console import cookies, show
from rpz_auth_server.transport.console.desk import HOME, SIGN_IN, Desk, Visit
from rpz_auth_server.transport.console.forms import Forged, Form

WELCOME = "/welcome"
ANYWHERE = "'self' https: http:"
"""Signing in may lead on, by redirects, to whichever App asked for it."""

_OWN_PATH = re.compile(r"/(?:console(?:/[A-Za-z0-9._~/-]*)?|oauth/authorize)(?:\?[\x21-\x7e]*)?", re.ASCII)
_WRONG = "This name and password do not belong together, or nobody may sign in with them."


@dataclass(frozen=True, slots=True)
class SignInPages:
    """Signing in and out."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route(SIGN_IN, self.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self.desk.page(self.sign_out), methods=["POST"]),
            Route(WELCOME, self.welcome, methods=["GET", "POST"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        """Ask for name and password, and check them."""
        if request.method == "GET":
            back = own_path(request.query_params.get("next", ""))
            try:
                await self.desk.who(request)
            except SignInRefused:
                return self.ask(request, back, said=show.SAID.get(request.query_params.get("said", "")))
            return self.desk.go(back)
        try:
            form = await self.desk.anonymous_form(request)
            return await self._check(request, form)
        except Forged:
            return self.desk.forged(request)
        except Refusal as refusal:
            return self.desk.refused(request, refusal)

    async def _check(self, request: Request, form: Form) -> Response:
        back, user_name = own_path(form.one("next")), form.one("user_name")
        try:
            signed_in = await sign_in.sign_in(
                self.desk.authority,
                user_name=user_name,
                password=form.one("password"),
                browser=browser_of(request),
            )
        except SignInRefused:
            return self.ask(request, back, user_name=user_name, wrong=_WRONG, status=401)
        except RateLimited as refusal:
            wrong = f"Too many tries. Wait {show.span(refusal.retry_after or 60)}, then try again."
            return self.ask(request, back, user_name=user_name, wrong=wrong, status=429)
        return self.enter(signed_in, back)

    def enter(self, signed_in: SignedIn, back: str) -> Response:
        """Give the browser its new session, and let it go on."""
        answer = self.desk.go(back)
        cookies.put(answer, cookies.SESSION, signed_in.token)
        cookies.drop(answer, cookies.BROWSER)
        return answer

    async def sign_out(self, visit: Visit) -> Response:
        """End the session, here and in the database."""
        await sign_in.end_session(self.desk.authority, visit.person, visit.person.session.session_id)
        asked_by = visit.form.one("next")
        answer = self.desk.go(own_path(asked_by)) if asked_by else self.desk.go(SIGN_IN, said="signed-out")
        cookies.drop(answer, cookies.SESSION)
        return answer

    async def welcome(self, request: Request) -> Response:
        """Let somebody who was invited choose a password."""
        if request.method == "GET":
            return self._invite(request)
        try:
            form = await self.desk.anonymous_form(request)
            return await self._choose(request, form)
        except Forged:
            return self.desk.forged(request)
        except Refusal as refusal:
            return self.desk.refused(request, refusal)

    async def _choose(self, request: Request, form: Form) -> Response:
        text, password = form.one("code").strip(), form.one("password")
        if password != form.one("again"):
            return self._invite(request, code=text, wrong="the two passwords differ", status=400)
        account_id, _, code = text.partition(".")
        try:
            signed_in = await passwords.choose_password(
                self.desk.authority,
                account_id=account_id,
                code=code,
                password=password,
                browser=browser_of(request),
            )
        except SignInRefused:
            wrong = (
                "This code is not valid: it was used, has expired, or is good on the authority's own machine "
                "only. Ask for another."
            )
            return self._invite(request, wrong=wrong, status=401)
        except RequestInvalid as refusal:
            return self._invite(request, code=text, wrong=show.sentence(refusal.message), status=400)
        return self.enter(signed_in, HOME)

    def _invite(
        self, request: Request, *, code: str = "", wrong: str | None = None, status: int = 200
    ) -> Response:
        """Ask for a password; the code, which has left the address, stays for the next try."""
        return self.desk.anonymous(request, "welcome.html", status=status, code=code, wrong=wrong)

    def ask(
        self,
        request: Request,
        back: str,
        *,
        for_app: str = "",
        user_name: str = "",
        wrong: str | None = None,
        said: str | None = None,
        status: int = 200,
    ) -> Response:
        """Show the page to sign in with.

        Args:
            request: What it answers.
            back: Where to go on after it.
            for_app: The App that sent the browser here.
            user_name: What was written before.
            wrong: Why that did not do.
            said: What happened before.
            status: Of HTTP.
        """
        return self.desk.anonymous(
            request,
            "sign_in.html",
            status=status,
            form_action="'self'" if back.startswith(HOME) else ANYWHERE,
            next=back,
            for_app=for_app,
            user_name=user_name,
            wrong=wrong,
            said=said,
        )


def own_path(text: str) -> str:
    """Where to go after signing in: a page of ours, whatever was asked for (A144)."""
    return text if _OWN_PATH.fullmatch(text) else HOME


def browser_of(request: Request) -> Browser:
    """What signs in, and the session that it replaces."""
    return Browser(
        peer=request.state.peer,
        agent=request.headers.get("user-agent", ""),
        replaces=cookies.session_of(request),
    )
