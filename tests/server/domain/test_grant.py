from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rpz_auth.errors import Refusal
from rpz_auth_server.domain.grant import (
    MAX_REPEATS,
    Grant,
    GrantState,
    Issued,
    Lifetimes,
    Reused,
    check_code_challenge,
    redeem,
    refresh,
    revoke,
)
from rpz_auth_server.domain.refusal import GrantInvalid, RateLimited, RequestInvalid

NOW = 1_700_000_000.0
VERIFIER = "correct-horse-battery-staple-correct-horse-battery"
LIFETIMES = Lifetimes(
    code=60, access_token=7200, refresh_idle=86400, refresh_absolute=7 * 86400, refresh_grace=60
)
STRICT = replace(LIFETIMES, refresh_grace=0)
APP, OTHER_APP = "app-1", "app-2"
REDIRECT_URI = "https://shop.example/callback"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.1"


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def pending(**changes: Any) -> Grant:
    grant = Grant(
        grant_id="g",
        app_id=APP,
        subject="user:1",
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders"}),
        redirect_uri=REDIRECT_URI,
        code_challenge=challenge_of(VERIFIER),
        salt=b"s" * 16,
        key_number=1,
        created_at=NOW,
        rotated_at=NOW,
        access_expires_at=NOW,
        idle_expires_at=NOW + LIFETIMES.code,
        expires_at=NOW + LIFETIMES.code,
    )
    return replace(grant, **changes)


def try_redeem(grant: Grant, *, now: float = NOW + 1, **changes: Any) -> Issued | Reused:
    arguments: dict[str, Any] = {
        "app_id": APP,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
        "peer": HOME,
        "key_number": 1,
        "lifetimes": LIFETIMES,
    }
    return redeem(grant, now=now, **{**arguments, **changes})


def try_refresh(grant: Grant, generation: int, *, now: float, **changes: Any) -> Issued | Reused:
    arguments: dict[str, Any] = {"app_id": APP, "peer": HOME, "key_number": 1, "lifetimes": LIFETIMES}
    return refresh(grant, generation=generation, now=now, **{**arguments, **changes})


def redeemed(now: float = NOW + 1) -> Grant:
    return try_redeem(pending(), now=now).grant


def rotated(times: int, *, start: float = NOW + 1, step: float = 100.0) -> Grant:
    """A grant of generation `times + 1`, renewed every `step` seconds."""
    grant = redeemed(start)
    for number in range(1, times + 1):
        grant = try_refresh(grant, number, now=start + number * step).grant
    return grant


def test_redeeming_starts_generation_one_and_the_clocks_of_the_refresh_token() -> None:
    now = NOW + 1
    assert try_redeem(pending(), now=now, key_number=3) == Issued(
        pending(
            state=GrantState.ACTIVE,
            generation=1,
            key_number=3,
            key_since=1,
            rotated_at=now,
            peer=HOME,
            access_expires_at=now + LIFETIMES.access_token,
            idle_expires_at=now + LIFETIMES.refresh_idle,
            expires_at=now + LIFETIMES.refresh_absolute,
            version=2,
        )
    )


def test_r020_a01_second_valid_redemption_revokes_the_grant() -> None:
    grant = redeemed()
    assert try_redeem(grant) == Reused(replace(grant, state=GrantState.REVOKED, version=grant.version + 1))


@pytest.mark.parametrize("age", [1, 59.9, 61, 3600])
def test_r020_replay_is_found_out_also_after_the_code_would_have_expired(age: float) -> None:
    assert isinstance(try_redeem(redeemed(), now=NOW + age), Reused)


@pytest.mark.parametrize(
    "changes",
    [
        {"app_id": OTHER_APP},
        {"redirect_uri": REDIRECT_URI + "/"},
        {"redirect_uri": ""},
        {"code_verifier": "x" * 43},
        {"code_verifier": ""},
    ],
)
def test_r021_r023_r027_r029_a02_a15_a16_wrong_request_changes_nothing_before_or_after_redemption(
    changes: dict[str, Any],
) -> None:
    for grant in (pending(), redeemed(), revoke(redeemed())):
        with pytest.raises(GrantInvalid):
            try_redeem(grant, **changes)
    assert isinstance(try_redeem(pending()), Issued)


@pytest.mark.parametrize(("age", "good"), [(0, True), (59.999, True), (60, False), (61, False)])
def test_r022_code_expires_to_the_moment(age: float, *, good: bool) -> None:
    if good:
        assert isinstance(try_redeem(pending(), now=NOW + age), Issued)
    else:
        with pytest.raises(GrantInvalid):
            try_redeem(pending(), now=NOW + age)


