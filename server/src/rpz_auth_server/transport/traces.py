"""Traces for OpenTelemetry: `pip install 'rpz-auth-server[opentelemetry]'`, and the setting `traces`."""

from __future__ import annotations

from typing import Any, Self, cast

import grpc.aio
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.storage.store import Commit, Store

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.grpc import aio_server_interceptor
    from opentelemetry.instrumentation.grpc.filters import any_of, full_method_name, negate, service_prefix
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from rpz_auth import opentelemetry
except ImportError:
    raise ConfigurationError(
        "traces need OpenTelemetry: pip install 'rpz-auth-server[opentelemetry]'"
    ) from None

# Health answers in a style that the instrumentation does not know, and a span of a stream that stays open for
# weeks tells nobody anything.
_TRACED = negate(any_of(service_prefix("grpc."), full_method_name("/rpz.auth.v1.VerificationService/Watch")))


class Traces:
    """Makes spans and hands them on."""

    def __init__(self, processor: SpanProcessor) -> None:
        """Hand spans to `processor`."""
        self._provider = TracerProvider(
            resource=Resource({SERVICE_NAME: "rpz-auth-server"}).merge(OTELResourceDetector().detect()),
            # The instrumentation adds each exception as an event, with the texts of all that led to it; they
            # belong into the log, and one for each refusal into no place.
            span_limits=SpanLimits(max_events=0),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("rpz_auth_server")

    @classmethod
    def export(cls) -> Self:
        """Send spans to where OTEL_EXPORTER_OTLP_ENDPOINT and its like say."""
        return cls(BatchSpanProcessor(OTLPSpanExporter()))

    def interceptor(self) -> grpc.aio.ServerInterceptor:
        """What makes a span of each call, below the caller's (W3C Trace Context); the outermost."""
        interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(self._provider, filter_=_TRACED)
        return interceptor

    decided = staticmethod(opentelemetry.note)

    def watch(self, store: Store) -> Store:
        """The store, with a span around each of its commits."""
        return cast("Store", _TracedStore(store, self._tracer))

    def close(self) -> None:
        """Hand on what is left."""
        self._provider.shutdown()


class _TracedStore:
    def __init__(self, store: Store, tracer: Any) -> None:
        self._store = store
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit) -> None:
        attributes = {
            "rpz_auth.rows": len(commit.rows),
            "rpz_auth.events": len(commit.events),
            "rpz_auth.audit": len(commit.audit),
        }
        with self._tracer.start_as_current_span("commit", attributes=attributes, record_exception=False):
            await self._store.commit(commit)
