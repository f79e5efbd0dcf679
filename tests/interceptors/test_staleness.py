"""What becomes of calls while the authority is silent: by the clock of the test, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import rpz_auth
from rpz_auth.address import parse_peer
from rpz_auth.caller import Admission
from rpz_auth.decide import KEY_COOLDOWN, Decider, run
from rpz_auth.errors import BackendUnavailable, ConfigurationError, Reason, Refusal
from rpz_auth.policy import Policy, scopes
from rpz_auth.question import Answer, ApiTokenQuestion, Question, StandingQuestion
from rpz_auth.staleness import CHECK, REFUSE, WhenStale, WhenStaleTable, serve
from rpz_auth.testing import APP_ID, FakeAuthority
from rpz_auth.view import AppState, Moment, Revocation, SigningKeys, Snapshot, Standing

RESOURCE = "https://orders"
READ = scopes("orders.read")
PEER = parse_peer("ipv4:192.0.2.7:1")
NOW = 1_800_000_000.0


class Bench:
    """A decider whose authority falls silent, and the questions that it asks."""

    def __init__(self) -> None:
        self.now = NOW
        self.authority = FakeAuthority(clock=lambda: self.now)
        self.authority.start()
        self.asked: list[Question] = []
        self.answer: Callable[[Question], Answer] = self.authority.ask
        self.decider = self.make_decider()
        self.token = self.authority.access_token(resource=RESOURCE, scopes=["orders.read"])
        self.api_token = self.authority.api_token(resource=RESOURCE, scopes=["orders.read"])

    def make_decider(self) -> Decider:
        return Decider(
            self.authority.view,
            issuer=self.authority.issuer,
            resource=RESOURCE,
            monotonic=lambda: self.now,
        )

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return self.answer(question)

    def admit(self, credential: Any, when_stale: WhenStale, policy: Policy | None = READ) -> Admission:
        metadata = (("authorization", credential.field_value()),)
        return run(self.decider.decide(policy, metadata, PEER, when_stale), self.ask)

    def outcome(self, credential: Any, when_stale: WhenStale = CHECK) -> Reason | None:
        try:
            self.admit(credential, when_stale)
        except Refusal as refusal:
            return refusal.reason
        return None


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_refuse_refuses_whatever_the_authority_would_answer(bench: Bench) -> None:
    bench.authority.fall_silent()
    for credential in (bench.token, bench.api_token):
        assert bench.outcome(credential, REFUSE) is Reason.BACKEND_UNAVAILABLE
    assert bench.asked == []


def test_serve_goes_on_until_its_bound_and_not_a_second_longer(bench: Bench) -> None:
    assert bench.outcome(bench.api_token) is None  # known from before
    bench.authority.cut_off()
    bench.now += 60
    assert [bench.outcome(token, serve(until=60)) for token in (bench.token, bench.api_token)] == [None] * 2
    assert bench.outcome(bench.authority.access_token(resource=RESOURCE, scopes=["orders.read"]), REFUSE)
    bench.now += 0.1
    assert bench.outcome(bench.token, serve(until=60)) is Reason.BACKEND_UNAVAILABLE
    bench.authority.restore()
    assert bench.outcome(bench.token, serve(until=60)) is None


def test_serve_serves_nothing_before_the_first_snapshot(bench: Bench) -> None:
    bench.authority = FakeAuthority(clock=lambda: bench.now)
    bench.decider = bench.make_decider()
    assert bench.outcome(bench.token, serve(until=60)) is Reason.BACKEND_UNAVAILABLE


def test_serve_still_refuses_what_is_known_to_be_revoked_and_what_has_expired(bench: Bench) -> None:
    bench.authority.revoke(bench.token)
    short = bench.authority.access_token(resource=RESOURCE, scopes=["orders.read"], expires_in=5)
    bench.authority.cut_off()
    assert bench.outcome(bench.token, serve(until=60)) is Reason.TOKEN_INVALID
    bench.now += 6
    assert bench.outcome(short, serve(until=60)) is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize("until", [0, -1, float("inf"), float("nan")])
def test_serve_without_a_bound_is_an_error(until: float) -> None:
    with pytest.raises(ConfigurationError, match="bound"):
        serve(until=until)


def test_check_asks_once_in_half_a_second_and_passes_what_holds(bench: Bench) -> None:
    bench.authority.fall_silent()
    for _ in range(3):
        assert bench.outcome(bench.token) is None
    assert len(bench.asked) == 1
    bench.now += 0.5
    assert bench.outcome(bench.token) is None
    assert len(bench.asked) == 2


def test_check_asks_nothing_while_the_authority_is_heard(bench: Bench) -> None:
    assert bench.outcome(bench.token) is None
    assert bench.asked == []


def test_check_asks_about_nothing_that_is_not_genuine(bench: Bench) -> None:
    bench.authority.fall_silent()
    bench.outcome(bench.authority.foreign_token(resource=RESOURCE))  # uses the look-up of keys up
    bench.asked.clear()
    for token in (
        bench.authority.foreign_token(resource=RESOURCE, scopes=["orders.read"]),
        rpz_auth.AccessToken("not.a.token"),
        bench.authority.access_token(resource="https://elsewhere", scopes=["orders.read"]),
    ):
        assert bench.outcome(token) is Reason.TOKEN_INVALID
    assert bench.asked == []


def test_r128_check_refuses_when_nobody_answers(bench: Bench) -> None:
    bench.authority.cut_off()
    for credential in (bench.token, bench.api_token):
        assert bench.outcome(credential) is Reason.BACKEND_UNAVAILABLE


def elsewhere(bench: Bench, **state: Any) -> Callable[[Question], Answer]:
    """What the authority answers after a change that the view is not told of."""

    def answer(question: Question) -> Answer:
        if isinstance(question, ApiTokenQuestion):
            return bench.authority.ask(question)
        revoked = tuple(Revocation(name, NOW + 7200) for name in state.get("revoked", ()))
        app = AppState(**{"app_id": APP_ID, "version": 7, **state.get("app", {})})
        return Standing(revoked, (app,), bench.authority._keys())

    return answer


@pytest.mark.parametrize("kind", ["token", "api_token"])
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"app": {"locked": True}}, Reason.TOKEN_INVALID),
        ({"app": {"deleted": True}}, Reason.TOKEN_INVALID),
        ({"app": {"whitelist": ("203.0.113.0/24",)}}, Reason.ORIGIN_NOT_ALLOWED),
        ({}, None),
    ],
)
def test_r077_check_learns_what_it_was_not_told(
    bench: Bench, kind: str, state: dict[str, Any], reason: Reason | None
) -> None:
    credential = getattr(bench, kind)
    assert bench.outcome(credential) is None
    bench.authority.fall_silent()
    bench.answer = elsewhere(bench, **state)
    assert bench.outcome(credential) is reason
    bench.authority.restore()
    assert bench.outcome(credential) is reason


@pytest.mark.parametrize("kind", ["token", "api_token"])
def test_r077_check_learns_of_a_revocation_that_it_was_not_told_of(bench: Bench, kind: str) -> None:
    credential = getattr(bench, kind)
    admission = bench.admit(credential, CHECK)
    assert admission.caller is not None
    bench.authority.fall_silent()
    bench.answer = elsewhere(bench, revoked=[admission.caller.verdict.token_id])
    assert bench.outcome(credential) is Reason.TOKEN_INVALID
    bench.answer = bench.authority.ask
    assert bench.outcome(credential) is Reason.TOKEN_INVALID, "what was revoked stays revoked"


def test_r077_a_lower_version_of_a_restored_database_refuses_although_the_view_holds_a_higher(
    bench: Bench,
) -> None:
    bench.authority.view.apply([AppState(app_id=APP_ID, version=9)])
    bench.authority.fall_silent()
    bench.answer = elsewhere(bench, app={"version": 2, "locked": True})
    assert bench.outcome(bench.token) is Reason.TOKEN_INVALID


def test_an_app_that_is_not_in_the_answer_does_not_pass(bench: Bench) -> None:
    bench.authority.fall_silent()
    bench.answer = lambda _: Standing((), (), bench.authority._keys())
    assert bench.outcome(bench.token) is Reason.TOKEN_INVALID


def test_an_answer_to_another_question_is_none(bench: Bench) -> None:
    caller = bench.admit(bench.api_token, CHECK).caller
    assert caller is not None
    bench.authority.fall_silent()
    bench.answer = lambda _: caller.verdict
    assert bench.outcome(bench.token) is Reason.BACKEND_UNAVAILABLE


@pytest.mark.parametrize("when_stale", [CHECK, REFUSE, serve(until=60)], ids=str)
def test_a_stream_goes_on_while_the_authority_is_heard(bench: Bench, when_stale: WhenStale) -> None:
    caller = bench.admit(bench.token, when_stale).caller
    assert caller is not None
    bench.decider.recheck(caller, when_stale)


def test_r077_an_answer_that_its_revocation_has_passed_does_not_pass(bench: Bench) -> None:
    """The answer was read before the revocation, and arrives after it."""
    bench.authority.fall_silent()

    def overtaken(question: Question) -> Answer:
        answer = bench.authority.ask(question)
        bench.authority.revoke(bench.token)
        return answer

    bench.answer = overtaken
    assert bench.outcome(bench.token) is Reason.TOKEN_INVALID


def test_an_answer_from_before_a_snapshot_does_not_undo_it(bench: Bench) -> None:
    """After a restore versions count anew: what the old database said must not outlive the new one's."""
    view = bench.authority.view
    asked = view.moment()
    old = Standing((), (AppState(app_id=APP_ID, version=90),), bench.authority._keys())
    locked = AppState(app_id=APP_ID, version=2, locked=True)
    view.replace(Snapshot(bench.authority._keys(), (), [locked]))
    view.take(old, asked)
    assert bench.outcome(bench.token) is Reason.TOKEN_INVALID


