"""What holds for every method of the authority."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpz.auth.v1 import app_service_pb2, policy_pb2, token_service_pb2, verification_service_pb2
from rpz_auth.errors import BackendUnavailable, Reason
from rpz_auth.status import retry_delay_of
from rpz_auth_server.storage import writer
from rpz_auth_server.storage.lock import FileLock
from server.authority import (
    ORDERS,
    Client,
    FakeTime,
    Refused,
    Stubs,
    TestAuthority,
    basic,
    bearer,
    code_request,
    exchange_request,
    outcome,
    read_refusal,
    refusal,
    running_authority,
)
from server.storage.build import statement

SERVICES = ("TokenService", "AppService", "VerificationService", "AdministrationService")
CLIENT_METHODS = {
    "/rpz.auth.v1.TokenService/ExchangeToken",
    "/rpz.auth.v1.TokenService/Refresh",
    "/rpz.auth.v1.TokenService/TokenExchange",
    "/rpz.auth.v1.TokenService/RevokeToken",
}


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method of the contract, by path."""
    for name in SERVICES:
        service = descriptor_pool.Default().FindServiceByName(f"rpz.auth.v1.{name}")
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method


METHODS = dict(methods())


async def call(channel: grpc.aio.Channel, path: str, message: Any = None, metadata: Any = ()) -> Any:
    """Call any method with a message, its empty one by default; of a stream, take the first answer."""
    method = METHODS[path]
    request = GetMessageClass(method.input_type)() if message is None else message
    answer_type = GetMessageClass(method.output_type)
    if method.server_streaming:
        stream = channel.unary_stream(
            path, request_serializer=_serialise, response_deserializer=answer_type.FromString
        )(request, metadata=metadata)
        try:
            return await stream.read()
        finally:
            stream.cancel()
    unary = channel.unary_unary(
        path, request_serializer=_serialise, response_deserializer=answer_type.FromString
    )
    return await unary(request, metadata=metadata)


async def _call_raw(stubs: Stubs, path: str) -> Any:
    unary: Any = stubs.channel.unary_unary(path)
    return await unary(b"")


def _serialise(message: Any) -> bytes:
    raw: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return raw


def test_r122_every_method_has_a_policy_and_none_is_public() -> None:
    assert len(METHODS) == 38
    clients = set()
    for path, method in METHODS.items():
        options, service = method.GetOptions(), method.containing_service.GetOptions()
        policy = (
            options.Extensions[policy_pb2.policy]
            if options.HasExtension(policy_pb2.policy)
            else service.Extensions[policy_pb2.service_policy]
        )
        assert not policy.public
        if policy.client:
            clients.add(path)
        else:
            assert all(scope.startswith("rpz.") for scope in policy.scopes)
            assert policy.scopes
    assert clients == CLIENT_METHODS


async def test_every_method_of_the_contract_is_offered(authority: TestAuthority) -> None:
    for path in METHODS:
        answer = await outcome(call(authority.admin.channel, path))
        assert not isinstance(answer, Refused) or answer.code is not grpc.StatusCode.UNIMPLEMENTED, path


async def test_r122_a94_without_credentials_every_method_but_those_of_clients_asks_for_some(
    authority: TestAuthority,
) -> None:
    for path in METHODS:
        answer = await refusal(call(authority.anonymous.channel, path))
        if path not in CLIENT_METHODS:
            assert answer == Reason.CREDENTIALS_MISSING, path
        else:
            assert answer in (Reason.GRANT_INVALID, Reason.CLIENT_INVALID), path


