"""What a verifier knows, and how changes get into it."""

from __future__ import annotations

import ipaddress
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey
from rpz_auth.address import UNKNOWN, Peer
from rpz_auth.caller import How, Verdict
from rpz_auth.errors import OriginNotAllowed, Refusal, TokenInvalid
from rpz_auth.view import AppState, Change, Revocation, SigningKeys, Snapshot, Standing, View
from support.clock import Clock

APP, OTHER_APP = "app-1", "app-2"
INSIDER, OUTSIDER = Peer(ipaddress.ip_address("10.0.0.1")), Peer(ipaddress.ip_address("192.0.2.1"))


def _public(kid: str, curve: Any = "P-256") -> dict[str, Any]:
    return dict(ECKey.generate_key(curve, {"kid": kid}).as_dict(private=False))


def _keys(*members: Any) -> SigningKeys:
    return SigningKeys(json.dumps({"keys": members}))


KEY_1, KEY_2 = _public("k1"), _public("k2")
KEYS = _keys(KEY_1)

TOKEN = Verdict(
    how=How.ACCESS_TOKEN,
    app_id=APP,
    subject="user-1",
    scopes=frozenset({"orders.read"}),
    resources=frozenset({"https://orders"}),
    token_id="jti-1",
    grant_id="grant-1",
    secret_id="secret-1",
    epoch=0,
    kid="k1",
)
API_TOKEN = Verdict(
    how=How.API_TOKEN,
    app_id=APP,
    subject=f"app:{APP}",
    scopes=frozenset(),
    resources=frozenset(),
    token_id="token-1",
)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def view(clock: Clock) -> View:
    view = View(clock)
    view.replace(Snapshot(KEYS, (), ()))
    return view


def _answer(view: View, verdict: Verdict = TOKEN, peer: Peer | None = INSIDER) -> type[Refusal] | None:
    try:
        view.check(verdict, peer)
    except Refusal as refusal:
        return type(refusal)
    return None


def _app(version: int, **state: Any) -> AppState:
    return AppState(app_id=APP, version=version, **state)


# Apps


def test_an_app_that_nothing_is_known_of_is_unlocked_in_epoch_0_and_unrestricted(view: View) -> None:
    assert [_answer(view, TOKEN, peer) for peer in (INSIDER, OUTSIDER, UNKNOWN)] == [None] * 3
    assert _answer(view, API_TOKEN, UNKNOWN) is None


@pytest.mark.parametrize("verdict", [TOKEN, API_TOKEN])
@pytest.mark.parametrize("state", [{"locked": True}, {"deleted": True}])
def test_a_locked_or_deleted_app_is_refused_whole_and_others_are_not(
    view: View, verdict: Verdict, state: dict[str, bool]
) -> None:
    view.apply([_app(2, **state)])
    assert _answer(view, verdict) is TokenInvalid
    assert _answer(view, replace(verdict, app_id=OTHER_APP)) is None


@pytest.mark.parametrize("verdict", [TOKEN, API_TOKEN])
def test_locked_issuer_refuses_all_and_unlocked_what_still_has_a_key(view: View, verdict: Verdict) -> None:
    version = view.version_of(APP)
    view.apply([SigningKeys(_keys(KEY_1).jwks, locked=True)])
    assert view.locked
    assert _answer(view, verdict, None) is TokenInvalid
    # What was learned of API tokens before must be asked anew, by whoever does not obey the lock, too.
    assert view.version_of(APP) != version
    version = view.version_of(APP)
    view.apply([KEYS])
    assert _answer(view, verdict) is None
    assert view.version_of(APP) != version
    version = view.version_of(APP)
    view.apply([_keys(KEY_1, KEY_2)])
    assert view.version_of(APP) == version  # a rotation is no reason to ask anew


