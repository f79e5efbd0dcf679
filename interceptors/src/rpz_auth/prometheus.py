"""Metrics of an interceptor for Prometheus: `pip install rpz-auth[prometheus]`.

::

    rpz_auth.prometheus.register(auth)  # an AuthInterceptor; then serve the registry as you do already
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rpz_auth.errors import ConfigurationError, Reason
from rpz_auth.grpc import AuthInterceptor

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError:
    raise ConfigurationError("metrics need prometheus-client: pip install 'rpz-auth[prometheus]'") from None

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["register"]

_ADMITTED = "ADMITTED"


class _Collector(Collector):
    def __init__(self, auth: AuthInterceptor) -> None:
        self._auth = auth
        self._decisions: Counter[str] = Counter()

    def note(self, reason: Reason | None) -> None:
        # Threads may lose one of two simultaneous counts; a lock would cost every call more.
        self._decisions[reason or _ADMITTED] += 1

    def collect(self) -> Iterable[Metric]:
        decisions = CounterMetricFamily(
            "rpz_auth_decisions",
            "Calls that were decided, by reason of refusal, or ADMITTED.",
            labels=["reason"],
        )
        for reason, count in list(self._decisions.items()):
            decisions.add_metric([reason], count)
        yield decisions
        status = self._auth.status()
        yield CounterMetricFamily(
            "rpz_auth_verifications", "Credentials that were not found in the cache.", status.verifications
        )
        yield GaugeMetricFamily(
            "rpz_auth_authority_age_seconds", "Since the authority last proved that it works.", status.age
        )
        yield GaugeMetricFamily("rpz_auth_streams", "Streams that end with their credential.", status.streams)


def register(auth: AuthInterceptor, registry: CollectorRegistry = REGISTRY) -> None:
    """Count an interceptor's decisions from now on, and offer them in a registry.

    Raises:
        ValueError: The registry has another interceptor's already.
    """
    collector = _Collector(auth)
    registry.register(collector)
    auth.on_decision(collector.note)
