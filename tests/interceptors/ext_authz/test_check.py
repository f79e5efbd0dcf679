"""What a real Envoy does not easily bring about; the rest is tried with one in tests/proxies."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import rpz_auth
from rpz.auth.ext_authz.v1 import check_pb2 as pb
from rpz_auth.address import UNKNOWN, Peer, parse_address
from rpz_auth.ext_authz.check import ExtAuthz, _peer
from rpz_auth.policy import CLIENT
from rpz_auth.testing import FakeAuthority

RESOURCE = "https://orders.example"
POLICIES = {"/a.B/Read": rpz_auth.scopes("read")}


def check_request(**http: Any) -> pb.CheckRequest:
    return pb.CheckRequest(
        attributes=pb.Attributes(request=pb.Request(http=pb.HttpRequest(path="/a.B/Read", **http)))
    )


@pytest.mark.parametrize(
    ("source", "peer"),
    [
        (
            pb.Peer(address=pb.Address(socket_address=pb.SocketAddress(address="192.0.2.1"))),
            Peer(parse_address("192.0.2.1")),
        ),
        (
            pb.Peer(address=pb.Address(socket_address=pb.SocketAddress(address="::ffff:192.0.2.1"))),
            Peer(parse_address("192.0.2.1")),
        ),
        (pb.Peer(address=pb.Address(socket_address=pb.SocketAddress(address="orders"))), UNKNOWN),
        (pb.Peer(), UNKNOWN),
        (pb.Peer(address=pb.Address(pipe=pb.Pipe(path="/run/x"))), Peer(None, unix=True)),
        (
            pb.Peer(
                address=pb.Address(socket_address=pb.SocketAddress(address="192.0.2.1")),
                principal="Shop.Example.",
            ),
            Peer(parse_address("192.0.2.1"), names=frozenset({"shop.example"})),
        ),
        (
            pb.Peer(
                address=pb.Address(socket_address=pb.SocketAddress(address="192.0.2.1")),
                principal="spiffe://cluster.local/ns/shop",
            ),
            Peer(parse_address("192.0.2.1")),
        ),
        (
            pb.Peer(
                address=pb.Address(socket_address=pb.SocketAddress(address="192.0.2.1")),
                principal="CN=shop.example",
            ),
            Peer(parse_address("192.0.2.1")),
        ),
    ],
)
def test_r093_the_source_is_read_as_any_peer(source: pb.Peer, peer: Peer) -> None:
    assert _peer(source) == peer


def test_a98_a_fault_refuses_and_its_text_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(FakeAuthority):
        def ask(self, question: Any) -> Any:
            raise ZeroDivisionError(f"secret text {question!r}")

    authority = Faulty()
    own = authority.api_token(resource=RESOURCE, scopes=["read"])
    guard = ExtAuthz(authority, resource=RESOURCE, policies=POLICIES)
    with guard:
        answer = guard._check(check_request(headers={"authorization": own.field_value()}), None)
    assert answer.WhichOneof("http_response") == "denied_response"
    assert (answer.status.code, answer.denied_response.status.code) == (
        grpc.StatusCode.INTERNAL.value[0],
        500,
    )
    assert "secret text" not in str(answer)
    assert "secret text" in caplog.text


def test_what_a_service_may_take_for_our_headers_is_removed() -> None:
    authority = FakeAuthority()
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    alike = ["x_rpz_subject", "X.Rpz.Subject", "x-rpz~app-id", "x!rpz'scopes", "x.rpz.auth"]
    others = ["x-rpz", "x-rpz-subjects", "xrpzsubject", "accept"]
    headers = dict.fromkeys([*alike, *others], "of the client")
    with ExtAuthz(authority, resource=RESOURCE, policies=POLICIES) as guard:
        answer = guard._check(check_request(headers={"authorization": token.field_value(), **headers}), None)
    assert sorted(answer.ok_response.headers_to_remove) == sorted(alike)


def test_nothing_passes_before_the_authority_has_spoken() -> None:
    authority = FakeAuthority()
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    authority.cut_off()
    guard = ExtAuthz(authority, resource=RESOURCE, policies=POLICIES)
    answer = guard._check(check_request(headers={"authorization": token.field_value()}), None)
    assert answer.denied_response.status.code == 503


def test_it_starts_without_its_authority_unless_it_only_refuses(caplog: pytest.LogCaptureFixture) -> None:
    class Silent(FakeAuthority):
        def wait(self, timeout: float) -> None:
            raise rpz_auth.BackendUnavailable(f"nobody said a word for {timeout:g} s")

    with ExtAuthz(Silent(), resource=RESOURCE, policies=POLICIES, start_timeout=0.1):
        assert "starts without its authority: nobody said a word for 0.1 s" in caplog.text
    strict = ExtAuthz(Silent(), resource=RESOURCE, policies=POLICIES, when_stale=rpz_auth.REFUSE)
    with pytest.raises(rpz_auth.BackendUnavailable), strict:
        pass
    with ExtAuthz(FakeAuthority(), resource=RESOURCE, policies=POLICIES) as guard:
        assert guard.status().state is rpz_auth.State.FRESH


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policies": {"/a.B/Read": CLIENT}},
        {"routes": {"orders": CLIENT}},
        {"policies": POLICIES, "trusted_proxies": ["10.0.0.1/8"]},
    ],
)
def test_what_protects_nothing_or_too_little_is_an_error_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(rpz_auth.ConfigurationError):
        ExtAuthz(FakeAuthority(), resource=RESOURCE, **options)


def test_routes_alone_are_enough_to_ask_about() -> None:
    with pytest.raises(rpz_auth.ConfigurationError, match="name what Envoy will ask about"):
        ExtAuthz(FakeAuthority(), resource=RESOURCE, services=[], policies={}, routes={})
    authority = FakeAuthority()
    token = authority.access_token(resource=RESOURCE, scopes=["read"])
    asked = check_request(headers={"authorization": token.field_value()})
    with ExtAuthz(authority, resource=RESOURCE, routes={"pages": rpz_auth.scopes("read")}) as guard:
        assert guard._check(asked, None).WhichOneof("http_response") == "denied_response"
        asked.attributes.context_extensions["rpz_auth_route"] = "pages"
        assert guard._check(asked, None).WhichOneof("http_response") == "ok_response"


def test_our_messages_do_not_clash_with_envoys_own() -> None:
    assert pb.CheckRequest.DESCRIPTOR.full_name == "rpz.auth.ext_authz.v1.CheckRequest"