def test_lock_comes_with_a_snapshot_too(view: View) -> None:
    view.replace(Snapshot(SigningKeys(KEYS.jwks, locked=True), (), ()))
    assert _answer(view) is TokenInvalid
    view.replace(Snapshot(KEYS, (), ()))
    assert _answer(view) is None


def test_authority_itself_knows_of_the_lock_and_decides_by_itself(clock: Clock) -> None:
    view = View(clock, obeys_lock=False)
    view.replace(Snapshot(SigningKeys(KEYS.jwks, locked=True), (), ()))
    assert view.locked
    assert _answer(view) is None


def test_unlocking_revives_api_tokens_and_never_older_access_tokens(view: View) -> None:
    view.apply([_app(2, locked=True, epoch=1)])
    view.apply([_app(3, epoch=1)])
    assert _answer(view, API_TOKEN) is None
    assert [_answer(view, replace(TOKEN, epoch=epoch)) for epoch in (0, 1, 2)] == [TokenInvalid, None, None]


def test_a82_a83_a_whitelist_bites_at_once_and_for_its_own_app_only(view: View) -> None:
    view.apply([_app(2, whitelist=("10.0.0.0/8",))])
    assert [_answer(view, TOKEN, peer) for peer in (INSIDER, OUTSIDER, UNKNOWN)] == [
        None,
        OriginNotAllowed,
        OriginNotAllowed,
    ]
    assert _answer(view, API_TOKEN, OUTSIDER) is OriginNotAllowed
    assert _answer(view, replace(TOKEN, app_id=OTHER_APP), OUTSIDER) is None
    view.apply([_app(3, whitelist=("192.0.2.1",))])
    assert [_answer(view, TOKEN, peer) for peer in (INSIDER, OUTSIDER)] == [OriginNotAllowed, None]


def test_a_credential_without_a_peer_is_asked_about_without_its_whitelist(view: View) -> None:
    view.apply([_app(2, whitelist=("10.0.0.0/8",))])
    assert _answer(view, TOKEN, None) is None
    view.apply([_app(3, locked=True, whitelist=("10.0.0.0/8",))])
    assert _answer(view, TOKEN, None) is TokenInvalid


def test_r092_a_bad_credential_is_refused_before_its_origin(view: View) -> None:
    view.apply([_app(2, whitelist=("10.0.0.0/8",)), Revocation("jti-1", math.inf)])
    assert _answer(view, TOKEN, OUTSIDER) is TokenInvalid


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("states", "answer"),
    [
        ([_app(3, locked=True), _app(2)], TokenInvalid),
        ([_app(3, locked=True), _app(3)], TokenInvalid),
        ([_app(2), _app(3, locked=True)], TokenInvalid),
        ([_app(3), _app(2, locked=True)], None),
        ([_app(9, epoch=1), _app(8), _app(7, epoch=2)], TokenInvalid),
        ([_app(9), _app(10, deleted=True), _app(9)], TokenInvalid),
    ],
)
def test_an_older_state_never_replaces_a_newer(
    clock: Clock, states: list[AppState], answer: type[Refusal] | None, *, together: bool
) -> None:
    view = View(clock)
    view.replace(Snapshot(KEYS, (), ()))
    for changes in [states] if together else [[state] for state in states]:
        view.apply(changes)
    assert _answer(view) is answer
    # In the parts of one snapshot as well.
    view = View(clock)
    view.replace(Snapshot(KEYS, (), states))
    assert _answer(view) is answer
    # And after a snapshot.
    view = View(clock)
    view.replace(Snapshot(KEYS, (), states[:1]))
    view.apply(states[1:])
    assert _answer(view) is answer


@given(st.permutations(range(1, 6)))
def test_states_in_any_order_end_in_the_newest(order: list[int]) -> None:
    view = View(lambda: 1000.0)
    for version in order:
        view.apply([_app(version, whitelist=(f"10.0.0.{version}",))])
    allowed = [
        n for n in range(1, 6) if _answer(view, API_TOKEN, Peer(ipaddress.ip_address(f"10.0.0.{n}"))) is None
    ]
    assert allowed == [5]


