"""Health (`grpc.health.v1`), which anybody may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_LONGEST_NAME = 200
"""Characters of a service's name; a stream keeps its request for as long as it lasts."""


class Health(health_pb2_grpc.HealthServicer):
    """Serving until told otherwise.

    grpcio-health-checking's own servicer holds a lock while it writes to a watcher: one that reads nothing
    holds up the others, and the server's stop, which tells them all.
    """

    def __init__(self, services: Iterable[str]) -> None:
        """Speak for the server as a whole, and for each of `services`."""
        self._services = frozenset({"", *services})
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say from now on that nothing is served."""
        self._stopping.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Answer once."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return self._answer(request.service)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """Answer now and when that changes, until the client has had enough."""
        if len(request.service) > _LONGEST_NAME:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        told = self._answer(request.service)
        await context.write(told)
        await self._stopping.wait()
        if self._answer(request.service) != told:
            await context.write(self._answer(request.service))
        await asyncio.Event().wait()

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        if service not in self._services:
            return statuses(status=statuses.SERVICE_UNKNOWN)
        return statuses(status=statuses.NOT_SERVING if self._stopping.is_set() else statuses.SERVING)
