"""What goes wrong between a service and its authority, through a proxy of ours and with real processes.

The rule in all of it: what was revoked passes for no longer than the bound, and all resumes by itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import rpz_auth
from google.protobuf.field_mask_pb2 import FieldMask
from orders.v1 import orders_pb2
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1.verification_service_pb2_grpc import VerificationServiceStub
from rpz_auth.caller import Verdict
from rpz_auth.connection.questions import Questions
from rpz_auth.connection_file import VerifierFile
from rpz_auth.question import Answer, Question
from support.authority import AuthorityProcess, Client, running_authority
from support.service import Service, access_token, api_token
from support.tcp_proxy import TcpProxy, running_proxy

pytestmark = pytest.mark.timeout(240)

STALENESS = 3.0
BOUND = STALENESS + 1.0
"""Seconds for which the last word of a silent authority holds: `max_staleness`, and one answer to `CHECK`."""
ANSWER = 150
"""Bytes, at least, of an answer about an API token."""
SLACK = 3.0
"""For what a busy machine adds."""
DEADLINE = 60.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    with running_authority(tmp_path_factory.mktemp("faults") / "data") as process:
        yield process


def verifier_through(proxy: TcpProxy, authority: AuthorityProcess, path: Path) -> Path:
    content = json.loads(authority.create_verifier(path).read_text())
    path.write_text(json.dumps({**content, "grpc_address": proxy.address}))
    return path


@contextlib.contextmanager
def connected(
    authority: AuthorityProcess, tmp_path: Path, **options: object
) -> Iterator[tuple[TcpProxy, Service]]:
    with running_proxy(authority.address) as proxy:
        verifier = verifier_through(proxy, authority, tmp_path / "orders.json")
        with Service(verifier, max_staleness=STALENESS, **options) as service:
            yield proxy, service


def lock(authority: AuthorityProcess, client: Client) -> None:
    authority.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))


def wait_for(outcome: str, service: Service, token: str) -> float:
    """Call until it comes out so; return the seconds that took."""
    began, pause = time.monotonic(), threading.Event()
    while (last := service.outcome(token)) != outcome:
        assert time.monotonic() - began < DEADLINE, f"still {last}"
        pause.wait(0.02)
    return time.monotonic() - began


def wait_while(outcome: str, service: Service, token: str) -> float:
    """Call until it comes out differently; return the seconds that took."""
    began, pause = time.monotonic(), threading.Event()
    while service.outcome(token) == outcome:
        assert time.monotonic() - began < DEADLINE
        pause.wait(0.02)
    return time.monotonic() - began


FAULTS: dict[str, Callable[[TcpProxy], None]] = {
    "cut": TcpProxy.cut,
    "stalled": TcpProxy.stall,
    "half-closed": TcpProxy.half_close,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_r077_r128_what_is_revoked_during_a_fault_passes_no_longer_than_the_bound_and_never_again(
    authority: AuthorityProcess, tmp_path: Path, fault: str
) -> None:
    client = authority.create_client()
    access, (api, _) = access_token(authority, client)[0], api_token(authority, client)
    with connected(authority, tmp_path) as (proxy, service):
        assert [service.outcome(access), service.outcome(api)] == ["user:1", f"app:{client.app_id}"]
        FAULTS[fault](proxy)
        lock(authority, client)
        assert wait_while("user:1", service, access) < BOUND + SLACK
        assert service.outcome(api) != f"app:{client.app_id}"
        proxy.resume()
        for token in (access, api):
            wait_for("TOKEN_INVALID", service, token)


@pytest.mark.parametrize("fault", FAULTS)
def test_r128_nothing_passes_while_the_authority_is_silent_and_all_resumes_by_itself(
    authority: AuthorityProcess, tmp_path: Path, fault: str
) -> None:
    client = authority.create_client()
    token = access_token(authority, client)[0]
    with connected(authority, tmp_path, when_stale=rpz_auth.REFUSE) as (proxy, service):
        assert service.outcome(token) == "user:1"
        FAULTS[fault](proxy)
        assert wait_for("BACKEND_UNAVAILABLE", service, token) < STALENESS + SLACK
        assert service.auth.status().state is rpz_auth.State.STALE
        proxy.resume()
        wait_for("user:1", service, token)
        assert service.auth.status().state is rpz_auth.State.FRESH


def test_serve_goes_on_through_a_fault_until_its_own_bound(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    client = authority.create_client()
    token = access_token(authority, client)[0]
    until = STALENESS + 2.0
    with connected(authority, tmp_path, when_stale=rpz_auth.serve(until=until)) as (proxy, service):
        assert service.outcome(token) == "user:1"
        proxy.cut()
        took = wait_while("user:1", service, token)
        assert STALENESS - 1.5 < took < until + SLACK
        assert service.outcome(token) == "BACKEND_UNAVAILABLE"


def test_a_slow_network_delays_a_revocation_by_its_delay_and_no_more(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    client = authority.create_client()
    token = access_token(authority, client)[0]
    with connected(authority, tmp_path) as (proxy, service):
        assert service.outcome(token) == "user:1"
        proxy.delay = 0.3
        lock(authority, client)
        assert wait_for("TOKEN_INVALID", service, token) < proxy.delay + SLACK
        assert service.auth.status().state is rpz_auth.State.FRESH


class OnTheWire:
    """What a service asks goes by a connection of its own, whose answers can be held up."""

    def __init__(self, service: Service, proxy: TcpProxy, verifier: Path) -> None:
        self.proxy = proxy
        self.answers: list[object] = []
        file = VerifierFile.read(verifier)
        credential = rpz_auth.ApiToken(file.app_id, file.api_token)
        self.channel = rpz_auth.secure_channel(proxy.address, credential, tls=file.transport())
        connection = service.connection
        assert connection._running is not None
        questions = Questions(VerificationServiceStub(self.channel), connection._clock)
        connection._running = replace(connection._running, questions=questions)
        self._ask, questions.ask = questions.ask, self.ask  # type: ignore[method-assign] # to see what was answered

    def ask(self, question: Question) -> Answer:
        answer = self._ask(question)
        self.answers.append(answer)
        return answer

    def wait_for_answer(self) -> None:
        """Return once an answer is under way; it is longer than whatever else HTTP/2 has to say."""
        began, pause = time.monotonic(), threading.Event()
        while self.proxy.held < ANSWER:
            assert time.monotonic() - began < DEADLINE
            pause.wait(0.005)


def revoke_token(authority: AuthorityProcess, client: Client, token_id: str) -> None:
    authority.revoke_api_token(client, token_id)


def lock_app(authority: AuthorityProcess, client: Client, _token_id: str) -> None:
    lock(authority, client)


@pytest.mark.parametrize("revoke", [revoke_token, lock_app])
def test_r077_a_good_verdict_that_its_revocation_passes_on_the_wire_lets_nothing_through(
    authority: AuthorityProcess, tmp_path: Path, revoke: Callable[[AuthorityProcess, Client, str], None]
) -> None:
    client = authority.create_client()
    (token, token_id), (other, _) = (
        api_token(authority, client),
        api_token(authority, authority.create_client()),
    )
    with (
        connected(authority, tmp_path) as (_, service),
        running_proxy(authority.address) as proxy,
        ThreadPoolExecutor(1) as pool,
    ):
        wire = OnTheWire(service, proxy, tmp_path / "orders.json")
        assert service.outcome(other).startswith("app:")  # the connection stands
        proxy.hold_answers()
        called = pool.submit(service.outcome, token)
        wire.wait_for_answer()
        view, learned = service.connection.view, threading.Event()
        view.follow(lambda _: learned.set())
        revoke(authority, client, token_id)
        assert learned.wait(DEADLINE)
        assert not called.done()
        proxy.resume()
        assert called.result(DEADLINE) == "TOKEN_INVALID"
        good = wire.answers[1]
        assert isinstance(good, Verdict), "what was under way was no verdict"
        assert good.token_id == token_id
        assert service.outcome(token) == "TOKEN_INVALID", "the verdict was kept"
        wire.channel.close()


def test_r124_what_is_taken_from_an_app_ends_the_streams_that_its_api_tokens_opened(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    client = authority.create_client()
    token, _ = api_token(authority, client)
    with connected(authority, tmp_path) as (_, service):
        stream = service.stub.WatchOrders(
            orders_pb2.WatchOrdersRequest(), metadata=(("x-rpz-auth", token),), timeout=DEADLINE
        )
        next(stream)
        change = app_pb.App(app_id=client.app_id, scopes=["orders.write"])
        authority.apps.UpdateApp(app_pb.UpdateAppRequest(app=change, update_mask=FieldMask(paths=["scopes"])))
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.CANCELLED  # no other reaches the client of an idle one
        assert service.outcome(token) == "SCOPE_INSUFFICIENT"


@pytest.mark.parametrize("shift", [-3600, 3600])
def test_a130_a_verifier_whose_clock_is_wrong_by_an_hour_decides_by_the_authoritys(
    tmp_path: Path, shift: int
) -> None:
    """Which of the two clocks is wrong makes no difference between them, so it is the authority's here."""
    program = Path(__file__).parents[1] / "support" / "shifted_clock.py"
    authority = AuthorityProcess(tmp_path / "data", prefix=(sys.executable, str(program), str(shift)))
    try:
        with connected(authority, tmp_path) as (_, service):
            client = authority.create_client()
            token = access_token(authority, client)[0]
            assert service.outcome(token) == "user:1"
            assert abs(service.connection.view.now() - time.time() - shift) < SLACK
            lock(authority, client)
            wait_for("TOKEN_INVALID", service, token)
    finally:
        authority.kill()


