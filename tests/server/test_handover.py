"""Waiting for another authority; `tests/e2e/test_move.py` has real ones."""

from __future__ import annotations

import asyncio

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.handover import Stopped, patiently


async def test_whoever_waits_for_a_port_ends_when_asked_to() -> None:
    stopping = asyncio.Event()

    def listen() -> int:
        stopping.set()
        raise ConfigurationError("somebody has it")

    with pytest.raises(Stopped):
        await patiently(3600, stopping, listen)
