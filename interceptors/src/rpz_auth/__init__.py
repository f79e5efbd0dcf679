"""Obey an rpz-auth token authority: server interceptors, and credentials for clients.

A service::

    authority = rpz_auth.connect("orders.json")
    auth = rpz_auth.AuthInterceptor(authority, resource="https://orders", services=["orders.v1.OrderService"])
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[auth])

A client::

    channel = rpz_auth.secure_channel("orders.example:443", rpz_auth.ApiToken(app_id, api_token))

One whose access tokens renew by themselves::

    authority = rpz_auth.TokenEndpoint("auth.example:8470")
    credential = rpz_auth.RefreshingToken(authority, rpz_auth.FileStore("grant.json"), client_id=app_id)
    channel = rpz_auth.secure_channel("orders.example:443", credential)

`rpz_auth.aio` has the asyncio twin of `secure_channel`, `rpz_auth.testing` an authority for tests.
"""

from rpz_auth import aio
from rpz_auth.address import Peer
from rpz_auth.authority import Authority
from rpz_auth.caller import Caller, How, caller, peer
from rpz_auth.client import (
    AccessToken,
    ApiToken,
    Credential,
    ExchangingToken,
    FileStore,
    MemoryStore,
    RefreshingToken,
    RefreshTokenStore,
    StaleTokenRetry,
    TokenEndpoint,
    channel_credentials,
    secure_channel,
)
from rpz_auth.connection import Connection, connect
from rpz_auth.errors import (
    BackendUnavailable,
    ConfigurationError,
    CredentialsAmbiguous,
    CredentialsMissing,
    Internal,
    MethodUnknown,
    OriginNotAllowed,
    Reason,
    Refusal,
    RenewalFailed,
    RpzAuthError,
    ScopeInsufficient,
    SignInRequired,
    TokenExpired,
    TokenInvalid,
)
from rpz_auth.grpc import AuthInterceptor
from rpz_auth.policy import PUBLIC, Policy, scopes
from rpz_auth.service.health import AuthStatus, State
from rpz_auth.staleness import CHECK, REFUSE, WhenStale, serve
from rpz_auth.status import reason_of

__all__ = [
    "CHECK",
    "PUBLIC",
    "REFUSE",
    "AccessToken",
    "ApiToken",
    "AuthInterceptor",
    "AuthStatus",
    "Authority",
    "BackendUnavailable",
    "Caller",
    "ConfigurationError",
    "Connection",
    "Credential",
    "CredentialsAmbiguous",
    "CredentialsMissing",
    "ExchangingToken",
    "FileStore",
    "How",
    "Internal",
    "MemoryStore",
    "MethodUnknown",
    "OriginNotAllowed",
    "Peer",
    "Policy",
    "Reason",
    "RefreshTokenStore",
    "RefreshingToken",
    "Refusal",
    "RenewalFailed",
    "RpzAuthError",
    "ScopeInsufficient",
    "SignInRequired",
    "StaleTokenRetry",
    "State",
    "TokenEndpoint",
    "TokenExpired",
    "TokenInvalid",
    "WhenStale",
    "aio",
    "caller",
    "channel_credentials",
    "connect",
    "peer",
    "reason_of",
    "scopes",
    "secure_channel",
    "serve",
]
