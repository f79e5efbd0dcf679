"""Authlib's Flask server as its documentation has it: SQLAlchemy's models on SQLite, JWT access tokens."""

from __future__ import annotations

import logging
import pickle
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.integrations.sqla_oauth2 import (
    OAuth2ClientMixin,
    OAuth2TokenMixin,
    create_query_client_func,
    create_save_token_func,
)
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from waitress.server import create_server

from bench.load import take_processor

_CLIENT_ID, _SCOPE = "peer", "orders.read"


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


def _models(db: SQLAlchemy) -> tuple[Any, Any, Any]:
    base: Any = db.Model

    class User(base):  # type: ignore[misc] # made at run time
        id = db.Column(db.Integer, primary_key=True)

        def get_user_id(self) -> int:
            return int(self.id)

    class Client(base, OAuth2ClientMixin):  # type: ignore[misc] # made at run time
        id = db.Column(db.Integer, primary_key=True)

    class Token(base, OAuth2TokenMixin):  # type: ignore[misc] # made at run time
        id = db.Column(db.Integer, primary_key=True)
        user_id = db.Column(db.Integer, db.ForeignKey(User.id))
        access_token = db.Column(db.Text, unique=True, nullable=False)  # a JWT is longer than the mixin's

    return User, Client, Token


def _fill(db: SQLAlchemy, models: tuple[Any, Any, Any], count: int) -> tuple[str, list[str]]:
    user, client_model, token_model = models
    secret, tokens = secrets.token_urlsafe(48), [secrets.token_urlsafe(48) for _ in range(count)]
    db.session.execute(text("PRAGMA journal_mode = WAL"))
    db.create_all()
    db.session.add(user(id=1))
    client = client_model(client_id=_CLIENT_ID, client_secret=secret)
    client.set_client_metadata(
        {
            "grant_types": ["refresh_token"],
            "scope": _SCOPE,
            "token_endpoint_auth_method": "client_secret_post",
        }
    )
    db.session.add(client)
    for token in tokens:
        row = {"client_id": _CLIENT_ID, "user_id": 1, "scope": _SCOPE, "expires_in": 7200}
        db.session.add(token_model(access_token=secrets.token_urlsafe(48), refresh_token=token, **row))
    db.session.commit()
    return secret, tokens


def _make(spec: Spec) -> tuple[Flask, str, list[str]]:
    app, db = Flask(__name__), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{spec.path}"
    db.init_app(app)
    user, client_model, token_model = models = _models(db)
    with app.app_context():
        secret, tokens = _fill(db, models, spec.grants)

    class Refresh(grants.RefreshTokenGrant):  # type: ignore[misc] # it has no types
        INCLUDE_NEW_REFRESH_TOKEN = True
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post",)

        def authenticate_refresh_token(self, refresh_token: str) -> Any:
            token = db.session.query(token_model).filter_by(refresh_token=refresh_token).first()
            return token if token and not token.is_revoked() else None

        def authenticate_user(self, refresh_token: Any) -> Any:
            return db.session.get(user, refresh_token.user_id)

        def revoke_old_credential(self, refresh_token: Any) -> None:
            refresh_token.refresh_token_revoked_at = int(time.time())
            db.session.add(refresh_token)
            db.session.commit()

    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )

    def access_token(client: Any, grant_type: str, user: Any, scope: str) -> str:
        del grant_type
        now = int(time.time())
        claims = {
            "iss": "https://localhost",
            "sub": str(user.id),
            "aud": "https://orders.example",
            "client_id": client.client_id,
            "scope": scope,
            "iat": now,
            "exp": now + 7200,
            "jti": secrets.token_urlsafe(16),
        }
        token: str = jwt.encode(claims, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": "1"})
        return token

    server = AuthorizationServer(
        app,
        query_client=create_query_client_func(db.session, client_model),
        save_token=create_save_token_func(db.session, token_model),
    )
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
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # more wait than it has threads, always
    app, secret, tokens = _make(spec)
    server = create_server(app, host="127.0.0.1", port=0, threads=4)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.buffer.write(pickle.dumps(Ready(server.effective_port, secret, tokens)))
    sys.stdout.buffer.close()
    server.run()
