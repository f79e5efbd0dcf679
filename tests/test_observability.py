"""Dashboard and alert rules name metrics that exist, of an authority and a service that really run."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import rpz_auth
import yaml
from orders.v1 import orders_pb2, orders_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from rpz.auth.v1 import token_service_pb2
from rpz_auth import prometheus
from rpz_auth.errors import BackendUnavailable
from rpz_auth.testing import FakeAuthority
from rpz_auth_server.transport.metrics import Metrics
from server.authority import FakeTime, TestAuthority, basic, refusal, running_authority

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "rpz-auth.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "rpz-auth.json"
RESOURCE = "https://orders"

_NAME = re.compile(r"\brpz_auth_[a-z_]+")
_SAMPLE = re.compile(r"^(rpz_auth_[a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def expressions() -> list[str]:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return alerts + [target["expr"] for panel in panels for target in panel["targets"]]


def samples(text: str) -> dict[tuple[str, str], float]:
    return {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[TestAuthority, Metrics]]:
    async with running_authority(tmp_path / "authority", time=FakeTime(), failure_limit=1) as authority:
        metrics = Metrics(authority.authority, authority.hub, authority.server.verifiers)
        authority.server.time_calls(metrics.took)
        authority.guard.time_calls(metrics.took)
        yield authority, metrics


async def scrape(metrics: Metrics) -> str:
    port = metrics.serve("127.0.0.1", 0)

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    try:
        return await asyncio.to_thread(read)
    finally:
        await asyncio.to_thread(metrics.close)


def service_metrics() -> str:
    """Of a service that admitted one call twice and refused another."""
    authority, registry = FakeAuthority(), CollectorRegistry()
    auth = rpz_auth.AuthInterceptor(authority, resource=RESOURCE, services=["orders.v1.OrderService"])
    prometheus.register(auth, registry)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[auth])

    servicer: Any = orders_pb2_grpc.OrderServiceServicer
    orders_pb2_grpc.add_OrderServiceServicer_to_server(servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    token = authority.access_token(resource=RESOURCE, scopes=["orders.read"])
    with auth, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        server.start()
        stub = orders_pb2_grpc.OrderServiceStub(channel)
        metadata = (("authorization", token.field_value()),)
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="Method not implemented"):  # admitted, and nothing there
                stub.GetOrder(orders_pb2.GetOrderRequest(), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            stub.GetOrder(orders_pb2.GetOrderRequest())
        text = generate_latest(registry).decode()
        server.stop(None).wait()
    return text


async def test_every_metric_of_dashboard_and_alerts_exists(watched: tuple[TestAuthority, Metrics]) -> None:
    authority, metrics = watched
    client = await authority.create_client()
    await authority.refresh(client, (await authority.sign_in(client)).refresh_token)
    await metrics.look()
    text = await scrape(metrics) + await asyncio.to_thread(service_metrics)
    existing = {name for name, _ in samples(text)} | set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    named = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert named
    assert named - existing == set()


async def test_authority_tells_what_it_does(watched: tuple[TestAuthority, Metrics]) -> None:
    authority, metrics = watched
    client = await authority.create_client()
    ends = authority.authority.store.now() + 3 * 86400
    request = token_service_pb2.CreateApiTokenRequest(
        app_id=client.app_id, scopes=["orders.read"], resources=["https://orders.example"]
    )
    request.expire_time.FromSeconds(int(ends))
    await authority.admin.tokens.CreateApiToken(request)
    forged = token_service_pb2.RevokeTokenRequest(token="x", client_id=client.app_id, client_secret="wrong")
    for _ in range(3):
        await refusal(authority.anonymous.tokens.RevokeToken(forged))
    await metrics.look()
    found = samples(await scrape(metrics))
    assert found["rpz_auth_server_refusals_total", 'reason="CLIENT_INVALID"'] == 1
    assert found["rpz_auth_server_refusals_total", 'reason="RATE_LIMITED"'] == 2
    assert found["rpz_auth_server_limited_total", 'limit="guess"'] == 2
    assert (
        found["rpz_auth_server_credentials_expiring", 'kind="api_token"'] == 2
    )  # the bootstrap token ends, too
    assert found["rpz_auth_server_credentials_expiring", 'kind="secret"'] == 0
    assert found["rpz_auth_server_call_seconds_count", 'method="CreateApiToken"'] == 1
    assert found["rpz_auth_server_verifiers", ""] == 0
    assert found["rpz_auth_server_heartbeat_age_seconds", ""] == 0
    assert found["rpz_auth_server_write_queue_length", ""] == 0
    operations = found["rpz_auth_server_write_operations_total", ""]
    assert operations >= found["rpz_auth_server_write_transactions_total", ""] > 0


async def test_endpoints_of_http_are_counted_by_their_own_names(
    watched: tuple[TestAuthority, Metrics],
) -> None:
    authority, metrics = watched
    client = await authority.create_client()
    form = client.body | {"grant_type": "client_credentials", "scope": "orders.read"}
    assert (await authority.http.post("/oauth/token", data=form)).status_code == 200
    assert (await authority.http.post("/oauth/token", data={})).status_code == 400
    assert (await authority.http.get("/oauth/token")).status_code == 405
    assert (await authority.http.get("/oauth/jwks.json")).status_code == 200
    for page in ("/console", f"/console/apps/{client.app_id}"):
        await authority.http.get(page)
    assert (await authority.http.get("/stranger")).status_code == 404
    found = samples(await scrape(metrics))
    counted = {
        labels: count
        for (name, labels), count in found.items()
        if name == "rpz_auth_server_call_seconds_count" and not labels.startswith('method="Create')
    }
    assert counted == {'method="/oauth/token"': 3, 'method="/oauth/jwks.json"': 1, 'method="console"': 2}


@pytest.mark.parametrize("fault", [BackendUnavailable(), ValueError("unexpected")])
async def test_expiring_credentials_are_counted_on_after_a_fault(
    watched: tuple[TestAuthority, Metrics], fault: Exception
) -> None:
    authority, metrics = watched
    looked = asyncio.Event()

    async def note() -> None:
        looked.set()

    async def heal(*_arguments: Any) -> None:
        authority.store.before.clear()
        authority.store.after["count_expiring"] = note
        raise fault

    authority.store.before["count_expiring"] = heal
    looking = asyncio.create_task(metrics.look_forever(interval=0))
    waiting = asyncio.create_task(looked.wait())
    await asyncio.wait({looking, waiting}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert looked.is_set()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_r126_metrics_hold_nothing_that_a_caller_sent(watched: tuple[TestAuthority, Metrics]) -> None:
    authority, metrics = watched
    client = await authority.create_client()
    secret = "rpzs_" + "S" * 64
    forged = token_service_pb2.RevokeTokenRequest(token="x", client_id=client.app_id, client_secret=secret)
    await refusal(authority.anonymous.tokens.RevokeToken(forged))
    metadata = basic(client.app_id, "rpzt_" + "T" * 64)
    request = token_service_pb2.ListApiTokensRequest(app_id=client.app_id)
    await refusal(authority.anonymous.tokens.ListApiTokens(request, metadata=metadata))
    text = await scrape(metrics)
    for sent in (client.app_id, client.secret, "SSSS", "TTTT"):
        assert sent not in text


def test_service_tells_what_it_decided() -> None:
    found = samples(service_metrics())
    assert found["rpz_auth_decisions_total", 'reason="ADMITTED"'] == 2
    assert found["rpz_auth_decisions_total", 'reason="CREDENTIALS_MISSING"'] == 1
    assert found["rpz_auth_verifications_total", ""] == 1
    assert found["rpz_auth_streams", ""] == 0


def test_without_the_extra_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import rpz_auth\n"
        "try:\n    import rpz_auth.prometheus\n"
        "except rpz_auth.ConfigurationError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    assert "pip install 'rpz-auth[prometheus]'" in done.stdout
