from __future__ import annotations

from dataclasses import replace

import pytest
from rpz_auth.view import AppState
from rpz_auth_server.domain.app import ApiToken, App, AppKind, ClientSecret, forget_at, is_live
from rpz_auth_server.domain.grant import MAX_ACCESS_TOKEN_LIFETIME

NOW = 1_700_000_000.0
SECRET = ClientSecret(
    secret_id="s", app_id="a", display_name="", salt=b"", key_number=1, created_at=NOW, expires_at=NOW + 10
)
TOKEN = ApiToken(
    api_token_id="t",
    app_id="a",
    display_name="",
    scopes=frozenset(),
    resources=frozenset(),
    salt=b"",
    key_number=1,
    created_at=NOW,
)


@pytest.mark.parametrize(
    ("credential", "now", "live"),
    [
        (SECRET, NOW + 9.999, True),
        (SECRET, NOW + 10, False),
        (replace(SECRET, revoked_at=NOW), NOW, False),
        (replace(SECRET, expires_at=None), NOW + 1e12, True),
        (TOKEN, NOW + 1e12, True),
        (replace(TOKEN, revoked_at=NOW + 5), NOW + 1, False),
    ],
)
def test_r211_credential_lives_until_its_deadline_or_revocation(
    credential: ClientSecret | ApiToken, now: float, *, live: bool
) -> None:
    assert is_live(credential, now) is live


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
