from __future__ import annotations

import pytest
from rpz_auth_server.domain.pushed_request import new_request_uri, request_id

URI = "urn:ietf:params:oauth:request_uri:" + "a" * 43


def test_request_uri_is_drawn_anew_and_stands_for_one_request() -> None:
    one, other = new_request_uri(), new_request_uri()
    assert request_id(one) != request_id(other)
    assert request_id(one) == request_id(one)


@pytest.mark.parametrize("text", ["", "a" * 43, URI[:-1], URI + "a", URI[:-1] + "ä", URI + "\n"])
def test_what_no_authority_has_made_stands_for_nothing(text: str) -> None:
    assert request_id(URI) is not None
    assert request_id(text) is None
