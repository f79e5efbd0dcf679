from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import administration_service_pb2 as administration_pb
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2 as verification_pb
from rpz_auth import credentials
from rpz_auth.address import Peer, parse_address
from rpz_auth.caller import How, Verdict
from rpz_auth.decide import Decider, run_async
from rpz_auth.errors import Reason, Refusal, TokenInvalid
from rpz_auth.policy import Demand, Policy
from rpz_auth.question import Answer, ApiTokenQuestion, Question
from rpz_auth.staleness import CHECK
from rpz_auth.view import SigningKeys, Snapshot, Standing, View
from server.authority import (
    ORDERS,
    STOCK,
    FakeTime,
    Stubs,
    TestAuthority,
    outcome,
    refusal,
    running_authority,
)

REFUSED, PASSED, UNSEEN = (
    pb.ExplainCredentialResponse.OUTCOME_REFUSED,
    pb.ExplainCredentialResponse.OUTCOME_PASSED,
    pb.ExplainCredentialResponse.OUTCOME_NOT_LOOKED_AT,
)
NAMES = ["credential", "genuine", "resource", "expiry", "revocation", "app", "whitelist", "scopes"]
READ = {"scopes": ["orders.read"], "resource": ORDERS, "peer": "192.0.2.7"}


async def explain(stubs: Stubs, credential: str, **fields: Any) -> pb.ExplainCredentialResponse:
    request = pb.ExplainCredentialRequest(credential=credential, **{**READ, **fields})
    answer: pb.ExplainCredentialResponse = await stubs.tokens.ExplainCredential(request)
    return answer


def refused_steps(answer: pb.ExplainCredentialResponse) -> dict[str, str]:
    return {step.name: step.text for step in answer.steps if step.outcome == REFUSED}


class Service:
    """What the library decides in a service, from all that the authority would have told it."""

    def __init__(self, authority: TestAuthority, verifier: Stubs) -> None:
        self._authority = authority
        self._verifier = verifier

    async def decide(self, credential: str, peer: Peer, resource: str = ORDERS) -> Reason | None:
        authority = self._authority
        stored, issuer = await authority.store.snapshot(), await authority.store.issuer()
        view = View(authority.store.now)
        keys = SigningKeys(authority.authority.signing.jwks(), locked=issuer.locked)
        view.replace(Snapshot(keys, stored.revocations, stored.apps))
        view.refresh(math.inf)
        decider = Decider(view, issuer=authority.settings.issuer, resource=resource)
        policy = Policy(Demand.SCOPES, frozenset({"orders.read"}))
        metadata = [("authorization", credential)]
        try:
            await run_async(decider.decide(policy, metadata, peer, CHECK), self._ask)
        except Refusal as refused:
            return refused.reason
        return None

    async def _ask(self, question: Question) -> Answer:
        if not isinstance(question, ApiTokenQuestion):  # for keys that it does not know
            return Standing((), (), SigningKeys(self._authority.authority.signing.jwks()))
        answer = await self._verifier.verification.VerifyApiToken(
            verification_pb.VerifyApiTokenRequest(app_id=question.app_id, api_token=question.api_token)
        )
        if not answer.active:
            raise TokenInvalid
        return Verdict(
            how=How.API_TOKEN,
            app_id=answer.app_id,
            subject="app:" + answer.app_id,
            scopes=frozenset(answer.scopes),
            resources=frozenset(answer.resources),
            token_id=answer.api_token_id,
        )


class Situation:
    """An App with an access token and an API token, and a service that they are for."""

    def __init__(
        self, authority: TestAuthority, service: Service, client: Any, access: str, api: Any
    ) -> None:
        self.authority = authority
        self.service = service
        self.client = client
        self.bearer = credentials.format_bearer(access)
        self.api_token_id = api.record.api_token_id
        self.basic = credentials.format_basic(client.app_id, api.api_token)

    async def check(self, expected: dict[str, str], credential: str, *, peer: str = "192.0.2.7") -> None:
        """Each step says what it must, and a service decides by the same reason as the first that refuses."""
        await self.authority.catch_up()
        answer = await explain(self.authority.admin, credential, peer=peer)
        told = refused_steps(answer)
        assert set(told) == set(expected), told
        for name, part in expected.items():
            assert part in told[name]
        decided = await self.service.decide(credential, Peer(parse_address(peer)))
        assert answer.reason == (decided or "")


