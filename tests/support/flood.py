"""A flood: guesses at everything that an authority can be guessed at, as fast as one process can send them.

`python -m support.flood ADDRESS CA_FILE APP_ID SECONDS` prints how many calls were answered with which
reason, as JSON. It has the same address as the rightful client that the flood must not harm: the worst case.
"""

from __future__ import annotations

import asyncio
import collections
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

STREAMS = 64
"""Calls under way at once: one waits for its answer before the next guess."""


def start(authority: AuthorityProcess, app_id: str, seconds: float) -> subprocess.Popen[str]:
    """Flood in a process of its own, which leaves the processor to others."""
    arguments = [authority.address, authority.bootstrap["ca_certificate"], app_id, str(seconds)]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "support.flood", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def _guess(stub: Any, app_id: str) -> Any:
    """One call with something made up, in the name of the App under attack or of none."""
    forged = secrets.token_urlsafe(48)
    name = random.choice((app_id, str(uuid.uuid4())))  # noqa: S311 - no secret
    kinds: list[Callable[[], Any]] = [
        lambda: stub.RevokeToken(
            pb.RevokeTokenRequest(token="x", client_id=name, client_secret=f"rpzs_{forged}")
        ),
        lambda: stub.Refresh(pb.RefreshRequest(refresh_token=f"rpzr_{forged}", client_id=name)),
        lambda: stub.ExchangeToken(pb.ExchangeTokenRequest(code=f"rpzc_{forged}", client_id=name)),
        lambda: stub.ListApiTokens(
            pb.ListApiTokensRequest(),
            metadata=[("authorization", credentials.format_basic(name, f"rpzt_{forged}"))],
        ),
        lambda: stub.ListApiTokens(
            pb.ListApiTokensRequest(), metadata=[("authorization", credentials.format_bearer(forged))]
        ),
    ]
    return random.choice(kinds)()  # noqa: S311 - no secret


async def _flood(address: str, ca: bytes, app_id: str, seconds: float) -> collections.Counter[str]:
    outcomes: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        stub: Any = pb_grpc.TokenServiceStub(channel)

        async def guess_on() -> None:
            while time.monotonic() < end:
                try:
                    await _guess(stub, app_id)
                    outcomes["answered"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[str(rpz_auth.reason_of(error) or error.code().name)] += 1

        await asyncio.gather(*(guess_on() for _ in range(STREAMS)))
    return outcomes


if __name__ == "__main__":
    os.nice(10)
    _address, _ca, _app_id, _seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(_flood(_address, Path(_ca).read_bytes(), _app_id, float(_seconds)))))  # noqa: T201 - its answer
