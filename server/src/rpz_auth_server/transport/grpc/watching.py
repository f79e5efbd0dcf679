"""What watchers are told, as messages of a size that every client takes."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.view import AppState, Change, Revocation, SigningKeys

from rpz_auth_server.domain.event import Event, StoredSnapshot
from rpz_auth_server.live.hub import News
from rpz_auth_server.transport.grpc import messages

_PART = 256 * 1024
"""Bytes after which a message is full; with the largest App on top far below what any gRPC client takes."""
_FORGET_STEP = 60
"""Seconds to which the end of a revocation is rounded up, so that many share one."""
M = TypeVar("M", bound=Message)
T = TypeVar("T")


def write_snapshot(snapshot: StoredSnapshot) -> Sequence[pb.WatchResponse]:
    """All of a snapshot but its end."""
    blocks = (pb.Snapshot(revocation_blocks=[block]) for block in _blocks(snapshot.revocations))
    return [pb.WatchResponse(snapshot=part) for part in (*blocks, *_write_apps(snapshot.apps))]


def write_end(news: News, keys: SigningKeys) -> Iterator[pb.WatchResponse]:
    """What has changed since a snapshot was read, and its last part."""
    changes = [event.change for event in news.since]
    revocations = [change for change in changes if isinstance(change, Revocation)]
    for block in _blocks(revocations):
        yield pb.WatchResponse(snapshot=pb.Snapshot(revocation_blocks=[block]))
    for part in _write_apps([change for change in changes if isinstance(change, AppState)]):
        yield pb.WatchResponse(snapshot=part)
    last = pb.Snapshot(keys=messages.write_keys(keys), last=True)
    yield pb.WatchResponse(snapshot=last, cursor=str(news.cursor))


def write_events(events: Sequence[Event], now: float) -> Sequence[pb.WatchResponse]:
    """Events, with the time at which they were written."""
    return [
        pb.WatchResponse(
            events=pb.Events(events=[change for change, _ in part]),
            cursor=str(part[-1][1]),
            time=messages.require_time(now),
        )
        for part in _parts((_write_change(event.change), event.cursor) for event in events)
    ]


def _blocks(revocations: Iterable[Revocation]) -> Iterator[pb.RevocationBlock]:
    """Pack revocations: an identifier costs its own characters, and its end nothing."""
    alike: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for revocation in revocations:
        forget_at = math.ceil(revocation.forget_at / _FORGET_STEP) * _FORGET_STEP
        alike[forget_at, len(revocation.id)].append(revocation.id)
    for (forget_at, length), ids in alike.items():
        size = max(1, _PART // max(1, length))
        for start in range(0, len(ids), size):
            yield pb.RevocationBlock(
                forget_time=Timestamp(seconds=forget_at),
                ids="".join(ids[start : start + size]),
                id_length=length,
            )


def _write_apps(apps: Iterable[AppState]) -> Iterator[pb.Snapshot]:
    for part in _parts(zip(map(messages.write_app_state, apps), itertools.repeat(None))):
        yield pb.Snapshot(apps=[item for item, _ in part])


def _write_change(change: Change) -> pb.Event:
    match change:
        case Revocation():
            return pb.Event(revoked=messages.write_revocation(change))
        case AppState():
            return pb.Event(app=messages.write_app_state(change))
        case SigningKeys():
            return pb.Event(keys=messages.write_keys(change))


def _parts(items: Iterable[tuple[M, T]]) -> Iterator[Sequence[tuple[M, T]]]:
    """Split by size, not by number: the whitelist of one App may be longer than a thousand revocations."""
    part: list[tuple[M, T]] = []
    size = 0
    for item in items:
        part.append(item)
        size += item[0].ByteSize()
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part
