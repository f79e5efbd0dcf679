"""Authorities that were founded and stopped, a copy for each test to spoil."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rpz_auth_server.doctor.command import examine
from rpz_auth_server.doctor.finding import Finding, State
from server.authority import running_authority

NOBODY_LISTENS = "127.0.0.1:1"


class Patient:
    """An authority's directory, and what the doctor says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "rpz-auth.db"

    def examine(
        self,
        *,
        user: int | None = None,
        now: float | None = None,
        environ: Mapping[str, str] | None = None,
        **flags: Any,
    ) -> list[Finding]:
        """Look at everything; nobody listens unless flags say otherwise."""
        addresses = {"grpc_address": NOBODY_LISTENS, "http_address": NOBODY_LISTENS}
        given = {"data_dir": self.folder, **addresses, **flags}
        return asyncio.run(examine(given, environ or {}, user=user, now=now))

    def problems(self, check: str, **options: Any) -> list[tuple[State, str]]:
        """What is wrong by one check."""
        return problems(self.examine(**options), check)


def problems(findings: Sequence[Finding], check: str) -> list[tuple[State, str]]:
    """What is wrong by one check; each says what to do."""
    found = [finding for finding in findings if finding.check == check and finding.state is not State.OK]
    assert all(finding.mend for finding in found)
    return [(finding.state, finding.found) for finding in found]


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "data"

    async def found() -> None:
        async with running_authority(folder):
            pass

    asyncio.run(found())
    return folder


@pytest.fixture
def patient(founded: Path, tmp_path: Path) -> Patient:
    umask = os.umask(0o077)
    try:
        return Patient(Path(shutil.copytree(founded, tmp_path / "data")))
    finally:
        os.umask(umask)
