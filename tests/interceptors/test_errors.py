"""What every refusal of both distributions has in common."""

from __future__ import annotations

import re

import pytest
import rpz_auth.errors
import rpz_auth_server.domain.refusal
from rpz_auth.errors import ConfigurationError, Reason, Refusal, RpzAuthError, ScopeInsufficient
from rpz_auth_server.domain.refusal import Overloaded, RateLimited

# RFC 6749 §5.2: what may stand in `error_description`.
_DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")


def _all_refusals() -> list[type[Refusal]]:
    found: list[type[Refusal]] = []
    unseen: list[type[Refusal]] = [Refusal]
    while unseen:
        for kind in unseen.pop().__subclasses__():
            if kind.__module__.split(".")[0] in ("rpz_auth", "rpz_auth_server"):
                found.append(kind)
            unseen.append(kind)
    return found


REFUSALS = _all_refusals()
BORROWED: dict[type[Refusal], type[Refusal]] = {Overloaded: RateLimited}
"""Kinds of something else inside that are told to clients as another: what they shall do is the same."""


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_has_a_reason_of_its_own_or_is_a_kind_of_the_one_that_has(kind: type[Refusal]) -> None:
    (owner,) = [
        other for other in REFUSALS if vars(other).get("reason") is kind.reason and other not in BORROWED
    ]
    assert issubclass(BORROWED.get(kind, kind), owner)


@pytest.mark.parametrize("kind", REFUSALS)
def test_r016_every_default_message_may_stand_in_an_error_description(kind: type[Refusal]) -> None:
    assert _DESCRIPTION.fullmatch(kind.default_message)


@pytest.mark.parametrize("kind", REFUSALS)
def test_r016_no_default_message_leaves_room_for_what_the_client_sent(kind: type[Refusal]) -> None:
    assert kind.default_message == kind.default_message.format() == kind.default_message % ()


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind is not ScopeInsufficient])
def test_a_refusal_without_details_says_its_default_message(kind: type[Refusal]) -> None:
    refusal = kind()
    assert (refusal.message, str(refusal)) == (kind.default_message, kind.default_message)
    assert (refusal.metadata, refusal.retry_after) == ({}, None)


def test_r120_scopes_that_are_demanded_stand_in_the_metadata() -> None:
    refusal = ScopeInsufficient({"orders.write", "orders.read"})
    assert refusal.metadata == {"required_scopes": "orders.read orders.write"}
    assert refusal.message == ScopeInsufficient.default_message


def test_metadata_is_a_copy() -> None:
    given = {"a": "1"}
    refusal = rpz_auth.errors.TokenInvalid(metadata=given)
    given["b"] = "2"
    assert refusal.metadata == {"a": "1"}


def test_reasons_are_spelled_as_they_are_named() -> None:
    assert [reason.name for reason in Reason] == [reason.value for reason in Reason]
    # AIP-193: UPPER_SNAKE_CASE of at most 63 characters.
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", reason) for reason in Reason)


@pytest.mark.parametrize("module", [rpz_auth.errors, rpz_auth_server.domain.refusal])
def test_the_tree_in_the_docstring_is_the_tree_of_classes(module: object) -> None:
    drawn = re.findall(r"[├└]── (\w+)", str(module.__doc__))
    defined = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, RpzAuthError)
        and value is not RpzAuthError
        and value.__module__ == vars(module)["__name__"]
    ]
    assert drawn == defined


def test_one_root_catches_everything() -> None:
    assert issubclass(ConfigurationError, RpzAuthError)
    assert issubclass(Refusal, RpzAuthError)
    assert not issubclass(ConfigurationError, Refusal)
