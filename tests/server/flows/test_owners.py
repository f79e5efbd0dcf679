from __future__ import annotations

import pytest
from rpz_auth_server.flows import owners
from rpz_auth_server.flows.owners import Owners


def test_a110_owners_of_any_number_of_api_tokens_take_a_bounded_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners, "_KEPT", 2)
    known = Owners()
    for number in range(3):
        known.note(f"token {number}", "owner")
    assert [known.may_own("another", f"token {number}") for number in range(3)] == [True, False, False]
    assert known.may_own("owner", "token 2")
