"""The stream of committed changes, shared by everybody in this process who follows it."""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
from rpz_auth.errors import BackendUnavailable
from rpz_auth.view import AppState, SigningKeys, Snapshot, Standing, View

from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.app import forget_at
from rpz_auth_server.domain.event import BEGINNING, Cursor, Event, StoredSnapshot
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.storage.store import Store

_log = structlog.get_logger("rpz_auth_server")

_KEPT = 4096
"""Events that a follower may lag behind before it is given a snapshot instead."""
_BATCH = 512
_FRESH_BEATS = 5
_RETRY = 0.5
TASK_NAME = "rpz-auth hub"
"""Of the tasks that follow and beat, so that what they ask can be told from what calls ask."""
_SHARED = 30.0
"""Seconds for which a snapshot is kept for others after somebody was given it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Proof that the database took a write at a time, in seconds since the epoch."""

    time: float


@dataclass(frozen=True, slots=True)
class News:
    """What a follower is told: a snapshot, some events or a heartbeat, and where that leaves it."""

    content: StoredSnapshot | Sequence[Event] | Beat
    cursor: Cursor
    since: Sequence[Event] = ()
    """What has changed since the snapshot was read: it is shared, and may be a little older than its news."""


@dataclass(slots=True)
class _Shared:
    snapshot: StoredSnapshot
    era: int
    used_at: float = 0.0


