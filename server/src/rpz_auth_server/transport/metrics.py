"""What Prometheus can ask of a running authority; of a call, nothing is kept for it but how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog
from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rpz_auth.errors import BackendUnavailable, ConfigurationError

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.live.hub import Hub
from rpz_auth_server.live.verifiers import Verifiers

_log = structlog.get_logger("rpz_auth_server")

SOON = 7 * 86400.0
"""Seconds within which a credential that ends counts as expiring."""
_LOOK_EVERY = 60.0
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PREFIX = "rpz_auth_server"


class Metrics(Collector):
    """Reads the state of an authority when it is asked. No label ever holds what a stranger has sent."""

    def __init__(self, authority: Authority, hub: Hub, verifiers: Verifiers) -> None:
        """Watch an authority."""
        self._authority = authority
        self._hub = hub
        self._verifiers = verifiers
        self._expiring: Mapping[str, int] = {}
        self.registry = CollectorRegistry()
        self._calls = Histogram(
            f"{_PREFIX}_call_seconds",
            "How long calls of gRPC methods and requests of HTTP endpoints took, once they had arrived.",
            ["method"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def took(self, method: str, seconds: float) -> None:
        """Count a call: a gRPC method by its name, an HTTP endpoint by its path, all pages as `console`."""
        self._calls.labels(method).observe(seconds)

    def serve(self, host: str, port: int) -> int:
        """Answer on an address, in a thread; return its port.

        Raises:
            ConfigurationError: It is taken.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from None
        self._server = server
        return int(server.server_port)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    async def look(self) -> None:
        """Count what only the database knows.

        Raises:
            BackendUnavailable: It does not answer.
        """
        store = self._authority.store
        self._expiring = await store.count_expiring(store.now() + SOON)

    async def look_forever(self, *, interval: float = _LOOK_EVERY) -> None:
        """Look once every `interval` seconds."""
        while True:
            try:
                await self.look()
            except BackendUnavailable:
                _log.warning("expiring credentials could not be counted; next try later")
            except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
                _log.exception("expiring credentials could not be counted; next try later")
            await asyncio.sleep(interval)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client for each scrape, in a thread of its own."""
        authority, load = self._authority, self._authority.store.write_load()
        now = authority.store.now()
        refusals = CounterMetricFamily(
            f"{_PREFIX}_refusals", "Calls that were refused, by reason.", labels=["reason"]
        )
        for reason, count in list(authority.limiter.refusals.totals.items()):
            refusals.add_metric([reason], count)
        yield refusals
        held_up = CounterMetricFamily(
            f"{_PREFIX}_limited", "Calls that a limit has held up, by kind of limit.", labels=["limit"]
        )
        for kind, count in authority.limiter.held_up.items():
            held_up.add_metric([kind], count)
        yield held_up
        yield _gauge("write_queue_length", "Operations that wait to be written.", load.waiting)
        yield CounterMetricFamily(
            f"{_PREFIX}_write_operations", "Operations that were written.", load.operations
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_write_transactions", "Transactions that they were written in.", load.transactions
        )
        watchers = len(self._verifiers.list())
        yield _gauge("verifiers", "Services that follow the stream of revocations.", watchers)
        yield _gauge(
            "heartbeat_age_seconds",
            "Since the database last took a write of this process.",
            max(0.0, now - self._hub.beat_at),
        )
        signs_since = authority.signing.signs_since(now)
        if signs_since is not None:
            yield _gauge("signing_key_age_seconds", "For how long the signing key signs.", now - signs_since)
        expiring = GaugeMetricFamily(
            f"{_PREFIX}_credentials_expiring", "Live credentials that end within 7 days.", labels=["kind"]
        )
        for kind, count in self._expiring.items():
            expiring.add_metric([kind], count)
        yield expiring


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)
