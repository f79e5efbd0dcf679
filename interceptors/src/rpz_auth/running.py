"""Running streams: each holds a lease, and loses it when its credential stops to hold.

A stream outlives the decision that let it begin. Its lease asks anew whenever a message passes, and is
called in when nothing passes: by what the view learns, and by the clock. Leases are found by what a change
names, so a revocation costs the same beside ten streams and beside ten thousand.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rpz_auth.caller import Caller
from rpz_auth.decide import Answer, Decider, Question, StandingQuestion
from rpz_auth.errors import BackendUnavailable, Internal, Refusal
from rpz_auth.staleness import CHECK, WhenStale
from rpz_auth.view import AppState, Change, Revocation, Standing

_log = logging.getLogger("rpz_auth")

End = Callable[[Refusal], None]
"""Ends a stream; called at most once, in any thread, and must not block."""

_PAUSE = 0.25
"""Seconds until the next look at a stream that goes on although its time has come."""
_QUESTION = 500
"""Streams that one question is about."""
_LINGER = 5.0
"""Seconds that the thread of the timers waits for another stream when the last has ended."""


class Lease:
    """The right of one running stream to go on."""

    def __init__(
        self, streams: RunningStreams, caller: Caller, end: End, when_stale: WhenStale, observe: End | None
    ) -> None:
        """Use `RunningStreams.lease`."""
        self.caller = caller
        self.end = end
        self.when_stale = when_stale
        self.observe = observe
        self.confirmed_at = -math.inf
        """When the authority was last asked about it, on its clock."""
        self.released = False
        self.refusal: Refusal | None = None
        """Why the stream was ended."""
        self._streams = streams

    def check(self) -> None:
        """Let a message pass, to the handler or from it.

        Raises:
            Refusal: The credential does not hold any more.
        """
        if self.refusal is None and not self.released:
            self._streams.recheck(self)
        if self.refusal is not None:
            raise self.refusal

    def release(self) -> None:
        """Take note that the stream has ended; a second time does nothing."""
        self._streams.remove(self)


class RunningStreams:
    """All leases of one interceptor."""

    def __init__(self, decider: Decider, ask: Callable[[Question], Answer]) -> None:
        """Have no streams; `decider` says whether a caller may go on, and `ask` asks the authority."""
        self.decider = decider
        self._ask = ask
        self._doubtful: set[Lease] = set()
        self._leases: set[Lease] = set()
        self._index: defaultdict[str, set[Lease]] = defaultdict(set)
        self._changing = threading.Lock()
        self._timers = _Timers()
        decider.view.follow(self._learn)

    def lease(
        self, caller: Caller, end: End, *, when_stale: WhenStale = CHECK, observe: End | None = None
    ) -> Lease:
        """Let a stream begin.

        Args:
            caller: Who opened it.
            end: Called when it must end before its lease is released.
            when_stale: What becomes of it while what is known may be out of date.
            observe: Told of what would have ended the stream, which goes on.

        Raises:
            Refusal: The credential has stopped to hold since it was decided about.
        """
        lease = Lease(self, caller, end, when_stale, observe)
        if not self.decider.view.is_fresh:
            lease.confirmed_at = self.decider.view.now()  # the decision took a question, just now
        with self._changing:
            self._leases.add(lease)
            for name in _names(caller):
                self._index[name].add(lease)
        # After the entry: what comes in between is learned from one or the other.
        lease.check()
        self._arm(lease)
        return lease

    def __len__(self) -> int:
        return len(self._leases)

    def remove(self, lease: Lease) -> bool:
        """Forget a lease; False when it was forgotten before."""
        with self._changing:
            if lease not in self._leases:
                return False
            self._leases.remove(lease)
            lease.released = True
            for name in _names(lease.caller):
                holders = self._index[name]
                holders.discard(lease)
                if not holders:
                    del self._index[name]
        return True

    def recheck(self, lease: Lease) -> None:
        """End a stream whose credential does not hold any more."""
        try:
            self.decider.recheck(lease.caller, lease.when_stale, lease.confirmed_at)
        except Refusal as refusal:
            self._end(lease, refusal)
        except Exception:  # noqa: BLE001 - whatever it is, the stream must not go on
            _log.exception("rpz-auth: a running stream could not be decided about")
            self._end(lease, Internal())

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something that does not block, in the thread of the timers."""
        self._timers.add(seconds, action)

    def _learn(self, changes: Sequence[Change] | None) -> None:
        with self._changing:
            if not self._leases:
                return
            affected = self._leases.copy() if changes is None else self._affected(changes)
        for lease in affected:
            self.recheck(lease)
            if changes is None and not lease.released and not self.decider.view.is_fresh:
                self._arm(lease)  # sooner than its timer runs

    def _affected(self, changes: Iterable[Change]) -> set[Lease]:
        affected: set[Lease] = set()
        for change in changes:
            match change:
                case Revocation(id=name) | AppState(app_id=name):
                    affected |= self._index.get(name, frozenset())
                case _:  # keys change rarely
                    return self._leases.copy()
        return affected

    def _arm(self, lease: Lease) -> None:
        seconds = self.decider.seconds_until_doubt(lease.caller)
        if seconds < math.inf:
            self._timers.add(seconds if seconds > 0 else _PAUSE, lambda: self._look(lease))

    def _look(self, lease: Lease) -> None:
        if lease not in self._leases:
            return
        if self.decider.wants_to_ask(lease.when_stale):
            self._doubtful.add(lease)
            if len(self._doubtful) == 1:
                self._timers.add(0.0, self._ask_about_doubtful)
            return
        self.recheck(lease)
        if lease in self._leases:
            self._arm(lease)

    def _ask_about_doubtful(self) -> None:
        """Ask about many streams at once: when the authority falls silent, that concerns them all."""
        doubtful, self._doubtful = self._doubtful, set()
        running = [lease for lease in doubtful if lease in self._leases]
        for start in range(0, len(running), _QUESTION):
            self._ask_about(running[start : start + _QUESTION])

    def _ask_about(self, leases: Sequence[Lease]) -> None:
        view = self.decider.view
        asked, now = view.moment(), view.now()
        try:
            question = StandingQuestion.about(*(lease.caller.verdict for lease in leases))
            standing = self._ask(replace(question, asked=asked))
        except BackendUnavailable:
            standing = None  # they go on for as long as the last word holds, which is not long
        if isinstance(standing, Standing):
            view.take(standing, asked)
            for lease in leases:
                try:
                    standing.check(lease.caller.verdict, lease.caller.peer)
                except Refusal as refusal:
                    self._end(lease, refusal)
                lease.confirmed_at = now
        for lease in leases:
            self.recheck(lease)
            if lease in self._leases:
                self._arm(lease)

    def _end(self, lease: Lease, refusal: Refusal) -> None:
        if lease.observe is None:
            lease.refusal = refusal
        if self.remove(lease):
            try:
                (lease.observe or lease.end)(refusal)
            except Exception:  # noqa: BLE001 - the streams behind this one must still be ended
                _log.exception("rpz-auth: a running stream could not be ended")


def _names(caller: Caller) -> Iterable[str]:
    verdict = caller.verdict
    names = (verdict.app_id, verdict.token_id, verdict.grant_id, verdict.secret_id)
    return {name for name in names if name is not None}


class _Timers:
    """One thread for all timers of all streams, on both stacks; there is none without timers."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._running = False

    def add(self, seconds: float, action: Callable[[], object]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="rpz-auth-streams", daemon=True).start()
            elif self._due[0][2] is action:
                self._changed.notify()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            try:
                action()
            except Exception:  # noqa: BLE001 - the other streams' timers must still run
                _log.exception("rpz-auth: a timer of a running stream failed")

    def _next(self) -> Callable[[], object] | None:
        idle_until = time.monotonic() + _LINGER
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due:
                    if self._due[0][0] <= now:
                        return heapq.heappop(self._due)[2]
                    self._changed.wait(self._due[0][0] - now)
                elif now < idle_until:
                    self._changed.wait(idle_until - now)
                else:
                    self._running = False
                    return None
