"""Waiting for another authority; `tests/e2e/test_move.py` has real ones."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.handover import Stopped, patiently
from rpz_auth_server.serving import _listen_grpc
from rpz_auth_server.transport.grpc.server import GrpcServer
from server.authority import TIMEOUT, TestAuthority


async def test_whoever_waits_for_a_port_ends_when_asked_to() -> None:
    stopping = asyncio.Event()

    def listen() -> int:
        stopping.set()
        raise ConfigurationError("somebody has it")

    with pytest.raises(Stopped):
        await patiently(3600, stopping, listen)


async def test_port_that_is_given_up_late_is_taken_with_tls(authority: TestAuthority) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    settings = authority.settings.model_copy(update={"grpc_address": f"127.0.0.1:{port}"})
    server = GrpcServer(authority.authority, authority.hub, offer_reflection=False)

    def listen() -> int:
        try:
            return _listen_grpc(server, settings)
        except ConfigurationError:
            other.close()
            raise

    try:
        assert await patiently(TIMEOUT, asyncio.Event(), listen) == port
        await server.start()
        async with grpc.aio.secure_channel(f"localhost:{port}", authority.tls) as channel:
            await asyncio.wait_for(channel.channel_ready(), TIMEOUT)
    finally:
        await server.stop(authority.hub)