def test_a_snapshot_replaces_all_apps(view: View) -> None:
    view.apply([_app(5, locked=True), AppState(app_id=OTHER_APP, version=5, locked=True)])
    view.replace(Snapshot(KEYS, (), [_app(6, whitelist=("10.0.0.0/8",))]))
    assert [_answer(view, TOKEN, peer) for peer in (INSIDER, OUTSIDER)] == [None, OriginNotAllowed]
    assert _answer(view, replace(TOKEN, app_id=OTHER_APP)) is None


def test_after_a_restore_versions_count_from_the_snapshot(view: View) -> None:
    view.apply([_app(5, epoch=3)])
    view.replace(Snapshot(KEYS, (), [_app(2, epoch=1)]))
    # The authority issues for epoch 1 again, and its next changes are not lost on us.
    assert _answer(view, replace(TOKEN, epoch=1)) is None
    view.apply([_app(3, epoch=1, locked=True)])
    assert _answer(view, replace(TOKEN, epoch=1)) is TokenInvalid


# Revocations


@pytest.mark.parametrize("identifier", ["jti-1", "grant-1", "secret-1"])
def test_r077_an_access_token_stops_with_each_identifier_that_it_carries(view: View, identifier: str) -> None:
    view.apply([Revocation(identifier, math.inf)])
    assert _answer(view) is TokenInvalid
    assert _answer(view, API_TOKEN) is None
    assert view.is_revoked(identifier)
    assert _answer(view, replace(TOKEN, token_id="jti-2", grant_id="grant-2", secret_id="secret-2")) is None
    assert _answer(view, replace(TOKEN, token_id="jti-2", grant_id=None, secret_id=None)) is None


def test_r077_an_api_token_stops_with_its_id(view: View) -> None:
    view.apply([Revocation("token-1", math.inf)])
    assert (_answer(view, API_TOKEN), _answer(view)) == (TokenInvalid, None)


def test_what_was_revoked_stays_revoked_after_a_snapshot_without_it(view: View) -> None:
    view.apply([Revocation("jti-1", math.inf)])
    view.replace(Snapshot(KEYS, [Revocation("token-1", math.inf)], ()))
    view.replace(Snapshot(KEYS, (), ()))
    assert (_answer(view), _answer(view, API_TOKEN)) == (TokenInvalid, TokenInvalid)


def test_a_revocation_is_forgotten_only_after_its_time(view: View, clock: Clock) -> None:
    view.apply([Revocation("jti-1", 2000.0)])
    for now, answer in ((1000.0, TokenInvalid), (2000.0, TokenInvalid), (2000.001, None)):
        clock.time = now
        view.apply([])
        assert _answer(view) is answer
    assert (view._revoked, view._forgetting) == ({}, [])


def test_a_snapshot_forgets_what_is_past_too(view: View, clock: Clock) -> None:
    view.apply([Revocation("jti-1", 2000.0)])
    clock.time = 2001.0
    view.replace(Snapshot(KEYS, (), ()))
    assert not view.is_revoked("jti-1")


