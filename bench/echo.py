"""A service that answers with what it is asked, behind a guard or none; a process of its own.

It is given an `Echo` on standard input and answers with a `Ready` on standard output, both pickled.
"""

from __future__ import annotations

import asyncio
import pickle
import secrets
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import grpc.aio
import rpz_auth
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue
from rpz_auth.testing import APP_ID, FakeAuthority
from rpz_auth.view import Revocation

from bench.guards import introspecting, jwt_checking, wrapping
from bench.load import Metadata, take_processor

METHOD = "/bench.Echo/Call"
RESOURCE = "https://echo.example"
SCOPE = "echo.call"

Stack = Literal["sync", "asyncio"]
Guard = Literal["none", "pass", "wrap", "rpz", "pyjwt", "introspect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Which service to be."""

    stack: Stack
    uvloop: bool = False
    """Whether the event loop is the one that the authority runs on."""
    guard: Guard = "none"
    certificate: bytes
    key: bytes = field(repr=False)
    answer_bytes: int = 100
    whitelist: int = 0
    """Entries in the whitelist of the App; the one that matches is the last."""
    revoked: int = 0
    """Identifiers of others that are revoked."""
    tokens: int = 1
    """How many different access tokens to make."""
    introspector: tuple[str, bytes, str, str] | None = field(default=None, repr=False)
    """Address and CA of an authority, App ID and API token of a verifier."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where it listens, and with what its guard lets one in."""

    port: int
    access_tokens: list[Metadata] = field(repr=False)
    api_token: Metadata = field(repr=False)
    forged: Metadata = field(repr=False)
    """A token of the right key's name with a wrong signature: as costly to refuse as one can be."""


def _authority(echo: Echo) -> tuple[FakeAuthority, Ready]:
    authority = FakeAuthority()
    authority.start()
    if echo.whitelist:
        others = [f"10.{number // 256}.{number % 256}.0/24" for number in range(echo.whitelist - 1)]
        authority.whitelist([*others, "127.0.0.0/8"])
    authority.view.apply([Revocation(secrets.token_urlsafe(16), 2.0**40) for _ in range(echo.revoked)])

    def bearer(token: str) -> Metadata:
        return (("authorization", f"Bearer {token}"),)

    tokens = [
        authority.access_token(resource=RESOURCE, scopes=[SCOPE]).token for _ in range(max(1, echo.tokens))
    ]
    api_token = authority.api_token(resource=RESOURCE, scopes=[SCOPE], app_id=APP_ID)
    signed, _, _ = tokens[0].rpartition(".")
    forged = bearer(f"{signed}.{secrets.token_urlsafe(64)}")
    return authority, Ready(
        0, [bearer(token) for token in tokens], (("authorization", api_token.field_value()),), forged
    )


def _interceptors(echo: Echo, authority: FakeAuthority) -> list[Any]:
    match echo.guard:
        case "none":
            return []
        case "pass":
            return [wrapping(echo.stack, wrap=False)]
        case "wrap":
            return [wrapping(echo.stack, wrap=True)]
        case "rpz":
            auth = rpz_auth.AuthInterceptor(
                authority, resource=RESOURCE, policies={METHOD: rpz_auth.scopes(SCOPE)}
            )
            return [auth]
        case "pyjwt":
            return [jwt_checking(echo.stack, authority, RESOURCE)]
        case "introspect":
            assert echo.introspector is not None
            return [introspecting(echo.stack, *echo.introspector)]


def _serve(echo: Echo) -> None:
    authority, ready = _authority(echo)
    answer = BytesValue(value=secrets.token_bytes(echo.answer_bytes))
    credentials = grpc.ssl_server_credentials([(echo.key, echo.certificate)])
    options = (("grpc.so_reuseport", 0),)

    def handler(behaviour: Any) -> grpc.GenericRpcHandler:
        rpc = grpc.unary_unary_rpc_method_handler(
            behaviour, BytesValue.FromString, BytesValue.SerializeToString
        )
        service, _, method = METHOD.removeprefix("/").partition("/")
        return grpc.method_handlers_generic_handler(service, {method: rpc})

    def tell(port: int) -> None:
        told = Ready(port, ready.access_tokens, ready.api_token, ready.forged)
        sys.stdout.buffer.write(pickle.dumps(told))
        sys.stdout.buffer.close()

    if echo.stack == "sync":
        pool = ThreadPoolExecutor(4)
        server = grpc.server(pool, interceptors=_interceptors(echo, authority), options=options)
        server.add_generic_rpc_handlers((handler(lambda _request, _context: answer),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        tell(port)
        stopping = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
        stopping.wait()
        server.stop(None)
        return

    async def serve() -> None:
        async def reply(_request: Any, _context: Any) -> BytesValue:
            return answer

        server = grpc.aio.server(interceptors=_interceptors(echo, authority), options=options)
        server.add_generic_rpc_handlers((handler(reply),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        tell(port)
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        await stopping.wait()
        await server.stop(None)

    (uvloop.run if echo.uvloop else asyncio.run)(serve())


def main() -> None:
    """Be the service."""
    take_processor(0)
    _serve(pickle.load(sys.stdin.buffer))  # noqa: S301 - from `Subject`
