"""Health for load balancers, who have no credentials; offered where grpcio-health-checking is installed."""

from __future__ import annotations

import importlib.util

import grpc
import grpc.aio
import rpz_auth

INSTALLED = importlib.util.find_spec("grpc_health") is not None
if INSTALLED:
    from grpc_health.v1 import health, health_pb2_grpc

POLICIES = {"grpc.health.v1.Health": rpz_auth.PUBLIC} if INSTALLED else {}
"""For the interceptor: the .proto of this service is not ours to change."""


def add_to(server: grpc.Server | grpc.aio.Server) -> None:
    """Say SERVING for as long as the server runs."""
    if INSTALLED:
        on_asyncio = isinstance(server, grpc.aio.Server)
        servicer = health.aio.HealthServicer() if on_asyncio else health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
