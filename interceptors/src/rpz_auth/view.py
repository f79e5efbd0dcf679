"""What a verifier knows: signing keys, revocations, the state of Apps, and the authority's time."""

from __future__ import annotations

import heapq
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from rpz_auth.address import Peer
from rpz_auth.caller import Verdict
from rpz_auth.errors import TokenInvalid
from rpz_auth.whitelist import Whitelist

Clock = Callable[[], float]
"""Seconds since the epoch, on the authority's clock."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """An identifier (grant, API token, OAuth 2 secret, single access token) that is refused."""

    id: str
    forget_at: float
    """Seconds since the epoch; until then some access token might still carry the identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """What must be known of an App besides its credentials."""

    app_id: str
    version: int
    locked: bool = False
    deleted: bool = False
    epoch: int = 0
    whitelist: tuple[str, ...] = ()
    query_token_allowed: bool = False
    """Whether its API tokens may travel in a URL (`?token=`)."""
    forget_at: float | None = None
    """Of a deleted App, in seconds since the epoch; until then some access token of it might be alive."""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The public signing keys (RFC 7517 §5) as JSON, and whether the issuer is locked."""

    jwks: str
    locked: bool = False
    """While it is set, every credential of every App is refused."""


Change = Revocation | AppState | SigningKeys
"""What one event can say."""

Follower = Callable[[Sequence[Change] | None], None]
"""Is told of changes after they were taken over; None says that anything may have changed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment.

    Apps that it does not name are unlocked, in epoch 0, unrestricted, and their tokens do not travel in URLs.
    """

    keys: SigningKeys
    revocations: Iterable[Revocation]
    apps: Iterable[AppState]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the authority says of identifiers and Apps when it is asked, read after a durable write."""

    revocations: tuple[Revocation, ...]
    """Of the identifiers asked about, those that are refused."""
    apps: tuple[AppState, ...]
    """All that were asked about."""
    keys: SigningKeys

    def check(self, verdict: Verdict, peer: Peer) -> None:
        """Let a verified credential pass that holds by this answer.

        Beside `View.check`: where the database was restored, the view may hold a higher version of the App.

        Raises:
            TokenInvalid: It was revoked, or its App may not call.
            OriginNotAllowed: The App's whitelist does not have the peer.
        """
        identifiers = {verdict.token_id, verdict.grant_id, verdict.secret_id}
        if self.keys.locked or any(revocation.id in identifiers for revocation in self.revocations):
            raise TokenInvalid
        state = next((state for state in self.apps if state.app_id == verdict.app_id), None)
        if state is None:
            raise TokenInvalid
        _App(state, Whitelist(state.whitelist)).check(verdict, peer)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a view had learned when a question was asked; an answer from before a change must not undo it."""

    snapshots: int
    keys: int


@dataclass(frozen=True, slots=True)
class _App:
    state: AppState
    whitelist: Whitelist

    def check(self, verdict: Verdict, peer: Peer | None) -> None:
        state = self.state
        if state.locked or state.deleted or (verdict.epoch is not None and verdict.epoch < state.epoch):
            raise TokenInvalid
        if peer is not None:
            self.whitelist.check(peer)


class View:
    """What one verifier knows. Written by one thread at a time, read by any without a lock.

    Readers see each entry whole: every change is one assignment to a dictionary or an attribute.

    The writer hands over snapshots and changes in the order of one stream, and `replace` relies on it: a
    snapshot was read after everything that was applied before, so where it is behind what is held, the
    database is not the one it was (a restore, a failover that lost commits) and counts versions anew.
    Holding on to the higher versions would make the view deaf to changes until they are reached again.
    """

    def __init__(self, clock: Clock, *, obeys_lock: bool = True) -> None:
        """Know nothing yet.

        Args:
            clock: Tells the authority's time.
            obeys_lock: Whether `check` refuses all while the issuer is locked. Only the authority itself does
                not: it lets its administrators in, and decides by `locked` about everything else.
        """
        self.now = clock
        self.known = False
        self.locked = False
        self._obeys_lock = obeys_lock
        self.keys: Mapping[str, ECKey] = {}
        self.fresh_until = 0.0
        """On the authority's clock; until then it may be decided from here."""
        self._heard_at = -math.inf
        self._snapshots = 0
        self._lock_changes = 0
        self._key_changes = 0
        self._apps: dict[str, _App] = {}
        self._revoked: dict[str, float] = {}
        self._forgetting: list[tuple[float, str]] = []
        self._deleted: list[tuple[float, str]] = []
        self._writing = threading.Lock()
        self._followers: list[Follower] = []

    def follow(self, follower: Follower) -> None:
        """Have somebody told of every change, in the thread that brings it."""
        self._followers.append(follower)

    def replace(self, snapshot: Snapshot) -> None:
        """Take a snapshot for keys and Apps; what was revoked stays revoked, also when it is not in it.

        Raises:
            ValueError: The keys cannot be read; nothing was taken over.
        """
        keys = _import_keys(snapshot.keys)
        apps: dict[str, _App] = {}
        for state in snapshot.apps:
            _put(apps, state)
        deleted = [
            (app.state.forget_at, app_id) for app_id, app in apps.items() if app.state.forget_at is not None
        ]
        heapq.heapify(deleted)
        with self._writing:
            # First what refuses: a reader in between must not see the new Apps without it.
            for revocation in snapshot.revocations:
                self._revoke(revocation)
            self._take_keys(keys, locked=snapshot.keys.locked)
            self._apps, self._deleted = apps, deleted
            self._snapshots += 1
            self._forget()
            self.known = True
        self._tell(None)

    def apply(self, changes: Iterable[Change]) -> None:
        """Take changes in the order of the stream; of an App's states, an older one never replaces a newer.

        Raises:
            ValueError: Keys cannot be read; what stood before them was taken over.
        """
        changes = tuple(changes)
        try:
            with self._writing:
                for change in changes:
                    match change:
                        case Revocation():
                            self._revoke(change)
                        case AppState():
                            self._put(change)
                        case SigningKeys():
                            self._take_keys(_import_keys(change), locked=change.locked)
                self._forget()
        finally:
            self._tell(changes)

    def moment(self) -> Moment:
        """What is known by now; to be read before a question."""
        return Moment(self._snapshots, self._key_changes)

    def take(self, standing: Standing, asked: Moment) -> None:
        """Take what the authority answered to a question, as far as nothing newer was learned meanwhile.

        Raises:
            ValueError: The keys cannot be read; nothing was taken over.
        """
        keys = _import_keys(standing.keys)
        changes: list[Change] = [*standing.revocations, *standing.apps]
        with self._writing:
            for revocation in standing.revocations:
                self._revoke(revocation)
            if self._snapshots == asked.snapshots:  # versions before and after a snapshot do not compare
                for state in standing.apps:
                    self._put(state)
                if self._key_changes == asked.keys:
                    if (standing.keys.locked, keys.keys()) != (self.locked, self.keys.keys()):
                        changes.append(standing.keys)  # concerns every stream, so only if it is news
                    self._take_keys(keys, locked=standing.keys.locked)
        self._tell(changes)

    def refresh(self, until: float, *, heard_at: float | None = None) -> None:
        """Count as fresh until a moment on the authority's clock.

        Args:
            until: That moment.
            heard_at: When the authority proved that it works; without it, the age stays what it was.
        """
        if heard_at is not None:
            self._heard_at = heard_at
        sooner, self.fresh_until = until < self.fresh_until, until
        if sooner:
            self._tell(None)

    @property
    def age(self) -> float:
        """Seconds since the authority last proved that it works; infinite if it never has."""
        return math.inf if self._heard_at == -math.inf else max(0.0, self.now() - self._heard_at)

    @property
    def is_fresh(self) -> bool:
        """Whether it may be decided from here."""
        return self.known and self.now() <= self.fresh_until

    def check(self, verdict: Verdict, peer: Peer | None) -> None:
        """Let a verified credential pass that still holds, from where its App may call.

        Args:
            verdict: Of the credential.
            peer: Who presents it; None when only the credential is asked about.

        Raises:
            TokenInvalid: It was revoked, its key was dropped, the issuer is locked, or its App was locked,
            deleted or moved to a later epoch.
            OriginNotAllowed: The App's whitelist does not have the peer.
        """
        if (self.locked and self._obeys_lock) or (verdict.kid is not None and verdict.kid not in self.keys):
            raise TokenInvalid
        revoked = self._revoked
        if revoked and (
            verdict.token_id in revoked or verdict.grant_id in revoked or verdict.secret_id in revoked
        ):
            raise TokenInvalid
        app = self._apps.get(verdict.app_id)
        if app is not None:
            app.check(verdict, peer)

    def check_query_token(self, verdict: Verdict) -> None:
        """Let pass what may travel in a URL: an API token for which the authority and its App's state say so.

        Raises:
            TokenInvalid: It is not one of those.
        """
        app = self._apps.get(verdict.app_id)
        if app is None or not (app.state.query_token_allowed and verdict.query_token_allowed):
            raise TokenInvalid

    def version_of(self, app_id: str) -> tuple[int, int]:
        """What changes when answers about an App may: a count of snapshots and locks, its state's version."""
        app = self._apps.get(app_id)
        return self._snapshots + self._lock_changes, 0 if app is None else app.state.version

    def is_revoked(self, identifier: str) -> bool:
        """Tell whether an identifier is among the live revocations."""
        return identifier in self._revoked

    def revocation(self, identifier: str) -> Revocation | None:
        """The live revocation of an identifier."""
        forget_at = self._revoked.get(identifier)
        return None if forget_at is None else Revocation(identifier, forget_at)

    def _take_keys(self, keys: Mapping[str, ECKey], *, locked: bool) -> None:
        if locked and not self.locked:
            self._lock_changes += 1
            self.locked = True
        self.keys = keys
        self._key_changes += 1
        if self.locked and not locked:
            self._lock_changes += 1
            self.locked = False

    def _tell(self, changes: Sequence[Change] | None) -> None:
        for follower in self._followers:
            follower(changes)

    def _revoke(self, revocation: Revocation) -> None:
        # Repeated with another time, it is kept until the later one.
        if self._revoked.get(revocation.id, -math.inf) < revocation.forget_at:
            self._revoked[revocation.id] = revocation.forget_at
            heapq.heappush(self._forgetting, (revocation.forget_at, revocation.id))

    def _put(self, state: AppState) -> None:
        if _put(self._apps, state) and state.forget_at is not None:
            heapq.heappush(self._deleted, (state.forget_at, state.app_id))

    def _forget(self) -> None:
        now = self.now()
        while self._deleted and self._deleted[0][0] < now:
            self._apps.pop(heapq.heappop(self._deleted)[1], None)
        while self._forgetting and self._forgetting[0][0] < now:
            forget_at, identifier = heapq.heappop(self._forgetting)
            if self._revoked[identifier] == forget_at:
                del self._revoked[identifier]


def _put(apps: dict[str, _App], state: AppState) -> bool:
    held = apps.get(state.app_id)
    if held is not None and held.state.version >= state.version:
        return False
    apps[state.app_id] = _App(state, Whitelist(state.whitelist))
    return True


def _import_keys(keys: SigningKeys) -> Mapping[str, ECKey]:
    # Not joserfc's KeySet, which refuses an empty set: when no key is trusted any more, that must be learned.
    try:
        return {
            member["kid"]: ECKey.import_key(member)
            for member in json.loads(keys.jwks)["keys"]
            if member["kty"] == "EC" and member["crv"] == "P-256" and isinstance(member.get("kid"), str)
        }
    except (JoseError, ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("the signing keys are no JWK Set (RFC 7517 §5)") from None
