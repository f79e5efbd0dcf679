from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth import credentials
from rpz_auth.asgi import query_token
from rpz_auth.errors import CredentialsAmbiguous, TokenInvalid


@pytest.mark.parametrize(
    ("query", "left", "values"),
    [
        (b"", b"", []),
        (b"a=1&b=2", b"a=1&b=2", []),
        (b"token=x", b"", ["x"]),
        (b"a=1&token=x&b=%26", b"a=1&b=%26", ["x"]),
        (b"token=x&token=y&&a", b"&a", ["x", "y"]),
        (b"%74oken=a%3Ab&to%6Ben=c+d", b"", ["a:b", "c d"]),
        (b"token", b"", [""]),
        (b"Token=x&tokens=y&xtoken=z", b"Token=x&tokens=y&xtoken=z", []),
        (b"token=x=y", b"", ["x=y"]),
    ],
)
def test_parameter_is_taken_out_of_the_url(query: bytes, left: bytes, values: list[str]) -> None:
    scope: dict[str, Any] = {"query_string": query, "path": "/"}
    assert query_token.strip(scope) == values
    assert scope == {"query_string": left, "path": "/"}


@given(st.binary(max_size=60))
def test_r126_nothing_of_the_parameter_is_left_whatever_else_the_query_is(noise: bytes) -> None:
    scope: dict[str, Any] = {"query_string": noise + b"&token=canary-0123456789&" + noise}
    assert "canary-0123456789" in query_token.strip(scope)
    assert b"canary-0123456789" not in scope["query_string"]
    assert query_token.strip(scope) == []


def test_r084_it_is_an_app_id_and_its_api_token_and_nothing_else() -> None:
    assert query_token.as_field(["app:rpzt_x"]) == credentials.format_basic("app", "rpzt_x")
    for wrong in ("", ":", "a:", ":b", "rpzt_x", "eyJ.x.y"):
        with pytest.raises(TokenInvalid):
            query_token.as_field([wrong])
    with pytest.raises(CredentialsAmbiguous):
        query_token.as_field(["a:b", "a:b"])
