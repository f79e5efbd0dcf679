from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server.domain.event import BEGINNING, Cursor, revocation_of
from rpz_auth_server.domain.grant import MAX_ACCESS_TOKEN_LIFETIME

NONCE = "0123456789abcdef" * 2


@given(st.integers(0, 10**18 - 1), st.binary(min_size=16, max_size=16))
def test_cursor_survives_being_written_and_read(sequence: int, nonce: bytes) -> None:
    cursor = Cursor(sequence, nonce.hex())
    assert Cursor.parse(str(cursor)) == cursor


def test_beginning_is_a_cursor() -> None:
    assert Cursor.parse(str(BEGINNING)) == BEGINNING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.",
        f".{NONCE}",
        f"-1.{NONCE}",
        f"+1.{NONCE}",
        f" 1.{NONCE}",
        f"1.{NONCE}\n",
        f"1.{NONCE.upper()}",
        f"1.{NONCE}0",
        f"1.{NONCE[1:]}",
        f"\u0661.{NONCE}",
        f"{'9' * 19}.{NONCE}",
        f"1_0.{NONCE}",
    ],
)
def test_anything_else_is_no_cursor(text: str) -> None:
    assert Cursor.parse(text) is None


@given(st.text())
def test_a120_any_text_is_a_cursor_or_none(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or 0 <= cursor.sequence < 10**18


def test_revocation_is_remembered_for_the_longest_lifetime_that_may_be_set() -> None:
    """It may have been longer before the last start, and a token that was issued then be alive."""
    assert revocation_of("A", 1000.0).forget_at >= 1000 + MAX_ACCESS_TOKEN_LIFETIME + 300
