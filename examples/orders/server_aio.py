"""The order service on `grpc.aio.server`."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import health_checks
import options
import rpz_auth
import service
from orders.v1 import orders_pb2 as pb
from orders.v1 import orders_pb2_grpc

GRACE = 5.0
"""Seconds that calls in flight have at the end."""


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    """The four call shapes, and a method for everybody."""

    async def GetOrder(self, request: pb.GetOrderRequest, context: Any) -> pb.GetOrderResponse:
        """One request, one answer."""
        return pb.GetOrderResponse(
            order=service.find_order(request.order_id),
            downstream_authorization=service.downstream_authorization(context.invocation_metadata()),
        )

    async def WatchOrders(
        self, request: pb.WatchOrdersRequest, _context: Any
    ) -> AsyncIterator[pb.WatchOrdersResponse]:
        """One request, a stream of answers."""
        for order_id in service.order_ids(request.count):
            yield pb.WatchOrdersResponse(order=service.find_order(order_id))

    async def ImportOrders(
        self, requests: AsyncIterator[pb.ImportOrdersRequest], _context: Any
    ) -> pb.ImportOrdersResponse:
        """A stream of requests, one answer."""
        return pb.ImportOrdersResponse(imported=len([request async for request in requests]))

    async def TradeOrders(
        self, requests: AsyncIterator[pb.TradeOrdersRequest], _context: Any
    ) -> AsyncIterator[pb.TradeOrdersResponse]:
        """A stream of requests, a stream of answers."""
        async for request in requests:
            yield pb.TradeOrdersResponse(order=service.take_order(request.order))

    async def GetStatus(self, _request: pb.GetStatusRequest, _context: Any) -> pb.GetStatusResponse:
        """Needs no credential."""
        return pb.GetStatusResponse(status="open")


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = options.read(__doc__)
    logging.basicConfig(level=logging.INFO)  # shows the table of policies
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    authority = rpz_auth.connect(settings.verifier)
    auth = rpz_auth.AuthInterceptor(
        authority, resource=service.RESOURCE, services=[service.NAME], policies=health_checks.POLICIES
    )
    server = grpc.aio.server(interceptors=[auth], options=[("grpc.so_reuseport", 0)])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(), server)
    health_checks.add_to(server)
    port = server.add_secure_port(settings.address, options.server_credentials(settings))
    async with auth:
        await server.start()
        print(options.describe(settings, port), flush=True)
        await stopping.wait()
        await server.stop(GRACE)


if __name__ == "__main__":
    asyncio.run(main())
