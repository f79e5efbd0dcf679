"""The asyncio twin of what differs between the two stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from rpz_auth.client import Credential, Header, channel_credentials
from rpz_auth.client import StaleTokenRetryAsync as StaleTokenRetry

__all__ = ["StaleTokenRetry", "secure_channel"]


def secure_channel(
    target: str,
    credential: Credential,
    *,
    header: Header = "authorization",
    tls: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """Open an asyncio channel; arguments as in `rpz_auth.secure_channel`, and the channel's interceptors."""
    return grpc.aio.secure_channel(
        target,
        channel_credentials(credential, header=header, tls=tls),
        options,
        interceptors=list(interceptors),
    )
