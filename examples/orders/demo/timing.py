"""How long a change at the authority takes until every service obeys."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from orders.v1 import orders_pb2
from rpz_auth import Reason

from demo.telling import Endpoint, Metadata, NotAsItShould, Refused, call

_ENDED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
"""What the client of a stream sees whose credential has ended; the second on a synchronous server only."""
LIMIT = 1.0
"""Seconds. 100 ms is what the authority promises for 99 of 100 changes; here is one, on a machine of
unknown load, and anything near this limit means that the change was not pushed."""
_PATIENCE = 5.0


def seconds_until(
    outcome: Reason | None, services: Sequence[Endpoint], metadata: Metadata, change: Callable[[], object]
) -> float:
    """Call all services without a pause, make a change, and see when their answers follow.

    Args:
        outcome: What the calls come to through the change: a refusal, or an answer if None.
        services: Whom to call.
        metadata: What to send with each call.
        change: Makes the change; returns when the authority has acknowledged it.

    Returns:
        Seconds from sending the change to the first call with the new outcome, of the slowest service.

    Raises:
        NotAsItShould: A service followed too late, not at all, or before the change was made.
    """
    begun = [threading.Event() for _ in services]
    with ThreadPoolExecutor(len(services)) as pool:
        polls = [
            pool.submit(_poll, outcome, service, metadata, event)
            for service, event in zip(services, begun, strict=True)
        ]
        for event in begun:
            event.wait()
        sent_at = time.perf_counter()
        change()
        found = [poll.result() - sent_at for poll in polls]
    for service, seconds in zip(services, found, strict=True):
        if not 0 < seconds < LIMIT:
            raise NotAsItShould(f"expected {service.name} to follow within {LIMIT:g} s, took {seconds:.3f} s")
    return max(found)


class RunningStream:
    """A stream of orders without an end, read in a thread of its own."""

    def __init__(self, service: Endpoint, metadata: Metadata) -> None:
        """Open it, and return when it has brought the first order."""
        self._service = service
        self._call = service.stub.WatchOrders(orders_pb2.WatchOrdersRequest(), metadata=metadata)
        next(self._call)
        self._ended_at = 0.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def seconds_until_end(self, since: float) -> float:
        """Seconds until it ended, counted from a moment of `time.perf_counter`.

        Raises:
            NotAsItShould: It ended too late, not at all, before that moment, or otherwise.
        """
        self._thread.join(_PATIENCE)
        ended = not self._thread.is_alive()
        self._call.cancel()
        code = self._call.code()
        seconds = self._ended_at - since
        if not ended or code not in _ENDED or not 0 < seconds < LIMIT:
            raise NotAsItShould(f"expected the stream of {self._service.name} to end within {LIMIT:g} s")
        return seconds

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass
        self._ended_at = time.perf_counter()


def _poll(outcome: Reason | None, service: Endpoint, metadata: Metadata, begun: threading.Event) -> float:
    deadline = time.perf_counter() + _PATIENCE
    while True:
        answer = call(service, "GetOrder", orders_pb2.GetOrderRequest(order_id="1"), metadata)
        now = time.perf_counter()
        if (answer.reason if isinstance(answer, Refused) else None) == outcome:
            begun.set()
            return now
        begun.set()
        if now > deadline:
            raise NotAsItShould(f"expected {service.name} to come to {outcome or 'an answer'}, it does not")