@pytest.fixture
async def situation(authority: TestAuthority) -> Situation:
    client = await authority.create_client(whitelist=["192.0.2.0/24", "127.0.0.1"])
    tokens = await authority.sign_in(client)
    api = await authority.create_api_token(client.app_id, ["orders.read", "orders.write"], [ORDERS])
    _, verifier = await authority.create_verifier()
    return Situation(authority, Service(authority, verifier), client, tokens.access_token, api)


async def test_good_credential_passes_every_step_and_a_service_agrees(situation: Situation) -> None:
    for credential in (situation.bearer, situation.basic):
        await situation.check({}, credential)
        answer = await explain(situation.authority.admin, credential)
        assert [(step.name, step.outcome) for step in answer.steps] == [(name, PASSED) for name in NAMES]
        assert answer.app_id == situation.client.app_id
        assert answer.steps[6].text == "matched by 192.0.2.0/24"
        _, _, alone = situation.bearer.partition(" ")
        assert (await explain(situation.authority.admin, alone)).reason == ""
    nothing = await explain(situation.authority.admin, situation.bearer, resource="", scopes=[], peer="")
    assert [step.name for step in nothing.steps if step.outcome == UNSEEN] == [
        "resource",
        "whitelist",
        "scopes",
    ]


async def test_peer_outside_the_whitelist_is_told_and_a_service_agrees(situation: Situation) -> None:
    expected = {"whitelist": "no entry has the peer 198.51.100.1; the list has 192.0.2.0/24, 127.0.0.1"}
    for credential in (situation.bearer, situation.basic):
        await situation.check(expected, credential, peer="198.51.100.1")


async def test_origin_and_certificate_are_compared_like_peers(authority: TestAuthority) -> None:
    entries = ["san:orders.internal", "origin:https://shop.example"]
    client = await authority.create_client()
    bearer = credentials.format_bearer((await authority.sign_in(client)).access_token)
    await authority.update_app(client.app_id, whitelist=entries)
    good = {"certificate_names": ["Orders.Internal."], "origin": "https://shop.example"}
    assert (await explain(authority.admin, bearer, **good)).reason == ""
    told = refused_steps(await explain(authority.admin, bearer, origin="https://evil.example"))
    assert (
        "no entry has the peer 192.0.2.7 and no entry has the origin https://evil.example"
        in told["whitelist"]
    )
    told = refused_steps(await explain(authority.admin, bearer, **{**good, "origin": ""}))
    assert "no entry has the origin (none was sent); the list" in told["whitelist"]


async def test_what_was_not_told_of_a_call_refuses_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    bearer = credentials.format_bearer((await authority.sign_in(client)).access_token)

    async def whitelist_step(*entries: str, **fields: Any) -> tuple[int, str]:
        await authority.update_app(client.app_id, whitelist=entries)
        step = (await explain(authority.admin, bearer, **{"peer": "", **fields})).steps[6]
        return step.outcome, step.text

    network, name, page = "192.0.2.0/24", "san:orders.internal", "origin:https://shop.example"
    good, evil = {"origin": "https://shop.example"}, {"origin": "https://evil.example"}
    named, other = {"certificate_names": ["orders.internal"]}, {"certificate_names": ["other.internal"]}
    assert await whitelist_step(network, page, **good) == (
        UNSEEN,
        f"the list has {network}, {page}; say from which peer the call comes",
    )
    assert await whitelist_step(network, page, **named) == (
        UNSEEN,
        f"the list has {network}, {page}; say from which peer and from which page the call comes",
    )
    assert await whitelist_step(network, page, **evil) == (
        REFUSED,
        f"no entry has the origin https://evil.example; the list has {network}, {page}",
    )
    assert await whitelist_step(page, **good) == (PASSED, f"matched by {page}")
    assert await whitelist_step(network, name, **named) == (PASSED, f"matched by {name}")
    assert await whitelist_step(network, name, **other) == (
        UNSEEN,
        f"the list has {network}, {name}; say from which peer the call comes",
    )
    assert await whitelist_step(name, **other) == (
        REFUSED,
        f"no entry has the peer (other.internal); the list has {name}",
    )


