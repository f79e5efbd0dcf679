from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.address import parse_peer
from rpz_auth.errors import ConfigurationError, OriginNotAllowed, Reason
from rpz_auth.whitelist import Whitelist
from rpz_auth_server import bootstrap
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.serving import open_authority
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.sqlite import SqliteStore
from server.authority import FakeTime, HeldStore, TestAuthority, refusal, running_authority

DAY = 86400
WARNING = "the bootstrap token works"
CONNECTION: dict[str, object] = {
    "grpc_address": "localhost:1",
    "issuer": "https://localhost",
    "insecure": False,
}


def settings_of(data_dir: Path, **fields: Any) -> Settings:
    return Settings(data_dir=data_dir, grpc_address="127.0.0.1:0", **fields)


async def test_a123_first_start_makes_private_files(authority: TestAuthority) -> None:
    folder = authority.settings.data_dir
    modes = {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }
    public = {"tls/ca.pem", "tls/server.pem"}
    assert public < set(modes)
    assert {"keyring.json", "bootstrap.json", "rpz-auth.db", "tls/ca.key", "tls/server.key"} < set(modes)
    assert {name for name, mode in modes.items() if mode & 0o077} <= public
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_bootstrap_file_says_how_to_connect_and_as_whom(authority: TestAuthority) -> None:
    content = authority.bootstrap
    assert content == {
        "kind": "administrator",
        "grpc_address": authority.address,
        "issuer": authority.settings.issuer,
        "ca_certificate": str(authority.settings.data_dir / "tls" / "ca.pem"),
        "insecure": False,
        "app_id": content["app_id"],
        "api_token": content["api_token"],
    }


async def test_second_start_reuses_everything(tmp_path: Path) -> None:
    folder = tmp_path / "authority"

    def state() -> tuple[Any, ...]:
        content = json.loads((folder / "bootstrap.json").read_text())
        kept = {key: value for key, value in content.items() if key != "grpc_address"}
        files = ["keyring.json", "tls/ca.pem", "tls/ca.key", "tls/server.pem", "tls/server.key"]
        return kept, [(folder / name).read_bytes() for name in files]

    async with running_authority(folder) as first:
        client = await first.create_client()
        tokens = await first.sign_in(client)
        keys = first.authority.signing.jwks()
        before = state()
        assert WARNING in first.logged.getvalue()
    async with running_authority(folder) as second:
        assert state() == before
        assert second.bootstrap["grpc_address"] == second.address
        assert second.authority.signing.jwks() == keys
        assert await second.is_alive(tokens.access_token)
        assert (await second.refresh(client, tokens.refresh_token)).access_token
        assert (await second.actions()).count("app.create") == 3  # two of them now, to ask
        assert WARNING in second.logged.getvalue()


async def test_bootstrap_token_works_for_seven_days(authority: TestAuthority) -> None:
    listing = app_pb.ListAppsRequest()
    await authority.advance(7 * DAY - 1)
    await authority.admin.apps.ListApps(listing)
    await authority.advance(1)
    assert await refusal(authority.admin.apps.ListApps(listing)) == Reason.TOKEN_EXPIRED


async def test_bootstrap_administrator_calls_from_loopback_only(authority: TestAuthority) -> None:
    app = await authority.store.inner.app(authority.bootstrap["app_id"])
    assert app is not None
    assert (app.scopes, app.resources) == (scope.OWN, frozenset({authority.settings.issuer}))
    whitelist = Whitelist(app.whitelist)
    for peer in ("ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5", "ipv6:%5B::ffff:127.0.0.1%5D:5"):
        whitelist.check(parse_peer(peer))
    for peer in ("ipv4:192.0.2.1:5", "ipv6:%5B2001:db8::1%5D:5", "ipv6:%5B::%5D:5", "unix:", "x"):
        with pytest.raises(OriginNotAllowed):
            whitelist.check(parse_peer(peer))


