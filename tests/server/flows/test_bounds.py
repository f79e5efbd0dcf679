"""How many Apps and API tokens there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.errors import Reason
from server.authority import ORDERS, FakeTime, TestAuthority, outcome, refusal, running_authority
from server.visitor import Visitor

MOST = 3
NOTHING: dict[str, list[str]] = {"scopes": [], "resources": []}
"""What an App may ask for whose owner may give it nothing."""


@pytest.fixture
async def bounded(tmp_path: Path) -> AsyncIterator[TestAuthority]:
    """An authority where there is room for little."""
    async with running_authority(
        tmp_path / "bounded", time=FakeTime(), apps_per_owner=MOST, api_tokens_per_app=MOST
    ) as running:
        yield running


async def test_owner_who_is_no_administrator_has_so_many_apps(bounded: TestAuthority) -> None:
    _, stubs = await bounded.app_with("rpz.apps")
    _, others = await bounded.app_with("rpz.apps")
    apps = [await bounded.create_app(stubs, **NOTHING) for _ in range(MOST)]
    found = await refusal(bounded.create_app(stubs, **NOTHING))
    assert found == Reason.REQUEST_INVALID
    assert found.text == (
        "an owner has at most 3 Apps (the setting apps_per_owner); delete one that is not used, or ask an "
        "administrator"
    )
    await bounded.create_app(others, **NOTHING)
    # What there is can be changed, and an administrator adds to it.
    await bounded.update_app(apps[0].app_id, as_=stubs, display_name="shop 2")
    given = await bounded.create_app(owner=apps[0].owner)
    await stubs.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=given.app_id))
    assert await refusal(bounded.create_app(stubs, **NOTHING)) == Reason.REQUEST_INVALID
    await stubs.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=apps[0].app_id))
    await bounded.create_app(stubs, **NOTHING)


async def test_repeated_creation_needs_no_room(bounded: TestAuthority) -> None:
    _, stubs = await bounded.app_with("rpz.apps")
    for number in range(MOST):
        app = app_pb.App(kind=app_pb.APP_KIND_BACKEND, display_name=f"shop {number}")
        request = app_pb.CreateAppRequest(app=app, request_id=f"00000000-0000-4000-8000-00000000000{number}")
        first = await stubs.apps.CreateApp(request)
    assert await stubs.apps.CreateApp(request) == first


async def test_app_has_so_many_live_api_tokens_whoever_makes_them(bounded: TestAuthority) -> None:
    app = await bounded.create_app()

    async def create(**fields: Any) -> Any:
        return await outcome(bounded.create_api_token(app.app_id, ["orders.read"], [ORDERS], **fields))

    made = [await create() for _ in range(MOST)]
    found = await create()
    assert found == Reason.REQUEST_INVALID
    assert found.text == (
        "an App has at most 3 live API tokens (the setting api_tokens_per_app); revoke one that is not used"
    )
    tokens = bounded.admin.tokens
    request = token_pb.RotateApiTokenRequest(app_id=app.app_id, api_token_id=made[0].record.api_token_id)
    request.overlap.FromSeconds(60)
    assert await refusal(tokens.RotateApiToken(request)) == Reason.REQUEST_INVALID
    request.overlap.FromSeconds(0)  # one for one
    successor = await tokens.RotateApiToken(request)
    assert await create() == Reason.REQUEST_INVALID
    await tokens.RevokeApiToken(
        token_pb.RevokeApiTokenRequest(app_id=app.app_id, api_token_id=successor.record.api_token_id)
    )
    soon = int(bounded.store.now()) + 60
    ending = {"expire_time": {"seconds": soon}}
    assert (await create(**ending)).api_token
    assert await create() == Reason.REQUEST_INVALID
    await bounded.advance(61)
    assert (await create()).api_token


async def test_simultaneous_creations_do_not_pass_the_bound(bounded: TestAuthority) -> None:
    app = await bounded.create_app()
    _, stubs = await bounded.app_with("rpz.apps")

    async def made(calls: list[Any]) -> int:
        found = await asyncio.gather(*map(outcome, calls))
        refused = [each for each in found if each == Reason.REQUEST_INVALID]
        return len(found) - len(refused)

    assert await made([bounded.create_app(stubs, **NOTHING) for _ in range(4 * MOST)]) == MOST
    tokens = [bounded.create_api_token(app.app_id, ["orders.read"], [ORDERS]) for _ in range(4 * MOST)]
    assert await made(tokens) == MOST


async def test_console_says_the_bound_where_somebody_has_typed_one_more(bounded: TestAuthority) -> None:
    visitor = await Visitor.of(bounded)
    await visitor.get("/console/apps/new")
    for _ in range(MOST):
        answer = await visitor.send("/console/apps/new", display_name="shop", kind="frontend")
        assert answer.status_code == 303
        await visitor.get("/console/apps/new")
    answer = await visitor.send("/console/apps/new", display_name="shop", kind="frontend")
    assert (answer.status_code, "at most 3 Apps (the setting apps_per_owner)" in visitor.page) == (400, True)
