"""What a client installs: credentials, some of which renew by themselves, and channels that send them."""

from rpz_auth.client.channel import channel_credentials, secure_channel
from rpz_auth.client.credential import AccessToken, ApiToken, Credential, Header
from rpz_auth.client.endpoint import TokenEndpoint
from rpz_auth.client.exchanging import ExchangingToken
from rpz_auth.client.refreshing import RefreshingToken
from rpz_auth.client.retry import StaleTokenRetry, StaleTokenRetryAsync
from rpz_auth.client.store import FileStore, MemoryStore, RefreshTokenStore

__all__ = [
    "AccessToken",
    "ApiToken",
    "Credential",
    "ExchangingToken",
    "FileStore",
    "Header",
    "MemoryStore",
    "RefreshTokenStore",
    "RefreshingToken",
    "StaleTokenRetry",
    "StaleTokenRetryAsync",
    "TokenEndpoint",
    "channel_credentials",
    "secure_channel",
]
