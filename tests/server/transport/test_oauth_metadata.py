"""What the authority tells of itself over HTTPS, and to whose pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from server.authority import (
    TestAuthority,
    running_authority,
)
from server.oauth import (
    INTROSPECT,
    METADATA,
    PUSH,
    REVOKE,
    TOKEN,
    FakePeople,
)


async def test_r106_r107_metadata_tells_what_is_enforced(authority: TestAuthority) -> None:
    answer = await authority.http.get(METADATA)
    issuer = authority.settings.issuer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.json() == {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "jwks_uri": f"{issuer}/oauth/jwks.json",
        "authorization_response_iss_parameter_supported": True,
        "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
    }


async def test_a61_a146_metadata_does_not_follow_the_host_of_the_request(authority: TestAuthority) -> None:
    headers = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    assert (await authority.http.get(METADATA, headers=headers)).json() == (
        await authority.http.get(METADATA)
    ).json()


async def test_r106_issuer_with_a_path_has_everything_below_it_and_its_metadata_before(
    tmp_path: Path,
) -> None:
    issuer = "https://auth.example/tenants/7"
    async with running_authority(tmp_path, people=FakePeople(), issuer=issuer) as authority:
        document = (await authority.http.get(f"{METADATA}/tenants/7")).json()
        assert document["issuer"] == issuer
        assert document["jwks_uri"] == f"{issuer}/oauth/jwks.json"
        assert (await authority.http.get("/tenants/7/oauth/jwks.json")).status_code == 200
        for path in (METADATA, "/oauth/jwks.json", "/tenants/7", f"/tenants/7{METADATA}"):
            assert (await authority.http.get(path)).status_code == 404


@pytest.mark.parametrize("path", [TOKEN, REVOKE, INTROSPECT, PUSH, METADATA, "/oauth/jwks.json"])
async def test_r214_a147_listed_origins_may_call_and_no_others(tmp_path: Path, path: str) -> None:
    origin = "https://app.example"
    async with running_authority(tmp_path, people=FakePeople(), cors_origins=[origin]) as authority:
        method = "GET" if path in (METADATA, "/oauth/jwks.json") else "POST"
        for asked, allowed in ((origin, True), ("https://evil.example", False), ("null", False)):
            answer = await authority.http.request(method, path, headers={"origin": asked})
            preflight = await authority.http.options(
                path, headers={"origin": asked, "access-control-request-method": method}
            )
            for response in (answer, preflight):
                assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
                assert "access-control-allow-credentials" not in response.headers
                assert response.headers["vary"].split(",")[0] == "Origin"
            assert preflight.status_code == (200 if allowed else 405)
        assert (await authority.http.request(method, path)).headers["vary"] == "Origin"


@pytest.mark.parametrize("path", [TOKEN, METADATA])
async def test_r214_without_a_list_no_origin_may_call(authority: TestAuthority, path: str) -> None:
    answer = await authority.http.get(path, headers={"origin": "https://app.example"})
    assert not any(name.startswith("access-control-") for name in answer.headers)