class Hub:
    """Reads events once for all followers, and beats for as long as the database takes writes."""

    def __init__(self, store: Store, signing: SigningKeyring, *, heartbeat_interval: float) -> None:
        """Follow `store`; `heartbeat_interval` is in seconds."""
        self.view = View(store.now, obeys_lock=False)
        """What the authority itself goes by; no older than what it has told its followers."""
        self.heartbeat_interval = heartbeat_interval
        self._store = store
        self._signing = signing
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._cursor = BEGINNING
        self._era = 0
        self._beat = Beat(0.0)
        self._beaten = BEGINNING
        """Up to where everything was committed before the beat."""
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.moved = asyncio.Event()
        """Set once the database was moved to another, which has ended this authority."""
        self._dismissed = False
        self._locked = False
        self._reading_keys = asyncio.Lock()
        self._shared: _Shared | None = None
        self._sharing = asyncio.Lock()

    @property
    def cursor(self) -> Cursor:
        """Up to where this process has learned of changes."""
        return self._cursor

    async def standing(self, app_ids: Sequence[str], ids: Sequence[str]) -> tuple[Standing, Cursor]:
        """Say what holds, to somebody who learns nothing at the moment; and where that was so.

        Raises:
            BackendUnavailable: The database takes no write, so that what it says may be out of date.
        """
        now = await self._store.heartbeat()
        await self._advance()
        cursor = self._cursor
        revocations = tuple(
            revocation for name in ids if (revocation := self.view.revocation(name)) is not None
        )
        apps = [(name, await self._store.app(name)) for name in app_ids]
        states = tuple(
            AppState(app_id=name, version=0, deleted=True, forget_at=forget_at(now))
            if app is None
            else app.state
            for name, app in apps
        )
        return Standing(revocations, states, self.keys()), cursor

    async def start(self) -> None:
        """Take a first snapshot, then follow in the background.

        Raises:
            BackendUnavailable: The database does not answer, or takes no write.
        """
        await self._take_snapshot()
        await self._pulse()
        self._tasks = [
            asyncio.create_task(work, name=TASK_NAME) for work in (self._follow(), self._keep_beating())
        ]

    @property
    def beat_at(self) -> float:
        """When the database last took a write of this process, in seconds since the epoch."""
        return self._beat.time

    def dismiss(self) -> None:
        """End what `news` tells every follower; each may come back, here or elsewhere."""
        self._dismissed = True
        self._wake()

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def news(self, cursor: Cursor | None) -> AsyncIterator[News]:
        """Tell what is new since a cursor, until dismissed; a snapshot first where that cannot be told.

        A follower that is slow gets everything it missed at once; one that is slower still, a snapshot.
        """
        # Beat before reading: all that was committed before this time is then told before it. A beat from
        # before the follower came would not do, since another process may have written it for a cut-off one.
        told = Beat(await self._store.heartbeat())
        era = self._era
        missed = None if cursor is None else await self._read_events(cursor, _KEPT)
        while cursor is not None and missed:
            cursor = missed[-1].cursor
            yield News(missed, cursor)
            missed = await self._read_events(cursor, _KEPT)
        if cursor is None or missed is None:
            news = await self._share_snapshot()
            cursor = news.cursor
            yield news
        yield News(told, cursor)
        while not self._dismissed:
            waiting = self._news
            # Before events that came after it: while they come without end, there is no other moment for it.
            if told.time < self._beat.time and era == self._era and cursor.sequence >= self._beaten.sequence:
                told = self._beat
                yield News(told, cursor)
            elif era != self._era or cursor.sequence < self._cursor.sequence:
                events = self._since(cursor) if era == self._era else None
                if events is None:
                    era = self._era
                    news = await self._share_snapshot()
                    cursor = news.cursor
                    yield news
                elif events:
                    cursor = events[-1].cursor
                    yield News(events, cursor)
            else:
                await waiting.wait()

    def keys(self) -> SigningKeys:
        """The keys that are published now, and whether the issuer is locked."""
        return SigningKeys(self._signing.jwks(), locked=self._locked)

    async def catch_up(self) -> None:
        """Take over what was committed until now, without waiting to be woken."""
        await self._advance()

    async def _share_snapshot(self) -> News:
        """Give a snapshot that others were given, too, with what has changed since; read one if need be.

        After an outage everybody comes back at once, and reading is what costs.
        """
        async with self._sharing:
            await self._advance()
            since = self._since_shared()
            if self._shared is None or since is None or len(since) > _KEPT // 4:
                self._shared, since = _Shared(await self._read_snapshot(), self._era), ()
            self._shared.used_at = self._store.now()
            snapshot = self._shared.snapshot
        return News(snapshot, since[-1].cursor if since else snapshot.cursor, since)

    def _since_shared(self) -> Sequence[Event] | None:
        if self._shared is None or self._shared.era != self._era:
            return None
        cursor = self._shared.snapshot.cursor
        return () if cursor.sequence >= self._cursor.sequence else self._since(cursor)

    async def _read_snapshot(self) -> StoredSnapshot:
        """Read a snapshot, and then the keys, which are told with it and must not be older."""
        snapshot = await self._store.snapshot()
        await self._read_keys()
        return snapshot

    async def _read_events(self, cursor: Cursor, limit: int) -> Sequence[Event] | None:
        """Read events; one that says that keys have changed comes with what they are now."""
        events = await self._store.events_after(cursor, limit=limit)
        if not events or not any(isinstance(event.change, SigningKeys) for event in events):
            return events
        await self._read_keys()
        return [
            Event(event.cursor, self.keys()) if isinstance(event.change, SigningKeys) else event
            for event in events
        ]

    async def _read_keys(self) -> None:
        """Take over signing keys and lock; one at a time, so that an older state never replaces a newer.

        Raises:
            ConfigurationError: A key does not decrypt. Nothing is told then, and followers grow stale: who
                writes to the database can stop the authority, but not make it publish a key.
        """
        async with self._reading_keys:
            issuer = await self._store.issuer()
            self._signing.replace(await self._store.signing_keys())
            self._locked = issuer is not None and issuer.locked

    async def _take_snapshot(self) -> None:
        snapshot = await self._read_snapshot()
        self._events.clear()
        self._era += 1  # places before and after do not compare
        self._cursor = snapshot.cursor
        self.view.replace(Snapshot(self.keys(), snapshot.revocations, snapshot.apps))
        self._wake()

    def _since(self, cursor: Cursor) -> Sequence[Event] | None:
        """The kept events behind a cursor; None when some of them are not kept any more."""
        start = bisect.bisect_right(self._events, cursor.sequence, key=lambda event: event.cursor.sequence)
        if start == 0 and (not self._events or self._events[0].cursor.sequence != cursor.sequence + 1):
            return None
        return [self._events[index] for index in range(start, len(self._events))]

    async def _follow(self) -> None:
        while True:
            try:
                await self._store.wait_for_events(self._cursor)
                await self._advance()
            except DatabaseMoved:  # sooner than by the next heartbeat: nobody may listen here for long
                self.moved.set()
                return
            except BackendUnavailable:
                await asyncio.sleep(_RETRY)
            except Exception:  # noqa: BLE001 - nobody else would ever see why the stream stands still
                _log.exception("an event could not be taken over")
                await asyncio.sleep(_RETRY)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_interval)
            try:
                await self._pulse()
            except DatabaseMoved:
                self.moved.set()
                return
            except BackendUnavailable as error:
                # Followers hear nothing and grow stale, which is the truth.
                why = str(error.__cause__ or error)
                _log.error("the database takes no writes; no heartbeat was sent", reason=why)
            except Exception:  # noqa: BLE001 - as above; the authority refuses calls until the next one succeeds
                _log.exception("no heartbeat was sent")

    async def _pulse(self) -> None:
        beat = Beat(await self._store.heartbeat())
        await self._advance()  # what was committed before the beat is told before it
        self._beat, self._beaten = beat, self._cursor
        if self._shared is not None and beat.time > self._shared.used_at + _SHARED:
            self._shared = None
        self.view.refresh(beat.time + _FRESH_BEATS * self.heartbeat_interval, heard_at=beat.time)
        self._wake()

    async def _advance(self) -> None:
        # Up to what was committed before, and no further: while changes come without end, whoever waits for
        # this (a heartbeat, a snapshot) must not wait without end, too.
        goal = await self._store.cursor()
        while True:
            events = await self._read_events(self._cursor, _BATCH)
            if events is None:  # another database stands in place of the one that was followed
                await self._take_snapshot()
                return
            if not events:
                return
            # Another task may have advanced meanwhile.
            fresh = [event for event in events if event.cursor.sequence > self._cursor.sequence]
            if fresh:
                self.view.apply([event.change for event in fresh])
                self._events.extend(fresh)
                self._cursor = fresh[-1].cursor
                self._wake()
            if self._cursor.sequence >= goal.sequence:
                return

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