@pytest.mark.parametrize(
    "times", [(2000.0, 3000.0), (3000.0, 2000.0), (3000.0, 3000.0), (2000.0, 3000.0, 2500.0)]
)
def test_a_revocation_that_is_repeated_is_kept_until_the_latest_time(
    view: View, clock: Clock, times: tuple[float, ...]
) -> None:
    for forget_at in times:
        view.apply([Revocation("jti-1", forget_at)])
    for now, answer in (
        (2000.5, TokenInvalid),
        (2500.5, TokenInvalid),
        (3000.0, TokenInvalid),
        (3000.5, None),
    ):
        clock.time = now
        view.apply([])
        assert _answer(view) is answer
    assert (view._revoked, view._forgetting) == ({}, [])


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=3),
            st.integers(0, 10),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_forgetting_is_never_too_early_and_always_comes(
    steps: list[tuple[list[tuple[str, int]], int, bool]],
) -> None:
    clock = Clock(1000.0)
    clock.time = 0.0
    view = View(clock)
    until: dict[str, float] = {}
    for revoked, passing, by_snapshot in steps:
        revocations = [Revocation(identifier, clock.time + lasting) for identifier, lasting in revoked]
        for revocation in revocations:
            until[revocation.id] = max(until.get(revocation.id, 0.0), revocation.forget_at)
        if by_snapshot:
            view.replace(Snapshot(KEYS, revocations, ()))
        else:
            view.apply(revocations)
        for identifier, forget_at in until.items():
            assert view.is_revoked(identifier) or clock.time > forget_at
        clock.time += passing
    clock.time += 100
    view.apply([])
    assert (view._revoked, view._forgetting) == ({}, [])


@pytest.mark.parametrize("by_snapshot", [True, False], ids=["snapshot", "event"])
def test_a_deleted_app_is_forgotten_when_no_token_of_it_can_be_alive(
    view: View, clock: Clock, *, by_snapshot: bool
) -> None:
    gone, other = _app(2, deleted=True, forget_at=2000.0), replace(_app(2, locked=True), app_id="other")
    if by_snapshot:
        view.replace(Snapshot(KEYS, (), (gone, other)))
    else:
        view.apply([_app(1), other, gone, gone, _app(1)])
    for now, answer in ((1000.0, TokenInvalid), (2000.0, TokenInvalid), (2000.001, None)):
        clock.time = now
        view.apply([])
        assert _answer(view) is answer
    assert (set(view._apps), view._deleted) == ({"other"}, [])


# Answers


def _answered(verdict: Verdict = TOKEN, peer: Peer = INSIDER, **answer: Any) -> type[Refusal] | None:
    """As `_answer`, by an answer of the authority alone."""
    standing = replace(Standing((), (_app(1), AppState(app_id=OTHER_APP, version=1)), KEYS), **answer)
    try:
        standing.check(verdict, peer)
    except Refusal as refusal:
        return type(refusal)
    return None


def test_by_an_answer_passes_what_holds_and_not_what_it_does_not_name() -> None:
    assert [_answered(), _answered(API_TOKEN), _answered(apps=())] == [None, None, TokenInvalid]
    assert _answered(revocations=(Revocation("jti-2", math.inf),)) is None


@pytest.mark.parametrize("identifier", ["jti-1", "grant-1", "secret-1"])
def test_r077_by_an_answer_an_access_token_stops_with_each_identifier(identifier: str) -> None:
    revocations = (Revocation("other", math.inf), Revocation(identifier, math.inf))
    assert _answered(revocations=revocations) is TokenInvalid
    assert _answered(API_TOKEN, revocations=revocations) is None


@pytest.mark.parametrize("verdict", [TOKEN, API_TOKEN])
def test_by_an_answer_that_the_issuer_is_locked_all_are_refused(verdict: Verdict) -> None:
    assert _answered(verdict, keys=SigningKeys(KEYS.jwks, locked=True)) is TokenInvalid


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        ({"locked": True}, TokenInvalid),
        ({"deleted": True}, TokenInvalid),
        ({"epoch": 1}, TokenInvalid),
        ({"whitelist": ("192.0.2.1",)}, OriginNotAllowed),
    ],
)
def test_by_an_answer_the_state_of_the_callers_app_counts_and_of_no_other(
    state: dict[str, Any], refusal: type[Refusal]
) -> None:
    apps = (AppState(app_id=OTHER_APP, version=1), _app(1, **state))
    assert _answered(apps=apps) is refusal
    assert _answered(replace(TOKEN, app_id=OTHER_APP), apps=apps) is None


# Keys


