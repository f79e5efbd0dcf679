from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2 as pb
from server.cli.command import Cli
from server.cli.conftest import FalseAuthority

MINUTES = 1500
REASONS = ("CLIENT_INVALID", "GRANT_INVALID")
PAGE = 1000


@pytest.fixture
def refusing(false_authority: FalseAuthority) -> Cli:
    """An authority that refuses for two reasons in each of many minutes, and hands out a page at a time."""
    now = int(time.time() // 60) * 60
    counts = [
        pb.RefusalCount(reason=reason, minute=Timestamp(seconds=now - 60 * ago), count=ago + 1)
        for ago in range(MINUTES)
        for reason in REASONS
    ]

    def list_refusals(request: pb.ListRefusalsRequest, _context: Any) -> pb.ListRefusalsResponse:
        begin = int(request.page_token or 0)
        end = begin + min(request.page_size, PAGE)
        more = str(end) if end < len(counts) else ""
        return pb.ListRefusalsResponse(refusals=counts[begin:end], next_page_token=more)

    return false_authority(ListRefusals=list_refusals)


def counted(cli: Cli, *arguments: str) -> list[tuple[str, int]]:
    told = cli.json("refusals", "list", *arguments)
    return [(each["reason"], int(each["count"])) for each in told["refusals"]]


def test_as_many_lines_as_asked_for_are_shown_the_newest_first(refusing: Cli) -> None:
    everything = [(reason, ago + 1) for ago in range(MINUTES) for reason in REASONS]
    assert counted(refusing) == everything[:50]
    assert counted(refusing, "--limit", "2500") == everything[:2500]
    assert counted(refusing, "--limit", "99999") == everything
    assert refusing("refusals", "list", "--limit", "2500").out.count("_INVALID") == 2500


def test_one_reason_and_the_last_minutes_are_searched_in_all_pages(refusing: Cli) -> None:
    assert counted(refusing, "--reason", "grant_invalid", "--limit", "1200") == [
        ("GRANT_INVALID", ago + 1) for ago in range(1200)
    ]
    lines = counted(refusing, "--since", "20h", "--limit", "99999")
    assert len(lines) in (2 * 1200, 2 * 1201)  # the minute in which it began is told as a whole
    assert counted(refusing, "--since", "1h", "--reason", "CLIENT_INVALID", "--limit", "3") == [
        ("CLIENT_INVALID", 1),
        ("CLIENT_INVALID", 2),
        ("CLIENT_INVALID", 3),
    ]


def test_time_that_cannot_be_read_is_a_mistake_of_usage(refusing: Cli) -> None:
    assert refusing("refusals", "list", "--since=yesterday").code == 2


def test_reason_that_there_is_not_is_a_mistake_of_usage(refusing: Cli) -> None:
    refused = refusing("refusals", "list", "--reason", "client_invalids")
    assert (refused.code, refused.out) == (2, "")
    assert "CLIENT_INVALID" in refused.err