async def test_r065_no_other_kind_of_credential_is_taken_by_methods_that_demand_scopes(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client(resources=[authority.settings.issuer], scopes=["a"])
    code = await authority.issue_code(client, scopes=["a"])
    tokens = await authority.sign_in(client, scopes=["a"])
    api_token = (
        await authority.create_api_token(client.app_id, ["a"], [authority.settings.issuer])
    ).api_token
    wrong: list[tuple[Any, Reason]] = [
        (basic(client.app_id, client.secret), Reason.TOKEN_INVALID),
        (basic(client.app_id, code), Reason.TOKEN_INVALID),
        (basic(client.app_id, tokens.refresh_token), Reason.TOKEN_INVALID),
        (basic(client.app_id, tokens.access_token), Reason.TOKEN_INVALID),
        (bearer(client.secret), Reason.TOKEN_INVALID),
        (bearer(code), Reason.TOKEN_INVALID),
        (bearer(tokens.refresh_token), Reason.TOKEN_INVALID),
        (bearer(api_token), Reason.TOKEN_INVALID),
        # Genuine ones of the right kind, for this resource, without the scope:
        (bearer(tokens.access_token), Reason.SCOPE_INSUFFICIENT),
        (basic(client.app_id, api_token), Reason.SCOPE_INSUFFICIENT),
    ]
    for path in sorted(set(METHODS) - CLIENT_METHODS):
        for metadata, reason in wrong:
            found = await refusal(call(authority.anonymous.channel, path, metadata=metadata))
            assert found == reason, (path, metadata[0][1][:12])


async def test_r065_methods_of_clients_take_only_oauth_secrets(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    api_token = (await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])).api_token
    code = await authority.issue_code(client)
    requests: dict[str, Any] = {
        "/rpz.auth.v1.TokenService/ExchangeToken": exchange_request(Client(""), code),
        "/rpz.auth.v1.TokenService/Refresh": token_service_pb2.RefreshRequest(
            refresh_token=tokens.refresh_token
        ),
        "/rpz.auth.v1.TokenService/RevokeToken": token_service_pb2.RevokeTokenRequest(
            token=tokens.refresh_token
        ),
    }
    wrong = [
        basic(client.app_id, api_token),
        basic(client.app_id, code),
        basic(client.app_id, tokens.refresh_token),
        basic(authority.bootstrap["app_id"], authority.bootstrap["api_token"]),
        bearer(tokens.access_token),
        bearer(client.secret),
    ]
    for path, request in requests.items():
        for metadata in wrong:
            found = await refusal(call(authority.anonymous.channel, path, request, metadata))
            assert found == Reason.CLIENT_INVALID
        for secret in (api_token, code, tokens.refresh_token, tokens.access_token):
            body = type(request)()
            body.CopyFrom(request)
            body.client_id, body.client_secret = client.app_id, secret
            assert await refusal(call(authority.anonymous.channel, path, body)) == Reason.CLIENT_INVALID
    assert await authority.is_alive(tokens.access_token)


@pytest.mark.parametrize(
    "scope", ["rpz.apps", "rpz.codes.issue", "rpz.verify", "rpz.introspect", "rpz.audit"]
)
async def test_one_scope_opens_its_methods_and_no_others(authority: TestAuthority, scope: str) -> None:
    _, stubs = await authority.app_with(scope)
    for path, method in METHODS.items():
        options = method.GetOptions()
        if path in CLIENT_METHODS:
            continue
        demanded = (
            options.Extensions[policy_pb2.policy].scopes
            if options.HasExtension(policy_pb2.policy)
            else method.containing_service.GetOptions().Extensions[policy_pb2.service_policy].scopes
        )
        found = await outcome(call(stubs.channel, path))
        if list(demanded) == [scope]:
            assert found != Reason.SCOPE_INSUFFICIENT, path
        else:
            assert found == Reason.SCOPE_INSUFFICIENT, path
            assert found.metadata == {"required_scopes": " ".join(demanded)}