def test_a45_tokens_stop_with_their_key_and_api_tokens_do_not(view: View) -> None:
    view.apply([_keys(KEY_1, KEY_2)])
    assert (_answer(view), _answer(view, replace(TOKEN, kid="k2"))) == (None, None)
    view.apply([_keys(KEY_2)])
    assert (_answer(view), _answer(view, replace(TOKEN, kid="k2"))) == (TokenInvalid, None)
    assert _answer(view, API_TOKEN) is None
    view.replace(Snapshot(_keys(KEY_1), (), ()))
    assert (_answer(view), _answer(view, replace(TOKEN, kid="k2"))) == (None, TokenInvalid)


def test_that_no_key_is_left_is_learned(view: View) -> None:
    view.apply([_keys()])
    assert (dict(view.keys), _answer(view), _answer(view, API_TOKEN)) == ({}, TokenInvalid, None)


def test_r072_only_keys_for_es256_with_an_id_are_taken(view: View) -> None:
    others = [
        dict(OKPKey.generate_key("Ed25519", {"kid": "ed"}).as_dict(private=False)),
        dict(OctKey.generate_key(256, {"kid": "oct"}).as_dict(private=True)),
        {"kty": "from-the-future", "kid": "new"},
        _public("p384", "P-384"),
        {name: value for name, value in KEY_2.items() if name != "kid"},
        {**KEY_2, "kid": 7},
    ]
    view.apply([_keys(*others, KEY_1)])
    assert list(view.keys) == ["k1"]


BAD_KEYS = ["", "x", "[]", "1", "null", "{}", '{"keys": null}', '{"keys": [1]}', '{"keys": [{}]}',
            '{"keys": [{"kty": "EC"}]}', '{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1"}]}',
            '{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": "AAAA", "y": "AAAA"}]}']  # fmt: skip


@pytest.mark.parametrize("jwks", BAD_KEYS)
def test_keys_that_cannot_be_read_are_an_error_and_change_nothing(view: View, jwks: str) -> None:
    bad = SigningKeys(jwks)
    with pytest.raises(ValueError, match="RFC 7517"):
        view.replace(Snapshot(bad, [Revocation("token-1", math.inf)], [_app(9, locked=True)]))
    assert (_answer(view), _answer(view, API_TOKEN)) == (None, None)
    with pytest.raises(ValueError, match="RFC 7517"):
        view.apply([Revocation("token-1", math.inf), bad, Revocation("jti-1", math.inf)])
    assert (_answer(view), _answer(view, API_TOKEN)) == (None, TokenInvalid)
    # And it can still be written to.
    view.apply([Revocation("jti-1", math.inf)])
    assert _answer(view) is TokenInvalid


# Freshness


def test_nothing_is_decided_before_the_first_snapshot(clock: Clock) -> None:
    view = View(clock)
    view.refresh(math.inf)
    view.apply([_app(1), KEYS])
    assert not view.known
    assert not view.is_fresh
    view.replace(Snapshot(KEYS, (), ()))
    assert view.known
    assert view.is_fresh


def test_nothing_is_decided_after_the_authority_was_silent_for_too_long(view: View, clock: Clock) -> None:
    assert not view.is_fresh
    view.refresh(1010.0)
    clock.time = 1010.0
    assert view.is_fresh
    clock.time = 1010.001
    assert not view.is_fresh
    view.refresh(1020.0)
    assert view.is_fresh


def test_a_first_snapshot_that_cannot_be_read_leaves_nothing_known(clock: Clock) -> None:
    view = View(clock)
    view.refresh(math.inf)
    with pytest.raises(ValueError, match="RFC 7517"):
        view.replace(Snapshot(SigningKeys("x"), (), ()))
    assert not view.is_fresh


# Readers while it is written


