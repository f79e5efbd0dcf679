"""Whose address the peer is behind each kind of proxy, as docs/proxies.md says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import rpz_auth
from demo.relay import Relay
from rpz_auth.testing import FakeAuthority
from rpz_auth_server.transport.tls.development import ensure_development_files, issue_client_certificate
from support.envoy import route, running_envoy
from support.proxies import free_port, program, running

RESOURCE = "https://orders.example"
PATH = "/a.B/Peer"
CLIENT = "127.0.0.2"
PROXY = "127.0.0.1"

Proxy = Callable[[ExitStack, Path, int], int]
"""Starts in front of a port, and returns its own."""


class Service(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != PATH:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: _peer())


def _peer() -> bytes:
    return str(rpz_auth.caller().peer).encode()


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
def port(authority: FakeAuthority) -> Iterator[int]:
    """Of a guarded service that believes the proxies on this machine."""
    auth = rpz_auth.AuthInterceptor(
        authority, resource=RESOURCE, policies={PATH: rpz_auth.scopes("x")}, trusted_proxies=[PROXY]
    )
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Service()], interceptors=[auth])
    listening = server.add_insecure_port("127.0.0.1:0")
    with auth:
        server.start()
        yield listening
        server.stop(None).wait()


def envoy(stack: ExitStack, folder: Path, upstream: int) -> int:
    clusters = {"service": (upstream, True)}
    return stack.enter_context(running_envoy(folder, clusters, routes=[route("/", "service")]))


def nginx(stack: ExitStack, folder: Path, upstream: int) -> int:
    port = free_port()
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{}}
        http {{
            access_log off; {temporary}
            server {{
                listen {PROXY}:{port} http2;
                location / {{
                    grpc_pass grpc://{PROXY}:{upstream};
                    grpc_set_header x-forwarded-for $proxy_add_x_forwarded_for;
                }}
            }}
        }}
        """
    )
    command = [program("nginx"), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(path)]
    stack.enter_context(running(command, port, folder / "nginx.log"))
    return port


def haproxy(stack: ExitStack, folder: Path, upstream: int, *lines: str) -> int:
    port = free_port()
    path = folder / "haproxy.cfg"
    path.write_text(
        "\n".join(
            [
                "defaults",
                "  timeout connect 5s",
                "  timeout client 60s",
                "  timeout server 60s",
                "listen service",
                *(f"  {line.format(port=port, upstream=upstream)}" for line in lines),
                "",
            ]
        )
    )
    command = [program("haproxy"), "-db", "-f", str(path)]
    stack.enter_context(running(command, port, folder / "haproxy.log"))
    return port


def haproxy_http(stack: ExitStack, folder: Path, upstream: int) -> int:
    return haproxy(
        stack,
        folder,
        upstream,
        "mode http",
        "bind 127.0.0.1:{port} proto h2",
        "option forwardfor",
        "server one 127.0.0.1:{upstream} proto h2",
    )


def haproxy_tcp(stack: ExitStack, folder: Path, upstream: int) -> int:
    return haproxy(
        stack, folder, upstream, "mode tcp", "bind 127.0.0.1:{port}", "server one 127.0.0.1:{upstream}"
    )


def haproxy_proxy_protocol(stack: ExitStack, folder: Path, upstream: int) -> int:
    return haproxy(
        stack,
        folder,
        upstream,
        "mode tcp",
        "bind 127.0.0.1:{port}",
        "server one 127.0.0.1:{upstream} send-proxy-v2",
    )


