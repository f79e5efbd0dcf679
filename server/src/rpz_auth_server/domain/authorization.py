"""What a browser brings to the authorization endpoint, and when an error may be told to the client.

Nothing is told to a redirect URI that is not registered for a known App: those errors end on a page
(RFC 6749 §4.1.2.1). Every other error goes to the client, but only once somebody has signed in, or the
endpoint would redirect anybody to wherever an App's owner likes (RFC 9700 §4.11.2).
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rpz_auth.errors import Refusal, RpzAuthError
from rpz_auth.http_status import error_description, error_of

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.grant import check_code_challenge
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.domain.refusal import RequestInvalid, ScopeInvalid, TargetInvalid
from rpz_auth_server.domain.uri import redirect_uri_is

Parameters = Sequence[tuple[str, str]]
"""Names and values as decoded, in their order, with those that are empty or there twice."""

NAMES = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "request",
        "request_uri",
        "resource",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)
"""All that this endpoint reads; others are passed over (RFC 6749 §3.1)."""
_REPEATABLE = frozenset({"resource"})  # RFC 8707 §2


class Unredirectable(RpzAuthError):  # noqa: N818 - an answer, not a fault
    """An error for the person at the browser; the message contains nothing that was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """A request that is right in all but one thing: nobody has allowed it yet."""

    app: App
    redirect_uri: str
    scopes: frozenset[str]
    resources: frozenset[str]
    state: str | None
    code_challenge: str
    code_challenge_method: str
    pushed: PushedRequest | None = None

    @property
    def digest(self) -> str:
        """Stands for all that a person decides about, so that a decision counts for nothing else (A150)."""
        content = [
            self.app.app_id,
            self.redirect_uri,
            sorted(self.scopes),
            sorted(self.resources),
            self.state,
            self.code_challenge,
            self.code_challenge_method,
            self.pushed.request_id if self.pushed else None,
        ]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationError:
    """A request that is wrong, by a client that may be told (RFC 6749 §4.1.2.1)."""

    app: App
    redirect_uri: str
    state: str | None
    error: str
    description: str
    pushed: PushedRequest | None = None


def parse_query(query: bytes | str) -> Parameters:
    """Decode a query or form of `application/x-www-form-urlencoded`.

    Bytes that are not UTF-8 survive as they are, so that `state` goes back as it came (R045).

    Raises:
        RequestInvalid: It is none, or has more than 100 parameters.
    """
    try:
        text = query.decode("ascii") if isinstance(query, bytes) else query
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, errors="surrogateescape", max_num_fields=100, separator="&"
        )
    except ValueError:
        raise RequestInvalid("the parameters are not application/x-www-form-urlencoded") from None
    return tuple(pairs)


def only(parameters: Parameters, name: str) -> str | None:
    """The value of a parameter; an empty one counts as absent (OAuth 2.1 §3.1).

    Raises:
        RequestInvalid: It is there more than once (OAuth 2.1 §3.1).
    """
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise RequestInvalid("a parameter is there more than once")  # its name is the client's own words
    return values[0] or None if values else None


def read(
    parameters: Parameters, app: App | None, pushed: PushedRequest | None = None
) -> AuthorizationRequest | AuthorizationError:
    """Judge a request.

    Args:
        parameters: As sent.
        app: The one of `client_id`, None if there is none.
        pushed: The record that the parameters come from, if they were sent ahead.

    Raises:
        Unredirectable: The client is unknown or locked, or the redirect URI is not one of its own.
    """
    if app is None or app.deleted or app.locked:
        raise Unredirectable("There is no such App, or it is locked. Tell whoever sent you here.")
    try:
        redirect_uri = only(parameters, "redirect_uri")
        only(parameters, "client_id")
    except RequestInvalid:
        raise Unredirectable("The request names its App or where to return to more than once.") from None
    if redirect_uri is None or not any(
        redirect_uri_is(registered, redirect_uri) for registered in app.redirect_uris
    ):
        raise Unredirectable("The App asked to return to an address that is not registered for it.")
    states = [value for name, value in parameters if name == "state"]
    state = states[0] or None if len(states) == 1 else None
    try:
        return _read(parameters, app, redirect_uri, state, pushed)
    except _Told as told:
        error, description = told.error, str(told)
    except Refusal as refusal:
        error, description = error_of(refusal), error_description(refusal)
    return AuthorizationError(
        app=app,
        redirect_uri=redirect_uri,
        state=state,
        error=error,
        description=description,
        pushed=pushed,
    )


class _Told(Exception):  # noqa: N818 - an answer, not a fault
    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


def _read(
    parameters: Parameters, app: App, redirect_uri: str, state: str | None, pushed: PushedRequest | None
) -> AuthorizationRequest:
    for name, count in Counter(name for name, _ in parameters).items():
        if count > 1 and name in NAMES - _REPEATABLE:
            raise RequestInvalid(f"{name} is there more than once")
    if only(parameters, "request") is not None:
        raise _Told("request_not_supported", "send the parameters themselves, or push them (RFC 9126)")
    response_type = only(parameters, "response_type")
    if response_type is None:
        raise RequestInvalid("response_type is missing; send response_type=code")
    if response_type != "code":
        raise _Told("unsupported_response_type", "this authority offers response_type=code only")
    if only(parameters, "response_mode") not in (None, "query"):
        raise RequestInvalid("this authority offers response_mode=query only")
    if app.require_pushed_authorization_requests and pushed is None:
        raise RequestInvalid("this App must push its authorization requests (RFC 9126)")
    challenge = only(parameters, "code_challenge") or ""
    method = only(parameters, "code_challenge_method") or ""
    if not (app.pkce_exempt and app.kind is AppKind.BACKEND and not challenge and not method):
        check_code_challenge(challenge, method)
    return AuthorizationRequest(
        app=app,
        redirect_uri=redirect_uri,
        scopes=_scopes(parameters, app),
        resources=_resources(parameters, app),
        state=state,
        code_challenge=challenge,
        code_challenge_method=method,
        pushed=pushed,
    )


def _scopes(parameters: Parameters, app: App) -> frozenset[str]:
    scopes = scope.split(only(parameters, "scope") or "")
    if not scopes:
        raise ScopeInvalid("name the scopes that are asked for; there is no default")
    if not scopes <= app.scopes or any(name.startswith(scope.RESERVED_PREFIX) for name in scopes):
        raise ScopeInvalid
    return scopes


def _resources(parameters: Parameters, app: App) -> frozenset[str]:
    named = frozenset(value for name, value in parameters if name == "resource" and value)
    resources = named or (app.resources if len(app.resources) == 1 else frozenset())
    if not resources or not resources <= app.resources:
        raise TargetInvalid("name resources that are registered for the App")
    return resources


def response_uri(redirect_uri: str, issuer: str, state: str | None, **parameters: str) -> str:
    """Where to send the browser back to, with `state` as it came and the issuer (RFC 9207 §2).

    The query that was registered stays as it is (RFC 6749 §3.1.2).
    """
    answer = dict(parameters)
    if state is not None:
        answer["state"] = state
    answer["iss"] = issuer
    encoded = urllib.parse.urlencode(answer, errors="surrogateescape", quote_via=urllib.parse.quote)
    joint = "" if redirect_uri.endswith(("?", "&")) else "&" if "?" in redirect_uri else "?"
    return f"{redirect_uri}{joint}{encoded}"
