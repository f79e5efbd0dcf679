"""OAuth 2 over HTTPS as clients and browsers speak it, with people whose sign-in the test decides."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from rpz_auth import credentials
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.authorization import AuthorizationRequest
from rpz_auth_server.flows import consents
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from server.authority import CODE_VERIFIER, REDIRECT_URI, Client, TestAuthority, challenge_of
from server.people import a_person, hurried
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

AUTHORIZE, TOKEN, REVOKE = "/oauth/authorize", "/oauth/token", "/oauth/revoke"
INTROSPECT, PUSH, METADATA = "/oauth/introspect", "/oauth/par", "/.well-known/oauth-authorization-server"
FORMS = (TOKEN, REVOKE, INTROSPECT, PUSH)
"""Where clients send forms."""
STATE = "a state"


class FakePeople:
    """People without pages: who is at the browser is set by the test, and its form carries the digest."""

    def __init__(self) -> None:
        self.at_the_browser: Person | None = None
        self.flows: Authority | None = None
        self.remembered: set[str] = set()

    async def come(self, authority: TestAuthority) -> Person:
        """Have somebody sign in at the browser."""
        self.flows = hurried(authority.authority)
        self.at_the_browser = await a_person(self.flows)
        return self.at_the_browser

    async def person(self, _request: Request) -> Person | None:
        return self.at_the_browser

    async def sign_in(self, _request: Request, app: App) -> Response:
        return HTMLResponse(f"sign in for {html.escape(app.display_name)}")

    async def has_allowed(self, _person: Person, asked: AuthorizationRequest) -> bool:
        return asked.digest in self.remembered

    async def ask(self, _request: Request, _person: Person, asked: AuthorizationRequest) -> Response:
        return HTMLResponse(f"allow? {asked.digest}")

    async def answer(
        self, _request: Request, person: Person, asked: AuthorizationRequest, form: Mapping[str, str]
    ) -> bool | None:
        if form.get("digest") != asked.digest:
            return None
        if form.get("decision") != "allow":
            return False
        assert self.flows is not None
        await consents.remember(self.flows, person, asked.app.app_id, asked.scopes, asked.resources)
        return True

    def problem(self, _request: Request, message: str) -> Response:
        return HTMLResponse(html.escape(message), 400)


@dataclass(frozen=True)
class Returned:
    """Where the browser was sent back to, and with what."""

    uri: str
    parameters: dict[str, str]

    @classmethod
    def of(cls, response: httpx.Response) -> Returned:
        """Read a redirect to a client; anything else is a failure of the test."""
        assert response.status_code == 303, response.text
        location = response.headers["location"]
        uri, _, query = location.partition("?")
        pairs = urllib.parse.parse_qsl(query, strict_parsing=True, errors="surrogateescape")
        assert len(dict(pairs)) == len(pairs)
        return cls(uri, dict(pairs))


def authorization(client: Client, **changes: str | None) -> dict[str, str]:
    """What a client sends a browser with; None leaves a parameter out."""
    parameters: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client.app_id,
        "redirect_uri": REDIRECT_URI,
        "scope": "orders.read",
        "state": STATE,
        "code_challenge": challenge_of(CODE_VERIFIER),
        "code_challenge_method": "S256",
        **changes,
    }
    return {name: value for name, value in parameters.items() if value is not None}


async def authorize(
    authority: TestAuthority, client: Client, *, query: str | None = None, **changes: str | None
) -> httpx.Response:
    """Send a browser to the authorization endpoint."""
    text = query if query is not None else urllib.parse.urlencode(authorization(client, **changes))
    return await authority.http.get(f"{AUTHORIZE}?{text}")


async def decide(
    authority: TestAuthority, page: httpx.Response, decision: str = "allow", **form: str
) -> httpx.Response:
    """Fill in the form of the page that asks."""
    digest = page.text.removeprefix("allow? ")
    return await authority.http.post(
        str(page.request.url), data={"digest": digest, "decision": decision, **form}
    )


async def code_of(authority: TestAuthority, client: Client, **changes: str | None) -> str:
    """Let the person at the browser allow what a client asks for; the code that the client gets."""
    page = await authorize(authority, client, **changes)
    return Returned.of(await decide(authority, page)).parameters["code"]


async def post(
    authority: TestAuthority, path: str, client: Client | None = None, **form: Any
) -> httpx.Response:
    """Send a form, the client's credentials in its body."""
    body = {} if client is None else {"client_id": client.app_id}
    if client is not None and client.secret:
        body["client_secret"] = client.secret
    return await authority.http.post(path, data={**body, **form})


async def redeem(authority: TestAuthority, client: Client, code: str, **form: Any) -> httpx.Response:
    """Redeem a code."""
    defaults = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": CODE_VERIFIER,
    }
    return await post(authority, TOKEN, client, **{**defaults, **form})


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and `error` of a refused request."""
    return response.status_code, response.json()["error"]


def basic(user: str, password: str, header: str = "authorization") -> dict[str, str]:
    return {header: credentials.format_basic(urllib.parse.quote(user), urllib.parse.quote(password))}


def claims_of(access_token: str) -> dict[str, Any]:
    payload = access_token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


async def refresh(
    authority: TestAuthority, client: Client, refresh_token: str, **form: str
) -> httpx.Response:
    return await post(
        authority, TOKEN, client, grant_type="refresh_token", refresh_token=refresh_token, **form
    )


async def for_itself(authority: TestAuthority, client: Client, **form: str) -> httpx.Response:
    return await post(authority, TOKEN, client, grant_type="client_credentials", **form)