def ask(port: int, token: rpz_auth.AccessToken, *metadata: tuple[str, str]) -> str:
    """Who the service says the peer is, for a client at an address of its own, or how it refuses."""
    with (
        Relay(f"127.0.0.1:{port}", source=CLIENT) as relay,
        grpc.insecure_channel(relay.address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        method: Any = channel.unary_unary(PATH)
        try:
            answer: bytes = method(
                b"", metadata=[("authorization", token.field_value()), *metadata], timeout=20
            )
        except grpc.RpcError as error:
            reason = rpz_auth.reason_of(error)
            return str(reason or error.code().name)
        return answer.decode()


FORGED = ("x-forwarded-for", "192.0.2.7")


def test_a70_without_a_proxy_the_client_is_the_peer(authority: FakeAuthority, port: int) -> None:
    token = authority.access_token(resource=RESOURCE, scopes=["x"])
    assert ask(port, token) == CLIENT
    assert ask(port, token, FORGED) == CLIENT


@pytest.mark.parametrize("proxy", [envoy, nginx, haproxy_http])
def test_a71_a72_behind_a_proxy_that_appends_the_client_is_the_peer_and_cannot_say_otherwise(
    authority: FakeAuthority, port: int, proxy: Proxy, tmp_path: Path
) -> None:
    token = authority.access_token(resource=RESOURCE, scopes=["x"])
    with ExitStack() as stack:
        front = proxy(stack, tmp_path, port)
        assert ask(front, token) == CLIENT
        assert ask(front, token, FORGED) == CLIENT
        authority.whitelist([FORGED[1]])
        assert ask(front, token, FORGED) == "ORIGIN_NOT_ALLOWED"
        authority.whitelist([PROXY])
        assert ask(front, token, FORGED) == "ORIGIN_NOT_ALLOWED"
        authority.whitelist([CLIENT])
        assert ask(front, token, FORGED) == CLIENT


def test_a70_behind_a_balancer_of_connections_nobody_is_known_by_address(
    authority: FakeAuthority, port: int, tmp_path: Path
) -> None:
    token = authority.access_token(resource=RESOURCE, scopes=["x"])
    with ExitStack() as stack:
        front = haproxy_tcp(stack, tmp_path, port)
        # Its address is trusted, and it says nothing of its clients: unknown, which no entry matches.
        assert ask(front, token) == "unknown"
        authority.whitelist([CLIENT, PROXY])
        assert ask(front, token) == "ORIGIN_NOT_ALLOWED"
        # Which is why a balancer of connections must never be listed: its clients write the field themselves.
        authority.whitelist([FORGED[1]])
        assert ask(front, token, FORGED) == FORGED[1]


def test_the_proxy_protocol_is_not_understood(authority: FakeAuthority, port: int, tmp_path: Path) -> None:
    token = authority.access_token(resource=RESOURCE, scopes=["x"])
    with ExitStack() as stack:
        front = haproxy_proxy_protocol(stack, tmp_path, port)
        assert ask(front, token) == "UNAVAILABLE"


def test_names_in_certificates_are_known_through_a_balancer_of_connections_that_is_not_trusted(
    authority: FakeAuthority, tmp_path: Path
) -> None:
    files = ensure_development_files(tmp_path)
    own = issue_client_certificate(tmp_path, ["shop.example"])
    ca = files.ca.read_bytes()
    auth = rpz_auth.AuthInterceptor(authority, resource=RESOURCE, policies={PATH: rpz_auth.scopes("x")})
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Service()], interceptors=[auth])
    pair = (files.server_key.read_bytes(), files.server.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], ca, True))
    token = authority.access_token(resource=RESOURCE, scopes=["x"])
    authority.whitelist(["san:shop.example"])
    tls = grpc.ssl_channel_credentials(ca, own.key, own.certificate)
    with ExitStack() as stack, auth:
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        front = haproxy_tcp(stack, tmp_path, port)
        channel = stack.enter_context(rpz_auth.secure_channel(f"127.0.0.1:{front}", token, tls=tls))
        method: Any = channel.unary_unary(PATH)
        assert method(b"", timeout=20) == PROXY.encode()
        authority.whitelist(["san:other.example"])
        with pytest.raises(grpc.RpcError) as refused:
            method(b"", timeout=20)
        assert rpz_auth.reason_of(refused.value) is rpz_auth.Reason.ORIGIN_NOT_ALLOWED