@pytest.mark.parametrize("method", ["", "plain", "s256", "S256 ", "S512", "none"])
def test_r025_a05_only_s256_is_a_method(method: str) -> None:
    with pytest.raises(RequestInvalid, match="S256"):
        check_code_challenge(challenge_of(VERIFIER), method)


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "a" * 42,
        "a" * 44,
        "a" * 128,
        "a" * 42 + "=",
        "a" * 42 + ".",
        "a" * 42 + "~",
        "a" * 42 + "é",
        "a" * 42 + "\n",
        "a" * 43 + "\n",
        "a" * 42 + "+",
    ],
)
def test_r024_r026_challenge_is_43_characters_of_base64url(challenge: str) -> None:
    with pytest.raises(RequestInvalid, match="43 characters"):
        check_code_challenge(challenge, "S256")
    check_code_challenge(challenge_of(VERIFIER), "S256")


@pytest.mark.parametrize(
    "verifier",
    [
        "v" * 42,
        "v" * 129,
        "v" * 43 + "=",
        "v" * 43 + "\n",
        "v" * 42 + "é",
        "v" * 42 + "+",
        "v" * 42 + "/",
        "v" * 42 + " ",
        "v" * 42 + "\x00",
    ],
)
def test_r026_a06_verifier_outside_its_grammar_is_refused_even_if_its_hash_is_right(verifier: str) -> None:
    with pytest.raises(GrantInvalid):
        try_redeem(pending(code_challenge=challenge_of(verifier)), code_verifier=verifier)


def test_r027_a06_challenge_is_no_verifier() -> None:
    with pytest.raises(GrantInvalid):
        try_redeem(pending(), code_verifier=challenge_of(VERIFIER))


@pytest.mark.parametrize("length", [43, 128])
def test_r026_shortest_and_longest_verifier_are_taken(length: int) -> None:
    verifier = ("aZ09-._~" * 16)[:length]
    grant = pending(code_challenge=challenge_of(verifier))
    assert isinstance(try_redeem(grant, code_verifier=verifier), Issued)


def test_r028_a04_verifier_without_a_recorded_challenge_is_refused_and_consumes_nothing() -> None:
    with pytest.raises(RequestInvalid, match="without a code_challenge"):
        try_redeem(pending(code_challenge=None))
    assert isinstance(try_redeem(pending(code_challenge=None), code_verifier=""), Issued)


def test_a25_revoked_grant_gives_nothing_for_its_code_or_any_generation() -> None:
    grant = revoke(rotated(2))
    with pytest.raises(GrantInvalid):
        try_redeem(grant)
    for generation in range(6):
        with pytest.raises(GrantInvalid):
            try_refresh(grant, generation, now=grant.rotated_at + 1)


def test_r062_rotation_advances_the_grant() -> None:
    grant, now = redeemed(), NOW + 5000
    assert try_refresh(grant, 1, now=now, peer=ELSEWHERE) == Issued(
        replace(
            grant,
            generation=2,
            rotated_at=now,
            peer=ELSEWHERE,
            access_expires_at=now + LIFETIMES.access_token,
            idle_expires_at=now + LIFETIMES.refresh_idle,
            version=grant.version + 1,
        )
    )


@pytest.mark.parametrize("generation", [1, 2])
def test_r060_another_app_changes_nothing_with_current_or_older_token(generation: int) -> None:
    grant = rotated(2)
    with pytest.raises(GrantInvalid):
        try_refresh(grant, generation, now=grant.rotated_at + 1000, app_id=OTHER_APP)


def test_refresh_token_of_a_code_that_was_never_redeemed_is_refused() -> None:
    for generation in (0, 1, 2):
        with pytest.raises(GrantInvalid):
            try_refresh(pending(), generation, now=NOW + 1)


def test_generation_zero_is_no_refresh_token() -> None:
    with pytest.raises(GrantInvalid):
        try_refresh(redeemed(), 0, now=NOW + 2)


@pytest.mark.parametrize("age", [0, 30, 59.999])
def test_r063_a22_within_the_grace_the_same_successor_is_given_and_nothing_is_extended(age: float) -> None:
    grant = rotated(1)
    again = try_refresh(grant, 1, now=grant.rotated_at + age, peer=ELSEWHERE)
    assert again == Issued(replace(grant, repeats=1, version=grant.version + 1), repeated=True)


@pytest.mark.parametrize("age", [60, 61, 3600])
def test_r062_a22_after_the_grace_the_family_is_dead(age: float) -> None:
    grant = rotated(1)
    assert try_refresh(grant, 1, now=grant.rotated_at + age) == Reused(revoke(grant))


