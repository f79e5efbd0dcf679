"""A small OpenID Connect provider: it authenticates nobody, and tells the truth unless a test has it lie."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import time
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey
from rpz_auth_server.transport.http.server import HttpServer
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router

CLIENT_ID, CLIENT_SECRET = "rpz:auth", "a secret / of + the client"


@dataclass
class SmallProvider:
    """One provider, and who is at the browser."""

    subject: str = "248289761001"
    name: str = "Jane Doe"
    claims: dict[str, Any] = field(default_factory=dict)
    """Which lie."""
    key: Any = None
    """With which ID tokens are signed; the published one if None."""
    algorithm: str = "ES256"
    metadata: dict[str, Any] = field(default_factory=dict)
    document: Any = None
    """In place of its metadata."""
    status: int = 200
    base: str = ""
    issuer: str = ""
    asked: int = 0
    """How often for its metadata."""
    redeeming: int = 0
    """How many have asked for tokens."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether they get any yet; set at first."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    published: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def configuration(self, _request: Request) -> Response:
        self.asked += 1
        described = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "jwks_uri": f"{self.base}/keys",
        }
        if isinstance(self.document, dict):
            described |= self.document
        elif self.document is not None:
            return JSONResponse(self.document)
        return JSONResponse({**described, **self.metadata})

    async def keys(self, _request: Request) -> Response:
        return JSONResponse(KeySet([self.published]).as_dict(private=False))

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = urllib.parse.urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 302)

    async def token(self, request: Request) -> Response:
        form = dict(urllib.parse.parse_qsl((await request.body()).decode()))
        self.redeeming += 1
        await self.may_answer.wait()
        basic = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        user, _, password = basic.partition(":")
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if (
            asked is None
            or (urllib.parse.unquote(user), urllib.parse.unquote(password)) != (CLIENT_ID, CLIENT_SECRET)
            or asked["redirect_uri"] != form["redirect_uri"]
            or asked["code_challenge"] != base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "name": self.name,
            "email": "admin@shop.example",
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": self.algorithm, "kid": "one"}
        id_token = jwt.encode(header, claims, self.key or self.published, algorithms=[self.algorithm])
        answer = {"access_token": "x", "token_type": "Bearer", "id_token": id_token}
        return JSONResponse(answer, self.status)


@contextlib.asynccontextmanager
async def running_provider(ending: str = "") -> AsyncIterator[SmallProvider]:
    """Start one on loopback, whose issuer ends with `ending`."""
    provider = SmallProvider()
    routes = [
        Route("/.well-known/openid-configuration", provider.configuration),
        Route("/keys", provider.keys),
        Route("/authorize", provider.authorize),
        Route("/token", provider.token, methods=["POST"]),
    ]
    server = HttpServer(Router(routes))
    port = server.listen("127.0.0.1:0", None)
    provider.base = f"http://127.0.0.1:{port}"
    provider.issuer = provider.base + ending
    await server.start()
    try:
        yield provider
    finally:
        await server.stop()


def shared_secret() -> OctKey:
    """A key with which an attacker signs who knows public things only."""
    return OctKey.import_key(CLIENT_ID * 8)
