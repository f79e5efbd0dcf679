from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server.domain.refusal import ScopeInvalid
from rpz_auth_server.domain.scope import OWN, RESERVED_PREFIX, VERIFIER, check_scopes


def test_scopes_are_taken_as_a_set() -> None:
    assert check_scopes(["b", "a", "b"]) == frozenset({"a", "b"})
    assert check_scopes([]) == frozenset()
    assert check_scopes(OWN) == OWN


@pytest.mark.parametrize("scope", ["", " ", "a b", 'a"b', "a\\b", "a\n", "\x7f", "é", "a" * 129, "a\x00"])
def test_scope_outside_the_grammar_is_refused(scope: str) -> None:
    with pytest.raises(ScopeInvalid, match="visible ASCII"):
        check_scopes(["fine", scope])


@pytest.mark.parametrize("scope", ["rpz.", "rpz.admins", "rpz.admin ", "rpz.Admin", "rpz.codes"])
def test_reserved_scope_that_does_not_exist_is_refused(scope: str) -> None:
    with pytest.raises(ScopeInvalid):
        check_scopes([scope])


def test_scopes_together_fit_into_a_token() -> None:
    fits = [f"{number:02}" + "x" * 97 for number in range(15)]
    assert len(" ".join(fits)) == 1499
    check_scopes(fits)
    with pytest.raises(ScopeInvalid, match="1500"):
        check_scopes([*fits, "yy"])


def test_verifier_holds_no_more_than_verifying() -> None:
    assert {"rpz.verify", "rpz.introspect"} == VERIFIER < OWN
    assert all(scope.startswith(RESERVED_PREFIX) for scope in OWN)


@given(st.lists(st.text()))
def test_a120_any_texts_are_taken_or_refused(scopes: list[str]) -> None:
    try:
        taken = check_scopes(scopes)
    except ScopeInvalid:
        return
    assert taken == frozenset(scopes)
    assert all(scope.isascii() and scope.isprintable() and " " not in scope for scope in taken)
