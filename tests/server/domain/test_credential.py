from __future__ import annotations

from dataclasses import replace

import pytest
from rpz_auth_server.domain.credential import ApiToken, ClientSecret, is_live

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
