from __future__ import annotations

from dataclasses import replace

from rpz_auth.view import AppState
from rpz_auth_server.domain.app import App, AppKind, forget_at
from rpz_auth_server.domain.grant import MAX_ACCESS_TOKEN_LIFETIME

NOW = 1_700_000_000.0


def test_state_is_what_verifiers_must_know() -> None:
    app = App(
        app_id="a",
        kind=AppKind.DEVICE,
        display_name="x",
        owner="o",
        whitelist=("192.0.2.1",),
        locked=True,
        epoch=3,
        created_at=NOW,
        updated_at=NOW,
        version=7,
    )
    assert app.state == AppState(app_id="a", version=7, locked=True, epoch=3, whitelist=("192.0.2.1",))
    assert replace(app, deleted=True).state == replace(app.state, deleted=True, forget_at=forget_at(NOW))


def test_deleted_app_is_remembered_for_as_long_as_an_access_token_of_it_can_be_alive() -> None:
    assert forget_at(NOW) >= NOW + MAX_ACCESS_TOKEN_LIFETIME + 300
