"""What services do today instead of installing the library, and interceptors that do nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import jwt
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2_grpc as pb_grpc
from rpz_auth import ApiToken, aio, secure_channel
from rpz_auth.testing import FakeAuthority

Check = Callable[[str], None]
AsyncCheck = Callable[[str], Awaitable[None]]


class _Sync(grpc.ServerInterceptor):
    """The interceptor that people write: a wrapped unary handler."""

    def __init__(self, check: Check | None, *, wrap: bool = True) -> None:
        self._check, self._wrap = check, wrap

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        if not self._wrap:
            return handler
        inner, check = handler.unary_unary, self._check

        def call(request: Any, context: Any) -> Any:
            if check is not None:
                _checked(check, context)
            return inner(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


def _checked(check: Check, context: Any) -> None:
    try:
        check(_bearer(context))
    except Exception:  # noqa: BLE001 - whatever it is, the call must not pass
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")


class _Async(grpc.aio.ServerInterceptor):
    def __init__(self, check: AsyncCheck | None, *, wrap: bool = True) -> None:
        self._check, self._wrap = check, wrap

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if not self._wrap:
            return handler
        inner, check = handler.unary_unary, self._check

        async def call(request: Any, context: Any) -> Any:
            if check is not None:
                try:
                    await check(_bearer(context))
                except Exception:  # noqa: BLE001 - whatever it is, the call must not pass
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
            return await inner(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


def wrapping(stack: str, *, wrap: bool) -> Any:
    """An interceptor that lets all pass, with or without a function of its own around the handler."""
    return _Sync(None, wrap=wrap) if stack == "sync" else _Async(None, wrap=wrap)


def jwt_checking(stack: str, authority: FakeAuthority, resource: str) -> Any:
    """PyJWT on every call, with a key that is at hand."""
    (key,) = authority.view.keys.values()
    public: Any = key.raw_value

    def check(token: str) -> None:
        jwt.decode(token, public, algorithms=["ES256"], audience=resource, issuer=authority.issuer)

    async def check_async(token: str) -> None:
        check(token)

    return _Sync(check) if stack == "sync" else _Async(check_async)


def introspecting(stack: str, address: str, ca: bytes, app_id: str, api_token: str) -> Any:
    """An introspection RPC on every call (RFC 7662)."""
    tls, credential = grpc.ssl_channel_credentials(ca), ApiToken(app_id, api_token)

    def demand(answer: pb.IntrospectTokenResponse) -> None:
        if not answer.active:
            raise PermissionError

    if stack == "sync":
        stub = pb_grpc.TokenServiceStub(secure_channel(address, credential, tls=tls))
        return _Sync(lambda token: demand(stub.IntrospectToken(pb.IntrospectTokenRequest(token=token))))
    channels: list[Any] = []

    async def check(token: str) -> None:
        if not channels:  # in the server's loop
            channels.append(pb_grpc.TokenServiceStub(aio.secure_channel(address, credential, tls=tls)))
        demand(await channels[0].IntrospectToken(pb.IntrospectTokenRequest(token=token)))

    return _Async(check)


def _bearer(context: Any) -> str:
    return str(dict(context.invocation_metadata())["authorization"]).removeprefix("Bearer ")
