from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from orders.v1 import orders_pb2
from rpz.auth.v1 import policy_pb2
from rpz_auth.errors import ConfigurationError
from rpz_auth.policy import CLIENT, PUBLIC, Demand, Policy, PolicyTable, read_policies, scopes

ORDERS = orders_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_numbers = itertools.count()


def define(methods: Mapping[str, dict[str, Any] | None], service: dict[str, Any] | None = None) -> str:
    """Define a service with these policies (None: no option), as an imported module would; its full name."""
    package = f"test_policy.n{next(_numbers)}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3", dependency=["rpz/auth/v1/policy.proto"]
    )
    file.message_type.add(name="Message")
    definition = file.service.add(name="Service")
    if service is not None:
        definition.options.Extensions[policy_pb2.service_policy].CopyFrom(policy_pb2.Policy(**service))
    for name, policy in methods.items():
        method = definition.method.add(
            name=name, input_type=f".{package}.Message", output_type=f".{package}.Message"
        )
        if policy is not None:
            method.options.Extensions[policy_pb2.policy].CopyFrom(policy_pb2.Policy(**policy))
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return f"{package}.Service"


def test_policies_of_all_methods_are_read_from_the_descriptors() -> None:
    assert dict(read_policies([ORDERS], {})) == {
        f"/{ORDERS}/GetOrder": scopes("orders.read"),
        f"/{ORDERS}/WatchOrders": scopes("orders.read"),
        f"/{ORDERS}/ImportOrders": scopes("orders.read", "orders.write"),
        f"/{ORDERS}/TradeOrders": scopes("orders.read", "orders.write"),
        f"/{ORDERS}/GetStatus": PUBLIC,
    }


def test_the_policy_of_a_method_replaces_that_of_its_service() -> None:
    name = define(
        {"Same": None, "Other": {"scopes": ["b"]}, "Open": {"public": True}, "Own": {"client": True}},
        {"scopes": ["a"]},
    )
    assert dict(read_policies([name], {})) == {
        f"/{name}/Same": scopes("a"),
        f"/{name}/Other": scopes("b"),
        f"/{name}/Open": PUBLIC,
        f"/{name}/Own": CLIENT,
    }


def test_a_method_closes_itself_on_a_public_service() -> None:
    name = define({"Open": None, "Closed": {"scopes": ["a"]}}, {"public": True})
    assert dict(read_policies([name], {})) == {f"/{name}/Open": PUBLIC, f"/{name}/Closed": scopes("a")}


def test_a_method_without_a_policy_is_an_error_that_names_it() -> None:
    name = define({"Fine": {"scopes": ["a"]}, "Forgotten": None})
    with pytest.raises(ConfigurationError, match=rf"{name}\.Forgotten has no policy"):
        read_policies([name], {})


BAD: list[dict[str, Any]] = [
    {},
    {"public": False},
    {"public": True, "scopes": ["a"]},
    {"public": True, "client": True},
    {"client": True, "scopes": ["a"]},
    {"public": True, "client": True, "scopes": ["a"]},
    {"scopes": [""]},
    {"scopes": ["", ""]},
    {"scopes": ["a", ""]},
    {"public": True, "scopes": [""]},
    {"scopes": ["a b"]},
    {"scopes": [" a"]},
    {"scopes": ["a\n"]},
    {"scopes": ['"a"']},
    {"scopes": ["a\\"]},
    {"scopes": ["ä"]},
]


@pytest.mark.parametrize("policy", BAD, ids=repr)
def test_an_empty_double_or_mistyped_policy_is_an_error_that_names_its_place(policy: dict[str, Any]) -> None:
    name = define({"Method": policy}, {"scopes": ["a"]})
    with pytest.raises(ConfigurationError, match=rf"{name}\.Method"):
        read_policies([name], {})
    name = define({"Method": None}, policy)
    with pytest.raises(ConfigurationError, match=name):
        read_policies([name], {})


@pytest.mark.parametrize(
    "service", ["no.such.Service", "", "/", "orders.v1", "orders.v1.Order", ORDERS.lower()]
)
def test_an_unknown_service_is_an_error_that_says_what_to_do(service: str) -> None:
    with pytest.raises(ConfigurationError, match="import its generated _pb2 module first"):
        read_policies([service], {})


def test_a_name_instead_of_a_list_of_names_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="services is a list of names"):
        read_policies(ORDERS, {})


def test_no_service_at_all_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="name the services to protect"):
        read_policies([], {})


