from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth import PUBLIC, scopes
from rpz_auth.asgi.paths import WEBSOCKET, PathTable
from rpz_auth.errors import ConfigurationError
from rpz_auth.policy import CLIENT, Policy

READ, WRITE = scopes("read"), scopes("write")
TABLE = PathTable(
    {
        "/health": PUBLIC,
        "GET /orders/latest": PUBLIC,
        "GET /orders/{order_id}": READ,
        "/orders/{order_id}": WRITE,
        "WEBSOCKET /feed": READ,
        "/files/{rest:path}": READ,
    }
)


@pytest.mark.parametrize(
    ("method", "path", "policy"),
    [
        ("GET", "/health", PUBLIC),
        ("POST", "/health", PUBLIC),
        (WEBSOCKET, "/health", PUBLIC),
        ("GET", "/orders/latest", PUBLIC),
        ("HEAD", "/orders/latest", PUBLIC),
        ("DELETE", "/orders/latest", WRITE),
        ("GET", "/orders/7", READ),
        ("HEAD", "/orders/7", READ),
        ("OPTIONS", "/orders/7", WRITE),
        (WEBSOCKET, "/feed", READ),
        ("GET", "/files/", READ),
        ("GET", "/files/a/b//c", READ),
    ],
)
def test_first_key_that_matches_decides(method: str, path: str, policy: Policy) -> None:
    assert TABLE.find(method, path) == policy


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "*"),
        ("GET", "health"),
        ("GET", "x/health"),
        ("GET", "/health/"),
        ("GET", "/Health"),
        ("GET", "//health"),
        ("GET", "/health\n"),
        ("GET", "/orders/7\n"),
        ("GET", "/files/a\nb"),
        ("GET", "/orders"),
        ("GET", "/orders/"),
        ("GET", "/orders/7/"),
        ("GET", "/orders/7/8"),
        ("GET", "/feed"),
        ("GET", "/files"),
        ("get", "/orders/{order_id}/"),
    ],
)
def test_r122_what_no_key_matches_has_no_policy(method: str, path: str) -> None:
    assert TABLE.find(method, path) is None


@given(st.text(alphabet="/abc.%{}*\\ \n", max_size=12))
def test_no_other_path_passes_for_a_public_one(path: str) -> None:
    table = PathTable({"/a": PUBLIC, "/{name}": READ})
    assert (table.find("GET", path) == PUBLIC) == (path == "/a")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "orders",
        "GET",
        "get /orders",
        "GET  /orders",
        "/orders/*",
        "/orders/{",
        "/orders/{a}b",
        "/orders/{a:int}",
        "/{rest:path}/x",
        "/orders?x",
        "/orders#x",
        "/orders%20x",
        "//orders",
        "/orders /x",
    ],
)
def test_key_of_another_form_is_an_error_at_the_start(key: str) -> None:
    with pytest.raises(ConfigurationError):
        PathTable({key: READ})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/{rest:path}", "/orders"),
        ("/{rest:path}", "GET /orders/{order_id}"),
        ("/orders/{a}", "GET /orders/latest"),
        ("/a/{rest:path}", "/a/b/{rest:path}"),
    ],
)
def test_key_that_would_count_for_nothing_is_an_error_at_the_start(first: str, second: str) -> None:
    with pytest.raises(ConfigurationError, match="counts for nothing"):
        PathTable({first: PUBLIC, second: READ})
    PathTable({second: READ, first: PUBLIC})


def test_key_that_says_the_same_is_an_error_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="counts for nothing"):
        PathTable({"/orders/{a}": PUBLIC, "/orders/{b}": READ})


def test_keys_that_overlap_in_part_stand_beside_each_other() -> None:
    PathTable({"GET /a/{x}": READ, "/a/{x}": WRITE, "/a": PUBLIC, "/a/{x}/b": READ, "/{rest:path}": WRITE})
    PathTable({"/a": PUBLIC, "/a/{rest:path}": READ})


def test_table_without_keys_and_the_authoritys_own_policy_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="name the paths"):
        PathTable({})
    with pytest.raises(ConfigurationError, match="authority alone"):
        PathTable({"/token": CLIENT})


def test_table_is_printed_a_line_for_each_key() -> None:
    assert str(PathTable({"/health": PUBLIC, "GET /o": scopes("b", "a")})) == "/health  public\nGET /o   a b"
