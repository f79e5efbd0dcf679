"""openid-client and oauth4webapi, as published for Node, against the authority unchanged."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from server.authority import ORDERS, REDIRECT_URI, Client

if TYPE_CHECKING:
    from clients.conftest import Provider

FOLDER = Path(__file__).parent / "node"
SCRIPT = Path(__file__).parents[2] / "scripts" / "install-clients"
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, with the clients installed; without it the test is skipped, and fails where CI is set."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        message = "node and npm are missing: install Node 20 or newer"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    _install(tmp_path_factory.getbasetemp().parent)
    return found


def _install(shared: Path) -> None:
    """Install once, also when several processes come at the same time."""
    with (shared / "node-clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (FOLDER / "node_modules" / "openid-client").exists():
            subprocess.run([str(SCRIPT)], check=True, timeout=100)  # noqa: S603 - our own script


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