def test_r063_without_grace_a_repeat_at_the_same_moment_is_reuse() -> None:
    grant = rotated(1)
    assert try_refresh(grant, 1, now=grant.rotated_at, lifetimes=STRICT) == Reused(revoke(grant))


def test_a23_use_of_the_successor_ends_the_grace_at_once() -> None:
    grant = rotated(2, step=1)
    assert grant.rotated_at - NOW < LIFETIMES.refresh_grace
    assert try_refresh(grant, 1, now=grant.rotated_at) == Reused(revoke(grant))


def test_a20_a24_token_of_two_generations_back_is_reuse() -> None:
    grant = rotated(2)
    assert try_refresh(grant, 1, now=grant.rotated_at + 1) == Reused(revoke(grant))


def test_a22_repeats_are_counted_and_end_without_harm_to_the_grant() -> None:
    grant = rotated(1)
    for number in range(1, MAX_REPEATS + 1):
        outcome = try_refresh(grant, 1, now=grant.rotated_at + number)
        assert outcome == Issued(replace(grant, repeats=number, version=grant.version + 1), repeated=True)
        grant = outcome.grant
    with pytest.raises(RateLimited):
        try_refresh(grant, 1, now=grant.rotated_at + 10)
    assert try_refresh(grant, 2, now=grant.rotated_at + 10).grant.repeats == 0


def test_grace_counts_from_the_first_rotation_however_often_it_is_repeated() -> None:
    grant = rotated(1)
    late = try_refresh(grant, 1, now=grant.rotated_at + 59).grant
    assert isinstance(try_refresh(late, 1, now=grant.rotated_at + 61), Reused)


def test_r064_refresh_token_that_is_not_used_expires() -> None:
    grant = redeemed()
    assert isinstance(try_refresh(grant, 1, now=grant.idle_expires_at - 0.001), Issued)
    with pytest.raises(GrantInvalid):
        try_refresh(grant, 1, now=grant.idle_expires_at)


def test_r064_grant_expires_however_often_it_is_renewed() -> None:
    grant = redeemed()
    end = grant.expires_at
    generation = 1
    now = NOW + 1
    while now + LIFETIMES.refresh_idle / 2 < end:
        now += LIFETIMES.refresh_idle / 2
        grant = try_refresh(grant, generation, now=now).grant
        generation += 1
    assert grant.expires_at == end < grant.idle_expires_at
    with pytest.raises(GrantInvalid):
        try_refresh(grant, generation, now=end)


def test_r064_access_token_never_outlives_its_grant() -> None:
    grant = redeemed()
    near_the_end = grant.expires_at - 100
    grant = replace(grant, idle_expires_at=grant.expires_at)
    assert try_refresh(grant, 1, now=near_the_end).grant.access_expires_at == grant.expires_at
    short = replace(LIFETIMES, refresh_idle=300)
    first = try_redeem(pending(), lifetimes=short).grant
    assert first.access_expires_at == first.idle_expires_at == NOW + 1 + 300


def test_generation_of_a_future_that_is_not_wanted_ends_the_grant() -> None:
    grant = rotated(3)
    now = grant.rotated_at + 5
    outcome = try_refresh(grant, grant.generation + 1, now=now, recovers=False)
    assert isinstance(outcome, Reused)
    assert outcome.grant.state is GrantState.REVOKED
    assert isinstance(try_refresh(grant, grant.generation, now=now, recovers=False), Issued)


def test_generation_ahead_of_the_row_proves_lost_writes_and_the_row_catches_up() -> None:
    grant = rotated(1)
    outcome = try_refresh(grant, 7, now=grant.rotated_at + 5)
    assert isinstance(outcome, Issued)
    assert (outcome.recovered, outcome.grant.generation) == (True, 8)
    assert isinstance(try_refresh(outcome.grant, 6, now=grant.rotated_at + 6), Reused)


def test_key_number_is_recorded_with_the_generation_that_it_begins_at() -> None:
    grant = rotated(2)
    same = try_refresh(grant, 3, now=grant.rotated_at + 1).grant
    assert (same.key_number, same.key_since) == (1, 0)
    other = try_refresh(same, 4, now=same.rotated_at + 1, key_number=2).grant
    assert (other.key_number, other.key_since, other.generation) == (2, 5, 5)


def test_repeat_keeps_the_key_that_sealed_the_first_answer() -> None:
    grant = rotated(1)
    again = try_refresh(grant, 1, now=grant.rotated_at + 1, key_number=2).grant
    assert (again.key_number, again.key_since) == (1, 0)