@pytest.mark.parametrize("how", ["revoked", "expired", "locked", "deleted"])
async def test_warning_ends_with_the_token(tmp_path: Path, how: str) -> None:
    time = FakeTime()
    async with running_authority(tmp_path / "a", time=time) as first:
        app_id = first.bootstrap["app_id"]
        other, admin = await first.app_with("rpz.admin", "rpz.apps")
        assert other
        match how:
            case "revoked":
                request = token_pb.ListApiTokensRequest(app_id=app_id)
                (token,) = (await admin.tokens.ListApiTokens(request)).api_tokens
                await admin.tokens.RevokeApiToken(
                    token_pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=token.api_token_id)
                )
            case "expired":
                time.passed += 7 * DAY
            case "locked":
                await admin.apps.LockApp(app_pb.LockAppRequest(app_id=app_id))
            case _:
                await admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app_id))
    async with running_authority(tmp_path / "a", time=time) as second:
        assert WARNING not in second.logged.getvalue()
        assert second.bootstrap["app_id"] == app_id


async def test_file_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "a")
    path = settings.data_dir / bootstrap.FILE_NAME
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        await bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION)
        assert path.exists()
        path.unlink()
        await bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION)
        assert not path.exists()
        assert len(await authority.store.apps(owner=None, after="", limit=10)) == 1


def _truncate(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


def _empty(path: Path) -> None:
    path.write_text("")


def _no_token(path: Path) -> None:
    path.write_text(json.dumps({"app_id": "x"}))


def _list(path: Path) -> None:
    path.write_text("[]")


def _number(path: Path) -> None:
    path.write_text(json.dumps({"app_id": 1, "api_token": 2}))


def _bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("damage", [_truncate, _empty, _no_token, _list, _number, _bytes])
async def test_damaged_file_is_an_error_that_names_the_mend(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        await bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION)
        damage(settings.data_dir / bootstrap.FILE_NAME)
        with pytest.raises(ConfigurationError, match="rpz-auth-server bootstrap"):
            await bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION)


