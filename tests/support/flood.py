"""A flood: guesses at everything that an authority can be guessed at.

Some guessers wait for each answer before the next guess. Another sends so many guesses a second whatever
becomes of them, or as many as it can, and gives up on each after a second.

`python -m support.flood ADDRESS CA_FILE APP_ID SECONDS RATE` prints how many calls were answered with which
reason, as JSON. It has the same address as the rightful client that the flood must not harm: the worst case.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import rpz_auth
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2_grpc as pb_grpc
from rpz_auth import credentials

from support.authority import AuthorityProcess

WAITING = 64
"""Guessers that wait for their answers."""

_PATIENCE = 1.0
_CONNECTIONS = 4


def start(
    authority: AuthorityProcess, app_id: str, seconds: float, *, rate: float = 200.0
) -> subprocess.Popen[str]:
    """Flood in a process of its own, which leaves the processor to others.

    Args:
        authority: Under attack.
        app_id: Under attack.
        seconds: For so long.
        rate: Guesses a second that wait for no answer.
    """
    arguments = [authority.address, authority.bootstrap["ca_certificate"], app_id, str(seconds), str(rate)]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "support.flood", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def _guess(stub: Any, app_id: str, timeout: float | None) -> Any:
    """One call with something made up, in the name of the App under attack or of none."""
    forged = secrets.token_urlsafe(48)
    name = random.choice((app_id, str(uuid.uuid4())))  # noqa: S311 - no secret
    kinds: list[Callable[[], Any]] = [
        lambda: stub.RevokeToken(
            pb.RevokeTokenRequest(token="x", client_id=name, client_secret=f"rpzs_{forged}"), timeout=timeout
        ),
        lambda: stub.Refresh(
            pb.RefreshRequest(refresh_token=f"rpzr_{forged}", client_id=name), timeout=timeout
        ),
        lambda: stub.ExchangeToken(
            pb.ExchangeTokenRequest(code=f"rpzc_{forged}", client_id=name), timeout=timeout
        ),
        lambda: stub.ListApiTokens(
            pb.ListApiTokensRequest(),
            metadata=[("authorization", credentials.format_basic(name, f"rpzt_{forged}"))],
            timeout=timeout,
        ),
        lambda: stub.ListApiTokens(
            pb.ListApiTokensRequest(),
            metadata=[("authorization", credentials.format_bearer(forged))],
            timeout=timeout,
        ),
    ]
    return random.choice(kinds)()  # noqa: S311 - no secret


async def _flood(
    address: str, ca: bytes, app_id: str, seconds: float, rate: float
) -> collections.Counter[str]:
    outcomes: collections.Counter[str] = collections.Counter()
    begun = time.monotonic()
    end = begun + seconds
    async with contextlib.AsyncExitStack() as cleanup:
        stubs: list[Any] = []
        for _ in range(_CONNECTIONS):
            channel = grpc.aio.secure_channel(
                address, grpc.ssl_channel_credentials(ca), [("grpc.use_local_subchannel_pool", 1)]
            )
            stubs.append(pb_grpc.TokenServiceStub(await cleanup.enter_async_context(channel)))

        async def guess(stub: Any, patience: float | None) -> None:
            try:
                await _guess(stub, app_id, patience)
                outcomes["answered"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[str(rpz_auth.reason_of(error) or error.code().name)] += 1

        async def guess_on() -> None:
            while time.monotonic() < end:
                await guess(stubs[0], None)

        async with asyncio.TaskGroup() as guessers:
            for _ in range(WAITING):
                guessers.create_task(guess_on())
            for number in itertools.count():
                await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
                if time.monotonic() >= end:
                    break
                guessers.create_task(guess(stubs[number % _CONNECTIONS], _PATIENCE))
    return outcomes


if __name__ == "__main__":
    os.nice(10)
    _address, _ca, _app_id, _seconds, _rate = sys.argv[1:]
    _certificate = Path(_ca).read_bytes()
    print(json.dumps(asyncio.run(_flood(_address, _certificate, _app_id, float(_seconds), float(_rate)))))  # noqa: T201 - its answer
