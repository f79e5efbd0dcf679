"""Tests of the decision about one call; each case runs through both drivers unless it concerns none."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey
from rpz_auth import credentials, decide
from rpz_auth.address import UNKNOWN, Peer, TrustedProxies, parse_peer
from rpz_auth.caller import Admission, Caller, How, Verdict
from rpz_auth.client import Credential
from rpz_auth.decide import Decider, Metadata, run, run_async
from rpz_auth.errors import BackendUnavailable, Reason, Refusal, ScopeInsufficient, TokenInvalid
from rpz_auth.policy import CLIENT, PUBLIC, Policy, scopes
from rpz_auth.question import Answer, ApiTokenQuestion, Question, StandingQuestion
from rpz_auth.staleness import CHECK, REFUSE, WhenStale
from rpz_auth.testing import APP_ID, FakeAuthority
from rpz_auth.view import SigningKeys

RESOURCE = "https://orders"
NOW = 1_800_000_000.0
PEER = parse_peer("ipv4:192.0.2.7:5000")
READ = scopes("orders.read")
OTHER_APP = "11111111-1111-4111-8111-111111111111"
UNKNOWN_TOKEN = "rpzt_" + "A" * 64


def field(credential: Credential, key: str = "authorization") -> tuple[str, str]:
    return key, credential.field_value()


def basic(user: str, password: str) -> tuple[str, str]:
    return "authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Bench:
    """A decider, an authority that counts what it is asked, and a clock that only the test moves."""

    def __init__(self, driver: str = "run") -> None:
        self.now = NOW
        self.driver = driver
        self.when_stale: WhenStale = CHECK
        self.authority = FakeAuthority(clock=lambda: self.now)
        self.authority.start()
        self.asked: list[Question] = []
        self.answer: Callable[[Question], Answer] = self.authority.ask
        self.decider = Decider(self.authority.view, issuer=self.authority.issuer, resource=RESOURCE)

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return self.answer(question)

    async def ask_async(self, question: Question) -> Answer:
        await asyncio.sleep(0)  # let go of the loop once, as the network does
        return self.ask(question)

    def admit(
        self, *metadata: tuple[str, str | bytes], policy: Policy | None = READ, peer: Peer = PEER
    ) -> Admission:
        decision = self.decider.decide(policy, metadata, peer, self.when_stale)
        if self.driver == "run":
            return run(decision, self.ask)
        return asyncio.run(run_async(decision, self.ask_async))

    def outcome(
        self, *metadata: tuple[str, str | bytes], policy: Policy | None = READ, peer: Peer = PEER
    ) -> Reason | None:
        """Why the call is refused, or None when it passes."""
        try:
            self.admit(*metadata, policy=policy, peer=peer)
        except Refusal as refusal:
            return refusal.reason
        return None

    def access_token(self, **how: Any) -> tuple[str, str]:
        return field(self.authority.access_token(**{"resource": RESOURCE, "scopes": ["orders.read"], **how}))

    def api_token(self, **how: Any) -> tuple[str, str]:
        return field(self.authority.api_token(**{"resource": RESOURCE, "scopes": ["orders.read"], **how}))


@pytest.fixture(params=["run", "run_async"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


Setting = Callable[[Bench], tuple[Metadata, Policy | None, Reason | None]]

# One row for each kind of input: what is sent, what the method demands, why it is refused (None: it passes).
MATRIX: dict[str, Setting] = {
    "nothing": lambda _: ([], READ, Reason.CREDENTIALS_MISSING),
    "an access token": lambda b: ([b.access_token()], READ, None),
    "an API token": lambda b: ([b.api_token()], READ, None),
    "in x-rpz-auth": lambda b: ([("x-rpz-auth", b.api_token()[1])], READ, None),
    "x-rpz-auth before a bad authorization": lambda b: (
        [("authorization", "Bearer x"), ("authorization", "y"), ("x-rpz-auth", b.api_token()[1])],
        READ,
        None,
    ),
    "a bad x-rpz-auth before a good authorization": lambda b: (
        [("x-rpz-auth", "Bearer x"), b.access_token()],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an empty x-rpz-auth before a good authorization": lambda b: (
        [("x-rpz-auth", ""), b.access_token()],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "authorization twice": lambda b: ([b.access_token()] * 2, READ, Reason.CREDENTIALS_AMBIGUOUS),
    "x-rpz-auth twice": lambda b: (
        [("x-rpz-auth", b.api_token()[1])] * 2,
        READ,
        Reason.CREDENTIALS_AMBIGUOUS,
    ),
    "only in -bin keys": lambda b: (
        [("authorization-bin", b.api_token()[1].encode()), ("x-rpz-auth-bin", b.api_token()[1].encode())],
        READ,
        Reason.CREDENTIALS_MISSING,
    ),
    "as bytes": lambda b: ([("authorization", b.api_token()[1].encode())], READ, Reason.TOKEN_INVALID),
    "another scheme": lambda _: ([("authorization", "Digest abc")], READ, Reason.CREDENTIALS_MISSING),
    "Basic with two spaces": lambda b: (
        [("authorization", b.api_token()[1].replace(" ", "  "))],
        READ,
        None,
    ),
    "Basic with spaces around": lambda b: ([("authorization", f"  {b.api_token()[1]}   ")], READ, None),
    "Basic with a tab before": lambda b: (
        [("authorization", "\t" + b.api_token()[1])],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "Basic with a no-break space after": lambda b: (
        [("authorization", b.api_token()[1] + "\u00a0")],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "basic in capitals": lambda b: (
        [("authorization", b.api_token()[1].replace("Basic", "BASIC"))],
        READ,
        None,
    ),
    "bearer in small letters": lambda b: (
        [("authorization", b.access_token()[1].replace("Bearer", "bearer"))],
        READ,
        None,
    ),
    "an API token as Bearer": lambda b: (
        [("authorization", "Bearer " + b.authority.api_token(resource=RESOURCE).token)],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an access token as password": lambda b: (
        [basic(APP_ID, b.authority.access_token(resource=RESOURCE).token)],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an unknown API token": lambda _: ([basic(APP_ID, UNKNOWN_TOKEN)], READ, Reason.TOKEN_INVALID),
    "another App's API token": lambda b: (
        [basic(OTHER_APP, b.authority.api_token(resource=RESOURCE).token)],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an App ID in capitals": lambda b: (
        [basic("ABCDEF00-0000-4000-8000-000000000001", b.authority.api_token(resource=RESOURCE).token)],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an API token for elsewhere": lambda b: (
        [b.api_token(resource="https://other")],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an access token for elsewhere": lambda b: (
        [b.access_token(resource="https://other")],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "a stranger's access token": lambda b: (
        [field(b.authority.foreign_token(resource=RESOURCE, scopes=["orders.read"]))],
        READ,
        Reason.TOKEN_INVALID,
    ),
    "an expired access token": lambda b: ([b.access_token(expires_in=0)], READ, Reason.TOKEN_EXPIRED),
    "an expired API token": lambda b: ([b.api_token(expires_in=0)], READ, Reason.TOKEN_EXPIRED),
    "one scope of two": lambda b: (
        [b.access_token()],
        scopes("orders.read", "orders.write"),
        Reason.SCOPE_INSUFFICIENT,
    ),
    "the other scope of two": lambda b: (
        [b.api_token(scopes=["orders.write"])],
        scopes("orders.read", "orders.write"),
        Reason.SCOPE_INSUFFICIENT,
    ),
    "both scopes and one more": lambda b: (
        [b.access_token(scopes=["orders.read", "x", "orders.write"])],
        scopes("orders.read", "orders.write"),
        None,
    ),
    "no scope": lambda b: ([b.access_token(scopes=[])], READ, Reason.SCOPE_INSUFFICIENT),
    "a scope that begins like it": lambda b: (
        [b.access_token(scopes=["orders.rea", "orders.read.all", "orders", "ORDERS.READ", "*"])],
        READ,
        Reason.SCOPE_INSUFFICIENT,
    ),
    "nothing, to an unknown method": lambda _: ([], None, Reason.CREDENTIALS_MISSING),
    "a bad token, to an unknown method": lambda _: (
        [basic(APP_ID, UNKNOWN_TOKEN)],
        None,
        Reason.TOKEN_INVALID,
    ),
    "a good token, to an unknown method": lambda b: ([b.access_token()], None, Reason.METHOD_UNKNOWN),
    "nothing, to a public method": lambda _: ([], PUBLIC, None),
    "two bad tokens, to a public method": lambda _: ([("authorization", "x")] * 2, PUBLIC, None),
    "nothing, to a method that looks itself": lambda _: ([], CLIENT, None),
}


@pytest.mark.parametrize("setting", MATRIX.values(), ids=MATRIX.keys())
def test_both_drivers_give_the_same_outcome_once_and_again(bench: Bench, setting: Setting) -> None:
    metadata, policy, reason = setting(bench)
    assert bench.outcome(*metadata, policy=policy) == reason
    assert bench.outcome(*metadata, policy=policy) == reason
    bench.authority.cut_off()
    if reason is None and policy is READ:
        assert bench.outcome(*metadata, policy=policy) is Reason.BACKEND_UNAVAILABLE


def test_the_caller_is_who_the_access_token_names(bench: Bench) -> None:
    admission = bench.admit(bench.access_token(subject="user:7", scopes=["orders.read", "x"], jti="j"))
    assert admission.peer == PEER
    assert admission.caller is not None
    assert admission.caller.peer == PEER
    assert replace(admission.caller.verdict, kid=None) == Verdict(
        how=How.ACCESS_TOKEN,
        app_id=APP_ID,
        subject="user:7",
        scopes=frozenset({"orders.read", "x"}),
        resources=frozenset({RESOURCE}),
        token_id="j",
        epoch=0,
        issued_at=NOW,
        expires_at=NOW + 7200,
    )


def test_r083_the_caller_of_an_api_token_is_its_app(bench: Bench) -> None:
    admission = bench.admit(bench.api_token())
    assert admission.caller is not None
    assert (admission.caller.how, admission.caller.subject) == (How.API_TOKEN, f"app:{APP_ID}")
    assert admission.caller.expires_at == math.inf


def test_a_public_method_knows_the_peer_and_no_caller(bench: Bench) -> None:
    assert bench.admit(bench.access_token(), policy=PUBLIC) == Admission(PEER, None)


def test_the_refusal_for_a_scope_names_what_the_method_demands(bench: Bench) -> None:
    with pytest.raises(ScopeInsufficient) as refused:
        bench.admit(bench.access_token(), policy=scopes("b", "a"))
    assert refused.value.metadata == {"required_scopes": "a b"}


# Questions


def test_an_access_token_asks_nothing_from_the_first_call_on() -> None:
    bench = Bench()
    metadata = [bench.access_token()]
    first = bench.decider.decide(READ, metadata, PEER)
    assert not isinstance(first, Admission)
    with pytest.raises(StopIteration) as done:
        next(first)
    assert isinstance(done.value.value, Admission)
    assert bench.decider.decide(READ, metadata, PEER) == done.value.value


def test_an_api_token_asks_once_and_is_then_decided_at_once() -> None:
    bench = Bench()
    metadata = [bench.api_token()]
    decision = bench.decider.decide(READ, metadata, PEER)
    assert not isinstance(decision, Admission)
    question = next(decision)
    assert isinstance(question, ApiTokenQuestion)
    assert question == ApiTokenQuestion(APP_ID, question.api_token, version=(1, 0))
    assert question.api_token not in repr(question)
    with pytest.raises(StopIteration):
        decision.send(bench.authority.ask(question))
    assert isinstance(bench.decider.decide(READ, metadata, PEER), Admission)


def test_the_warm_path_does_no_cryptography() -> None:
    bench = Bench()
    metadata = bench.access_token()
    bench.admit(metadata)
    # A key under the same name that verifies none of its signatures: whoever looked again would refuse.
    (kid,) = bench.authority.view.keys
    bench.authority.view.keys = {kid: ECKey.generate_key("P-256")}
    assert bench.outcome(metadata) is None
    assert bench.outcome(bench.access_token()) is Reason.TOKEN_INVALID


def test_a_good_answer_is_used_for_five_minutes(bench: Bench) -> None:
    metadata = bench.api_token()
    assert bench.outcome(metadata) is None
    bench.now += 299.9
    assert bench.outcome(metadata) is None
    assert len(bench.asked) == 1
    bench.now = NOW + 300
    assert bench.outcome(metadata) is None
    assert len(bench.asked) == 2
    bench.now += 299
    assert bench.outcome(metadata) is None
    assert len(bench.asked) == 2


def test_a_bad_answer_is_used_for_five_seconds(bench: Bench) -> None:
    metadata = basic(APP_ID, UNKNOWN_TOKEN)
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    bench.now += 4.9
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert len(bench.asked) == 1
    bench.now = NOW + 5
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert len(bench.asked) == 2
    assert (len(bench.decider._known), len(bench.decider._refused)) == (0, 1)


def test_a_token_that_becomes_good_is_good_after_the_bad_answer_has_passed(bench: Bench) -> None:
    metadata = bench.api_token()
    good, bench.answer = bench.answer, _refuse
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    bench.answer = good
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    bench.now += 5
    assert bench.outcome(metadata) is None


def _refuse(_question: Question) -> Answer:
    raise TokenInvalid


def _unavailable(_question: Question) -> Answer:
    raise BackendUnavailable


def test_no_answer_is_remembered_neither_as_good_nor_as_bad(bench: Bench) -> None:
    metadata = bench.api_token()
    good, bench.answer = bench.answer, _unavailable
    assert bench.outcome(metadata) is Reason.BACKEND_UNAVAILABLE
    assert (len(bench.decider._known), len(bench.decider._refused)) == (0, 0)
    bench.answer = good
    assert bench.outcome(metadata) is None


def test_when_a_good_answer_has_passed_an_unreachable_authority_means_unavailable(bench: Bench) -> None:
    metadata = bench.api_token()
    assert bench.outcome(metadata) is None
    bench.answer = _unavailable
    assert bench.outcome(metadata) is None
    bench.now += 300
    assert bench.outcome(metadata) is Reason.BACKEND_UNAVAILABLE


def test_a_fault_while_asking_is_no_answer(bench: Bench) -> None:
    metadata = bench.api_token()
    good = bench.answer

    def fault(_question: Question) -> Answer:
        raise ZeroDivisionError

    bench.answer = fault
    with pytest.raises(ZeroDivisionError):
        bench.admit(metadata)
    bench.answer = good
    assert bench.outcome(metadata) is None


async def test_a_call_that_is_cancelled_while_asking_leaves_nothing_behind() -> None:
    bench = Bench()
    metadata = bench.api_token()
    asking = asyncio.Event()

    async def ask(_question: Question) -> Answer:
        asking.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    call = asyncio.create_task(run_async(bench.decider.decide(READ, [metadata], PEER), ask))
    await asking.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (len(bench.decider._known), len(bench.decider._refused)) == (0, 0)
    assert run(bench.decider.decide(READ, [metadata], PEER), bench.ask).caller is not None


WRONG_ANSWERS: dict[str, dict[str, Any]] = {
    "another App": {"app_id": OTHER_APP},
    "another resource": {"resources": frozenset({"https://other"})},
    "a resource that begins like it": {"resources": frozenset({RESOURCE + "/", RESOURCE[:-1]})},
    "no resource": {"resources": frozenset()},
    "another kind": {"how": How.ACCESS_TOKEN},
}


def test_an_answer_to_another_question_is_refused_and_remembered(bench: Bench) -> None:
    metadata = bench.api_token()
    bench.answer = lambda _: bench.authority.ask(StandingQuestion())
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert len(bench.asked) == 1


@pytest.mark.parametrize("wrong", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_an_answer_about_something_else_is_refused_and_remembered(
    bench: Bench, wrong: dict[str, Any]
) -> None:
    metadata = bench.api_token()
    bench.answer = lambda question: replace(bench.authority.ask(question), **wrong)
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert bench.outcome(metadata) is Reason.TOKEN_INVALID
    assert len(bench.asked) == 1
    assert len(bench.decider._known) == 0


NO_API_TOKENS: dict[str, tuple[str, str]] = {
    "no App ID": ("shop", UNKNOWN_TOKEN),
    "an App ID in capitals": (APP_ID.replace("0", "A"), UNKNOWN_TOKEN),
    "an App ID and more": (APP_ID + "\u00a0", UNKNOWN_TOKEN),
    "digits of another script": (APP_ID.replace("8", "\u0668"), UNKNOWN_TOKEN),
    "another prefix": (APP_ID, UNKNOWN_TOKEN.replace("rpzt", "rpzs")),
    "a short one": (APP_ID, UNKNOWN_TOKEN[:-1]),
    "a long one": (APP_ID, UNKNOWN_TOKEN + "A"),
    "a colon more": (APP_ID, ":" + UNKNOWN_TOKEN),
    "padding": (APP_ID, UNKNOWN_TOKEN[:-1] + "="),
    "other letters": (APP_ID, UNKNOWN_TOKEN[:-1] + "\u00e4"),
    "a space": (APP_ID, UNKNOWN_TOKEN[:-1] + " "),
}


@pytest.mark.parametrize("pair", NO_API_TOKENS.values(), ids=NO_API_TOKENS.keys())
def test_what_cannot_be_an_api_token_costs_no_question(bench: Bench, pair: tuple[str, str]) -> None:
    assert bench.outcome(basic(*pair)) is Reason.TOKEN_INVALID
    assert bench.asked == []
    assert len(bench.decider._refused) == 0


# Floods


def test_a105_a_hundred_thousand_random_tokens_push_no_good_one_out() -> None:
    bench = Bench()
    good = [bench.api_token() for _ in range(50)] + [bench.access_token() for _ in range(50)]
    assert [bench.outcome(metadata) for metadata in good] == [None] * 100
    assert len(bench.asked) == 50
    largest = 0
    for number in range(100_000):
        assert bench.outcome(basic(APP_ID, f"rpzt_{number:064d}")) is Reason.TOKEN_INVALID
        largest = max(largest, len(bench.decider._refused))
    assert largest == decide._REFUSAL_CACHE_SIZE
    assert len(bench.decider._known) == 100
    bench.asked.clear()
    assert [bench.outcome(metadata) for metadata in good] == [None] * 100
    assert bench.asked == []


def test_a105_forged_access_tokens_take_no_place_at_all() -> None:
    bench = Bench()
    genuine = bench.access_token()[1].rpartition(".")[0]
    for number in range(300):
        assert bench.outcome(("authorization", f"{genuine}.{number:086d}")) is Reason.TOKEN_INVALID
    assert (len(bench.decider._known), len(bench.decider._refused)) == (0, 0)


def test_a105_other_spellings_of_one_credential_share_its_place_and_its_answer(bench: Bench) -> None:
    for metadata in (bench.api_token(), bench.access_token(), basic(APP_ID, UNKNOWN_TOKEN)):
        scheme, _, rest = metadata[1].partition(" ")
        for spaces in (1, 2, 3, 40):
            for spelling in (scheme, scheme.upper(), scheme.lower()):
                for before, after in ((0, 0), (spaces, 0), (0, spaces)):
                    value = " " * before + spelling + " " * spaces + rest + " " * after
                    bench.outcome(("authorization", value))
                    bench.outcome(("x-rpz-auth", value))
    assert len(bench.asked) == 2
    assert (len(bench.decider._known), len(bench.decider._refused)) == (2, 1)


# What ends a credential ends it on cache hits too

BITES: dict[str, tuple[Callable[[Bench, Credential], None], Reason]] = {
    "revoked": (lambda b, credential: b.authority.revoke(credential), Reason.TOKEN_INVALID),
    "locked": (lambda b, _: b.authority.lock(), Reason.TOKEN_INVALID),
    "outside the whitelist": (
        lambda b, _: b.authority.whitelist(["198.51.100.0/24"]),
        Reason.ORIGIN_NOT_ALLOWED,
    ),
    "stale": (lambda b, _: b.authority.cut_off(), Reason.BACKEND_UNAVAILABLE),
}


@pytest.mark.parametrize(("change", "reason"), BITES.values(), ids=BITES.keys())
@pytest.mark.parametrize("kind", ["access_token", "api_token"])
def test_r077_a_change_bites_on_the_next_call(
    bench: Bench, kind: str, change: Callable[[Bench, Credential], None], reason: Reason
) -> None:
    credential: Credential = getattr(bench.authority, kind)(resource=RESOURCE, scopes=["orders.read"])
    assert bench.outcome(field(credential)) is None
    assert bench.outcome(field(credential)) is None
    asked = len(bench.asked)
    change(bench, credential)
    assert bench.outcome(field(credential)) is reason
    # About an API token the authority is asked anew once its App has changed.
    if kind == "access_token" and reason is not Reason.BACKEND_UNAVAILABLE:
        assert len(bench.asked) == asked


def test_an_api_token_works_again_after_unlocking_and_an_older_access_token_does_not(bench: Bench) -> None:
    api_token, access_token = bench.api_token(), bench.access_token()
    assert (bench.outcome(api_token), bench.outcome(access_token)) == (None, None)
    bench.authority.lock()
    bench.authority.unlock()
    assert (bench.outcome(api_token), bench.outcome(access_token)) == (None, Reason.TOKEN_INVALID)
    assert bench.outcome(bench.access_token()) is None


def test_a45_a_token_of_a_dropped_key_is_refused_on_a_cache_hit(bench: Bench) -> None:
    access_token, api_token = bench.access_token(), bench.api_token()
    assert (bench.outcome(access_token), bench.outcome(api_token)) == (None, None)
    other = ECKey.generate_key("P-256", {"kid": "other"})
    jwks = json.dumps({"keys": [other.as_dict(private=False)]})
    bench.authority.view.apply([SigningKeys(jwks)])
    assert (bench.outcome(access_token), bench.outcome(api_token)) == (Reason.TOKEN_INVALID, None)


@pytest.mark.parametrize("kind", ["access_token", "api_token"])
def test_a46_a_token_that_expires_while_cached_is_expired_and_asks_nothing(bench: Bench, kind: str) -> None:
    metadata = getattr(bench, kind)(expires_in=100)
    assert bench.outcome(metadata) is None
    asked = len(bench.asked)
    bench.now += 99.9
    assert bench.outcome(metadata) is None
    bench.now = NOW + 100
    assert bench.outcome(metadata) is Reason.TOKEN_EXPIRED
    assert bench.outcome(metadata) is Reason.TOKEN_EXPIRED
    assert len(bench.asked) == asked


def test_a_token_that_expires_while_the_question_is_out_is_expired(bench: Bench) -> None:
    metadata = bench.api_token(expires_in=3)

    def slow(question: Question) -> Answer:
        bench.now += 4
        return bench.authority.ask(question)

    bench.answer = slow
    assert bench.outcome(metadata) is Reason.TOKEN_EXPIRED


def test_a_revocation_that_overtakes_the_answer_wins(bench: Bench) -> None:
    credential = bench.authority.api_token(resource=RESOURCE, scopes=["orders.read"])

    def overtaken(question: Question) -> Answer:
        verdict = bench.authority.ask(question)
        bench.authority.revoke(credential)
        return verdict

    bench.answer = overtaken
    assert bench.outcome(field(credential)) is Reason.TOKEN_INVALID
    assert bench.outcome(field(credential)) is Reason.TOKEN_INVALID


def test_scopes_that_were_taken_while_the_question_was_out_do_not_pass(bench: Bench) -> None:
    credential = bench.authority.api_token(resource=RESOURCE, scopes=["orders.read"])

    def overtaken(question: Question) -> Answer:
        verdict = bench.authority.ask(question)
        bench.authority.whitelist([])  # any change of the App
        assert isinstance(verdict, Verdict)
        changed = replace(verdict, scopes=frozenset())
        bench.answer = lambda _: changed
        return verdict

    bench.answer = overtaken
    assert bench.outcome(field(credential)) is Reason.SCOPE_INSUFFICIENT
    assert bench.outcome(field(credential)) is Reason.SCOPE_INSUFFICIENT


def test_an_app_that_changes_without_end_is_not_asked_about_without_end(bench: Bench) -> None:
    credential = bench.authority.api_token(resource=RESOURCE, scopes=["orders.read"])

    def overtaken(question: Question) -> Answer:
        verdict = bench.authority.ask(question)
        bench.authority.whitelist([])
        return verdict

    bench.answer = overtaken
    assert bench.outcome(field(credential)) is Reason.BACKEND_UNAVAILABLE
    assert len(bench.asked) == 3


def test_a_method_that_does_not_exist_is_not_told_of_from_outside_the_whitelist(bench: Bench) -> None:
    bench.authority.whitelist(["198.51.100.1"])
    assert bench.outcome(bench.access_token(), policy=None) is Reason.ORIGIN_NOT_ALLOWED


def test_a48_the_whitelist_of_the_token_s_own_app_counts(bench: Bench) -> None:
    bench.authority.whitelist(["198.51.100.1"], app_id=OTHER_APP)
    assert bench.outcome(bench.access_token(subject=f"app:{OTHER_APP}")) is None
    assert bench.outcome(bench.access_token(app_id=OTHER_APP)) is Reason.ORIGIN_NOT_ALLOWED


def test_a_peer_that_cannot_be_read_is_outside_of_every_whitelist(bench: Bench) -> None:
    assert bench.outcome(bench.access_token(), peer=UNKNOWN) is None
    bench.authority.whitelist(["192.0.2.0/24"])
    assert bench.outcome(bench.access_token(), peer=UNKNOWN) is Reason.ORIGIN_NOT_ALLOWED
    assert bench.outcome(bench.access_token()) is None


def test_only_behind_a_trusted_proxy_the_forwarded_address_is_the_peer(bench: Bench) -> None:
    bench.authority.whitelist(["203.0.113.5"])
    forwarded = ("x-forwarded-for", "203.0.113.5")
    assert bench.outcome(bench.access_token(), forwarded) is Reason.ORIGIN_NOT_ALLOWED
    bench.decider = Decider(
        bench.authority.view,
        issuer=bench.authority.issuer,
        resource=RESOURCE,
        trusted_proxies=TrustedProxies(["192.0.2.7"]),
    )
    admission = bench.admit(bench.access_token(), forwarded)
    client = parse_peer("ipv4:203.0.113.5:1")
    assert admission.peer == client
    assert admission.caller == Caller(admission.caller.verdict, client) if admission.caller else False
    assert bench.admit(forwarded, policy=PUBLIC) == Admission(client, None)


# Staleness


def test_before_the_first_snapshot_every_credential_is_unavailable(bench: Bench) -> None:
    bench.authority = FakeAuthority(clock=lambda: bench.now)
    bench.decider = Decider(bench.authority.view, issuer=bench.authority.issuer, resource=RESOURCE)
    bench.when_stale = REFUSE
    for metadata in (bench.access_token(), bench.api_token(), ("authorization", "Bearer x")):
        assert bench.outcome(metadata) is Reason.BACKEND_UNAVAILABLE
    assert bench.outcome() is Reason.CREDENTIALS_MISSING
    assert bench.outcome(policy=PUBLIC) is None
    assert bench.asked == []


def test_a_view_that_is_too_old_decides_nothing_until_it_is_fresh_again(bench: Bench) -> None:
    metadata = bench.access_token()
    bench.when_stale = REFUSE
    bench.authority.view.refresh(NOW + 10)
    bench.now += 10
    assert bench.outcome(metadata) is None
    bench.now += 0.1
    assert bench.outcome(metadata) is Reason.BACKEND_UNAVAILABLE
    assert bench.outcome(metadata, policy=None) is Reason.BACKEND_UNAVAILABLE
    assert bench.outcome(metadata, policy=PUBLIC) is None
    bench.authority.view.refresh(NOW + 20)
    assert bench.outcome(metadata) is None


# Properties

SHARED = Bench()
GOOD = [SHARED.access_token()[1], SHARED.api_token()[1]]
VALUES = (
    st.text(max_size=60)
    | st.binary(max_size=60)
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["Bearer ", "Basic ", "bearer  ", "Basic", "Bearer\t", " ", "Digest "]),
        st.text(alphabet="AZaz09-_.=+/ ,:", max_size=40),
        st.sampled_from(["", "=", "==", " ", ",", "\n", "\0", "\u00a0", "\ud800"]),
    )
    | st.builds(
        lambda user, password: basic(user, password)[1],
        st.sampled_from([APP_ID, OTHER_APP, ""]) | st.text(st.characters(codec="utf-8"), max_size=10),
        st.sampled_from([UNKNOWN_TOKEN, ""]) | st.text(st.characters(codec="utf-8"), max_size=10),
    )
    | st.sampled_from(GOOD)
)
METADATA = st.lists(
    st.tuples(
        st.sampled_from(["authorization", "x-rpz-auth", "authorization-bin", "x-forwarded-for", "te"])
        | st.text(max_size=10),
        VALUES,
    ),
    max_size=4,
)
PEERS = st.text(max_size=30).map(parse_peer) | st.sampled_from(
    [
        UNKNOWN,
        PEER,
        *map(parse_peer, ["unix:", "ipv6:%5B::1%5D:5", "ipv6:%5Bfe80::1%254%5D:5", "ipv4:10.0.0.1:1"]),
    ]
)


@given(METADATA, PEERS, st.sampled_from([READ, scopes("x"), PUBLIC, CLIENT, None]))
def test_whatever_arrives_the_answer_is_an_admission_or_a_refusal(
    metadata: list[tuple[str, str | bytes]], peer: Peer, policy: Policy | None
) -> None:
    outcomes: list[Admission | Reason] = []
    for driver in ("run", "run_async"):
        SHARED.driver = driver
        SHARED.decider = Decider(
            SHARED.authority.view,
            issuer=SHARED.authority.issuer,
            resource=RESOURCE,
            trusted_proxies=TrustedProxies(["10.0.0.0/8"]),
        )
        try:
            outcomes.append(SHARED.admit(*metadata, policy=policy, peer=peer))
        except Refusal as refusal:
            outcomes.append(refusal.reason)
    assert outcomes[0] == outcomes[1]
    if isinstance(outcomes[0], Admission) and policy not in (PUBLIC, CLIENT):
        assert any(value in GOOD for key, value in metadata if key in ("authorization", "x-rpz-auth"))


ORIGIN = ("origin", "https://shop.example")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([ORIGIN], None),
        ([("origin", "https://evil.example")], Reason.ORIGIN_NOT_ALLOWED),
        ([], Reason.ORIGIN_NOT_ALLOWED),
        ([ORIGIN, ORIGIN], Reason.ORIGIN_NOT_ALLOWED),
        ([("origin", b"https://shop.example")], Reason.ORIGIN_NOT_ALLOWED),
        ([("x-origin", "https://shop.example")], Reason.ORIGIN_NOT_ALLOWED),
    ],
)
def test_a79_a84_the_origin_of_a_page_is_read_from_the_call(
    bench: Bench, metadata: list[tuple[str, str | bytes]], reason: Reason | None
) -> None:
    bench.authority.whitelist(["origin:https://shop.example"])
    token = field(bench.authority.access_token(resource=RESOURCE, scopes=["orders.read"]))
    assert bench.outcome(token, *metadata) is reason
    assert bench.outcome(token, *metadata) is reason  # from the cache


def test_the_origin_survives_a_trusted_proxy_and_reaches_the_handler(bench: Bench) -> None:
    bench.authority.whitelist(["origin:https://shop.example", "203.0.113.9"])
    bench.decider = Decider(
        bench.authority.view,
        issuer=bench.authority.issuer,
        resource=RESOURCE,
        trusted_proxies=TrustedProxies(["192.0.2.7"]),
    )
    token = field(bench.authority.access_token(resource=RESOURCE, scopes=["orders.read"]))
    admission = bench.admit(token, ("x-forwarded-for", "203.0.113.9"), ORIGIN)
    assert admission.peer == replace(parse_peer("ipv4:203.0.113.9:1"), origin="https://shop.example")
    assert bench.outcome(token, ("x-forwarded-for", "203.0.113.8"), ORIGIN) is Reason.ORIGIN_NOT_ALLOWED


def test_the_question_says_who_presents_the_token_and_is_the_same_without(bench: Bench) -> None:
    token = bench.authority.api_token(resource=RESOURCE, scopes=["orders.read"])
    bench.admit(field(token))
    assert bench.asked == [ApiTokenQuestion(APP_ID, token.token, version=(1, 0))]
    assert isinstance(bench.asked[0], ApiTokenQuestion)
    assert str(bench.asked[0].peer) == "192.0.2.7"


def test_a_field_that_came_before_is_not_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    token = bench.access_token()
    admission = bench.admit(token)
    read: list[str] = []

    def parse(value: str) -> credentials.Bearer | credentials.Basic:
        read.append(value)
        return credentials.Bearer(value.rstrip(" ").rpartition(" ")[2])

    monkeypatch.setattr(credentials, "parse", parse)
    assert bench.admit(token) == admission
    assert read == []
    other_spelling = (token[0], token[1] + " ")
    assert bench.admit(other_spelling) == bench.admit(other_spelling) == admission
    assert read == [other_spelling[1]]
    refused = (token[0], token[1] + "x")
    assert [bench.outcome(refused) for _ in range(2)] == [Reason.TOKEN_INVALID] * 2
    assert read[1:] == [refused[1]] * 2  # only what is good is remembered
