"""The story itself, step by step; each is as it should be, or the last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth import Reason
from rpz_auth_server.transport.tls.development import issue_client_certificate
from service import RESOURCE

from demo.cast import App, Authority, Pkce, with_access_token, with_api_token
from demo.processes import Process, make_verifier_file, start_authority, start_service
from demo.relay import Relay
from demo.telling import Endpoint, Metadata, Narrator
from demo.timing import RunningStream, seconds_until

HOME = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
REDIRECT_URI = "https://shop.example/callback"
SCOPES = ("orders.read", "orders.write")
USER = "user:ada"
OWN_AUTHORIZATION = "Token of-a-system-that-orders-calls"
CERTIFIED = "orders with client certificates"

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
_DENIED = grpc.StatusCode.PERMISSION_DENIED
_FAILED = grpc.StatusCode.FAILED_PRECONDITION
_ORDER = orders_pb2.GetOrderRequest(order_id="7")


@dataclass(frozen=True, slots=True)
class Stage:
    """What every step works with."""

    say: Narrator
    folder: Path
    authority: Authority
    processes: Sequence[Process]
    addresses: Mapping[str, str]
    """Of the order services, by name; `CERTIFIED` demands a client certificate."""
    services: Sequence[Endpoint]
    """The order services that everybody may connect to."""

    def connect_as(self, certified_name: str) -> Endpoint:
        """Open a channel to the service that demands a client certificate, with one for this name."""
        issued = issue_client_certificate(self.folder / "data", [certified_name])
        trusted = self.authority.ca_certificate.read_bytes()
        tls = grpc.ssl_channel_credentials(trusted, issued.key, issued.certificate)
        return _connect(CERTIFIED, self.addresses[CERTIFIED], tls)


def _connect(name: str, address: str, tls: grpc.ChannelCredentials) -> Endpoint:
    return Endpoint(name, orders_pb2_grpc.OrderServiceStub(grpc.secure_channel(address, tls)))


def tell(say: Narrator, folder: Path, cleanup: ExitStack, programs: Mapping[str, Path]) -> None:
    """Tell the story.

    Args:
        say: Tells the steps.
        folder: An empty one, for all that is made on the way.
        cleanup: Stops what was started, however the story ends.
        programs: Of the order service, by name; the first is started with client certificates, too.

    Raises:
        StoryEnded: A step was not as it should be.
    """
    stage = _set(say, folder, cleanup, programs)
    shop = _register_shop(stage)
    sign_in = _register_sign_in(stage, shop)
    first = _exchange_in_header(stage, shop, *_issue_code(stage, sign_in, shop))
    second = _exchange_in_body(stage, shop, *_issue_code(stage, sign_in, shop))
    _call_without_credential(stage)
    _call_with_authorization(stage, first.access_token)
    _call_with_own_header(stage, first.access_token)
    api_token = _use_api_token(stage, shop)
    _call_from_elsewhere(stage, with_access_token(first.access_token), api_token)
    _refresh_and_reuse(stage, shop, second.refresh_token)
    _revoke(stage, shop, first)
    third = _exchange_in_header(stage, shop, *_issue_code(stage, sign_in, shop))
    _lock(stage, shop, third, api_token)
    _call_with_certificate(stage)
    with say.step("SIGTERM: everything ends in order"):
        for process in reversed(stage.processes):
            code = process.stop()
            say.received(f"{process.name}: exit code {code}")
            say.expect("the exit code", code, 0)


def _set(say: Narrator, folder: Path, cleanup: ExitStack, programs: Mapping[str, Path]) -> Stage:
    processes = []

    def started(process: Process) -> Process:
        cleanup.callback(process.stop)
        processes.append(process)
        return process

    with say.step("An authority starts in an empty folder, and makes what it needs"):
        say.sent("rpz-auth-server serve --data-dir … --grpc-address 127.0.0.1:0")
        say.received(started(start_authority(folder)).wait_until_ready("listens on"))
        authority = Authority.described(json.loads((folder / "data" / "bootstrap.json").read_text()))

    with say.step("The order service gets a verifier file, and starts on both stacks"):
        verifier = _make_verifier(say, folder)
        waiting = [started(start_service(*item, folder, verifier)) for item in programs.items()]
        program, ca = next(iter(programs.values())), authority.ca_certificate
        waiting.append(started(start_service(CERTIFIED, program, folder, verifier, client_ca=ca)))
        addresses = {}
        for process in waiting:
            line = process.wait_until_ready("listens on")
            addresses[process.name] = line.split()[-1]
            say.received(f"{process.name}: {line}")
        say.remark("all of them with TLS, one of them for clients that have a certificate, too")
    services = [_connect(name, addresses[name], authority.tls) for name in programs]
    return Stage(say, folder, authority, processes, addresses, services)


def _make_verifier(say: Narrator, folder: Path) -> Path:
    say.sent(f"rpz-auth apps create orders --resource {RESOURCE} --verifier orders.json")
    path = make_verifier_file(folder, RESOURCE)
    content = json.loads(path.read_text())
    shown = {name: value for name, value in content.items() if name != "ca_certificate_pem"}
    say.received(f"orders.json: {', '.join(f'{name}: {value}' for name, value in shown.items())}, …")
    say.expect("its mode", f"{path.stat().st_mode & 0o777:o}", "600")
    return path


def _register(say: Narrator, authority: Authority, app: app_pb.App) -> tuple[str, str]:
    """Register an App with an API token for all that it may do; returns its ID and the token."""
    app.kind = app.kind or app_pb.APP_KIND_BACKEND
    request = app_pb.CreateAppRequest(app=app)
    app_id = say.answered(authority.apps, "CreateApp", request, authority.administrator).app.app_id
    token_request = token_pb.CreateApiTokenRequest(app_id=app_id, scopes=app.scopes, resources=app.resources)
    made = say.answered(authority.tokens, "CreateApiToken", token_request, authority.administrator)
    return app_id, made.api_token


def _register_shop(stage: Stage) -> App:
    say, authority = stage.say, stage.authority
    with say.step(f"The administrator registers an App, shop, which may call from {HOME}"):
        app = app_pb.App(
            kind=app_pb.APP_KIND_BACKEND,
            display_name="shop",
            redirect_uris=[REDIRECT_URI],
            scopes=SCOPES,
            resources=[RESOURCE],
            whitelist=[HOME],
        )
        request = app_pb.CreateAppRequest(app=app)
        created = say.answered(authority.apps, "CreateApp", request, authority.administrator).app
        say.expect("the whitelist", list(created.whitelist), [HOME])
        say.remark("its App ID is the client_id of OAuth 2")
    with say.step("… and gives it an OAuth 2 secret, which is shown this once"):
        secret = app_pb.CreateClientSecretRequest(app_id=created.app_id)
        made = say.answered(authority.apps, "CreateClientSecret", secret, authority.administrator)
        say.expect("whose it is", made.record.app_id, created.app_id)
    return App(created.app_id, made.client_secret)


def _register_sign_in(stage: Stage, shop: App) -> Metadata:
    say, authority = stage.say, stage.authority
    with say.step("A sign-in service may issue codes for shop and subjects user:…, no others"):
        app = app_pb.App(
            display_name="sign-in",
            scopes=["rpz.codes.issue"],
            resources=[authority.issuer],
            sign_in=app_pb.SignIn(client_ids=[shop.app_id], subject_prefix="user:"),
        )
        sign_in = with_api_token(*_register(say, authority, app))
        request = _code_request(shop, Pkce(), "staff:eve")
        reason = Reason.RIGHTS_INSUFFICIENT
        say.refused(authority.tokens, "IssueCode", request, sign_in, code=_DENIED, reason=reason)
        say.remark("a code for another subject is refused")
    return sign_in


def _code_request(shop: App, pkce: Pkce, subject: str) -> token_pb.IssueCodeRequest:
    return token_pb.IssueCodeRequest(
        client_id=shop.app_id,
        redirect_uri=REDIRECT_URI,
        scopes=SCOPES,
        subject=subject,
        code_challenge=pkce.challenge,
        code_challenge_method="S256",
    )


def _issue_code(stage: Stage, sign_in: Metadata, shop: App) -> tuple[str, Pkce]:
    with stage.say.step("Ada has signed in and consented: a code for shop, with PKCE"):
        pkce = Pkce()
        request = _code_request(shop, pkce, USER)
        answer = stage.say.answered(stage.authority.tokens, "IssueCode", request, sign_in)
        stage.say.expect("expires_in", answer.expires_in, 60)
        stage.say.remark("good for 60 s and for one exchange")
    return answer.code, pkce


def _exchange_in_header(stage: Stage, shop: App, code: str, pkce: Pkce) -> Any:
    with stage.say.step("shop exchanges the code, its client credentials in the header"):
        return _exchange(stage, code, pkce, {}, shop.in_header)


def _exchange_in_body(stage: Stage, shop: App, code: str, pkce: Pkce) -> Any:
    with stage.say.step("shop exchanges the code, its client credentials in the body"):
        return _exchange(stage, code, pkce, shop.in_body, ())


def _exchange(stage: Stage, code: str, pkce: Pkce, body: Mapping[str, str], metadata: Metadata) -> Any:
    request = token_pb.ExchangeTokenRequest(
        code=code, redirect_uri=REDIRECT_URI, code_verifier=pkce.verifier, **body
    )
    tokens = stage.say.answered(stage.authority.tokens, "ExchangeToken", request, metadata)
    stage.say.expect("token_type and expires_in", (tokens.token_type, tokens.expires_in), ("Bearer", 7200))
    stage.say.expect("the scopes", tuple(tokens.scopes), SCOPES)
    stage.say.remark("an access token for two hours, and a refresh token")
    return tokens


def _call_without_credential(stage: Stage) -> None:
    say = stage.say
    with say.step("Without a credential only what is public answers: GetStatus, health"):
        for service in stage.services:
            reason = Reason.CREDENTIALS_MISSING
            say.refused(service, "GetOrder", _ORDER, code=_UNAUTHENTICATED, reason=reason)
            say.answered(service, "GetStatus", orders_pb2.GetStatusRequest())
            with grpc.secure_channel(stage.addresses[service.name], stage.authority.tls) as channel:
                health = Endpoint(service.name, health_pb2_grpc.HealthStub(channel))
                answer = say.answered(health, "Check", health_pb2.HealthCheckRequest())
            say.expect("health", answer.status, health_pb2.HealthCheckResponse.SERVING)


def _call_with_authorization(stage: Stage, access_token: str) -> None:
    for service in stage.services:
        with stage.say.step(f"shop calls {service.name} in all four shapes, with authorization"):
            order = _call_all_shapes(stage.say, service, with_access_token(access_token))
            stage.say.expect("downstream_authorization", order.downstream_authorization, "")
            stage.say.remark(f"requested_by is {USER} in all of them")


def _call_with_own_header(stage: Stage, access_token: str) -> None:
    metadata = [*with_access_token(access_token, key="x-rpz-auth"), ("authorization", OWN_AUTHORIZATION)]
    bad = [("x-rpz-auth", "Bearer nonsense"), *with_access_token(access_token)]
    for service in stage.services:
        with stage.say.step(f"… and {service.name} with x-rpz-auth, beside an authorization of its own"):
            order = _call_all_shapes(stage.say, service, metadata)
            passed_on = order.downstream_authorization
            stage.say.expect("downstream_authorization", passed_on, OWN_AUTHORIZATION)
            reason = Reason.TOKEN_INVALID
            stage.say.refused(service, "GetOrder", _ORDER, bad, code=_UNAUTHENTICATED, reason=reason)
            stage.say.remark("authorization arrives untouched; a bad x-rpz-auth never falls back to it")


def _call_all_shapes(say: Narrator, service: Endpoint, metadata: Metadata) -> Any:
    orders = [orders_pb2.Order(order_id=str(number)) for number in (1, 2)]
    single = say.answered(service, "GetOrder", _ORDER, metadata)
    watched = say.answered(service, "WatchOrders", orders_pb2.WatchOrdersRequest(count=2), metadata)
    imports = [orders_pb2.ImportOrdersRequest(order=order) for order in orders]
    imported = say.answered(service, "ImportOrders", imports, metadata).imported
    trades = [orders_pb2.TradeOrdersRequest(order=order) for order in orders]
    traded = say.answered(service, "TradeOrders", trades, metadata)
    names = [answer.order.requested_by for answer in (single, *watched, *traded)]
    say.expect("who asked", names, [USER] * 5)
    say.expect("the number of imported orders", imported, 2)
    return single


def _use_api_token(stage: Stage, shop: App) -> Metadata:
    say, authority = stage.say, stage.authority
    with say.step("shop gets an API token to read with, and calls for itself"):
        request = token_pb.CreateApiTokenRequest(
            app_id=shop.app_id, scopes=["orders.read"], resources=[RESOURCE]
        )
        made = say.answered(authority.tokens, "CreateApiToken", request, authority.administrator)
        metadata = with_api_token(shop.app_id, made.api_token)
        imports = [orders_pb2.ImportOrdersRequest()]
        reason = Reason.SCOPE_INSUFFICIENT
        for service in stage.services:
            answer = say.answered(service, "GetOrder", _ORDER, metadata)
            say.expect("who asked", answer.order.requested_by, f"app:{shop.app_id}")
            say.refused(service, "ImportOrders", imports, metadata, code=_DENIED, reason=reason)
        say.remark("reading is allowed, writing is not")
    return metadata


def _call_from_elsewhere(stage: Stage, *credentials: Metadata) -> None:
    say, reason = stage.say, Reason.ORIGIN_NOT_ALLOWED
    with say.step(f"The same credentials from {ELSEWHERE}, which is not in shop's whitelist"):
        for service in stage.services:
            with Relay(stage.addresses[service.name], source=ELSEWHERE) as relay:
                name = f"{service.name}, from {ELSEWHERE}"
                distant = _connect(name, relay.address, stage.authority.tls)
                for metadata in credentials:
                    say.refused(distant, "GetOrder", _ORDER, metadata, code=_DENIED, reason=reason)
        say.remark("a good credential is not enough")


def _refresh_and_reuse(stage: Stage, shop: App, refresh_token: str) -> None:
    say, tokens = stage.say, stage.authority.tokens

    def renew(token: str) -> Any:
        request = token_pb.RefreshRequest(refresh_token=token)
        return say.answered(tokens, "Refresh", request, shop.in_header)

    def renew_in_vain(token: str) -> None:
        request = token_pb.RefreshRequest(refresh_token=token)
        reason = Reason.GRANT_INVALID
        say.refused(tokens, "Refresh", request, shop.in_header, code=_FAILED, reason=reason)

    with say.step("shop renews its access token"):
        successor = renew(refresh_token)
        say.expect("a new refresh token", successor.refresh_token != refresh_token, expected=True)
        say.remark("another access token, and another refresh token")
    with say.step("Had that answer been lost: shop asks again with the same refresh token"):
        again = renew(refresh_token)
        say.expect("the same successor", again.refresh_token == successor.refresh_token, expected=True)
        say.remark(f"the same successor, rpzr_…{again.refresh_token[-4:]}; nobody is punished")
    with say.step("shop uses the successor; then somebody presents the old one: reuse"):
        newest = renew(successor.refresh_token)
        metadata = with_access_token(newest.access_token)
        took = seconds_until(
            Reason.TOKEN_INVALID, stage.services, metadata, lambda: renew_in_vain(refresh_token)
        )
        renew_in_vain(newest.refresh_token)
        _show_refusals(stage, metadata)
        say.remark(f"the grant is dead, its access token refused by both after {_in_ms(took)}")


def _revoke(stage: Stage, shop: App, tokens: Any) -> None:
    say = stage.say
    with say.step("shop revokes what the first code brought, and the clock runs"):
        request = token_pb.RevokeTokenRequest(token=tokens.refresh_token)
        metadata = with_access_token(tokens.access_token)
        say.sent("WatchOrders to both services, for orders without an end")
        streams = [RunningStream(service, metadata) for service in stage.services]
        sent_at = []

        def revoke() -> None:
            sent_at.append(time.perf_counter())
            say.answered(stage.authority.tokens, "RevokeToken", request, shop.in_header)

        took = seconds_until(Reason.TOKEN_INVALID, stage.services, metadata, revoke)
        ended = [stream.seconds_until_end(since=sent_at[0]) for stream in streams]
        for service, seconds in zip(stage.services, ended, strict=True):
            say.received(f"{service.name}: the stream that ran was ended after {_in_ms(seconds)}")
        _show_refusals(stage, metadata)
        say.remark(f"calls are refused {_in_ms(took)}, streams ended {_in_ms(max(ended))} after it was sent")


def _lock(stage: Stage, shop: App, tokens: Any, api_token: Metadata) -> None:
    say, authority = stage.say, stage.authority
    access_token = with_access_token(tokens.access_token)
    renewal = token_pb.RefreshRequest(refresh_token=tokens.refresh_token)

    def administrate(method: str, request: Message) -> Callable[[], Any]:
        return lambda: say.answered(authority.apps, method, request, authority.administrator)

    with say.step("The administrator locks shop: all that it has stops"):
        lock = administrate("LockApp", app_pb.LockAppRequest(app_id=shop.app_id))
        took = seconds_until(Reason.TOKEN_INVALID, stage.services, api_token, lock)
        _show_refusals(stage, api_token, access_token)
        code, reason = _UNAUTHENTICATED, Reason.CLIENT_INVALID
        say.refused(authority.tokens, "Refresh", renewal, shop.in_header, code=code, reason=reason)
        say.remark(f"refused by both services {_in_ms(took)} after the lock was sent")
    with say.step("… and unlocks it: access tokens of before stay dead, all else revives"):
        unlock = administrate("UnlockApp", app_pb.UnlockAppRequest(app_id=shop.app_id))
        took = seconds_until(None, stage.services, api_token, unlock)
        for service in stage.services:
            say.answered(service, "GetOrder", _ORDER, api_token)
        _show_refusals(stage, access_token)
        renewed = say.answered(authority.tokens, "Refresh", renewal, shop.in_header)
        for service in stage.services:
            say.answered(service, "GetOrder", _ORDER, with_access_token(renewed.access_token))
        say.remark(f"the API token is good again {_in_ms(took)} after the unlock was sent")


def _call_with_certificate(stage: Stage) -> None:
    say = stage.say
    with say.step("A scanner may call from anywhere, with a certificate for scanner.example"):
        app = app_pb.App(
            kind=app_pb.APP_KIND_DEVICE,
            display_name="scanner",
            scopes=SCOPES,
            resources=[RESOURCE],
            whitelist=["san:scanner.example"],
        )
        metadata = with_api_token(*_register(say, stage.authority, app))
        reason = Reason.ORIGIN_NOT_ALLOWED
        say.sent("TLS without a certificate")
        say.refused(stage.services[0], "GetOrder", _ORDER, metadata, code=_DENIED, reason=reason)
        say.sent("TLS with a certificate for thief.example")
        thief = stage.connect_as("thief.example")
        say.refused(thief, "GetOrder", _ORDER, metadata, code=_DENIED, reason=reason)
        say.sent("TLS with a certificate for scanner.example")
        say.answered(stage.connect_as("scanner.example"), "GetOrder", _ORDER, metadata)
        say.remark("only the right certificate opens")


def _show_refusals(stage: Stage, *credentials: Metadata) -> None:
    for metadata in credentials:
        for service in stage.services:
            reason = Reason.TOKEN_INVALID
            stage.say.refused(service, "GetOrder", _ORDER, metadata, code=_UNAUTHENTICATED, reason=reason)


def _in_ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
