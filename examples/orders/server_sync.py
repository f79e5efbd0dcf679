"""The order service on `grpc.server`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
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

    def GetOrder(self, request: pb.GetOrderRequest, context: grpc.ServicerContext) -> pb.GetOrderResponse:
        """One request, one answer."""
        return pb.GetOrderResponse(
            order=service.find_order(request.order_id),
            downstream_authorization=service.downstream_authorization(context.invocation_metadata()),
        )

    def WatchOrders(
        self, request: pb.WatchOrdersRequest, _context: grpc.ServicerContext
    ) -> Iterator[pb.WatchOrdersResponse]:
        """One request, a stream of answers."""
        for order_id in service.order_ids(request.count):
            yield pb.WatchOrdersResponse(order=service.find_order(order_id))

    def ImportOrders(
        self, requests: Iterator[pb.ImportOrdersRequest], _context: grpc.ServicerContext
    ) -> pb.ImportOrdersResponse:
        """A stream of requests, one answer."""
        return pb.ImportOrdersResponse(imported=sum(1 for _ in requests))

    def TradeOrders(
        self, requests: Iterator[pb.TradeOrdersRequest], _context: grpc.ServicerContext
    ) -> Iterator[pb.TradeOrdersResponse]:
        """A stream of requests, a stream of answers."""
        for request in requests:
            yield pb.TradeOrdersResponse(order=service.take_order(request.order))

    def GetStatus(
        self, _request: pb.GetStatusRequest, _context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        """Needs no credential."""
        return pb.GetStatusResponse(status="open")


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = options.read(__doc__)
    logging.basicConfig(level=logging.INFO)  # shows the table of policies
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())

    authority = rpz_auth.connect(settings.verifier)
    auth = rpz_auth.AuthInterceptor(
        authority, resource=service.RESOURCE, services=[service.NAME], policies=health_checks.POLICIES
    )
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[auth], options=[("grpc.so_reuseport", 0)])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(), server)
    health_checks.add_to(server)
    port = server.add_secure_port(settings.address, options.server_credentials(settings))
    with auth:
        server.start()
        print(options.describe(settings, port), flush=True)
        try:
            server.wait_for_termination()
        finally:
            server.stop(GRACE).wait()


if __name__ == "__main__":
    main()
