"""The library against a real authority."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rpz_auth
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.caller import Verdict
from rpz_auth.question import ApiTokenQuestion
from rpz_auth.view import View
from support.authority import RESOURCE, AuthorityProcess, running_authority
from support.service import Service, access_token, api_token

DEADLINE = 30.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    with running_authority(tmp_path_factory.mktemp("connection") / "data") as process:
        yield process


@pytest.fixture
def verifier(authority: AuthorityProcess, tmp_path: Path) -> Path:
    return authority.create_verifier(tmp_path / "orders.json")


@pytest.fixture
def service(verifier: Path) -> Iterator[Service]:
    with Service(verifier) as running:
        yield running


def wait_for_change(view: View, change: Any) -> None:
    """Do something, and return when the view was told of it."""
    told = threading.Event()
    apply = view.apply

    def observe(changes: Any) -> None:
        apply(changes)
        told.set()

    view.apply = observe  # type: ignore[method-assign]
    try:
        change()
        assert told.wait(DEADLINE)
    finally:
        view.apply = apply  # type: ignore[method-assign]


def wait_until_fresh(view: View) -> None:
    """Return when the authority has proved that it takes writes."""
    fresh = threading.Event()
    refresh = view.refresh

    def observe(until: float, *, heard_at: float | None = None) -> None:
        refresh(until, heard_at=heard_at)
        fresh.set()

    view.refresh = observe  # type: ignore[method-assign]
    try:
        assert fresh.wait(DEADLINE)
    finally:
        view.refresh = refresh  # type: ignore[method-assign]


def test_access_and_api_tokens_of_the_authority_open_the_service(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    assert service.outcome(access_token(authority, client)[0]) == "user:1"
    assert service.outcome(api_token(authority, client)[0]) == f"app:{client.app_id}"


def test_r077_a_revoked_grant_is_refused_as_soon_as_the_service_is_told(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    token, refresh_token = access_token(authority, client)
    assert service.outcome(token) == "user:1"

    def revoke() -> None:
        authority.anonymous.RevokeToken(
            token_pb.RevokeTokenRequest(
                token=refresh_token, client_id=client.app_id, client_secret=client.secret
            )
        )

    wait_for_change(service.connection.view, revoke)
    assert service.outcome(token) == "TOKEN_INVALID"


def test_r077_a_revoked_api_token_is_refused_although_its_verdict_is_cached(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    token, token_id = api_token(authority, client)
    assert service.outcome(token) == f"app:{client.app_id}"
    request = token_pb.RevokeApiTokenRequest(app_id=client.app_id, api_token_id=token_id)
    wait_for_change(service.connection.view, lambda: authority.tokens.RevokeApiToken(request))
    assert service.outcome(token) == "TOKEN_INVALID"


def test_a_locked_app_is_refused_and_unlocking_revives_api_tokens_only(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    access, (api, _) = access_token(authority, client)[0], api_token(authority, client)
    assert service.outcome(api) == f"app:{client.app_id}"
    view = service.connection.view
    wait_for_change(view, lambda: authority.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id)))
    assert [service.outcome(access), service.outcome(api)] == ["TOKEN_INVALID"] * 2
    wait_for_change(view, lambda: authority.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id)))
    assert [service.outcome(access), service.outcome(api)] == ["TOKEN_INVALID", f"app:{client.app_id}"]


def test_an_api_token_used_while_its_app_was_locked_works_as_soon_as_the_app_is_unlocked(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    token, _ = api_token(authority, client)
    view = service.connection.view
    wait_for_change(view, lambda: authority.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id)))
    assert service.outcome(token) == "TOKEN_INVALID"
    wait_for_change(view, lambda: authority.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id)))
    assert service.outcome(token) == f"app:{client.app_id}"


def test_a_scope_taken_from_an_app_is_taken_from_its_api_tokens_as_soon_as_the_service_is_told(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    token, _ = api_token(authority, client)
    assert service.outcome(token) == f"app:{client.app_id}"
    request = app_pb.UpdateAppRequest(app=app_pb.App(app_id=client.app_id, scopes=["orders.write"]))
    request.update_mask.paths.append("scopes")
    wait_for_change(service.connection.view, lambda: authority.apps.UpdateApp(request))
    assert service.outcome(token) == "SCOPE_INSUFFICIENT"


def test_a82_a_new_whitelist_is_obeyed_as_soon_as_the_service_is_told(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    token = access_token(authority, client)[0]
    assert service.outcome(token) == "user:1"
    for entries, expected in ((["192.0.2.0/24"], "ORIGIN_NOT_ALLOWED"), (["127.0.0.1"], "user:1")):
        request = app_pb.UpdateAppRequest(app=app_pb.App(app_id=client.app_id, whitelist=entries))
        request.update_mask.paths.append("whitelist")
        wait_for_change(service.connection.view, lambda request=request: authority.apps.UpdateApp(request))
        assert service.outcome(token) == expected


def test_a_token_for_another_resource_is_refused(authority: AuthorityProcess, service: Service) -> None:
    other = "https://invoices.example"
    client = authority.create_client(resources=[other])
    assert service.outcome(access_token(authority, client)[0]) == "TOKEN_INVALID"
    assert service.outcome(api_token(authority, client, resources=[other])[0]) == "TOKEN_INVALID"


def test_a_snapshot_holds_what_happened_before_the_service_came(
    authority: AuthorityProcess, verifier: Path
) -> None:
    client = authority.create_client(whitelist=["192.0.2.1"])
    locked, deleted, revoked = (authority.create_client() for _ in range(3))
    tokens = [
        access_token(authority, revoked)[0],
        api_token(authority, locked)[0],
        api_token(authority, deleted)[0],
        access_token(authority, deleted)[0],
    ]
    authority.tokens.RevokeSubject(token_pb.RevokeSubjectRequest(subject="user:1"))
    authority.apps.LockApp(app_pb.LockAppRequest(app_id=locked.app_id))
    authority.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=deleted.app_id))
    with Service(verifier) as service:
        assert [service.outcome(token) for token in tokens] == ["TOKEN_INVALID"] * 4
        assert service.outcome(api_token(authority, client)[0]) == "ORIGIN_NOT_ALLOWED"


def test_a107_api_tokens_of_made_up_master_keys_take_nothing_from_others(
    authority: AuthorityProcess, service: Service
) -> None:
    client = authority.create_client()
    for number in range(0xFFFFF0, 0xFFFFFF):
        made_up = "rpzt_" + base64.urlsafe_b64encode(b"\1" + number.to_bytes(3, "big") + bytes(44)).decode()
        credential = rpz_auth.ApiToken(client.app_id, made_up).field_value()
        assert service.outcome(credential) == "BACKEND_UNAVAILABLE"
        assert service.outcome(api_token(authority, client)[0]) == f"app:{client.app_id}"


async def test_questions_are_answered_without_a_thread_on_asyncio(
    authority: AuthorityProcess, verifier: Path
) -> None:
    client = authority.create_client()
    created = authority.tokens.CreateApiToken(
        token_pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
    )
    connection = rpz_auth.connect(verifier)
    question = ApiTokenQuestion(client.app_id, created.api_token)
    with pytest.raises(rpz_auth.BackendUnavailable):
        await connection.ask_async(question)
    connection.start()
    try:
        verdict = await connection.ask_async(question)
        assert isinstance(verdict, Verdict)
        assert verdict == connection.ask(question)
        assert (verdict.app_id, verdict.token_id) == (client.app_id, created.record.api_token_id)
        with pytest.raises(rpz_auth.TokenInvalid):
            await connection.ask_async(ApiTokenQuestion(client.app_id, "rpzt_" + "A" * 64))
    finally:
        connection.close()


def test_a_service_refuses_the_administrators_file(authority: AuthorityProcess, tmp_path: Path) -> None:
    with pytest.raises(rpz_auth.ConfigurationError, match=r"kind 'administrator'.*--verifier"):
        rpz_auth.connect(authority.data_dir / "bootstrap.json")
    content = dict(authority.bootstrap)
    pem = Path(content["ca_certificate"]).read_text()
    disguised = tmp_path / "disguised.json"
    disguised.write_text(json.dumps({**content, "kind": "verifier", "ca_certificate_pem": pem}))
    connection = rpz_auth.connect(disguised)
    connection.start()
    try:
        with pytest.raises(rpz_auth.ConfigurationError, match="refuses this verifier file"):
            connection.wait(DEADLINE)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "is no file for connections"),
        ("[]", "is no file for connections"),
        ('{"kind": "verifier"}', "is no file for connections"),
    ],
)
def test_a_file_that_is_none_is_an_error_at_start_up(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "verifier.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(rpz_auth.ConfigurationError, match=message):
        rpz_auth.connect(path)


@pytest.mark.parametrize("seconds", [0, -1, 301, float("inf"), float("nan")])
def test_staleness_without_a_sensible_bound_is_an_error(seconds: float, verifier: Path) -> None:
    with pytest.raises(rpz_auth.ConfigurationError, match="max_staleness"):
        rpz_auth.connect(verifier, max_staleness=seconds)


def test_a_closed_connection_decides_nothing_and_cannot_be_opened_again(
    verifier: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = rpz_auth.connect(verifier)
    connection.start()
    connection.wait(DEADLINE)
    assert connection.view.is_fresh
    connection.close()
    assert not connection.view.is_fresh
    assert caplog.messages == [], "that the stream ends is no news then"
    with pytest.raises(rpz_auth.ConfigurationError, match="was closed"):
        connection.start()


def test_an_authority_that_is_not_there_is_named(verifier: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({**json.loads(verifier.read_text()), "grpc_address": "127.0.0.1:1"}))
    connection = rpz_auth.connect(elsewhere)
    connection.start()
    try:
        with pytest.raises(rpz_auth.BackendUnavailable, match=r"127\.0\.0\.1:1 sent no snapshot"):
            connection.wait(0.2)
        assert not connection.view.is_fresh
    finally:
        connection.close()


def test_a_service_that_was_cut_off_tries_again_soon_and_often(verifier: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        address = "{}:{}".format(*closing.getsockname())
        elsewhere = tmp_path / "elsewhere.json"
        elsewhere.write_text(json.dumps({**json.loads(verifier.read_text()), "grpc_address": address}))
        connection = rpz_auth.connect(elsewhere)
        connection.start()
        closing.settimeout(6)  # grpc by itself would come the fifth time after more than seven seconds
        started = time.monotonic()
        try:
            for _ in range(5):
                closing.accept()[0].close()
            assert time.monotonic() - started < 6
        finally:
            connection.close()


@pytest.mark.timeout(240)
def test_a_service_goes_on_through_a_restart_and_learns_what_it_missed(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    authority = AuthorityProcess(data_dir)
    address = authority.address
    with Service(authority.create_verifier(tmp_path / "orders.json")) as service:
        client = authority.create_client()
        token = access_token(authority, client)[0]
        assert service.outcome(token) == "user:1"
        authority.kill()
        # Verification is local: the authority is not asked about what is known.
        assert service.outcome(token) == "user:1"
        issuer = authority.bootstrap["issuer"]
        with running_authority(data_dir, f"--grpc-address={address}", f"--issuer={issuer}") as restarted:
            request = app_pb.LockAppRequest(app_id=client.app_id)
            wait_for_change(service.connection.view, lambda: restarted.apps.LockApp(request))
            wait_until_fresh(service.connection.view)
            assert service.outcome(token) == "TOKEN_INVALID"
