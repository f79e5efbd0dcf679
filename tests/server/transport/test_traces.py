"""Spans of a real authority, by the exporter of the SDK that keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rpz.auth.v1 import app_service_pb2, token_service_pb2
from rpz_auth_server.transport.traces import Traces
from server.authority import TIMEOUT, TestAuthority, bearer, refusal, running_authority

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DECISION = "rpz_auth.decision"


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[tuple[TestAuthority, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    traces = Traces(SimpleSpanProcessor(exporter))
    async with running_authority(tmp_path / "authority", traces=traces) as authority:
        yield authority, exporter
    traces.close()


def calls_of(exporter: InMemorySpanExporter, method: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name.endswith(f"/{method}")]


async def test_call_has_a_span_below_its_callers_and_its_commit_one_below_that(
    traced: tuple[TestAuthority, InMemorySpanExporter],
) -> None:
    authority, exporter = traced
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    exporter.clear()
    request = token_service_pb2.RefreshRequest(
        refresh_token=tokens.refresh_token, client_id=client.app_id, client_secret=client.secret
    )
    await authority.anonymous.tokens.Refresh(request, metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
    (call,) = calls_of(exporter, "Refresh")
    assert call.parent is not None
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (TRACE, SPAN)
    assert (call.attributes or {})[DECISION] == "ADMITTED"
    (commit,) = [span for span in exporter.get_finished_spans() if span.name == "commit"]
    assert commit.parent is not None
    assert commit.parent.span_id == call.context.span_id


async def test_refusals_have_their_reason_wherever_they_were_made(
    traced: tuple[TestAuthority, InMemorySpanExporter],
) -> None:
    authority, exporter = traced
    await refusal(authority.anonymous.apps.ListApps(app_service_pb2.ListAppsRequest()))
    await refusal(
        authority.anonymous.tokens.Refresh(token_service_pb2.RefreshRequest(refresh_token="x", client_id="y"))
    )
    (unauthenticated,) = calls_of(exporter, "ListApps")
    (refused,) = calls_of(exporter, "Refresh")
    assert (unauthenticated.attributes or {})[DECISION] == "CREDENTIALS_MISSING"
    assert (refused.attributes or {})[DECISION] == "GRANT_INVALID"


async def test_r126_no_secret_and_no_text_of_a_fault_stands_in_a_span(
    traced: tuple[TestAuthority, InMemorySpanExporter],
) -> None:
    authority, exporter = traced
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    await authority.refresh(client, tokens.refresh_token)
    await refusal(
        authority.anonymous.apps.ListApps(
            app_service_pb2.ListAppsRequest(), metadata=bearer("forged-credential")
        )
    )
    authority.store.faults["grant"] = RuntimeError("fault-with-a-secret")
    await refusal(authority.refresh(client, tokens.refresh_token))
    assert len(calls_of(exporter, "Refresh")) == 2
    written = json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()])
    secrets = (client.secret, tokens.access_token, tokens.refresh_token, "forged-credential", "fault-with-a")
    assert [secret for secret in secrets if secret in written] == []


async def test_health_and_streams_of_verifiers_make_no_spans(
    traced: tuple[TestAuthority, InMemorySpanExporter],
) -> None:
    authority, exporter = traced
    async with grpc.aio.secure_channel(authority.address, authority.tls) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT):
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            break
    assert [span.name for span in exporter.get_finished_spans() if "health" in span.name] == []


def test_without_the_setting_nothing_of_opentelemetry_is_imported() -> None:
    code = "import sys, rpz_auth_server.serving; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
