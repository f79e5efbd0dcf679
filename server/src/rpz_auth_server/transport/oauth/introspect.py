"""The introspection endpoint (RFC 7662)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from rpz_auth import How, credentials, scopes
from rpz_auth.caller import Caller, Verdict
from rpz_auth.decide import Decider, run_async
from rpz_auth.errors import CredentialsMissing, Refusal
from rpz_auth.http_status import bearer_challenge
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.refusal import ApiTokenInvalid, RateLimited
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.introspect_for_client import introspect_for_client
from rpz_auth_server.flows.introspect_token import introspect_token
from rpz_auth_server.flows.pipeline import ClientCredentials
from rpz_auth_server.live.local_authority import LocalAuthority
from rpz_auth_server.transport.http.answers import refused
from rpz_auth_server.transport.http.guard import peer_of
from rpz_auth_server.transport.oauth.form import Form, endpoint, headers_of, read_form

_POLICY = scopes(scope.INTROSPECT)


def serve(authority: Authority) -> Callable[[Request], Awaitable[Response]]:
    """Serve those who protect resources, and Apps that ask about tokens of their own.

    The former come as over gRPC, with an access token or API token that has `rpz.introspect`; the latter, and
    resource servers that know OAuth 2 alone, with an App ID and its OAuth 2 secret.
    """
    local = LocalAuthority(authority)
    decider = Decider(authority.view, issuer=authority.issuer, resource=authority.issuer)

    async def authenticate(request: Request) -> Caller:
        decision = decider.decide(_POLICY, headers_of(request), peer_of(request))
        admission = await run_async(decision, local.ask_async)
        if admission.caller is None:  # never, for the policy demands a scope
            raise CredentialsMissing
        return admission.caller

    async def for_caller(request: Request) -> Response:
        try:
            caller = await authenticate(request)
        except Refusal as refusal:
            if not isinstance(
                refusal, ApiTokenInvalid | RateLimited
            ):  # counted where the token was looked at
                authority.limiter.refusals.record(refusal.reason)
            await authority.limiter.hold_back(refusal, peer_of(request))
            return refused(refusal, challenge=bearer_challenge(refusal))
        form = await read_form(request)
        return _write(authority, await introspect_token(authority, caller, form.require("token")))

    async def by_client(form: Form, client: ClientCredentials) -> Response:
        return _write(authority, await introspect_for_client(authority, client, form.require("token")))

    for_client = endpoint(authority, by_client)

    async def introspect(request: Request) -> Response:
        return await (for_caller if _is_caller(request) else for_client)(request)

    return introspect


def _is_caller(request: Request) -> bool:
    """Tell whether the header has what services call with, and not an OAuth 2 client's credentials."""
    try:
        value = credentials.find(headers_of(request))
        parsed = None if value is None else credentials.parse(value)
    except Refusal:
        return False
    match parsed:
        case credentials.Bearer():
            return True
        case credentials.Basic(password=password):
            return password.startswith(HandleKind.API_TOKEN.value)
        case _:
            return False


def _write(authority: Authority, verdict: Verdict | None) -> Response:
    """RFC 7662 §2.2: what is not active is told by nothing else."""
    if verdict is None:
        return JSONResponse({"active": False})
    resources = sorted(verdict.resources)
    written: dict[str, object] = {
        "active": True,
        "scope": " ".join(sorted(verdict.scopes)),
        "client_id": verdict.app_id,
        "token_type": "Bearer" if verdict.how is How.ACCESS_TOKEN else "Basic",
        "iat": int(verdict.issued_at),
        "sub": verdict.subject,
        "aud": resources[0] if len(resources) == 1 else resources,
        "iss": authority.issuer,
        "jti": verdict.token_id,
    }
    if not math.isinf(verdict.expires_at):
        written["exp"] = int(verdict.expires_at)
    return JSONResponse(written)
