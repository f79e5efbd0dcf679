from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from server.authority import FakeTime, TestAuthority, running_authority
from server.oauth import FakePeople


@pytest.fixture(autouse=True)
def _log_is_left_as_it_was() -> Iterator[None]:
    """Commands set up the log of their process, and this process is that of all tests."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before
    structlog.reset_defaults()


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[TestAuthority]:
    """An authority whose time stands until a test moves it."""
    async with running_authority(tmp_path / "authority", time=FakeTime(), people=FakePeople()) as running:
        yield running