def collect_events(authority: AuthorityProcess, _service: Service) -> None:
    """Have the database say what it says when all events but the newest were collected."""
    (database,) = authority.data_dir.glob("*.db")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("UPDATE meta SET collected_event = (SELECT max(sequence) FROM events)")


def make_up_cursor(_authority: AuthorityProcess, service: Service) -> None:
    service.connection._cursor = "1." + "0" * 32


@pytest.mark.parametrize("spoil", [collect_events, make_up_cursor])
def test_a_cursor_that_is_too_old_or_unknown_brings_a_snapshot(
    authority: AuthorityProcess, tmp_path: Path, spoil: Callable[[AuthorityProcess, Service], None]
) -> None:
    client = authority.create_client()
    token = access_token(authority, client)[0]
    with connected(authority, tmp_path) as (proxy, service):
        assert service.outcome(token) == "user:1"
        snapshots = service.connection.view.moment().snapshots
        proxy.cut()
        lock(authority, client)
        spoil(authority, service)
        proxy.resume()
        wait_for("TOKEN_INVALID", service, token)
        assert service.connection.view.moment().snapshots == snapshots + 1


def test_a_killed_authority_and_a_gap_with_events_in_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = AuthorityProcess(data_dir)
    with connected(first, tmp_path) as (proxy, service):
        client, other = first.create_client(), first.create_client()
        tokens = [access_token(first, each)[0] for each in (client, other)]
        assert [service.outcome(token) for token in tokens] == ["user:1"] * 2
        proxy.cut()
        first.kill()
        with running_authority(data_dir, f"--issuer={first.bootstrap['issuer']}") as second:
            lock(second, client)  # in the gap: nobody follows
            proxy.target = second.address
            proxy.resume()
            wait_for("TOKEN_INVALID", service, tokens[0])
            wait_for("user:1", service, tokens[1])