@dataclass
class _Holder:
    """What was handed out: each generation with the row's version when it was first handed out."""

    generations: set[int] = field(default_factory=set)
    access_expires_at: dict[int, float] = field(default_factory=dict)


class GrantLife(RuleBasedStateMachine):
    """Any sequence of requests, of anybody, at any time: at most one line of generations is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.grant = pending()
        self.held = _Holder()
        self.was_revoked = False

    def _take(self, outcome: Issued | Reused, before: Grant) -> None:
        grant = outcome.grant
        assert grant.version == before.version + 1
        assert (grant.grant_id, grant.app_id, grant.subject) == (
            before.grant_id,
            before.app_id,
            before.subject,
        )
        assert (grant.scopes, grant.resources) == (before.scopes, before.resources)
        if isinstance(outcome, Reused):
            assert grant.state is GrantState.REVOKED
            self.was_revoked = True
        elif outcome.repeated:
            # The same credential again, for no longer than the first time.
            assert grant.generation in self.held.generations
            assert grant == replace(before, repeats=before.repeats + 1, version=before.version + 1)
            assert grant.repeats <= MAX_REPEATS
        else:
            # A new credential, and only one for each generation.
            assert grant.generation not in self.held.generations
            assert grant.generation == before.generation + 1
            self.held.generations.add(grant.generation)
        self.grant = grant

    @rule(seconds=st.sampled_from([0, 0.5, 10, 59, 60, 61, 3600, 80000, 90000]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        app_id=st.sampled_from([APP, APP, APP, OTHER_APP]),
        redirect_uri=st.sampled_from([REDIRECT_URI, REDIRECT_URI, REDIRECT_URI + "?"]),
        verifier=st.sampled_from([VERIFIER, VERIFIER, "w" * 43, ""]),
    )
    def somebody_redeems(self, app_id: str, redirect_uri: str, verifier: str) -> None:
        before = self.grant
        right = (app_id, redirect_uri, verifier) == (APP, REDIRECT_URI, VERIFIER)
        try:
            outcome = try_redeem(
                before, now=self.now, app_id=app_id, redirect_uri=redirect_uri, code_verifier=verifier
            )
        except GrantInvalid:
            if right:
                assert before.state is GrantState.REVOKED or self.now >= NOW + LIFETIMES.code
            return
        assert right
        assert isinstance(outcome, Issued) == (before.state is GrantState.PENDING)
        self._take(outcome, before)

    @precondition(lambda self: bool(self.held.generations))
    @rule(
        back=st.integers(0, 4),
        app_id=st.sampled_from([APP, APP, APP, OTHER_APP]),
        lifetimes=st.sampled_from([LIFETIMES, LIFETIMES, STRICT]),
        peer=st.sampled_from([HOME, ELSEWHERE]),
    )
    def somebody_refreshes(self, back: int, app_id: str, lifetimes: Lifetimes, peer: str) -> None:
        before = self.grant
        generation = max(1, before.generation - back)
        try:
            outcome = try_refresh(
                before, generation, now=self.now, app_id=app_id, lifetimes=lifetimes, peer=peer
            )
        except GrantInvalid:
            assert app_id != APP or before.state is not GrantState.ACTIVE or self.now >= before.ends_at
            return
        except RateLimited:
            assert before.repeats == MAX_REPEATS
            return
        assert app_id == APP
        if isinstance(outcome, Reused):
            assert generation < before.generation
        else:
            assert generation in (before.generation, before.generation - 1)
        self._take(outcome, before)

    @rule()
    def an_administrator_revokes(self) -> None:
        if self.grant.state is GrantState.ACTIVE:
            self.grant = revoke(self.grant)
            self.was_revoked = True

    @invariant()
    def revoked_never_comes_back(self) -> None:
        assert (self.grant.state is GrantState.REVOKED) == self.was_revoked

    @invariant()
    def exactly_one_generation_advances_the_grant(self) -> None:
        """Two live lines would mean that two presented generations lead to different successors."""
        if self.grant.state is not GrantState.ACTIVE or self.now >= self.grant.ends_at:
            return
        successors = set()
        for generation in self.held.generations:
            try:
                outcome = try_refresh(self.grant, generation, now=self.now)
            except Refusal:
                continue
            if isinstance(outcome, Issued) and not outcome.repeated:
                successors.add((generation, outcome.grant.generation))
        assert successors == {(self.grant.generation, self.grant.generation + 1)}

    @invariant()
    def access_ends_with_the_grant(self) -> None:
        assert self.grant.access_expires_at <= self.grant.ends_at


GrantLife.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_r063_a21_no_sequence_of_requests_yields_two_live_lineages = GrantLife.TestCase
