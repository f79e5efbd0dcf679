"""A real Envoy with what its filters and routes shall be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.proxies import free_port, program, running

_TYPES = "type.googleapis.com/envoy.extensions"
ROUTER = {
    "name": "router",
    "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
}


def route(prefix: str, cluster: str, **more: Any) -> dict[str, Any]:
    """A route to a cluster."""
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}, **more}


def ext_authz(cluster: str, **more: Any) -> dict[str, Any]:
    """The filter that asks before it passes a request on."""
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "timeout": "5s"},
            "status_on_error": {"code": "ServiceUnavailable"},
            **more,
        },
    }


def named_route(name: str) -> dict[str, Any]:
    """What a route says to the filter."""
    return {
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": {
                "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": {"rpz_auth_route": name}},
            }
        }
    }


@contextlib.contextmanager
def running_envoy(
    folder: Path,
    clusters: Mapping[str, tuple[int, bool]],
    *,
    routes: Sequence[dict[str, Any]],
    filters: Sequence[dict[str, Any]] = (),
) -> Iterator[int]:
    """An Envoy on a port of loopback; clusters are a port of loopback, and whether it speaks HTTP/2."""
    port = free_port()
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "use_remote_address": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
        "http_filters": [*filters, ROUTER],
    }
    listener = {
        "name": "in",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    config = {
        "static_resources": {
            "listeners": [listener],
            "clusters": [_cluster(name, *where) for name, where in clusters.items()],
        }
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [program("envoy"), "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id"]
    with running(command, port, folder / "envoy.log"):
        yield port


def _cluster(name: str, port: int, http2: bool) -> dict[str, Any]:  # noqa: FBT001 - of a pair
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {protocol: {}},
            }
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
