"""Authlib's Flask server on SQLite, as its documentation has it: a row for each token, JWT access tokens."""

from __future__ import annotations

import pickle
import secrets
import signal
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flask import Flask
from waitress.server import create_server

from bench.load import take_processor

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY, client_id TEXT, user_id TEXT, scope TEXT, access_token TEXT UNIQUE,
    refresh_token TEXT UNIQUE, issued_at INTEGER, expires_in INTEGER, revoked_at INTEGER
);
"""


@dataclass(frozen=True, slots=True)
class Spec:
    """How many grants to begin with, and where the database goes."""

    path: str
    grants: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Where it listens without TLS, and with what one renews."""

    port: int
    secret: str = field(repr=False)
    tokens: list[str] = field(repr=False)


class _Client(ClientMixin):  # type: ignore[misc] # it has no types
    def __init__(self, secret: str) -> None:
        self.client_id, self._secret = "peer", secret

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self._secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return endpoint == "token" and method == "client_secret_post"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "refresh_token"


class _Token(TokenMixin):  # type: ignore[misc] # it has no types
    def __init__(self, row: tuple[Any, ...]) -> None:
        self.id, self._client_id, self.user_id, self._scope = row

    def check_client(self, client: _Client) -> bool:
        return bool(self._client_id == client.client_id)

    def get_scope(self) -> str:
        return str(self._scope)


def _make(spec: Spec) -> tuple[Flask, str, list[str]]:
    local, secret = threading.local(), secrets.token_urlsafe(48)

    def database() -> sqlite3.Connection:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(spec.path, isolation_level=None, timeout=30)
            local.connection.execute("PRAGMA synchronous = FULL")
        connection: sqlite3.Connection = local.connection
        return connection

    class Refresh(grants.RefreshTokenGrant):  # type: ignore[misc] # it has no types
        INCLUDE_NEW_REFRESH_TOKEN = True
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post",)

        def authenticate_refresh_token(self, refresh_token: str) -> _Token | None:
            row = database().execute(
                "SELECT id, client_id, user_id, scope FROM tokens"
                " WHERE refresh_token = ? AND revoked_at IS NULL",
                (refresh_token,),
            )
            found = row.fetchone()
            return None if found is None else _Token(found)

        def authenticate_user(self, refresh_token: _Token) -> str:
            return str(refresh_token.user_id)

        def revoke_old_credential(self, refresh_token: _Token) -> None:
            database().execute(
                "UPDATE tokens SET revoked_at = ? WHERE id = ?", (int(time.time()), refresh_token.id)
            )

    def save(token: dict[str, Any], request: Any) -> None:
        database().execute(
            "INSERT INTO tokens (client_id, user_id, scope, access_token, refresh_token, issued_at,"
            " expires_in) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                request.client.client_id,
                request.user,
                token["scope"],
                token["access_token"],
                token["refresh_token"],
                int(time.time()),
                token["expires_in"],
            ),
        )

    database().executescript(_SCHEMA)
    tokens = [secrets.token_urlsafe(48) for _ in range(spec.grants)]
    database().execute("BEGIN")
    database().executemany(
        "INSERT INTO tokens (client_id, user_id, scope, access_token, refresh_token, issued_at, expires_in)"
        " VALUES ('peer', 'user:1', 'orders.read', ?, ?, 0, 7200)",
        [(secrets.token_urlsafe(48), token) for token in tokens],
    )
    database().execute("COMMIT")

    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )

    def access_token(client: _Client, grant_type: str, user: str, scope: str) -> str:
        del grant_type
        now = int(time.time())
        claims = {
            "iss": "https://localhost",
            "sub": user,
            "aud": "https://orders.example",
            "client_id": client.client_id,
            "scope": scope,
            "iat": now,
            "exp": now + 7200,
            "jti": secrets.token_urlsafe(16),
        }
        token: str = jwt.encode(claims, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": "1"})
        return token

    app = Flask(__name__)
    client = _Client(secret)
    server = AuthorizationServer(app, query_client=lambda _id: client, save_token=save)
    server.register_token_generator(
        "default",
        BearerTokenGenerator(
            access_token_generator=access_token,
            refresh_token_generator=lambda **_: secrets.token_urlsafe(48),
            expires_generator=lambda *_: 7200,
        ),
    )
    server.register_grant(Refresh)
    app.add_url_rule("/token", view_func=server.create_token_response, methods=["POST"])
    return app, secret, tokens


def main() -> None:
    """Be the peer."""
    take_processor(0)
    spec = pickle.load(sys.stdin.buffer)  # noqa: S301 - from `Subject`
    app, secret, tokens = _make(spec)
    server = create_server(app, host="127.0.0.1", port=0, threads=4)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.buffer.write(pickle.dumps(Ready(server.effective_port, secret, tokens)))
    sys.stdout.buffer.close()
    server.run()