async def test_file_that_cannot_be_written_leaves_no_administrator(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        missing = tmp_path / "missing"
        with pytest.raises(ConfigurationError, match=str(missing)):
            await bootstrap.ensure_administrator(authority, missing, CONNECTION)
        assert not await authority.store.apps(owner=None, after="", limit=1)


async def test_missing_key_ring_of_an_existing_database_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        await open_authority(settings, {}, cleanup)
    settings.keyring_path.unlink()
    with pytest.raises(ConfigurationError, match="key ring"):
        bootstrap.open_keyring(settings, {}, is_new=False)
    assert not settings.keyring_path.exists()


async def test_key_ring_of_another_database_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        await open_authority(settings, {}, cleanup)
    settings.keyring_path.unlink()
    KeyRing.create(settings.keyring_path)
    async with AsyncExitStack() as cleanup:
        with pytest.raises(ConfigurationError, match="does not belong to this database"):
            await open_authority(settings, {}, cleanup)


async def test_another_issuer_on_an_existing_database_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as cleanup:
        await open_authority(settings_of(tmp_path / "a"), {}, cleanup)
    async with AsyncExitStack() as cleanup:
        with pytest.raises(ConfigurationError, match="issuer"):
            await open_authority(settings_of(tmp_path / "a", issuer="https://other.example"), {}, cleanup)


async def test_another_issuer_is_refused_with_the_flag_to_add(authority: TestAuthority) -> None:
    data_dir, issuer = authority.settings.data_dir, authority.settings.issuer
    (data_dir / bootstrap.FILE_NAME).unlink()  # the database knows
    async with AsyncExitStack() as cleanup:
        with pytest.raises(ConfigurationError, match=rf"add --issuer {issuer}$"):
            await open_authority(settings_of(data_dir, issuer="https://other.example"), {}, cleanup)
        await open_authority(settings_of(data_dir, issuer=issuer), {}, cleanup)


async def test_database_without_an_issuer_belongs_to_the_one_that_its_keys_decrypt_for(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        keys = authority.signing.jwks()
    with contextlib.closing(sqlite3.connect(settings.database_path)) as connection:
        connection.execute("DELETE FROM issuer")
        connection.commit()
    async with AsyncExitStack() as cleanup:
        with pytest.raises(ConfigurationError, match="issuer"):
            await open_authority(settings_of(tmp_path / "a", issuer="https://other.example"), {}, cleanup)
        authority, _ = await open_authority(settings, {}, cleanup)
        assert await authority.store.issuer() == Issuer(issuer=settings.issuer)
        assert authority.signing.jwks() == keys


async def test_authorities_that_start_at_the_same_moment_found_one(tmp_path: Path) -> None:
    """Each is let past the look that finds the database empty before any of them writes."""
    settings = settings_of(tmp_path / "a")
    looked: list[int] = []
    all_looked = asyncio.Event()

    async def look() -> None:
        looked.append(1)
        if len(looked) == 3:
            all_looked.set()
        await all_looked.wait()

    async def open_store(path: Path) -> Any:
        store = HeldStore(await SqliteStore.open(path))
        store.after["issuer"] = look
        return store

    async with AsyncExitStack() as cleanup:
        opened = await asyncio.gather(
            *(open_authority(settings, {}, cleanup, open_store=open_store) for _ in range(3))
        )
        authorities = [authority for authority, _ in opened]
        assert len(looked) > 3
        assert len(await authorities[0].store.signing_keys()) == 1
        assert len({authority.signing.jwks() for authority in authorities}) == 1


async def test_administrators_that_are_made_at_the_same_moment_are_one(tmp_path: Path) -> None:
    """Two machines share a database, but not the folder; the file of the slower one would open nothing."""
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        held = HeldStore(authority.store)  # type: ignore[arg-type]

        async def let_the_other_be_faster(*_: object) -> None:
            held.before.clear()
            await bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION)

        held.before["commit"] = let_the_other_be_faster
        elsewhere = tmp_path / "b"
        elsewhere.mkdir()
        slower = replace(authority, store=held)
        await bootstrap.ensure_administrator(slower, elsewhere, CONNECTION)
        (app,) = await authority.store.apps(owner=None, after="", limit=10)
        content = json.loads((settings.data_dir / bootstrap.FILE_NAME).read_text())
        assert content["app_id"] == app.app_id
        assert not (elsewhere / bootstrap.FILE_NAME).exists()


async def test_file_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    """The founding of another process goes on while this one waits, so that it finds what was founded."""
    settings = settings_of(tmp_path / "a")
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, {}, cleanup)
        held = HeldStore(authority.store)  # type: ignore[arg-type]
        in_commit, may_commit = asyncio.Event(), asyncio.Event()

        async def hold(*_: object) -> None:
            in_commit.set()
            await may_commit.wait()

        held.before["commit"] = hold
        first = asyncio.create_task(
            bootstrap.ensure_administrator(
                replace(authority, store=held),
                settings.data_dir,
                CONNECTION,
            )
        )
        await in_commit.wait()
        second = asyncio.create_task(bootstrap.ensure_administrator(authority, settings.data_dir, CONNECTION))
        may_commit.set()
        await asyncio.gather(first, second)
        (app,) = await authority.store.apps(owner=None, after="", limit=10)
        content = json.loads((settings.data_dir / bootstrap.FILE_NAME).read_text())
        assert content["app_id"] == app.app_id


def test_key_ring_in_the_environment_needs_no_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "keyring.json"
    KeyRing.create(elsewhere)
    settings = settings_of(tmp_path / "a")
    settings.data_dir.mkdir()
    ring = bootstrap.open_keyring(settings, {ENVIRONMENT_VARIABLE: elsewhere.read_text()}, is_new=True)
    assert ring.numbers == (1,)
    assert not settings.keyring_path.exists()


def test_key_ring_that_another_process_made_in_this_moment_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "a")
    settings.data_dir.mkdir()
    create = KeyRing.create

    def make_first(path: Path) -> KeyRing:
        monkeypatch.undo()
        create(path)
        return create(path)

    monkeypatch.setattr(KeyRing, "create", make_first)
    assert bootstrap.open_keyring(settings, {}, is_new=True).numbers == (1,)