def test_a_restored_database_brings_nothing_back_that_a_verifier_knows_to_be_revoked(tmp_path: Path) -> None:
    data_dir, backup = tmp_path / "data", tmp_path / "backup"
    first = AuthorityProcess(data_dir)
    with connected(first, tmp_path) as (proxy, service):
        client = first.create_client()
        token, token_id = api_token(first, client)
        assert service.outcome(token) == f"app:{client.app_id}"
        proxy.cut()
        first.stop()
        shutil.copytree(data_dir, backup)
        issuer = f"--issuer={first.bootstrap['issuer']}"
        with running_authority(data_dir, issuer) as second:
            proxy.target = second.address
            proxy.resume()
            wait_for(f"app:{client.app_id}", service, token)
            second.revoke_api_token(client, token_id)
            wait_for("TOKEN_INVALID", service, token)
            proxy.cut()
        shutil.rmtree(data_dir)
        backup.rename(data_dir)
        with running_authority(data_dir, issuer) as restored:
            proxy.target = restored.address
            proxy.resume()
            began, found = time.monotonic(), ""
            while (
                found != "TOKEN_INVALID"
                or service.auth.status().age > 1.0
                or time.monotonic() - began < STALENESS
            ):
                found = service.outcome(token)
                assert found in {"TOKEN_INVALID", "BACKEND_UNAVAILABLE"}
                assert time.monotonic() - began < DEADLINE
            other = restored.create_client()
            wait_for("user:1", service, access_token(restored, other)[0])


def test_r128_a_database_that_reads_and_does_not_commit_lets_nothing_pass(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running_authority(data_dir) as authority, connected(authority, tmp_path) as (_, service):
        client = authority.create_client()
        token = access_token(authority, client)[0]
        assert service.outcome(token) == "user:1"
        (database,) = data_dir.glob("*.db")
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert wait_for("BACKEND_UNAVAILABLE", service, token) < BOUND + SLACK
            other.execute("ROLLBACK")
        wait_for("user:1", service, token)