@pytest.mark.parametrize(
    "path",
    [
        "/rpz.auth.v1.TokenService/Nothing",
        "/rpz.auth.v1.Nothing/Nothing",
        "/nothing",
        "/rpz.auth.v1.AppService/GetApp/",
        "//rpz.auth.v1.AppService/GetApp",
        "/rpz.auth.v1.AppService/getApp",
        "/rpz.auth.v1.AppService/GetApp?token=x",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_r122_a60_a95_unknown_method_is_told_only_to_who_is_known(
    authority: TestAuthority, path: str
) -> None:
    for stubs, reason in (
        (authority.anonymous, Reason.CREDENTIALS_MISSING),
        (authority.admin, Reason.METHOD_UNKNOWN),
    ):
        found = await refusal(_call_raw(stubs, path))
        assert found == reason


async def test_r121_bad_request_of_an_unknown_caller_gets_the_same_denial(authority: TestAuthority) -> None:
    path = "/rpz.auth.v1.AppService/UpdateApp"
    expected = await refusal(call(authority.anonymous.channel, path))
    for raw in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"x" * 1000):
        assert await refusal(call(authority.anonymous.channel, path, raw)) == expected


async def test_r130_message_over_the_limit_is_refused_before_anything_is_asked(
    authority: TestAuthority,
) -> None:
    request = token_service_pb2.ExchangeTokenRequest(code="x" * 300_000)
    authority.store.calls.clear()
    found = await refusal(authority.anonymous.tokens.ExchangeToken(request))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert authority.asked() == []


async def test_a64_message_that_inflates_over_the_limit_is_refused_before_anything_is_asked(
    authority: TestAuthority,
) -> None:
    request = token_service_pb2.ExchangeTokenRequest(code="0" * 32_000_000)  # 31 KB on the wire
    authority.store.calls.clear()
    call = authority.anonymous.tokens.ExchangeToken(request, compression=grpc.Compression.Gzip)
    assert (await refusal(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert authority.asked() == []
    small = token_service_pb2.ExchangeTokenRequest(code="0" * 10_000)
    call = authority.anonymous.tokens.ExchangeToken(small, compression=grpc.Compression.Gzip)
    assert await refusal(call) == Reason.GRANT_INVALID  # what is compressed is read, up to the limit


async def test_r130_forged_credentials_cost_no_database_read(authority: TestAuthority) -> None:
    client = await authority.create_client()
    forged = "A" * 64
    authority.store.calls.clear()
    for field in ("x" * 200_000, "rpzc_" + forged, "rpzc_" + "x" * 100_000):
        found = await refusal(authority.exchange(client, field))
        assert found == Reason.GRANT_INVALID
    for field in ("rpzr_" + forged, "x" * 200_000):
        assert await refusal(authority.refresh(client, field)) == Reason.GRANT_INVALID
    for secret in ("rpzs_" + forged, "x" * 200_000):
        found = await refusal(
            authority.anonymous.tokens.RevokeToken(
                token_service_pb2.RevokeTokenRequest(token="x", client_id=client.app_id, client_secret=secret)
            )
        )
        assert found == Reason.CLIENT_INVALID
    metadata = basic(client.app_id, "rpzt_" + forged)
    found = await refusal(
        authority.anonymous.apps.ListApps(app_service_pb2.ListAppsRequest(), metadata=metadata)
    )
    assert found == Reason.TOKEN_INVALID
    assert authority.asked() == []


async def test_r219_health_needs_no_credentials(authority: TestAuthority) -> None:
    stub: Any = health_pb2_grpc.HealthStub(authority.anonymous.channel)
    for service in ("", *(f"rpz.auth.v1.{name}" for name in SERVICES)):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    found = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="x")))
    assert found.code is grpc.StatusCode.NOT_FOUND


async def reflect(stubs: Stubs) -> Any:
    make: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for synchronous channels
    stub = make(stubs.channel)
    # Not by `write`, which a refusal that is faster would make fail in its own way.
    stream = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    try:
        return await stream.read()
    finally:
        stream.cancel()


async def test_r219_a94_reflection_is_off_by_default(authority: TestAuthority) -> None:
    assert await refusal(reflect(authority.anonymous)) == Reason.CREDENTIALS_MISSING
    assert await refusal(reflect(authority.admin)) == Reason.METHOD_UNKNOWN


async def test_r219_a94_reflection_that_is_on_stands_behind_authentication(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime(), reflection=True) as authority:
        assert await refusal(reflect(authority.anonymous)) == Reason.CREDENTIALS_MISSING
        _, verifier = await authority.create_verifier()
        assert await refusal(reflect(verifier)) == Reason.SCOPE_INSUFFICIENT
        listed = {service.name for service in (await reflect(authority.admin)).list_services_response.service}
        assert {f"rpz.auth.v1.{name}" for name in SERVICES} < listed


class BoomError(Exception):
    """What nobody expects; its text must not leave the authority."""


