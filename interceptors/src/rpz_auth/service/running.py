"""Running streams: each holds a lease, and loses it when its credential stops to hold.

A stream outlives the decision that let it begin. Its lease asks anew whenever a message passes, and is
called in when nothing passes: by what the view learns, and by the clock. Leases are found by what a change
names, so a revocation costs the same beside ten streams and beside ten thousand.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from rpz_auth.caller import Caller, How
from rpz_auth.decide import Decider, Decision, run
from rpz_auth.errors import BackendUnavailable, Internal, Refusal
from rpz_auth.question import Answer, Question, StandingQuestion
from rpz_auth.service.batches import Batches
from rpz_auth.service.timers import Timers
from rpz_auth.staleness import CHECK, Mode, WhenStale
from rpz_auth.view import AppState, Change, Revocation, Standing

_log = logging.getLogger("rpz_auth")

End = Callable[[Refusal], None]
"""Ends a stream; called at most once, in any thread, and must not block."""
Again = Callable[[], Decision]
"""Makes the decision anew that let a stream begin."""

_PAUSE = 0.25
"""Seconds until the next look at a stream that goes on although its time has come."""
_UNDECIDED = 10.0
"""Seconds for which a stream goes on, after its App has changed, while nobody says what that means for it."""
_QUESTION = 500
"""Streams that one question is about."""


class Lease:
    """The right of one running stream to go on."""

    def __init__(
        self,
        streams: RunningStreams,
        caller: Caller,
        end: End,
        again: Again,
        when_stale: WhenStale,
        observe: End | None,
    ) -> None:
        """Use `RunningStreams.lease`."""
        self.caller = caller
        self.end = end
        self.again = again
        self.when_stale = when_stale
        self.observe = observe
        self.confirmed_at = -math.inf
        """When the authority was last asked about it, on its clock."""
        self.undecided_since = math.inf
        """When a change was learned that it was not decided anew by, on the authority's clock."""
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
        self._doubtful = Batches(self._ask_about_all, name="rpz-auth-doubtful-streams")
        self._changed = Batches(self._decide_anew, name="rpz-auth-changed-streams")
        self._leases: set[Lease] = set()
        self._index: defaultdict[str, set[Lease]] = defaultdict(set)
        self._changing = threading.Lock()
        self._timers = Timers()
        decider.view.follow(self._learn)

    def lease(
        self,
        caller: Caller,
        end: End,
        again: Again,
        *,
        when_stale: WhenStale = CHECK,
        observe: End | None = None,
    ) -> Lease:
        """Let a stream begin.

        Args:
            caller: Who opened it.
            end: Called when it must end before its lease is released.
            again: Makes the decision anew that let it begin.
            when_stale: What becomes of it while what is known may be out of date.
            observe: Told of what would have ended the stream, which goes on.

        Raises:
            Refusal: The credential has stopped to hold since it was decided about.
        """
        lease = Lease(self, caller, end, again, when_stale, observe)
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
            affected = self._leases.copy() if changes is None else self._affected(changes)
        for lease in affected:  # all, before anything that needs a thread and may not get one
            self.recheck(lease)
        for lease in affected:
            if changes is None and not lease.released and not self.decider.view.is_fresh:
                self._arm(lease)  # sooner than its timer runs
            if lease.caller.verdict.how is How.API_TOKEN and not lease.released:
                # What was taken from its App, or from the token's own time, is no part of what was learned.
                lease.undecided_since = min(lease.undecided_since, self.decider.view.now())
                self._changed.add(lease)

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
            return
        self.recheck(lease)
        if lease in self._leases:
            self._arm(lease)

    def _decide_anew(self, leases: Collection[Lease]) -> None:
        for lease in leases:
            if lease not in self._leases:
                continue
            try:
                self._decide_one_anew(lease)
            except Refusal as refusal:
                self._end(lease, refusal)
            except Exception:  # noqa: BLE001 - whatever it is, the stream must not go on
                _log.exception("rpz-auth: a running stream could not be decided about")
                self._end(lease, Internal())

    def _decide_one_anew(self, lease: Lease) -> None:
        since, lease.undecided_since = lease.undecided_since, math.inf
        try:
            admission = run(lease.again(), self._ask)
        except BackendUnavailable:
            lease.undecided_since = since
            self._decide_later(lease)
            return
        before, lease.caller = lease.caller, admission.caller or lease.caller
        if lease.caller.verdict.expires_at < before.verdict.expires_at:
            self._arm(lease)

    def _decide_later(self, lease: Lease) -> None:
        now = self.decider.view.now()
        if lease.when_stale.mode is Mode.SERVE and not self.decider.view.is_fresh:
            lease.undecided_since = (
                now  # until its bound, which `recheck` keeps, it is served without answers
            )
        if now >= lease.undecided_since + _UNDECIDED:
            raise BackendUnavailable
        self._timers.add(_PAUSE, functools.partial(self._changed.add, lease))

    def _ask_about_all(self, doubtful: Collection[Lease]) -> None:
        """Ask about many streams at once: when the authority falls silent, that concerns them all."""
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