def test_an_answer_from_before_a_change_of_keys_does_not_bring_a_dropped_key_back(bench: Bench) -> None:
    view = bench.authority.view
    asked, old = view.moment(), Standing((), (), bench.authority._keys())
    view.apply([SigningKeys('{"keys": []}')])
    view.take(old, asked)
    assert view.keys == {}


def test_a_service_that_was_told_nothing_yet_checks_by_asking(bench: Bench) -> None:
    authority, bench.authority = bench.authority, FakeAuthority(clock=lambda: bench.now)
    bench.decider, bench.answer = bench.make_decider(), authority.ask
    bench.asked.clear()
    assert bench.outcome(bench.token) is None
    assert bench.asked[0] == StandingQuestion(asked=Moment(0, 0))
    assert len(bench.asked) == 2


def test_a34_a107_r210_a_thousand_unknown_keys_cost_one_look_up_in_a_cooldown(bench: Bench) -> None:
    for number in range(1_000):
        stranger = bench.authority.foreign_token(resource=RESOURCE) if number < 2 else _with_kid(number)
        assert bench.outcome(stranger) is Reason.TOKEN_INVALID
    assert bench.asked == [StandingQuestion(asked=Moment(1, 1))]
    bench.now += KEY_COOLDOWN
    assert bench.outcome(_with_kid(0)) is Reason.TOKEN_INVALID
    assert len(bench.asked) == 2