@pytest.mark.parametrize("broken", ["app", "commit", "grant", "client_secret"])
async def test_unexpected_exception_is_internal_with_a_fixed_text(
    authority: TestAuthority, broken: str
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    authority.store.faults[broken] = BoomError("SELECT secret FROM everything")
    found = await refusal(authority.exchange(client, code))
    assert found == Reason.INTERNAL
    assert found.text == "internal error"
    assert found.metadata == {}
    authority.store.faults.clear()
    assert (await authority.exchange(client, code)).access_token


@pytest.mark.parametrize("broken", ["app", "commit", "grant", "client_secret"])
async def test_r128_store_that_fails_is_unavailable_and_nothing_is_handed_out(
    authority: TestAuthority, broken: str
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    authority.store.faults[broken] = BackendUnavailable()
    assert await refusal(authority.exchange(client, code)) == Reason.BACKEND_UNAVAILABLE
    authority.store.faults.clear()
    assert (await authority.exchange(client, code)).access_token


async def test_r128_every_method_fails_closed_without_the_store(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = await authority.sign_in(client)
    app_id = client.app_id
    api_token = (await authority.create_api_token(app_id, ["orders.read"], [ORDERS])).api_token
    # Nothing is in the caches of the interceptor but the administrator's token.
    await authority.admin.apps.ListApps(app_service_pb2.ListAppsRequest())
    for error, reason in (
        (BackendUnavailable(), Reason.BACKEND_UNAVAILABLE),
        (BoomError("text"), Reason.INTERNAL),
    ):
        for name in (
            *("app", "apps", "client_secret", "client_secrets", "api_token", "api_tokens"),
            *("grant", "grants_of_subject", "grants_of_app", "grants_by_subject", "commit", "cursor"),
        ):
            authority.store.faults[name] = error
        admin = authority.admin
        calls = [
            admin.tokens.IssueCode(code_request(client)),
            authority.exchange(client, code),
            authority.refresh(client, tokens.refresh_token),
            authority.anonymous.tokens.RevokeToken(
                token_service_pb2.RevokeTokenRequest(token=tokens.refresh_token, **client.body)
            ),
            admin.tokens.RevokeSubject(token_service_pb2.RevokeSubjectRequest(subject="user:1")),
            authority.anonymous.tokens.TokenExchange(
                token_service_pb2.TokenExchangeRequest(client_id=app_id, subject_token=api_token)
            ),
            admin.tokens.ListGrants(token_service_pb2.ListGrantsRequest(subject="user:1")),
            admin.tokens.RevokeGrant(token_service_pb2.RevokeGrantRequest(grant_id="A" * 22)),
            admin.tokens.ListApiTokens(token_service_pb2.ListApiTokensRequest(app_id=app_id)),
            admin.apps.GetApp(app_service_pb2.GetAppRequest(app_id=app_id)),
            admin.apps.ListApps(app_service_pb2.ListAppsRequest()),
            admin.apps.LockApp(app_service_pb2.LockAppRequest(app_id=app_id)),
            admin.apps.ListClientSecrets(app_service_pb2.ListClientSecretsRequest(app_id=app_id)),
        ]
        for one in calls:
            found = await refusal(one)
            assert found == reason
            assert "text" not in found.text
        # A caller who is not known yet cannot be judged.
        unknown = basic(app_id, "rpzt_" + tokens.refresh_token[5:])
        listing = app_service_pb2.ListAppsRequest()
        found = await refusal(authority.anonymous.apps.ListApps(listing, metadata=unknown))
        assert found == Reason.TOKEN_INVALID
        authority.store.faults.clear()


async def test_r128_credential_that_cannot_be_looked_up_is_neither_good_nor_bad(
    authority: TestAuthority,
) -> None:
    _, stubs = await authority.app_with("rpz.apps")
    listing = app_service_pb2.ListAppsRequest()
    for error, reason in (
        (BackendUnavailable(), Reason.BACKEND_UNAVAILABLE),
        (BoomError("text"), Reason.INTERNAL),
    ):
        authority.store.faults["api_token"] = error
        assert await refusal(stubs.apps.ListApps(listing)) == reason
    authority.store.faults.clear()
    await stubs.apps.ListApps(listing)


async def test_flow_that_loses_every_race_is_a_conflict(authority: TestAuthority) -> None:
    app = await authority.create_app()
    inner = authority.store.inner

    async def somebody_faster(*_: Any) -> None:
        row = await inner.app(app.app_id)
        assert row is not None
        await inner._write(statement("UPDATE apps SET version = version + 1 WHERE app_id = ?", app.app_id))

    authority.store.before["commit"] = somebody_faster
    found = await refusal(authority.update_app(app.app_id, display_name="x"))
    assert found == Reason.CONFLICT
    assert authority.store.calls.count("commit") > 10


async def test_overload_is_told_at_once_with_a_delay_and_harms_neither_what_waits_nor_heartbeats(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await authority.create_client()
    tokens = [(await authority.sign_in(client)).refresh_token for _ in range(12)]
    monkeypatch.setattr(writer, "QUEUE", 8)
    path = authority.settings.database_path
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with lock.held():  # the disk takes its time
        waiting = {asyncio.create_task(outcome(authority.refresh(client, token))) for token in tokens}
        refused, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=3)
        beating = asyncio.create_task(authority.hub._pulse())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await authority.refresh(client, tokens[0])
        assert retry_delay_of(error.value) == 1.0
        assert read_refusal(error.value) == Reason.RATE_LIMITED
        answer = await authority.http.post(
            "/oauth/token",
            data={"grant_type": "refresh_token", "refresh_token": tokens[0], **client.body},
        )
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert answer.json()["error"] == "temporarily_unavailable"
    await beating
    found = [task.result() for task in refused] + list(await asyncio.gather(*waiting))
    renewed = [answer for answer in found if not isinstance(answer, Refused)]
    assert 0 < len(renewed) <= writer.QUEUE
    assert all(answer == Reason.RATE_LIMITED for answer in found if isinstance(answer, Refused))
    for token in tokens:  # nothing was done for those who were refused, so that they come again
        assert (await authority.refresh(client, token)).access_token


async def test_r128_authority_whose_store_takes_no_writes_stops_deciding(authority: TestAuthority) -> None:
    listing = app_service_pb2.ListAppsRequest()
    await authority.admin.apps.ListApps(listing)
    authority.store.faults["heartbeat"] = BackendUnavailable()
    assert authority._time is not None
    authority._time.passed += 5 * authority.settings.heartbeat_interval - 0.01
    await authority.admin.apps.ListApps(listing)
    authority._time.passed += 0.02
    assert await refusal(authority.admin.apps.ListApps(listing)) == Reason.BACKEND_UNAVAILABLE
    authority.store.faults.clear()
    await authority.advance(0)
    await authority.admin.apps.ListApps(listing)


async def test_r120_every_refusal_of_ours_carries_one_error_info(authority: TestAuthority) -> None:
    """`read_refusal` checks all that pass through this test tree; here, that it looks at the right place."""
    try:
        await authority.anonymous.apps.ListApps(app_service_pb2.ListAppsRequest())
    except grpc.aio.AioRpcError as error:
        found = read_refusal(error)
        assert (found.reason, found.metadata) == (Reason.CREDENTIALS_MISSING, {})
        keys = [key for key, _ in error.trailing_metadata()]
        assert keys.count("grpc-status-details-bin") == 1
    else:
        pytest.fail("was not refused")


async def test_whitelisted_administrator_is_refused_from_elsewhere(authority: TestAuthority) -> None:
    """The bootstrap administrator works from loopback only."""
    app = (
        await authority.admin.apps.GetApp(app_service_pb2.GetAppRequest(app_id=authority.bootstrap["app_id"]))
    ).app
    assert list(app.whitelist) == ["127.0.0.0/8", "::1"]


async def test_stop_says_so_ends_streams_and_lets_calls_in_flight_finish(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime()) as authority:
        client = await authority.create_client()
        code = await authority.issue_code(client)
        _, verifier = await authority.create_verifier()
        watch = verifier.verification.Watch(verification_service_pb2.WatchRequest())
        await watch.read()
        health: Any = health_pb2_grpc.HealthStub(authority.anonymous.channel)
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        at_commit, go_on = asyncio.Event(), asyncio.Event()

        async def hold(*_: Any) -> None:
            at_commit.set()
            await go_on.wait()

        authority.store.before["commit"] = hold
        call = asyncio.ensure_future(authority.exchange(client, code))
        await at_commit.wait()
        stopping = asyncio.ensure_future(authority.server.stop(authority.hub))
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watched.cancel()
        while await watch.read() is not grpc.aio.EOF:
            pass
        assert await watch.code() is grpc.StatusCode.OK
        assert not stopping.done()
        go_on.set()
        assert (await call).access_token
        await stopping


def test_credentials_of_the_stubs_are_the_librarys() -> None:
    """So that what these tests send is what clients send."""
    assert basic("a", "b")[0][1] == rpz_auth.ApiToken("a", "b").field_value()
