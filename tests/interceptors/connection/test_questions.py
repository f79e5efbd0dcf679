"""Questions over the network: a real server that counts them, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2_grpc as pb_grpc
from rpz_auth.connection.clock import AuthorityClock
from rpz_auth.connection.questions import Questions
from rpz_auth.errors import BackendUnavailable, Reason, Refusal, TokenInvalid
from rpz_auth.question import ApiTokenQuestion, Question, StandingQuestion
from rpz_auth.status import rpc_status
from rpz_auth.view import Moment, Standing

TIMEOUT = 20.0
QUESTION = StandingQuestion(("app",), ("grant",))


class Verification(pb_grpc.VerificationServiceServicer):
    """Answers when the test lets it, or fails."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.came = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.failing = False
        self.refusal: Refusal | None = None
        """Of everything that is asked."""

    def GetStanding(self, request: Any, context: Any) -> pb.GetStandingResponse:  # noqa: N802 - the contract's
        self.asked.append(request)
        self.came.release()
        assert self.may_answer.wait(TIMEOUT)
        if self.failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self.refuse(context)
        answer = pb.GetStandingResponse(keys=pb.SigningKeys(jwks="{}"))
        answer.time.FromSeconds(1_800_000_000)
        return answer

    def VerifyApiToken(self, request: Any, context: Any) -> pb.VerifyApiTokenResponse:  # noqa: N802
        self.asked.append(request)
        self.came.release()
        assert self.may_answer.wait(TIMEOUT)
        self.refuse(context)
        return pb.VerifyApiTokenResponse(active=False)

    def refuse(self, context: Any) -> None:
        if self.refusal is not None:
            context.abort_with_status(rpc_status(self.refusal))


def refusal_for(reason: Reason) -> Refusal:
    kind: type[Refusal] = type("_Any", (Refusal,), {"reason": reason, "default_message": "any"})
    return kind()


class Bench:
    def __init__(self, stub: pb_grpc.VerificationServiceStub, service: Verification) -> None:
        self.now = 100.0
        self.service = service
        self.clock = AuthorityClock(lambda: self.now)
        self.questions = Questions(stub, self.clock, monotonic=lambda: self.now)

    def outcome(self, question: Any = QUESTION) -> Any:
        try:
            return self.questions.ask(question)
        except (BackendUnavailable, TokenInvalid) as refusal:
            return type(refusal)


@pytest.fixture
def bench() -> Iterator[Bench]:
    service = Verification()  # type: ignore[abstract] # the other methods are not called
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        pb_grpc.add_VerificationServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call, unused-ignore]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Bench(pb_grpc.VerificationServiceStub(channel), service)
        service.may_answer.set()
        server.stop(None).wait()


async def test_threads_and_tasks_that_ask_the_same_share_one_question(bench: Bench) -> None:
    bench.service.may_answer.clear()
    with ThreadPoolExecutor(10) as pool:
        threads = [pool.submit(bench.questions.ask, QUESTION) for _ in range(10)]
        tasks = [asyncio.create_task(bench.questions.ask_async(QUESTION)) for _ in range(10)]
        await asyncio.to_thread(bench.service.came.acquire)
        await asyncio.sleep(0)
        # All threads are in the question once another one, which comes after them, has its answer.
        bench.service.may_answer.set()
        answers = [await task for task in tasks] + [thread.result(TIMEOUT) for thread in threads]
    assert all(isinstance(answer, Standing) for answer in answers)
    assert len(bench.service.asked) <= 2, "whoever came after the answer asks anew, and nobody else"
    assert abs(bench.clock() - 1_800_000_000) < 1


def test_a_question_that_has_been_under_way_for_long_is_not_joined(bench: Bench) -> None:
    bench.service.may_answer.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.questions.ask, QUESTION)
        assert bench.service.came.acquire(timeout=TIMEOUT)
        bench.now += 0.5
        second = pool.submit(bench.questions.ask, QUESTION)
        assert bench.service.came.acquire(timeout=TIMEOUT)
        bench.service.may_answer.set()
        assert first.result(TIMEOUT) == second.result(TIMEOUT)
    assert len(bench.service.asked) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ApiTokenQuestion("app", "token", version=(1, 1)), ApiTokenQuestion("app", "token", version=(1, 2))),
        (StandingQuestion(asked=Moment(1, 1)), StandingQuestion(asked=Moment(1, 2))),
    ],
    ids=["API token", "standing"],
)
def test_who_asks_after_a_change_does_not_join_who_asked_before(
    bench: Bench, before: Question, after: Question
) -> None:
    bench.service.may_answer.clear()
    with ThreadPoolExecutor(2) as pool:
        for question in (before, after):
            pool.submit(bench.outcome, question)
            assert bench.service.came.acquire(timeout=TIMEOUT)
        bench.service.may_answer.set()
    assert len(bench.service.asked) == 2


def test_after_a_question_without_an_answer_nobody_asks_for_a_second_and_then_one(bench: Bench) -> None:
    bench.service.failing = True
    assert bench.outcome() is BackendUnavailable
    for _ in range(100):
        assert bench.outcome() is BackendUnavailable
        assert bench.outcome(ApiTokenQuestion("app", "token")) is BackendUnavailable
    assert len(bench.service.asked) == 1
    bench.now += 1.0
    bench.service.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(bench.outcome)
        for _ in range(2):  # the first one, and the probe
            assert bench.service.came.acquire(timeout=TIMEOUT)
        assert bench.outcome(StandingQuestion(("another",))) is BackendUnavailable, "one asks, and no other"
        bench.service.failing = False
        bench.service.may_answer.set()
        assert isinstance(probe.result(TIMEOUT), Standing)
    assert isinstance(bench.outcome(StandingQuestion(("another",))), Standing)
    assert len(bench.service.asked) == 3


def test_a_token_that_is_worth_nothing_is_an_answer_and_no_outage(bench: Bench) -> None:
    for _ in range(2):
        assert bench.outcome(ApiTokenQuestion("app", "token")) is TokenInvalid
    assert len(bench.service.asked) == 2


OF_ONE_QUESTION = [Reason.TOKEN_UNDECIDED, Reason.RATE_LIMITED]


@pytest.mark.parametrize("reason", OF_ONE_QUESTION)
@pytest.mark.parametrize(
    "question", [ApiTokenQuestion("app", "token"), QUESTION], ids=["API token", "standing"]
)
def test_a_question_that_a_working_authority_leaves_undecided_takes_no_answer_from_others(
    bench: Bench, question: Question, reason: Reason
) -> None:
    bench.service.refusal = refusal_for(reason)
    for _ in range(3):
        assert bench.outcome(question) is BackendUnavailable
    bench.service.refusal = None
    assert isinstance(bench.outcome(), Standing)
    assert len(bench.service.asked) == 4


@pytest.mark.parametrize("reason", OF_ONE_QUESTION)
def test_an_outage_ends_with_any_answer_of_the_authority(bench: Bench, reason: Reason) -> None:
    bench.service.refusal = refusal_for(Reason.BACKEND_UNAVAILABLE)
    for _ in range(2):
        assert bench.outcome() is BackendUnavailable
    assert len(bench.service.asked) == 1
    bench.now += 1.0
    bench.service.refusal = refusal_for(reason)
    assert bench.outcome(ApiTokenQuestion("app", "token")) is BackendUnavailable
    bench.service.refusal = None
    assert isinstance(bench.outcome(), Standing)
