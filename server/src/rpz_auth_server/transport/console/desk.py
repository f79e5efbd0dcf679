"""What all pages share: who is there, forms that are genuine, rendering, refusals in words."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
from rpz_auth.errors import Reason, Refusal
from rpz_auth.status import TABLE
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.refusal import RequestInvalid, RightsInsufficient, ScopeInvalid, TargetInvalid
from rpz_auth_server.flows import apps, sign_in
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.rights import is_administrator
from rpz_auth_server.flows.sign_in import SignInRefused
from rpz_auth_server.transport.console import cookies, show
from rpz_auth_server.transport.console.forms import (
    NOTHING,
    Forged,
    Form,
    check_genuine,
    read_form,
    token_of,
)
from rpz_auth_server.transport.console.static import VERSION
from rpz_auth_server.transport.console.try_it import Connection

POLICY: Mapping[str, str] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "font-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "object-src": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
SIGN_IN = "/sign-in"
HOME = "/console"

MENDABLE = (RequestInvalid, ScopeInvalid, TargetInvalid, RightsInsufficient)
"""Refusals that a person answers by writing something else into the same form."""

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[["Visit"], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of a person who is signed in; a form that came with it is genuine."""

    request: Request
    person: Person
    form: Form = NOTHING
    csrf: str = field(repr=False)

    @property
    def now(self) -> float:
        """The database's time."""
        now: float = self.request.state.now
        return now

    def named(self, name: str) -> str:
        """What the path names, by the word that its route has for it."""
        value: str = self.request.path_params[name]
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The authority, as pages see it."""

    authority: Authority
    connection: Connection
    """How clients connect, for the lines that people copy."""
    provider_name: str = ""
    """Of the outside provider that people may sign in by; empty without one."""
    provider_origin: str = ""
    prefix: str = ""
    """The path of the issuer, below which everything stands."""

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of our own pages, beside the one that a request came to."""
        parts = urllib.parse.urlsplit(self.authority.issuer)
        return (f"{parts.scheme}://{parts.netloc}",)

    def page(self, handler: Handler, *, administrator: bool = False) -> Endpoint:
        """Make an endpoint of a handler: for people who are signed in, with genuine forms."""

        async def endpoint(request: Request) -> Response:
            # First, or somebody could begin to send a form, and finish it when the session has ended.
            await request.body()
            try:
                person = await self.who(request)
            except SignInRefused:
                return self.to_sign_in(request)
            secret = cookies.session_of(request)
            try:
                _check_text(request)
                form = await self.genuine_form(request)
                if administrator and not is_administrator(person):
                    raise RightsInsufficient("only an administrator sees this page")
                request.state.now = self.authority.store.now()
                visit = Visit(request=request, person=person, form=form, csrf=token_of(secret))
                return await handler(visit)
            except Forged:
                return self.forged(request)
            except Refusal as refusal:
                return self.refused(request, refusal, person=person)

        return endpoint

    async def app(self, visit: Visit) -> App:
        """Find the App that the path names.

        Raises:
            NotFound: It is missing, or not the person's.
        """
        return await apps.get_app(self.authority, visit.person, visit.named("app_id"))

    async def who(self, request: Request) -> Person:
        """Find out who is signed in.

        Raises:
            SignInRefused: Nobody.
        """
        return await sign_in.authenticate(self.authority, cookies.session_of(request), request.state.peer)

    async def genuine_form(self, request: Request) -> Form:
        """Read a form of a page that was shown to who is signed in.

        Raises:
            Forged: No page of ours sent it.
        """
        return await self._form(request, cookies.session_of(request))

    async def _form(self, request: Request, secret: str | None) -> Form:
        if request.method != "POST":
            return NOTHING
        form = await read_form(request)
        check_genuine(request, form, secret, origins=self.origins)
        return form

    async def anonymous_form(self, request: Request) -> Form:
        """Read a form of a page that was shown to nobody in particular.

        Raises:
            Forged: No page of ours sent it, or the browser has kept no cookie.
        """
        return await self._form(request, cookies.browser_of(request))

    def render(
        self,
        request: Request,
        template: str,
        context: Mapping[str, Any],
        *,
        status: int = 200,
        form_action: str = "'self'",
    ) -> Response:
        """Write a page.

        Args:
            request: What it answers.
            template: Its file.
            context: What stands in it.
            status: Of HTTP.
            form_action: Where its forms may lead, redirects included (CSP Level 3 §6.4.1).
        """
        text = _TEMPLATES.get_template(template).render(
            {
                "base": self.prefix,
                "path": request.url.path,
                "theme": cookies.theme_of(request),
                "provider": self.provider_name,
                "secure": request.url.scheme == "https",
                "now": self.authority.store.now(),
                "person": None,
                "csrf": "",
                "said": None,
                "wrong": None,
                **context,
            }
        )
        policy = {**POLICY, "form-action": form_action}
        headers = {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "Cache-Control": "no-store",
        }
        return HTMLResponse(text, status, headers)

    def show(
        self, visit: Visit, template: str, *, status: int = 200, form_action: str = "'self'", **context: Any
    ) -> Response:
        """Write a page for the person who is signed in."""
        said = show.SAID.get(visit.request.query_params.get("said", ""))
        shared = {
            "person": visit.person,
            "csrf": visit.csrf,
            "administrator": is_administrator(visit.person),
            "said": said,
        }
        return self.render(
            visit.request, template, {**shared, **context}, status=status, form_action=form_action
        )

    def anonymous(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        form_action: str = "'self'",
        **context: Any,
    ) -> Response:
        """Write a page for nobody in particular, with a form that this browser alone can send."""
        browser = cookies.browser_of(request)
        value = browser or cookies.new_browser()
        answer = self.render(
            request,
            template,
            {"csrf": token_of(value), **context},
            status=status,
            form_action=form_action,
        )
        if browser is None:
            cookies.put(answer, cookies.BROWSER, value)
        return answer

    def go(self, path: str, *, said: str = "") -> Response:
        """Send a browser on after a form, by GET (RFC 9110 §15.4.4; never 307, which would send it on)."""
        query = f"?said={said}" if said else ""
        return RedirectResponse(f"{self.prefix}{path}{query}", 303, {"Cache-Control": "no-store"})

    def to_sign_in(self, request: Request) -> Response:
        """Send somebody who is not signed in to the page for it, and from there back."""
        if request.method != "GET":
            return self.go(SIGN_IN)
        path = request.url.path.removeprefix(self.prefix)
        query = f"?{request.url.query}" if request.url.query else ""
        back = urllib.parse.urlencode({"next": path + query})
        return RedirectResponse(f"{self.prefix}{SIGN_IN}?{back}", 303, {"Cache-Control": "no-store"})

    def forged(self, request: Request) -> Response:
        """Refuse what no page of ours sent."""
        text = (
            "This form was not sent by the page that it belongs to, or the page has been open for too long. "
            "Nothing was changed. Go back, reload the page, and send it again."
        )
        if request.url.scheme != "https":
            text += (
                " Some browsers, such as Safari, keep no secure cookies without TLS: use the https address."
            )
        return self.render(request, "message.html", {"title": "Not sent", "text": text}, status=403)

    def refused(self, request: Request, refusal: Refusal, *, person: Person | None = None) -> Response:
        """Say in words why something was refused."""
        title = _TITLES.get(refusal.reason, "That did not work")
        return self.render(
            request,
            "message.html",
            {"title": title, "text": show.sentence(refusal.message), "signed_in": person is not None},
            status=TABLE[refusal.reason].http,
        )


def _check_text(request: Request) -> None:
    """Let pass addresses of text that every database can look for.

    Raises:
        RequestInvalid: There is a NUL in it.
    """
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise RequestInvalid("no page has this address")


_TITLES = {
    Reason.NOT_FOUND: "There is nothing here",
    Reason.RIGHTS_INSUFFICIENT: "You may not do this",
    Reason.RATE_LIMITED: "Too many tries",
    Reason.BACKEND_UNAVAILABLE: "Not now",
    Reason.CONFLICT: "Somebody was faster",
}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("rpz_auth_server.transport.console"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(show.FILTERS)
_TEMPLATES.globals["version"] = VERSION
