from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest
from rpz_auth_server.storage import file, rows


@pytest.mark.parametrize(
    ("table", "name", "own"),
    [
        (rows.APPS, "apps", {"search_name", "has_names"}),
        (rows.CLIENT_SECRETS, "client_secrets", set()),
        (rows.API_TOKENS, "api_tokens", set()),
        (rows.GRANTS, "grants", {"collect_at"}),
        (rows.SIGNING_KEYS, "signing_keys", set()),
        (rows.ISSUER, "issuer", {"one"}),
        (rows.CREATIONS, "creations", set()),
        (rows.RESOLUTIONS, "resolutions", set()),
        (rows.PUSHED_REQUESTS, "pushed_requests", set()),
    ],
)
def test_table_has_a_column_for_each_field(table: rows.Table[Any], name: str, own: set[str]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        file.migrate(connection)
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
    assert columns == {*table.columns, *own}


def test_same_value_is_always_the_same_json() -> None:
    assert rows.to_json({"b": ["ß"], "a": None}) == '{"a":null,"b":["\\u00df"]}'
