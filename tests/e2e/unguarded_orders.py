"""An order service whose owner forgot the interceptor."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import options
import server_sync
from orders.v1 import orders_pb2 as pb
from orders.v1 import orders_pb2_grpc


class OrderService(server_sync.OrderService):
    def GetOrder(  # noqa: N802 - named by the contract
        self, request: pb.GetOrderRequest, _context: Any
    ) -> pb.GetOrderResponse:
        return pb.GetOrderResponse(order=pb.Order(order_id=request.order_id, requested_by="anybody"))


if __name__ == "__main__":
    settings = options.read(__doc__)
    server = grpc.server(ThreadPoolExecutor(4))
    orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(), server)
    port = server.add_secure_port(settings.address, options.server_credentials(settings))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server.start()
    print(options.describe(settings, port), flush=True)  # noqa: T201 - tells that it is ready
    server.wait_for_termination()
