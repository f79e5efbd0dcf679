"""Streams that are only counted: what a verifier does with one is not the authority's cost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import rpz_auth
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.connection_file import VerifierFile

_WATCH = "/rpz.auth.v1.VerificationService/Watch"
_STREAMS_PER_CHANNEL = 90


class Watcher:
    """One stream."""

    def __init__(self, channel: Any, cursor: str = "") -> None:
        """Open it, to be told what is new since `cursor`, or everything."""
        self.bytes = 0
        self.turned_away = 0
        """Times that grpc refused to queue it: beyond 1,000 calls that wait to begin it turns some away."""
        self._events = 0
        self._ready = False
        self._channel = channel
        self._request = pb.WatchRequest(cursor=cursor).SerializeToString()
        self._open()

    def _open(self) -> None:
        self._call = self._channel.unary_stream(_WATCH)(self._request)

    async def follow(self, events: int) -> None:
        """Read until that many events came, and once until the first heartbeat, with which all is told."""
        while self._events < events or not self._ready:
            try:
                raw = await self._call.read()
            except grpc.aio.AioRpcError as error:
                if self.bytes or error.code() is not grpc.StatusCode.CANCELLED:
                    raise
                self.turned_away += 1
                await asyncio.sleep(0.1)  # it comes again, as verifiers do
                self._open()
                continue
            self.bytes += len(raw)
            message = pb.WatchResponse.FromString(raw)
            self._events += len(message.events.events)
            self._ready = self._ready or message.HasField("heartbeat")


def channels(cleanup: AsyncExitStack, path: Path, count: int) -> list[Any]:
    """Connections for so many streams of one verifier."""
    verifier = VerifierFile.read(path)
    credential = rpz_auth.ApiToken(verifier.app_id, verifier.api_token)
    made = []
    for number in range(-(-count // _STREAMS_PER_CHANNEL)):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.channel_number", number)]
        channel = rpz_auth.aio.secure_channel(
            verifier.grpc_address, credential, tls=verifier.transport(), options=options
        )
        cleanup.push_async_callback(channel.close)
        made.append(channel)
    return made
