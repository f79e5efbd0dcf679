from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from server.authority import FakeTime, TestAuthority, running_authority
from server.oauth import FakePeople


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[TestAuthority]:
    """An authority whose time stands until a test moves it."""
    async with running_authority(tmp_path / "authority", time=FakeTime(), people=FakePeople()) as running:
        yield running