def test_a_table_gives_policies_to_a_service_that_has_none() -> None:
    policies = read_policies([ORDERS], {HEALTH: PUBLIC})
    assert policies[f"/{HEALTH}/Check"] == PUBLIC
    assert policies[f"/{HEALTH}/Watch"] == PUBLIC
    assert f"/{ORDERS}/GetOrder" in policies


@pytest.mark.parametrize("service_first", ["service first", "path first"])
def test_a_path_in_the_table_goes_before_its_service(service_first: str) -> None:
    rows = [(HEALTH, PUBLIC), (f"/{HEALTH}/Watch", scopes("ops"))]
    table = dict(rows if service_first == "service first" else rows[::-1])
    policies = read_policies([], table)
    assert (policies[f"/{HEALTH}/Check"], policies[f"/{HEALTH}/Watch"]) == (PUBLIC, scopes("ops"))


def test_a_path_in_the_table_goes_before_the_descriptor_and_fills_what_it_lacks() -> None:
    name = define({"Lacking": None, "Loose": {"public": True}, "Kept": {"scopes": ["a"]}})
    table = {f"/{name}/Lacking": scopes("x"), f"/{name}/Loose": scopes("y")}
    assert dict(read_policies([name], table)) == {
        f"/{name}/Lacking": scopes("x"),
        f"/{name}/Loose": scopes("y"),
        f"/{name}/Kept": scopes("a"),
    }


def test_a_path_of_a_service_without_descriptors_is_taken() -> None:
    assert dict(read_policies([], {"/legacy/Call": scopes("a")})) == {"/legacy/Call": scopes("a")}


@pytest.mark.parametrize(
    "path", ["/", "//", "/a", "/a/", "//b", "/a/b/c", "/a/b/", "/a /b", "/a/b\n", f"/{ORDERS}", f"/{ORDERS}/"]
)
def test_a_key_that_is_no_path_of_a_method_is_an_error(path: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the path of a method"):
        read_policies([ORDERS], {path: PUBLIC})


def test_a_path_with_a_typing_error_in_the_method_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="has no method 'DeletOrder'"):
        read_policies([ORDERS], {f"/{ORDERS}/DeletOrder": scopes("orders.admin")})
    with pytest.raises(ConfigurationError, match="has no method 'check'"):
        read_policies([], {f"/{HEALTH}/check": PUBLIC})


def test_a_service_in_the_table_that_speaks_for_itself_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="both in services= and in policies="):
        read_policies([ORDERS], {ORDERS: scopes("orders.admin")})


def test_an_unknown_service_in_the_table_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"no service 'grpc\.health\.v1\.Helth' is known"):
        read_policies([], {"grpc.health.v1.Helth": PUBLIC})


@pytest.mark.parametrize(
    "required", [(), ("",), ("a", ""), ("a b",), (" ",), ("a\t",), ("a\n",), ("ä",)], ids=repr
)
def test_scopes_that_demand_nothing_or_nothing_possible_are_an_error(required: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError):
        scopes(*required)


def test_a_policy_of_scopes_without_scopes_cannot_be_made_by_any_way() -> None:
    with pytest.raises(ConfigurationError, match="at least one scope"):
        Policy(Demand.SCOPES)
    with pytest.raises(ConfigurationError, match="not both"):
        Policy(Demand.PUBLIC, frozenset({"a"}))


def test_the_table_prints_a_line_for_each_method_in_order() -> None:
    assert str(read_policies([ORDERS], {f"/{HEALTH}/Check": PUBLIC})).splitlines() == [
        "/grpc.health.v1.Health/Check          public",
        "/orders.v1.OrderService/GetOrder      orders.read",
        "/orders.v1.OrderService/GetStatus     public",
        "/orders.v1.OrderService/ImportOrders  orders.read orders.write",
        "/orders.v1.OrderService/TradeOrders   orders.read orders.write",
        "/orders.v1.OrderService/WatchOrders   orders.read",
    ]
    assert str(CLIENT) == "client"
    assert str(PolicyTable({})) == ""


def test_what_is_not_in_the_table_has_no_policy() -> None:
    policies = read_policies([ORDERS], {})
    for path in (f"/{ORDERS}/getorder", f"{ORDERS}/GetOrder", f"/{ORDERS}/GetOrder/", f"/{HEALTH}/Check", ""):
        assert policies.get(path) is None
    assert len(policies) == len(list(policies)) == 5
