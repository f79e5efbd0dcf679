"""The forms that OAuth 2 clients send, read once and strictly (OAuth 2.1 §3.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rpz_auth.credentials import OWN_KEY, STANDARD_KEY
from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.authorization import Parameters, only, parse_query
from rpz_auth_server.domain.refusal import ClientInvalid, RequestInvalid, TargetInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import ClientCredentials
from rpz_auth_server.transport.clients import read_client
from rpz_auth_server.transport.http.answers import BASIC_CHALLENGE, refused
from rpz_auth_server.transport.http.guard import peer_of

_CONTENT_TYPE = "application/x-www-form-urlencoded"
_REPEATABLE = frozenset({"resource"})  # RFC 8707 §2
_NEVER_IN_URLS = frozenset(
    {"client_assertion", "client_secret", "code", "code_verifier", "refresh_token", "subject_token", "token"}
)


@dataclass(frozen=True, slots=True)
class Form:
    """One request's parameters, each there once and not empty."""

    parameters: Parameters = field(repr=False)
    """All of them, as sent."""
    values: Mapping[str, str] = field(repr=False)

    def get(self, name: str) -> str:
        """A parameter's value, empty when it is absent."""
        return self.values.get(name, "")

    def require(self, name: str) -> str:
        """A parameter's value.

        Raises:
            RequestInvalid: It is absent.
        """
        value = self.get(name)
        if not value:
            raise RequestInvalid(f"{name} is missing")
        return value

    @property
    def resource(self) -> str:
        """The one resource that an access token is to be for, empty when none is named.

        Raises:
            TargetInvalid: Several are named; an access token is for one (RFC 9068 §3).
        """
        resources = {value for name, value in self.parameters if name == "resource" and value}
        if len(resources) > 1:
            raise TargetInvalid("name one resource; an access token is for one")
        return next(iter(resources), "")

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that are asked for, perhaps none."""
        return scope.split(self.get("scope"))


Answer = Callable[[Form, ClientCredentials], Awaitable[Response]]
"""What an endpoint does with a form, and with who says to have sent it."""


def endpoint(authority: Authority, answer: Answer) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Serve the forms of clients; a refusal is answered as RFC 6749 §5.2 says, to guessers after a while."""

    async def serve(request: Request) -> Response:
        try:
            return await answer(*await _read(authority, request))
        except Refusal as refusal:
            await authority.limiter.hold_back(refusal, peer_of(request))
            used_header = any(key in request.headers for key in (OWN_KEY, STANDARD_KEY))
            is_challenged = isinstance(refusal, ClientInvalid) and used_header
            return refused(refusal, challenge=BASIC_CHALLENGE if is_challenged else None)

    return serve


async def _read(authority: Authority, request: Request) -> tuple[Form, ClientCredentials]:
    try:
        form = await read_form(request)
        return form, _client(request, form)
    except Refusal as refusal:  # what comes later is counted where clients authenticate
        authority.limiter.refusals.record(refusal.reason)
        raise


async def read_form(request: Request) -> Form:
    """Read a form; unknown parameters are passed over, empty ones absent.

    Raises:
        RequestInvalid: It is no form, not of UTF-8, or has a parameter twice; a secret stands in the URL.
    """
    if any(name in _NEVER_IN_URLS for name, _ in parse_query(request.scope["query_string"])):
        raise RequestInvalid("send secrets in the body, never in the URL (OAuth 2.1 §2.4.1)")
    content_type = request.headers.get("content-type", "").partition(";")[0].strip(" ").lower()
    if content_type != _CONTENT_TYPE:
        raise RequestInvalid(f"send the parameters as {_CONTENT_TYPE}")
    parameters = parse_query(await request.body())
    if not all(_is_text(name) and _is_text(value) for name, value in parameters):
        raise RequestInvalid("the parameters are not text in UTF-8")
    names = {name for name, _ in parameters} - _REPEATABLE
    return Form(parameters, {name: only(parameters, name) or "" for name in names})


def headers_of(request: Request) -> Sequence[tuple[str, str]]:
    """The headers as pairs of text, keys in lower case."""
    return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers.raw]


def _client(request: Request, form: Form) -> ClientCredentials:
    return read_client(
        headers_of(request),
        client_id=form.get("client_id"),
        client_secret=form.get("client_secret"),
        peer=peer_of(request),
    )


def _is_text(text: str) -> bool:
    """Tell whether a text came from UTF-8 and holds no NUL, which some databases cannot store."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
