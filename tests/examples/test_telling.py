from __future__ import annotations

import base64
import io

import grpc
import pytest
from demo.telling import Endpoint, Narrator, NotAsItShould, StoryEnded, in_short, redact
from orders.v1 import orders_pb2 as pb
from rich.console import Console
from rpz_auth import Reason


class Answering:
    """A stub whose methods answer."""

    def GetStatus(self, _request: pb.GetStatusRequest, **_sent: object) -> pb.GetStatusResponse:  # noqa: N802
        return pb.GetStatusResponse(status="open")


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def say(output: io.StringIO) -> Narrator:
    return Narrator(Console(file=output, width=80, highlight=False))


ENDPOINT = Endpoint("service", Answering())


def test_a_step_that_ends_well_is_marked_good(say: Narrator, output: io.StringIO) -> None:
    with say.step("Ask"):
        say.answered(ENDPOINT, "GetStatus", pb.GetStatusRequest(), [("key", "value")])
        say.remark("open")
    assert [line.rstrip() for line in output.getvalue().splitlines()] == [
        "",
        "  1 Ask",
        "    → key: value",
        "    → service: GetStatus()",
        "    ← status: open",
        "    ✓ open",
    ]
    assert (say.told, say.good) == (1, 1)


def test_an_answer_where_a_refusal_is_due_ends_the_story(say: Narrator, output: io.StringIO) -> None:
    with pytest.raises(StoryEnded), say.step("Ask"):
        say.refused(
            ENDPOINT,
            "GetStatus",
            pb.GetStatusRequest(),
            code=grpc.StatusCode.UNAUTHENTICATED,
            reason=Reason.TOKEN_INVALID,
        )
    assert "✗ NOT AS IT SHOULD BE: expected UNAUTHENTICATED TOKEN_INVALID, got an answer" in output.getvalue()
    assert (say.told, say.good) == (1, 0)


def test_a_fault_inside_a_step_ends_the_story(say: Narrator, output: io.StringIO) -> None:
    with pytest.raises(StoryEnded), say.step("Ask"):
        raise KeyError("x")
    assert "✗ NOT AS IT SHOULD BE: KeyError: 'x'" in output.getvalue()


def test_another_value_than_expected_is_named() -> None:
    with pytest.raises(NotAsItShould, match="expected who to be 'ada', got 'eve'"):
        Narrator.expect("who", "eve", "ada")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("code: rpzc_" + "a" * 60 + "wxyz", "code: rpzc_…wxyz"),
        ("Bearer eyJh" + "b" * 40 + "." + "c" * 80 + "wxyz, next", "Bearer eyJh…wxyz, next"),
        ("code_verifier: abcd" + "~" * 43 + "wxyz", "code_verifier: abcd…wxyz"),
        ("Basic " + base64.b64encode(b"app:rpzt_" + b"a" * 60 + b"wxyz").decode(), "Basic(app:rpzt_…wxyz)"),
        ("Basic " + base64.b64encode(b"app:short").decode(), "Basic(app:…)"),
        ("Basic QUJD/", "Basic …"),
        ("app_id: 8d6cd1ca-4e43-41a7-8001-f769bc6f57ea", "app_id: 8d6cd1ca-4e43-41a7-8001-f769bc6f57ea"),
    ],
)
def test_a124_credentials_are_shortened_wherever_they_stand(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_messages_are_shown_on_one_line() -> None:
    message = pb.GetOrderResponse(order=pb.Order(order_id="7", item="a\nbook"), downstream_authorization="x")
    assert in_short(message) == "order: {order_id: 7, item: a\nbook}, downstream_authorization: x"
