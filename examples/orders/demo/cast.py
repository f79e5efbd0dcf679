"""Who takes part in the story, and what each knows of the others."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import rpz_auth
from rpz.auth.v1 import app_service_pb2_grpc, token_service_pb2_grpc
from rpz_auth import credentials

from demo.telling import Endpoint, Metadata


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority, and the administrator that its first start has made."""

    address: str
    issuer: str
    ca_certificate: Path
    administrator: Metadata = field(repr=False)
    tls: grpc.ChannelCredentials
    apps: Endpoint
    tokens: Endpoint

    @classmethod
    def described(cls, bootstrap: dict[str, Any]) -> Authority:
        """Connect as the file of the first start says."""
        ca_certificate = Path(bootstrap["ca_certificate"])
        tls = grpc.ssl_channel_credentials(ca_certificate.read_bytes())
        channel = grpc.secure_channel(bootstrap["grpc_address"], tls)
        return cls(
            address=bootstrap["grpc_address"],
            issuer=bootstrap["issuer"],
            ca_certificate=ca_certificate,
            administrator=with_api_token(bootstrap["app_id"], bootstrap["api_token"]),
            tls=tls,
            apps=Endpoint("authority", app_service_pb2_grpc.AppServiceStub(channel)),
            tokens=Endpoint("authority", token_service_pb2_grpc.TokenServiceStub(channel)),
        )


@dataclass(frozen=True, slots=True)
class App:
    """A registered App with an OAuth 2 secret."""

    app_id: str
    secret: str = field(repr=False)

    @property
    def in_header(self) -> Metadata:
        """Its client credentials as HTTP Basic (RFC 6749 §2.3.1)."""
        return [("authorization", credentials.format_basic(self.app_id, self.secret))]

    @property
    def in_body(self) -> dict[str, str]:
        """Its client credentials as fields of the request."""
        return {"client_id": self.app_id, "client_secret": self.secret}


@dataclass(frozen=True, slots=True)
class Pkce:
    """A secret of one sign-in, of which the authority first learns the digest only (RFC 7636)."""

    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    @property
    def challenge(self) -> str:
        """BASE64URL(SHA256(verifier))."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def with_api_token(app_id: str, api_token: str, *, key: str = "authorization") -> Metadata:
    """What a client sends that has an API token."""
    return [(key, rpz_auth.ApiToken(app_id, api_token).field_value())]


def with_access_token(token: str, *, key: str = "authorization") -> Metadata:
    """What a client sends that has an access token."""
    return [(key, rpz_auth.AccessToken(token).field_value())]
