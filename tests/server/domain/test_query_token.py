"""Which API tokens may travel in a URL."""

from __future__ import annotations

import pytest
from rpz_auth_server.domain.query_token import QueryTokenRule
from server.storage.build import NOW, an_api_token

RULE = QueryTokenRule(safe_scopes=frozenset({"feed.read", "feed.list"}), longest_lifetime=3600)


@pytest.mark.parametrize(
    ("scopes", "lifetime", "allowed"),
    [
        ({"feed.read"}, 3600, True),
        ({"feed.read", "feed.list"}, 1, True),
        ({"feed.read", "orders.read"}, 60, False),
        ({"orders.read"}, 60, False),
        ({"feed.read"}, 3601, False),
        ({"feed.read"}, None, False),
    ],
)
def test_token_is_short_lived_and_allows_only_what_is_safe(
    scopes: set[str], lifetime: float | None, *, allowed: bool
) -> None:
    expires_at = None if lifetime is None else NOW + lifetime
    token = an_api_token(scopes=frozenset(scopes), created_at=NOW, expires_at=expires_at)
    assert RULE.allows(token) is allowed


def test_nothing_is_safe_unless_somebody_says_so() -> None:
    token = an_api_token(scopes=frozenset({"feed.read"}), created_at=NOW, expires_at=NOW + 1)
    assert not QueryTokenRule().allows(token)
