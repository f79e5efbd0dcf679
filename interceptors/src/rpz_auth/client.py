"""Channels that send a credential with every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc

from rpz_auth import credentials
from rpz_auth.errors import ConfigurationError, Refusal

Header = Literal["authorization", "x-rpz-auth"]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token, sent as `Bearer` (RFC 6750 §2.1)."""

    token: str = field(repr=False)

    def field_value(self) -> str:
        """The header's value."""
        return credentials.format_bearer(self.token)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An App's API token, sent as `Basic` with the App ID as user (RFC 7617)."""

    app_id: str
    token: str = field(repr=False)

    def field_value(self) -> str:
        """The header's value."""
        return credentials.format_basic(self.app_id, self.token)


Credential = AccessToken | ApiToken


class _Plugin(grpc.AuthMetadataPlugin):
    def __init__(self, credential: Credential, header: Header) -> None:
        value = credential.field_value()
        try:
            understood = credentials.parse(value)
        except Refusal:
            understood = None
        match credential:
            case AccessToken(token):
                meant: credentials.Bearer | credentials.Basic = credentials.Bearer(token)
            case ApiToken(app_id, token):
                meant = credentials.Basic(app_id, token)
        # Said now: grpc would fail every call instead, with a text that does not name the mistake.
        if understood != meant or len(value) > credentials.MAX_LENGTH:
            raise ConfigurationError(
                "the credential cannot be sent: it is empty, or has characters that no credential has "
                "(a line's end, a space); was it read from a file?"
            )
        self._metadata = ((header, value),)

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback(self._metadata, None)


def channel_credentials(
    credential: Credential, *, header: Header = "authorization", tls: grpc.ChannelCredentials | None = None
) -> grpc.ChannelCredentials:
    """Add a credential to every call of a TLS channel, synchronous or asyncio.

    Args:
        credential: What to send.
        header: `x-rpz-auth` where the service needs `authorization` for its own downstream.
        tls: How to trust the server; the system's authorities when None.

    Raises:
        ConfigurationError: The header is neither of the two, or the credential cannot be a header's value.
    """
    if header not in (credentials.STANDARD_KEY, credentials.OWN_KEY):
        raise ConfigurationError(f"send the credential in authorization or x-rpz-auth, not in {header!r}")
    return grpc.composite_channel_credentials(
        tls or grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(_Plugin(credential, header))
    )


def secure_channel(
    target: str,
    credential: Credential,
    *,
    header: Header = "authorization",
    tls: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """Open a channel to `target` (`host:port`) over TLS; the rest is as in `channel_credentials`."""
    return grpc.secure_channel(target, channel_credentials(credential, header=header, tls=tls), options)
