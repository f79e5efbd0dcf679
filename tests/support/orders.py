"""The order service of the examples, which verifies by itself, and what it answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc

from support.authority import RESOURCE, reason

TIMEOUT = 30.0


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def GetOrder(self, request: Any, _context: Any) -> Any:  # noqa: N802 - named by the contract
        return orders_pb2.GetOrderResponse(order=orders_pb2.Order(order_id=request.order_id))


class Service:
    """A service that verifies by itself."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def answer(self, credential: str) -> str | None:
        """None when the call passes, else the reason."""
        try:
            self._stub.GetOrder(
                orders_pb2.GetOrderRequest(order_id="7"),
                metadata=(("authorization", credential),),
                timeout=TIMEOUT,
            )
        except grpc.RpcError as error:
            return reason(error)
        return None

    def wait_for(self, credential: str, expected: str | None) -> None:
        deadline = time.monotonic() + TIMEOUT
        while (found := self.answer(credential)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)  # the authority is another process, and was away


class Verifying:
    """Calls a service without a pause, for as long as the block lasts."""

    def __init__(self, service: Service, credential: str) -> None:
        self._service = service
        self._credential = credential
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.passed: list[float] = []
        """When calls passed, by the monotonic clock."""
        self.refused: list[str | None] = []
        """Why others did not."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._stop.wait(0.01):
            answer = self._service.answer(self._credential)
            if answer is None:
                self.passed.append(time.monotonic())
            else:
                self.refused.append(answer)


@contextlib.contextmanager
def orders_service(verifier_file: Path, **options: Any) -> Iterator[Service]:
    auth = rpz_auth.AuthInterceptor(
        rpz_auth.connect(verifier_file, **options), resource=RESOURCE, services=["orders.v1.OrderService"]
    )
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[auth])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)  # type: ignore[abstract] # one is enough
    port = server.add_insecure_port("127.0.0.1:0")
    with auth, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        server.start()
        yield Service(orders_pb2_grpc.OrderServiceStub(channel))
        server.stop(None)