def test_revocations_of_a_snapshot_count_before_its_apps_do(view: View) -> None:
    view.apply([_app(2, locked=True)])
    seen: list[type[Refusal] | None] = []

    def revocations() -> Iterator[Revocation]:
        seen.append(_answer(view))
        yield Revocation("jti-1", math.inf)
        seen.append(_answer(view, API_TOKEN))

    # The lock ends in the moment in which the token is revoked.
    view.replace(Snapshot(KEYS, revocations(), ()))
    assert seen == [TokenInvalid, TokenInvalid]
    assert (_answer(view), _answer(view, API_TOKEN)) == (TokenInvalid, None)


def _read_while(
    view: View, write: Callable[[], None], verdict: Verdict, peer: Peer
) -> set[type[Refusal] | None]:
    """What readers are answered, from before the first write until after the last."""
    answers: set[type[Refusal] | None] = set()
    failures: list[BaseException] = []
    reading, done = threading.Barrier(3), threading.Event()

    def read() -> None:
        try:
            answers.add(_answer(view, verdict, peer))
            reading.wait(10)
            while not done.is_set():
                answers.add(_answer(view, verdict, peer))
            answers.add(_answer(view, verdict, peer))
        except BaseException as failure:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(failure)

    readers = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        reading.wait(10)
        write()
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert failures == []
    return answers


def test_readers_see_whole_entries_while_10_000_changes_are_written(view: View) -> None:
    # An outsider is refused by either state, and would pass a mixture of the two.
    def write() -> None:
        for version in range(2, 10_002, 2):
            view.apply([_app(version, locked=True)])
            view.apply([_app(version + 1, whitelist=("10.0.0.0/8",))])

    view.apply([_app(1, locked=True)])
    answers = _read_while(view, write, TOKEN, OUTSIDER)
    assert answers == {TokenInvalid, OriginNotAllowed}


def test_readers_see_whole_snapshots_while_they_are_replaced(view: View) -> None:
    locked = Snapshot(KEYS, (), [_app(1, locked=True)])
    listed = Snapshot(KEYS, (), [_app(1, whitelist=("10.0.0.0/8",))])

    def write() -> None:
        for _ in range(500):
            view.replace(locked)
            view.replace(listed)

    view.replace(locked)
    assert _read_while(view, write, TOKEN, OUTSIDER) == {TokenInvalid, OriginNotAllowed}


def test_a_revocation_holds_for_readers_while_others_come_and_go(view: View, clock: Clock) -> None:
    def write() -> None:
        for number in range(10_000):
            clock.time += 1
            changes: list[Change] = [Revocation(f"other-{number}", clock.time + 50)]
            if number % 100 == 0:
                view.replace(Snapshot(KEYS, changes, ()))  # type: ignore[arg-type] # all of them are revocations
            view.apply(changes)

    view.apply([Revocation("grant-1", clock.time + 20_000)])
    assert _read_while(view, write, TOKEN, INSIDER) == {TokenInvalid}
    assert len(view._revoked) == 52


def test_a_snapshot_counts_as_a_change_of_every_app(view: View) -> None:
    before = view.version_of("an-app-that-no-snapshot-names")
    view.replace(Snapshot(KEYS, (), ()))
    assert view.version_of("an-app-that-no-snapshot-names") != before


def test_a_token_travels_in_a_url_only_if_it_and_its_app_may(view: View) -> None:
    allowed = replace(API_TOKEN, query_token_allowed=True)
    for verdict in (API_TOKEN, allowed):
        with pytest.raises(TokenInvalid):
            view.check_query_token(verdict)
    view.apply([AppState(app_id=APP, version=1, query_token_allowed=True)])
    view.check_query_token(allowed)
    for verdict in (API_TOKEN, TOKEN, replace(allowed, app_id=OTHER_APP)):
        with pytest.raises(TokenInvalid):
            view.check_query_token(verdict)
    view.apply([AppState(app_id=APP, version=2)])
    with pytest.raises(TokenInvalid):
        view.check_query_token(allowed)
