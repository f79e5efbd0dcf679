"""Channels that send a credential with every call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from rpz_auth import credentials
from rpz_auth.client.credential import Credential, Header, check_sendable
from rpz_auth.client.renewing import RenewingToken
from rpz_auth.errors import ConfigurationError, RpzAuthError


class _StaticPlugin(grpc.AuthMetadataPlugin):
    def __init__(self, header: Header, value: str) -> None:
        self._metadata = ((header, value),)

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback(self._metadata, None)


class _RenewingPlugin(grpc.AuthMetadataPlugin):
    """grpc gives it a thread of its own for each call, on both stacks: waiting here blocks no event loop."""

    def __init__(self, header: Header, credential: RenewingToken) -> None:
        self._header = header
        self._credential = credential

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            value = self._credential.field_value()
        except RpzAuthError as failure:
            callback((), failure)  # the call fails with UNAVAILABLE and this text
        else:
            callback(((self._header, value),), None)


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
    plugin = (
        _RenewingPlugin(header, credential)
        if isinstance(credential, RenewingToken)
        else _StaticPlugin(header, check_sendable(credential))
    )
    return grpc.composite_channel_credentials(
        tls or grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(plugin)
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
