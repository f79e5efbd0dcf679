from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as pb
from rpz_auth.caller import How, Verdict
from rpz_auth.errors import ScopeInsufficient, TokenInvalid
from rpz_auth_server.flows.rights import check_still_held
from server.authority import ORDERS, STOCK, TestAuthority


@pytest.fixture
async def held(authority: TestAuthority) -> Verdict:
    """What the authority decided when an App's call was let in."""
    app = await authority.create_app(scopes=["orders.read"], resources=[ORDERS])
    return Verdict(
        how=How.API_TOKEN,
        app_id=app.app_id,
        subject=f"app:{app.app_id}",
        scopes=frozenset(app.scopes),
        resources=frozenset(app.resources),
        token_id="",
    )


async def _lock(authority: TestAuthority, app_id: str) -> None:
    await authority.admin.apps.LockApp(pb.LockAppRequest(app_id=app_id))


async def _delete(authority: TestAuthority, app_id: str) -> None:
    await authority.admin.apps.DeleteApp(pb.DeleteAppRequest(app_id=app_id))


async def _take_its_resource(authority: TestAuthority, app_id: str) -> None:
    await authority.update_app(app_id, resources=[STOCK])


@pytest.mark.parametrize("end", [_lock, _delete, _take_its_resource])
async def test_call_that_goes_on_ends_with_its_app_and_what_it_is_for(
    authority: TestAuthority, held: Verdict, end: Any
) -> None:
    await check_still_held(authority.authority, held)
    await end(authority, held.app_id)
    with pytest.raises(TokenInvalid):
        await check_still_held(authority.authority, held)


async def test_call_that_goes_on_ends_with_its_scope(authority: TestAuthority, held: Verdict) -> None:
    await authority.update_app(held.app_id, scopes=["orders.read", "orders.write"])
    await check_still_held(authority.authority, held)
    await authority.update_app(held.app_id, scopes=["orders.write"])
    with pytest.raises(ScopeInsufficient):
        await check_still_held(authority.authority, held)


async def test_call_of_an_app_that_is_gone_does_not_go_on(authority: TestAuthority, held: Verdict) -> None:
    with pytest.raises(TokenInvalid):
        await check_still_held(authority.authority, replace(held, app_id="unknown"))
