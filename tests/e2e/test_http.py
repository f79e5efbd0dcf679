"""One App, one service on HTTP, one authority, and nothing made up in between."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import orders_http as service
import pytest
import rpz_auth
from support.authority import RESOURCE, AuthorityProcess, Client, running_authority
from support.http_servers import serving

TIMEOUT = 30.0
METADATA = "/.well-known/oauth-authorization-server"


class App:
    """An App that knows OAuth 2 and nothing of us."""

    def __init__(self, authority: AuthorityProcess, client: Client) -> None:
        self._client = client
        trusted = ssl.create_default_context(cafile=authority.bootstrap["ca_certificate"])
        self.http = httpx.AsyncClient(
            base_url=authority.url, verify=trusted, timeout=TIMEOUT, trust_env=False
        )

    async def post(self, path: str, **form: str) -> dict[str, Any]:
        answer = await self.http.post(path, data=form, auth=(self._client.app_id, self._client.secret))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = json.loads(answer.text or "{}")
        return found

    async def token(self) -> str:
        answer = await self.post("/oauth/token", grant_type="client_credentials", scope="orders.read")
        return str(answer["access_token"])


async def follow(port: int, token: str, begun: asyncio.Event) -> str:
    """Read a stream of the service until it breaks off."""
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
        url, headers = f"http://127.0.0.1:{port}/orders?every=0.05", {"authorization": f"Bearer {token}"}
        async with client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            try:
                async for _ in answer.aiter_lines():
                    begun.set()
            except httpx.RemoteProtocolError:
                return "broke off"
    return "ended as if whole"


@pytest.mark.timeout(180)
def test_r077_what_is_revoked_over_https_is_refused_over_http_and_its_streams_end(tmp_path: Path) -> None:
    with running_authority(tmp_path / "authority") as authority:
        client = authority.create_client()
        verifier = authority.create_verifier(tmp_path / "orders.json")
        asyncio.run(_story(authority, client, verifier))


async def _story(authority: AuthorityProcess, client: Client, verifier: Path) -> None:
    app = App(authority, client)
    async with app.http, serving(service.build(rpz_auth.connect(str(verifier)))) as port:
        token, other = await app.token(), await app.token()

        async def status(credential: str) -> int:
            url = f"http://127.0.0.1:{port}/orders/7"
            async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as caller:
                answer = await caller.get(url, headers={"authorization": f"Bearer {credential}"})
            return answer.status_code

        assert (await status(token), await status(other)) == (200, 200)
        begun = asyncio.Event()
        following = asyncio.create_task(follow(port, token, begun))
        await asyncio.wait_for(begun.wait(), TIMEOUT)
        await app.post("/oauth/revoke", token=token)
        assert await asyncio.wait_for(following, TIMEOUT) == "broke off"
        assert (await status(token), await status(other)) == (401, 200)
        assert (await app.post("/oauth/introspect", token=other))["sub"] == f"app:{client.app_id}"
        assert (await app.http.get(METADATA)).json()["issuer"] == authority.bootstrap["issuer"]
    assert RESOURCE == service.RESOURCE