async def test_missing_scope_and_one_that_was_taken_away_are_told(situation: Situation) -> None:
    admin = situation.authority.admin
    told = refused_steps(await explain(admin, situation.bearer, scopes=["orders.read", "orders.write"]))
    assert told == {"scopes": "orders.write is missing; it has orders.read"}
    await situation.authority.update_app(situation.client.app_id, scopes=["orders.write"])
    await situation.check({"scopes": "orders.read was taken from the App since"}, situation.basic)


async def test_other_resource_is_told(situation: Situation) -> None:
    for credential in (situation.bearer, situation.basic):
        answer = await explain(situation.authority.admin, credential, resource=STOCK)
        assert refused_steps(answer) == {"resource": f"meant for {ORDERS}, not for {STOCK}"}
        assert answer.reason == Reason.TOKEN_INVALID
        peer = Peer(parse_address("192.0.2.7"))
        assert await situation.service.decide(credential, peer, STOCK) is Reason.TOKEN_INVALID


async def test_resource_that_was_taken_away_is_told(situation: Situation) -> None:
    await situation.authority.update_app(situation.client.app_id, resources=[STOCK])
    await situation.check({"resource": f"{ORDERS} was taken from the App since"}, situation.basic)
    await situation.check({}, situation.bearer)


async def test_expired_and_revoked_are_told_and_a_service_agrees(situation: Situation) -> None:
    authority, app_id = situation.authority, situation.client.app_id
    await authority.advance(7201)
    await situation.check({"expiry": "it has expired on"}, situation.bearer)
    request = pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=situation.api_token_id)
    await authority.admin.tokens.RevokeApiToken(request)
    today = datetime.fromtimestamp(authority.store.now(), UTC).date()
    await situation.check({"revocation": f"it was revoked on {today} "}, situation.basic)


async def test_revoked_grant_is_told(situation: Situation) -> None:
    await situation.authority.admin.tokens.RevokeSubject(pb.RevokeSubjectRequest(subject="user:1"))
    await situation.check({"revocation": "its grant"}, situation.bearer)


async def test_locked_deleted_and_ended_are_told_and_a_service_agrees(situation: Situation) -> None:
    apps, app_id = situation.authority.admin.apps, situation.client.app_id
    await apps.EndAllTokens(app_pb.EndAllTokensRequest(app_id=app_id))
    await situation.check({"app": "all tokens of the App from before were ended"}, situation.bearer)
    await apps.LockApp(app_pb.LockAppRequest(app_id=app_id))
    for credential in (situation.bearer, situation.basic):
        await situation.check({"app": "the App is locked"}, credential)
    await apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app_id))
    for credential in (situation.bearer, situation.basic):
        answer = await explain(situation.authority.admin, credential)
        assert "the App was deleted" in refused_steps(answer)["app"]


async def test_locked_issuer_is_told_and_a_service_agrees(situation: Situation) -> None:
    authority = situation.authority
    await authority.admin.administration.LockIssuer(administration_pb.LockIssuerRequest())
    await situation.check({"revocation": "the whole issuer is locked"}, situation.basic)
    await situation.check({"genuine": "the key that signed it is not published"}, situation.bearer)


@pytest.mark.parametrize(
    ("credential", "part", "reason"),
    [
        ("Digest abc", "send 'Bearer <access token>'", Reason.CREDENTIALS_MISSING),
        ("Bearer a,Bearer b", "exactly one", Reason.CREDENTIALS_AMBIGUOUS),
        ("Basic !!!", "not valid here", Reason.TOKEN_INVALID),
        (credentials.format_basic("app", "password"), "nor an API token", Reason.TOKEN_INVALID),
        (credentials.format_basic("app", "a.b.c"), "sent as Bearer", Reason.TOKEN_INVALID),
        ("abc", "neither an access token", Reason.TOKEN_INVALID),
        ("Bearer rpzt_abc", "sent as Basic", Reason.TOKEN_INVALID),
        ("Bearer rpzs_abc", "an OAuth 2 secret", Reason.TOKEN_INVALID),
        ("rpzr_abc", "a refresh token", Reason.TOKEN_INVALID),
        ("rpzc_abc", "an authorization code", Reason.TOKEN_INVALID),
    ],
)
async def test_what_no_service_reads_is_told(
    authority: TestAuthority, credential: str, part: str, reason: Reason
) -> None:
    answer = await explain(authority.admin, credential)
    assert [step.name for step in answer.steps] == ["credential"]
    assert part in answer.steps[0].text
    assert answer.reason == reason


