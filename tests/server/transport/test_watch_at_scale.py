"""Many watchers, many events: what they share, what bounds them, and that all of them agree in the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import rpz_auth
from google.rpc import error_details_pb2, status_pb2
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.connection import messages
from rpz_auth.errors import Reason
from rpz_auth.view import Revocation, View
from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.storage.store import Commit
from server.authority import FakeTime, Stubs, TestAuthority, read_refusal, running_authority

WATCHERS = 50
EVENTS = 20_000
BATCH = 500


class Watcher:
    """Follows the stream as a verifier does, and keeps which identifiers it was told are refused."""

    def __init__(self, stubs: Stubs, view: View | None = None) -> None:
        self.stream: Any = stubs.verification.Watch(pb.WatchRequest())
        self.revoked: set[str] = set()
        self.snapshot: list[pb.Snapshot] = []
        self.cursor = ""
        self.ready = asyncio.Event()
        self._view = view

    async def follow(self, last: str) -> None:
        """Take everything up to an identifier."""
        while last not in self.revoked:
            message = await self.stream.read()
            assert message is not grpc.aio.EOF
            match message.WhichOneof("content"):
                case "snapshot":
                    self.snapshot.append(message.snapshot)
                    if message.snapshot.last:
                        snapshot = messages.read_snapshot(self.snapshot)
                        self.revoked.update(item.id for item in snapshot.revocations)
                        if self._view is not None:
                            self._view.replace(messages.read_snapshot(self.snapshot))
                        self.ready.set()
                case "events":
                    self.revoked.update(event.revoked.id for event in message.events.events)
                    if self._view is not None:
                        self._view.apply(map(messages.read_event, message.events.events))
            self.cursor = message.cursor


async def commit(authority: TestAuthority, ids: Sequence[str]) -> None:
    forget_at = authority.store.now() + 3600
    for start in range(0, len(ids), BATCH):
        events = tuple(Revocation(name, forget_at) for name in ids[start : start + BATCH])
        await authority.store.commit(Commit(events=events))


async def test_a131_twenty_thousand_events_reach_fifty_watchers_who_all_agree_with_the_database(
    authority: TestAuthority,
) -> None:
    _, verifier = await authority.create_verifier()
    views = [View(authority.store.now) for _ in range(2)]
    watchers = [Watcher(verifier, view) for view in (*views, *[None] * (WATCHERS - len(views)))]
    ids = [new_id() for _ in range(EVENTS)]
    following = [asyncio.create_task(watcher.follow(ids[-1])) for watcher in watchers]
    await asyncio.gather(*(watcher.ready.wait() for watcher in watchers))
    await commit(authority, ids)
    await asyncio.gather(*following)
    stored = {revocation.id for revocation in (await authority.store.snapshot()).revocations}
    assert stored == set(ids)
    assert all(watcher.revoked == stored for watcher in watchers)
    assert all(view.is_revoked(name) for view in views for name in ids)
    assert {watcher.cursor for watcher in watchers} == {str(await authority.store.cursor())}
    # What was kept for them is bounded, however much there was to tell.
    assert len(authority.hub._events) == authority.hub._events.maxlen
    for watcher in watchers:
        watcher.stream.cancel()
    gc.collect()


async def test_watchers_who_come_at_once_share_one_snapshot_and_miss_nothing(
    authority: TestAuthority,
) -> None:
    await commit(authority, first := [new_id() for _ in range(600)])
    _, verifier = await authority.create_verifier()
    authority.store.calls.clear()
    watchers = [Watcher(verifier) for _ in range(20)]
    await asyncio.gather(*(watcher.follow(first[-1]) for watcher in watchers))
    assert authority.store.calls.count("snapshot") == 1
    await commit(authority, later := [new_id() for _ in range(100)])
    late = Watcher(verifier)
    await late.follow(later[-1])
    assert late.revoked == {*first, *later}
    assert authority.store.calls.count("snapshot") == 1, "the shared one, with what has changed since"
    assert late.snapshot[-1].last
    for watcher in (*watchers, late):
        watcher.stream.cancel()


async def test_a_snapshot_that_nobody_asks_for_is_let_go(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "authority", time=FakeTime()) as authority:
        await commit(authority, ids := [new_id()])
        _, verifier = await authority.create_verifier()
        watcher = Watcher(verifier)
        await watcher.follow(ids[0])
        assert authority.hub._shared is not None
        watcher.stream.cancel()
        await authority.advance(31)
        assert authority.hub._shared is None


async def test_a_verifier_has_no_more_streams_than_it_may(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "authority", streams_per_verifier=2) as authority:
        _, one = await authority.create_verifier()
        _, other = await authority.create_verifier()
        streams = [one.verification.Watch(pb.WatchRequest()) for _ in range(2)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.verification.Watch(pb.WatchRequest()).read()
        assert read_refusal(error.value) == Reason.RATE_LIMITED
        details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(details).details[1].Unpack(retry)
        assert retry.retry_delay.seconds == 5
        streams.append(other.verification.Watch(pb.WatchRequest()))
        await streams[-1].read()
        for stream in streams:
            stream.cancel()


def test_a_block_that_is_not_made_of_whole_identifiers_is_an_error() -> None:
    for block in (pb.RevocationBlock(ids="abcde", id_length=2), pb.RevocationBlock(ids="ab", id_length=0)):
        parts = [pb.Snapshot(revocation_blocks=[block], keys=pb.SigningKeys(jwks="{}"), last=True)]
        with pytest.raises(rpz_auth.ConfigurationError, match="whole identifiers"):
            list(messages.read_snapshot(parts).revocations)
