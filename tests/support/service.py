"""A service that somebody protects with the library, and credentials for it from a real authority."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.connection.watch import MAX_STALENESS

from support.authority import RESOURCE, AuthorityProcess, Client, reason


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    def GetOrder(  # noqa: N802 - named by the contract
        self,
        request: orders_pb2.GetOrderRequest,
        _context: Any,
    ) -> orders_pb2.GetOrderResponse:
        order = orders_pb2.Order(order_id=request.order_id, requested_by=rpz_auth.caller().subject)
        return orders_pb2.GetOrderResponse(order=order)

    def WatchOrders(  # noqa: N802 - named by the contract
        self, _request: orders_pb2.WatchOrdersRequest, context: Any
    ) -> Iterator[orders_pb2.WatchOrdersResponse]:
        """Say one thing, and then nothing until somebody ends it."""
        ended = threading.Event()
        context.add_callback(ended.set)
        yield orders_pb2.WatchOrdersResponse()
        ended.wait()


class Service:
    """A service that somebody protects, and one client of it."""

    def __init__(self, verifier: Path, *, max_staleness: float = MAX_STALENESS, **options: Any) -> None:
        self.connection = rpz_auth.connect(verifier, max_staleness=max_staleness)
        self.auth = rpz_auth.AuthInterceptor(
            self.connection, resource=RESOURCE, services=["orders.v1.OrderService"], **options
        )
        self._server = grpc.server(ThreadPoolExecutor(2), interceptors=[self.auth])
        orders_pb2_grpc.add_OrderServiceServicer_to_server(
            OrderService(),  # type: ignore[abstract] # the other methods are not called
            self._server,
        )
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}")
        self.stub = orders_pb2_grpc.OrderServiceStub(self._channel)

    def __enter__(self) -> Self:
        self.auth.__enter__()
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._server.stop(None).wait()
        self.auth.__exit__(None, None, None)

    def outcome(self, field_value: str) -> str:
        """Who the service took the caller for, or the reason why it refused."""
        try:
            answer = self.stub.GetOrder(
                orders_pb2.GetOrderRequest(order_id="1"), metadata=(("x-rpz-auth", field_value),)
            )
        except grpc.RpcError as error:
            return str(reason(error))
        return answer.order.requested_by


def access_token(authority: AuthorityProcess, client: Client) -> tuple[str, str]:
    tokens = authority.exchange(client, authority.issue_code(client))
    return rpz_auth.AccessToken(tokens.access_token).field_value(), tokens.refresh_token


def api_token(authority: AuthorityProcess, client: Client, **fields: Any) -> tuple[str, str]:
    request = {"scopes": ["orders.read"], "resources": [RESOURCE], **fields}
    created = authority.tokens.CreateApiToken(token_pb.CreateApiTokenRequest(app_id=client.app_id, **request))
    value = rpz_auth.ApiToken(client.app_id, created.api_token).field_value()
    return value, created.record.api_token_id
