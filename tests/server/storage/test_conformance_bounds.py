"""What every store must do about bounds; a backend joins in conftest.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rpz_auth_server.domain.bound import ApiTokensOfApp, AppsOfOwner, Bound
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.storage.store import Commit, Row, Store
from server.storage.build import APP_ID, NOW, a_secret, an_api_token, an_app, new_id

if TYPE_CHECKING:
    from server.storage.conftest import Backend


async def test_only_live_apps_of_the_owner_count(store: Store) -> None:
    bound = AppsOfOwner("user:1", 2)
    mine, gone = (
        an_app(app_id=new_id(), owner="user:1"),
        an_app(app_id=new_id(), owner="user:1", deleted=True),
    )
    await store.commit(Commit(rows=(an_app(owner="user:2"), mine, gone)))
    second, third = (an_app(app_id=new_id(), owner="user:1") for _ in range(2))
    await store.commit(Commit(rows=(second,), bounds=(bound,)))
    with pytest.raises(RequestInvalid, match=r"at most 2 Apps .*apps_per_owner"):
        await store.commit(Commit(rows=(third, a_secret(app_id=third.app_id)), bounds=(bound,)))
    assert await store.app(third.app_id) is None
    await store.commit(Commit(rows=(replace(mine, deleted=True, version=2),)))
    await store.commit(Commit(rows=(third,), bounds=(bound,)))


async def test_only_live_api_tokens_of_the_app_count(store: Store) -> None:
    bound = ApiTokensOfApp(APP_ID, 2)
    other = an_app(app_id=new_id())
    dead = (
        an_api_token(expires_at=NOW),
        an_api_token(revoked_at=NOW),
        an_api_token(revoked_at=NOW, expires_at=NOW + 9),
        an_api_token(app_id=other.app_id),
    )
    await store.commit(Commit(rows=(an_app(), other, *dead)))
    lasting, ending = an_api_token(), an_api_token(expires_at=NOW + 9)
    for token in (lasting, ending):
        await store.commit(Commit(rows=(token,), bounds=(bound,)))
    for token in (an_api_token(), an_api_token(expires_at=NOW + 9)):
        with pytest.raises(RequestInvalid, match=r"at most 2 live API tokens .*api_tokens_per_app"):
            await store.commit(Commit(rows=(token,), bounds=(bound,)))
        assert await store.api_token(token.api_token_id) is None
    await store.commit(Commit(rows=(replace(ending, revoked_at=NOW, version=2),)))
    await store.commit(Commit(rows=(an_api_token(),), bounds=(bound,)))


@pytest.mark.parametrize("kind", ["apps", "api tokens"])
async def test_bound_holds_among_processes_that_write_at_the_same_time(backend: Backend, kind: str) -> None:
    stores = [await backend.open() for _ in range(3)]
    await stores[0].commit(Commit(rows=(an_app(),)))

    def one_more() -> tuple[Row, Bound]:
        if kind == "apps":
            return an_app(app_id=new_id(), owner="user:new"), AppsOfOwner("user:new", 5)
        return an_api_token(), ApiTokensOfApp(APP_ID, 5)

    async def write(store: Store) -> None:
        row, bound = one_more()
        await store.commit(Commit(rows=(row,), bounds=(bound,)))

    found = await asyncio.gather(*(write(stores[number % 3]) for number in range(30)), return_exceptions=True)
    assert sorted(str(type(each)) for each in found) == sorted(
        [str(type(None))] * 5 + [str(RequestInvalid)] * 25
    )
