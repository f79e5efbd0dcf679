"""A user stays signed in at a real authority, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rpz_auth
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import RenewalFailed, SignInRequired
from support.authority import CODE_VERIFIER, REDIRECT_URI, AuthorityProcess, Client
from support.lossy_proxy import LossyProxy
from support.signed_in import LeapingClock, Lineage, actions, lineage, sign_in


def is_known(authority: AuthorityProcess, client: Client, access_token: str) -> bool:
    """Whether the authority made this access token for this client: only then can the client end it."""
    before = actions(authority, client)
    authority.anonymous.RevokeToken(
        pb.RevokeTokenRequest(token=access_token, client_id=client.app_id, client_secret=client.secret)
    )
    return actions(authority, client) == [*before, "access_token.revoke"]


def revoke_grants(authority: AuthorityProcess, client: Client) -> None:
    for grant in authority.tokens.ListGrants(pb.ListGrantsRequest(client_id=client.app_id)).grants:
        authority.tokens.RevokeGrant(pb.RevokeGrantRequest(grant_id=grant.grant_id))


def test_a_code_brings_a_token_and_the_store_what_renews_it(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint
) -> None:
    clock, store = LeapingClock(), rpz_auth.MemoryStore()
    credential = sign_in(authority, client, endpoint, store, clock)
    first, refresh_token = credential.access_token(), store.load()
    assert credential.access_token() == first
    clock.leap()
    second = credential.access_token()
    assert second != first
    assert store.load() not in (None, refresh_token)
    assert is_known(authority, client, second)
    assert lineage(authority, client) == Lineage(alive=1, generations=[2], alarms=[])
    assert client.secret not in repr(credential)


def test_another_program_goes_on_from_the_store(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint, tmp_path: Path
) -> None:
    sign_in(authority, client, endpoint, rpz_auth.FileStore(tmp_path / "grant.json"))
    later = rpz_auth.RefreshingToken(
        endpoint,
        rpz_auth.FileStore(tmp_path / "grant.json"),
        client_id=client.app_id,
        client_secret=client.secret,
    )
    assert is_known(authority, client, later.access_token())


def test_an_ended_grant_says_that_the_user_must_sign_in_again_and_asks_no_more(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint, tmp_path: Path
) -> None:
    clock, file = LeapingClock(), tmp_path / "grant.json"
    credential = sign_in(authority, client, endpoint, rpz_auth.FileStore(file), clock)
    revoke_grants(authority, client)
    for _ in range(3):
        clock.leap()
        with pytest.raises(SignInRequired, match="sign in again"):
            credential.access_token()
        endpoint.close()
        endpoint._target = "127.0.0.1:1"  # nobody is asked about it again
    file.unlink()
    clock.leap()
    with pytest.raises(SignInRequired):  # nor about none
        credential.access_token()
    endpoint.close()
    endpoint._target = authority.address
    code = authority.issue_code(client)
    credential.sign_in(code, redirect_uri=REDIRECT_URI, code_verifier=CODE_VERIFIER)
    clock.leap()
    assert is_known(authority, client, credential.access_token())


def test_a_store_without_a_token_says_so_too_and_asks_nobody(client: Client) -> None:
    with rpz_auth.TokenEndpoint("127.0.0.1:1", sleep=lambda _: None) as nowhere:
        credential = rpz_auth.RefreshingToken(nowhere, rpz_auth.MemoryStore(), client_id=client.app_id)
        with pytest.raises(SignInRequired):
            credential.access_token()


def test_a_wrong_secret_is_no_ended_grant_and_is_sent_once(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint
) -> None:
    store, sleeps = rpz_auth.MemoryStore(), list[float]()
    sign_in(authority, client, endpoint, store)
    with rpz_auth.TokenEndpoint(authority.address, tls=authority.tls, sleep=sleeps.append) as asked:
        wrong = rpz_auth.RefreshingToken(asked, store, client_id=client.app_id, client_secret="wrong")
        with pytest.raises(RenewalFailed, match="client_secret") as failed:
            wrong.access_token()
    assert not isinstance(failed.value, SignInRequired)
    assert not sleeps
    right = rpz_auth.RefreshingToken(endpoint, store, client_id=client.app_id, client_secret=client.secret)
    assert right.access_token()


def test_scopes_beyond_the_grant_are_the_programs_mistake(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint
) -> None:
    store = rpz_auth.MemoryStore()
    sign_in(authority, client, endpoint, store)
    credential = rpz_auth.RefreshingToken(
        endpoint, store, client_id=client.app_id, client_secret=client.secret, scopes=["orders.write"]
    )
    with pytest.raises(RenewalFailed, match="SCOPE_INVALID"):
        credential.access_token()


def test_an_authority_that_is_away_is_no_ended_grant(client: Client) -> None:
    sleeps: list[float] = []
    with rpz_auth.TokenEndpoint("127.0.0.1:1", sleep=sleeps.append) as nowhere:
        credential = rpz_auth.RefreshingToken(
            nowhere, rpz_auth.MemoryStore("rpzr_x"), client_id=client.app_id
        )
        with pytest.raises(RenewalFailed, match="UNAVAILABLE") as failed:
            credential.access_token()
    assert not isinstance(failed.value, SignInRequired)
    assert len(sleeps) == 4


def test_a_code_whose_answer_was_lost_is_not_sent_again(authority: AuthorityProcess, client: Client) -> None:
    with (
        LossyProxy(authority.address, lambda _: True) as proxy,
        rpz_auth.TokenEndpoint(proxy.address, tls=authority.tls) as endpoint,
    ):
        with pytest.raises(SignInRequired, match="must not be sent twice"):
            sign_in(authority, client, endpoint, rpz_auth.MemoryStore())
        assert (proxy.answers, proxy.lost) == (1, 1)
    # The authority saw no second redemption, which would have revoked the grant.
    assert lineage(authority, client) == Lineage(alive=1, generations=[1], alarms=[])


@pytest.mark.timeout(300)  # it waits for some thousand commits, on whatever disk
def test_a_client_whose_every_third_answer_is_lost_stays_signed_in_for_two_thousand_refreshes(
    authority: AuthorityProcess, client: Client
) -> None:
    clock = LeapingClock()
    with (
        LossyProxy(authority.address, lambda answer: answer % 3 == 0) as proxy,
        rpz_auth.TokenEndpoint(proxy.address, tls=authority.tls) as endpoint,
    ):
        credential = sign_in(authority, client, endpoint, rpz_auth.MemoryStore(), clock)
        tokens = set()
        for _ in range(2000):
            clock.leap()
            tokens.add(credential.access_token())
        assert len(tokens) == 2000
        assert proxy.lost == 1000
    assert lineage(authority, client) == Lineage(alive=1, generations=[2001], alarms=[])


SHARER = """
import sys, rpz_auth, grpc
from support.signed_in import LeapingClock
address, path, client_id, client_secret, count = sys.argv[1:]
clock = LeapingClock()
tls = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
with rpz_auth.TokenEndpoint(address, tls=tls) as endpoint:
    credential = rpz_auth.RefreshingToken(
        endpoint, rpz_auth.FileStore(path), client_id=client_id, client_secret=client_secret, clock=clock
    )
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(count)):
        clock.leap()
        print(credential.access_token(), flush=True)
