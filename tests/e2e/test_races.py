"""Good once is good once: from many threads, through several processes on one database."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from support.authority import AuthorityProcess, reason, running_authority
from support.postgres import PostgresServer

RACERS = 64
ROUNDS = 20


@pytest.fixture(
    scope="module",
    params=[("sqlite", 1), ("sqlite", 4), ("postgres", 3)],
    ids=lambda param: "-".join(map(str, param)),
)
def authorities(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[AuthorityProcess]]:
    """Processes on one database."""
    backend, processes = request.param
    data_dir = tmp_path_factory.mktemp("races") / "data"
    # The races are the point here, not how soon somebody who repeats a code 64 times is held up.
    config = data_dir.with_name("races.toml")
    config.write_text("refresh_limit = 0\nfailure_limit = 0\npeer_failure_limit = 0\napp_failure_limit = 0\n")
    flags = ["--config", str(config)]
    if backend == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        flags += ["--database", server.create_database()]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(running_authority(data_dir, *flags)) for _ in range(processes)]


def race(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make all calls at the same moment; an answer each, or the reason of its refusal."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return call()
        except grpc.RpcError as error:
            return reason(error)

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def spread(authorities: Sequence[AuthorityProcess]) -> list[AuthorityProcess]:
    return [authorities[number % len(authorities)] for number in range(RACERS)]


@pytest.mark.timeout(300)
def test_r030_a07_of_64_concurrent_redemptions_exactly_one_succeeds_every_time(
    authorities: Sequence[AuthorityProcess],
) -> None:
    client = authorities[0].create_client()
    for _ in range(ROUNDS):
        code = authorities[0].issue_code(client)
        outcomes = race(
            [functools.partial(authority.exchange, client, code) for authority in spread(authorities)]
        )
        tokens = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        assert len(tokens) == 1
        assert collections.Counter(outcome for outcome in outcomes if isinstance(outcome, str)) == {
            "GRANT_INVALID": RACERS - 1
        }
        # The others were valid second redemptions: what the one got is revoked (RFC 6749 §4.1.2).
        assert race([functools.partial(authorities[0].refresh, client, tokens[0].refresh_token)]) == [
            "GRANT_INVALID"
        ]


@pytest.mark.timeout(300)
def test_r063_a21_of_64_concurrent_refreshes_one_lineage_goes_on_every_time(
    authorities: Sequence[AuthorityProcess],
) -> None:
    client = authorities[0].create_client()
    token = authorities[0].exchange(client, authorities[0].issue_code(client)).refresh_token
    for _ in range(ROUNDS):
        outcomes = race(
            [functools.partial(authority.refresh, client, token) for authority in spread(authorities)]
        )
        answers = collections.Counter(
            outcome if isinstance(outcome, str) else outcome.refresh_token for outcome in outcomes
        )
        # One rotation and its five repeats, all with the same successor; nobody is punished.
        assert answers.pop("RATE_LIMITED") == RACERS - 6
        ((token, times),) = answers.items()
        assert token.startswith("rpzr_")
        assert times == 6
