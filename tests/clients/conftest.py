"""An authority at the very address that its issuer names, for clients that begin with nothing else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rpz_auth_server.transport.tls.development import DevelopmentFiles
from server.authority import TestAuthority, running_authority
from server.oauth import FakePeople, Returned, decide


@dataclass(frozen=True)
class Provider:
    """The authority as the documentation of a client library calls it."""

    authority: TestAuthority
    subject: str

    @property
    def issuer(self) -> str:
        return self.authority.settings.issuer

    @property
    def ca(self) -> str:
        """The file of what clients must trust."""
        return str(DevelopmentFiles.of(self.authority.settings.data_dir).ca)

    async def browse(self, url: str) -> str:
        """Open a URL in the browser, allow what is asked for; where the browser is sent back to."""
        page = await self.authority.http.get(url)
        assert page.text.startswith("allow? "), page.text
        answer = await decide(self.authority, page)
        Returned.of(answer)
        return str(answer.headers["location"])


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    people = FakePeople()
    address = f"127.0.0.1:{port}"
    async with running_authority(tmp_path / "authority", people=people, http_address=address) as authority:
        yield Provider(authority, (await people.come(authority)).subject)