async def test_forgery_is_told_to_administrators(situation: Situation) -> None:
    swapped = situation.bearer[:-2] + ("AA" if situation.bearer[-2:] != "AA" else "BB")
    await situation.check({"genuine": "its signature is wrong"}, swapped)
    token = credentials.parse(situation.basic)
    assert isinstance(token, credentials.Basic)
    forged = token.password[:-1] + ("A" if token.password[-1] != "A" else "B")
    await situation.check(
        {"genuine": "this authority never made it"}, credentials.format_basic(token.user, forged)
    )
    elsewhere = credentials.format_basic("00000000-0000-4000-8000-000000000000", token.password)
    await situation.check({"genuine": "was sent with another App ID"}, elsewhere)


async def test_owners_learn_of_their_own_apps_and_others_nothing_at_all(situation: Situation) -> None:
    authority = situation.authority
    owner_id, owner = await authority.app_with("rpz.apps")
    _, stranger = await authority.app_with("rpz.apps")
    await authority.update_app(situation.client.app_id, owner=f"app:{owner_id}")
    made_up = situation.bearer[:-2] + "AA"
    for credential in (situation.bearer, situation.basic):
        assert (await explain(owner, credential)).app_id == situation.client.app_id
        real = await refusal(explain(stranger, credential))
        assert real == await refusal(explain(stranger, made_up)) == Reason.NOT_FOUND
        assert real.text == (await refusal(explain(stranger, made_up))).text
    assert await refusal(explain(owner, made_up)) == Reason.NOT_FOUND
    _, without = await authority.app_with("rpz.verify")
    assert await refusal(explain(without, situation.bearer)) == Reason.SCOPE_INSUFFICIENT
    assert await refusal(explain(authority.anonymous, situation.bearer)) == Reason.CREDENTIALS_MISSING


async def test_asking_is_limited_and_counts_as_no_failure(tmp_path: Path) -> None:
    limits: dict[str, Any] = {
        "failure_limit": 1,
        "peer_failure_limit": 1,
        "app_failure_limit": 1,
        "verification_limit": 5,
    }
    async with running_authority(tmp_path / "data", time=FakeTime(), **limits) as authority:
        client = await authority.create_client()
        created = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
        basic = credentials.format_basic(client.app_id, created.api_token)
        asked = [await outcome(explain(authority.admin, basic[:-4] + "AAA=")) for _ in range(6)]
        assert [getattr(answer, "reason", None) for answer in asked] == ["TOKEN_INVALID"] * 5 + [
            "RATE_LIMITED"
        ]
        # Its App and its peer have failed in nothing, and the token was not used.
        wrong = client.body | {"client_secret": "rpzs_wrong"}
        refresh = pb.RefreshRequest(refresh_token="rpzr_none", **wrong)
        assert await refusal(authority.anonymous.tokens.Refresh(refresh)) == Reason.GRANT_INVALID
        used = {use.credential_id for use in authority.authority.uses.take(10)}
        assert used == {(await authority.store.issuer()).bootstrap_token_id}


async def test_credential_is_no_longer_than_a_service_reads(authority: TestAuthority) -> None:
    longest = "Bearer ".ljust(credentials.MAX_LENGTH, "a")
    assert (await explain(authority.admin, longest)).reason == Reason.TOKEN_INVALID
    assert await refusal(explain(authority.admin, longest + "a")) == Reason.REQUEST_INVALID


async def test_peer_that_is_no_address_is_an_error(authority: TestAuthority) -> None:
    assert await refusal(explain(authority.admin, "Bearer a.b.c", peer="office")) == Reason.REQUEST_INVALID
    assert await refusal(explain(authority.admin, "")) == Reason.REQUEST_INVALID
