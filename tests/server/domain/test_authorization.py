from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.authorization import (
    AuthorizationError,
    AuthorizationRequest,
    Unredirectable,
    read,
)

REDIRECT_URI = "https://orders.example/callback"
PARAMETERS = {
    "response_type": "code",
    "client_id": "orders",
    "redirect_uri": REDIRECT_URI,
    "scope": "orders.read",
    "resource": "https://orders",
    "code_challenge": "c" * 43,
    "code_challenge_method": "S256",
}


def judge(app: App | None, **changes: str) -> AuthorizationRequest | AuthorizationError:
    return read(tuple({**PARAMETERS, **changes}.items()), app)


def an_app(**changes: Any) -> App:
    app = App(
        app_id="orders",
        kind=AppKind.BACKEND,
        display_name="Orders",
        owner="alice",
        redirect_uris=(REDIRECT_URI,),
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders"}),
        created_at=0.0,
        updated_at=0.0,
    )
    return replace(app, **changes)


def test_request_that_is_as_it_must_be_is_taken() -> None:
    request = judge(an_app())
    assert isinstance(request, AuthorizationRequest)
    assert request.scopes == {"orders.read"}


@pytest.mark.parametrize("app", [None, {"locked": True}, {"deleted": True}])
def test_a10_app_that_is_not_there_gets_nobody_sent_to_it(app: dict[str, Any] | None) -> None:
    with pytest.raises(Unredirectable, match="no such App"):
        judge(None if app is None else an_app(**app))


def test_scopes_of_the_authority_are_not_for_people_to_give() -> None:
    answer = judge(an_app(scopes=frozenset({"orders.read", "rpz.admin"})), scope="orders.read rpz.admin")
    assert isinstance(answer, AuthorizationError)
    assert answer.error == "invalid_scope"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"scope": "orders.read orders.write"}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
        ({"resource": "https://stock"}, "invalid_target"),
        ({"code_challenge": "c" * 42}, "invalid_request"),
        ({"code_challenge": "", "code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"response_type": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"request": "e30.e30."}, "request_not_supported"),
    ],
)
def test_what_is_wrong_is_told_to_the_app(changes: dict[str, str], error: str) -> None:
    answer = judge(an_app(), **changes)
    assert isinstance(answer, AuthorizationError)
    assert (answer.error, answer.redirect_uri) == (error, REDIRECT_URI)


def test_app_that_pushes_its_requests_has_no_other_taken() -> None:
    answer = judge(an_app(require_pushed_authorization_requests=True))
    assert isinstance(answer, AuthorizationError)
    assert answer.error == "invalid_request"