def _with_kid(number: int) -> rpz_auth.AccessToken:
    header = json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": f"made-up-{number}"}).encode()
    return rpz_auth.AccessToken(base64.urlsafe_b64encode(header).rstrip(b"=").decode() + ".e30.AAAA")


def test_r210_a_key_that_was_not_told_of_yet_is_looked_up(bench: Bench) -> None:
    keys = bench.authority._keys()
    bench.authority.view.apply([SigningKeys('{"keys": []}')])
    bench.answer = lambda _: Standing((), (), keys)
    assert bench.outcome(bench.token) is None
    assert bench.asked == [StandingQuestion(asked=Moment(1, 2))]


def test_a_look_up_without_an_answer_is_a_refusal_of_the_token_and_not_of_the_service(bench: Bench) -> None:
    def unavailable(_question: Question) -> Answer:
        raise BackendUnavailable

    bench.answer = unavailable
    assert bench.outcome(bench.authority.foreign_token(resource=RESOURCE)) is Reason.TOKEN_INVALID


def test_the_choice_is_a_methods_or_its_services_or_the_default() -> None:
    methods = {"/a.A/One": 1, "/a.A/Two": 2, "/b.B/One": 3}
    table = WhenStaleTable({"a.A": REFUSE, "/a.A/Two": serve(until=5)}, methods)
    assert [table.of(path) for path in methods] == [REFUSE, serve(until=5), CHECK]
    assert not table.only_refuses
    assert [WhenStaleTable(REFUSE, methods).of(path) for path in methods] == [REFUSE] * 3
    assert WhenStaleTable(REFUSE, methods).only_refuses


def test_a_choice_for_what_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"names a\.B"):
        WhenStaleTable({"a.B": REFUSE}, {"/a.A/One": 1})