"""


def sharer(
    address: str, path: Path, client: Client, count: int, program: str = SHARER
) -> subprocess.Popen[str]:
    """A program that shares the file, and renews so many times once it is told to."""
    arguments = [address, str(path), client.app_id, client.secret, str(count)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_programs_that_share_a_file_stay_signed_in_together(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint, tmp_path: Path
) -> None:
    path = tmp_path / "grant.json"
    sign_in(authority, client, endpoint, rpz_auth.FileStore(path))
    with LossyProxy(authority.address, lambda answer: answer % 3 == 0) as proxy:
        programs = [sharer(proxy.address, path, client, 25) for _ in range(3)]
        for each in programs:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        printed = [each.communicate(timeout=100)[0].split() for each in programs]
    assert [each.returncode for each in programs] == [0, 0, 0]
    assert len({token for tokens in printed for token in tokens}) == 75
    assert lineage(authority, client) == Lineage(alive=1, generations=[76], alarms=[])


KILLED = SHARER.replace(
    "clock = LeapingClock()",
    """clock = LeapingClock()
import os, signal
rpz_auth.FileStore.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
""",
)


def test_a_program_that_is_killed_between_answer_and_write_loses_nothing(
    authority: AuthorityProcess, client: Client, endpoint: rpz_auth.TokenEndpoint, tmp_path: Path
) -> None:
    path = tmp_path / "grant.json"
    store = rpz_auth.FileStore(path)
    sign_in(authority, client, endpoint, store)
    before = store.load()
    program = sharer(authority.address, path, client, 1, KILLED)
    assert program.communicate("go\n", timeout=60)[0] == ""
    assert program.returncode == -signal.SIGKILL
    assert store.load() == before
    assert lineage(authority, client) == Lineage(alive=1, generations=[2], alarms=[])
    again = rpz_auth.RefreshingToken(endpoint, store, client_id=client.app_id, client_secret=client.secret)
    assert again.access_token()
    assert lineage(authority, client) == Lineage(alive=1, generations=[2], alarms=[])


class FullStore(rpz_auth.MemoryStore):
    """Takes nothing while the disk is full."""

    full = False

    def save(self, refresh_token: str) -> None:
        if self.full:
            raise OSError("no space left on device")
        super().save(refresh_token)


def test_a_store_that_takes_nothing_for_a_while_loses_nothing(
    authority: AuthorityProcess,
    client: Client,
    endpoint: rpz_auth.TokenEndpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, store = LeapingClock(), FullStore()
    credential = sign_in(authority, client, endpoint, store, clock)
    store.full = True
    for _ in range(3):
        clock.leap()
        assert credential.access_token()
    assert "could not be stored" in caplog.text
    assert "rpzr_" not in caplog.text
    store.full = False
    clock.leap()
    assert credential.access_token()
    assert lineage(authority, client) == Lineage(alive=1, generations=[5], alarms=[])
    later = rpz_auth.RefreshingToken(endpoint, store, client_id=client.app_id, client_secret=client.secret)
    assert later.access_token()
    assert lineage(authority, client) == Lineage(alive=1, generations=[6], alarms=[])
