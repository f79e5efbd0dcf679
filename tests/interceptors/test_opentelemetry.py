"""Decisions on the spans of a synchronous service, which the official instrumentation makes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import rpz_auth
from opentelemetry.instrumentation.grpc import server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz_auth import opentelemetry
from rpz_auth.testing import FakeAuthority

RESOURCE = "https://orders"


def test_span_of_a_call_tells_its_decision_and_no_secret() -> None:
    authority, exporter, provider = FakeAuthority(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    auth = rpz_auth.AuthInterceptor(authority, resource=RESOURCE, services=["orders.v1.OrderService"])
    told: list[Any] = []
    auth.on_decision(told.append)  # as another that wants to know
    opentelemetry.register(auth)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[server_interceptor(provider), auth])
    servicer: Any = orders_pb2_grpc.OrderServiceServicer
    orders_pb2_grpc.add_OrderServiceServicer_to_server(servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    token = authority.access_token(resource=RESOURCE, scopes=["orders.read"]).field_value()
    with auth, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        server.start()
        stub = orders_pb2_grpc.OrderServiceStub(channel)
        for metadata in ((("authorization", token),), (("authorization", "Bearer forged"),), ()):
            with pytest.raises(grpc.RpcError):
                stub.GetOrder(orders_pb2.GetOrderRequest(), metadata=metadata)
        server.stop(None).wait()
    spans = exporter.get_finished_spans()
    decisions = ["ADMITTED", "TOKEN_INVALID", "CREDENTIALS_MISSING"]
    assert [(span.attributes or {})["rpz_auth.decision"] for span in spans] == decisions
    assert told == [None, rpz_auth.Reason.TOKEN_INVALID, rpz_auth.Reason.CREDENTIALS_MISSING]
    assert [secret for secret in (token, "forged") if any(secret in span.to_json() for span in spans)] == []
    provider.shutdown()


def test_without_a_span_nothing_happens() -> None:
    opentelemetry.note(None)
