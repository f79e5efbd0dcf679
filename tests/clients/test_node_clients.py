"""openid-client and oauth4webapi, as published for Node, against the authority unchanged."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from server.authority import ORDERS, REDIRECT_URI, Client
from support.proxies import missing, program

if TYPE_CHECKING:
    from clients.conftest import Provider

FOLDER = Path(__file__).parent / "node"
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def node() -> str:
    """The program, with the clients installed; without them the test is skipped, or fails in CI."""
    found = program("node")
    if not (FOLDER / "node_modules").is_dir():
        missing("the packages of tests/clients/node are")
    return found


async def run_flow(node: str, provider: Provider, client: Client, **environ: str) -> dict[str, Any]:
    """Run the whole flow in Node, with the browser played here."""
    process = await asyncio.create_subprocess_exec(
        node,
        str(FOLDER / "flow.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "NODE_EXTRA_CA_CERTS": provider.ca,
            "ISSUER": provider.issuer,
            "CLIENT_ID": client.app_id,
            "CLIENT_SECRET": client.secret,
            "REDIRECT_URI": REDIRECT_URI,
            "RESOURCE": ORDERS,
            **environ,
        },
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            url = (await process.stdout.readline()).decode().strip()
            assert url.startswith(provider.issuer), (await process.stderr.read()).decode()
            process.stdin.write((await provider.browse(url) + "\n").encode())
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        story: dict[str, Any] = json.loads(output)
        return story
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("pushed", ["", "yes"])
async def test_r047_a11_openid_client_of_a_backend_goes_all_the_way(
    node: str, provider: Provider, pushed: str
) -> None:
    client = await provider.authority.create_client()
    story = await run_flow(node, provider, client, PUSHED=pushed)
    assert story == {
        "issuer": provider.issuer,
        "first": {"scope": "orders.read", "type": "bearer", "expires_in": 7200},
        "rotated": True,
        "introspected": {
            "active": True,
            "sub": provider.subject,
            "aud": ORDERS,
            "client_id": client.app_id,
        },
        "own": {"scope": "orders.read", "refresh_token": None},
        "revoked": {"active": False},
        "refreshRefused": "invalid_grant",
        "codeAgain": "invalid_grant",
        "mixedUp": "OAUTH_INVALID_RESPONSE",
        "validated": ["code", "iss", "state"],
        "mixedUpAgain": "OAUTH_INVALID_RESPONSE",
    }


async def test_openid_client_of_a_frontend_goes_all_the_way_without_a_secret(
    node: str, provider: Provider
) -> None:
    client = await provider.authority.create_public_client()
    story = await run_flow(node, provider, client)
    assert story["first"] == {"scope": "orders.read", "type": "bearer", "expires_in": 7200}
    assert (story["rotated"], story["refreshRefused"]) == (True, "invalid_grant")
