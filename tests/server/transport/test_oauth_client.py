"""How clients present themselves and their forms, at every endpoint that takes forms, over HTTPS."""

from __future__ import annotations

import base64
import re
import urllib.parse
from pathlib import Path

import pytest
from rpz_auth import credentials
from rpz_auth.http_status import error_description
from rpz_auth_server.domain.refusal import ClientInvalid
from server.authority import (
    CODE_VERIFIER,
    REDIRECT_URI,
    Client,
    FakeTime,
    TestAuthority,
    running_authority,
)
from server.oauth import (
    FORMS,
    INTROSPECT,
    PUSH,
    REVOKE,
    TOKEN,
    basic,
    error_of,
    for_itself,
    post,
    redeem,
    refresh,
)

UNKNOWN_APP = "00000000-0000-4000-8000-000000000000"
DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")


def raw_basic(raw: bytes) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(raw).decode()}


async def test_r001_r105_only_post_is_taken(authority: TestAuthority) -> None:
    for path in FORMS:
        for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
            answer = await authority.http.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_r002_a62_other_content_types_are_refused(authority: TestAuthority) -> None:
    client = await authority.create_client()
    body = urllib.parse.urlencode({**client.body, "token": "x", "grant_type": "client_credentials"})
    for path in FORMS:
        for content_type in ("application/json", "multipart/form-data; boundary=x", "text/plain", ""):
            answer = await authority.http.post(path, content=body, headers={"content-type": content_type})
            assert error_of(answer) == (400, "invalid_request")


async def test_content_type_may_name_a_charset_in_any_case(authority: TestAuthority) -> None:
    client = await authority.create_client()
    body = urllib.parse.urlencode({**client.body, "grant_type": "client_credentials"})
    headers = {"content-type": "Application/X-WWW-Form-Urlencoded ; charset=UTF-8"}
    assert (await authority.http.post(TOKEN, content=body, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["grant_type", "client_id", "client_secret", "code", "redirect_uri", "code_verifier", "scope", "x"],
)
async def test_r003_parameter_given_twice_is_refused_and_consumes_nothing(
    authority: TestAuthority, name: str
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": CODE_VERIFIER,
        **client.body,
        "scope": "orders.read",
        "x": "1",
    }
    twice = urllib.parse.urlencode([*form.items(), (name, form[name])])
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert error_of(await authority.http.post(TOKEN, content=twice, headers=headers)) == (
        400,
        "invalid_request",
    )
    assert (await authority.http.post(TOKEN, data=form)).status_code == 200


async def test_r004_r005_unknown_parameters_are_passed_over_and_empty_ones_are_absent(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    answer = await for_itself(authority, client, unknown="1", scope="", resource="", code="")
    assert answer.status_code == 200
    answer = await post(authority, TOKEN, client, grant_type="")
    assert error_of(answer) == (400, "invalid_request")


@pytest.mark.parametrize("value", ["%ff", "%00", "%ed%a0%80"])
async def test_parameter_that_is_no_text_is_refused_even_if_unknown(
    authority: TestAuthority, value: str
) -> None:
    client = await authority.create_client()
    body = urllib.parse.urlencode({**client.body, "grant_type": "client_credentials"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await authority.http.post(TOKEN, content=f"{body}&x={value}", headers=headers)
    assert error_of(answer) == (400, "invalid_request")


async def test_r006_r018_grant_types_have_errors_of_their_own(authority: TestAuthority) -> None:
    client = await authority.create_client()
    public = await authority.create_public_client()
    assert error_of(await post(authority, TOKEN, client)) == (400, "invalid_request")
    for unknown in ("password", "implicit", "CLIENT_CREDENTIALS", "urn:x", "client_credentials "):
        answer = await post(authority, TOKEN, client, grant_type=unknown, username="u", password="p")
        assert error_of(answer) == (400, "unsupported_grant_type")
    assert error_of(await for_itself(authority, public)) == (400, "unauthorized_client")


@pytest.mark.parametrize("path", FORMS)
async def test_r008_errors_are_not_stored_either(authority: TestAuthority, path: str) -> None:
    answer = await authority.http.post(path, data={"client_id": "x"})
    assert answer.status_code in (400, 401)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", FORMS)
async def test_r009_bad_basic_is_challenged(authority: TestAuthority, path: str) -> None:
    client = await authority.create_client()
    form = {"grant_type": "client_credentials", "token": "x", "request_uri": "x"}
    for header in ("authorization", "x-rpz-auth"):
        for secret in ("wrong", (await authority.create_client()).secret):
            answer = await authority.http.post(path, data=form, headers=basic(client.app_id, secret, header))
            assert error_of(answer) == (401, "invalid_client")
            assert answer.headers["www-authenticate"] == 'Basic realm="rpz-auth", charset="UTF-8"'


@pytest.mark.parametrize("path", FORMS)
async def test_r010_unknown_client_and_wrong_secret_get_the_same_bytes(
    authority: TestAuthority, path: str
) -> None:
    client = await authority.create_client()
    form = {"grant_type": "client_credentials", "token": "x"}
    foreign = (await authority.create_client()).secret
    answers = [
        await authority.http.post(path, data={**form, "client_id": app_id, "client_secret": secret})
        for app_id in (client.app_id, UNKNOWN_APP, "nonsense")
        for secret in ("wrong", foreign, "rpzs_" + "A" * 64)
    ]
    seen = {
        (answer.status_code, answer.content, str([h for h in answer.headers.raw if h[0] != b"date"]))
        for answer in answers
    }
    assert len(seen) == 1
    assert error_of(answers[0]) == (401, "invalid_client")
    assert "www-authenticate" not in answers[0].headers


@pytest.mark.parametrize("path", FORMS)
async def test_r011_credentials_in_header_and_body_are_refused(authority: TestAuthority, path: str) -> None:
    client = await authority.create_client()
    form = {"grant_type": "client_credentials", "token": "x", "client_secret": client.secret}
    answer = await authority.http.post(path, data=form, headers=basic(client.app_id, client.secret))
    assert error_of(answer) == (400, "invalid_request")


async def test_r011_the_same_client_id_beside_the_header_is_no_second_credential(
    authority: TestAuthority,
) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    form = {"grant_type": "client_credentials", "client_id": client.app_id}
    headers = basic(client.app_id, client.secret)
    assert (await authority.http.post(TOKEN, data=form, headers=headers)).status_code == 200
    form["client_id"] = other.app_id
    assert error_of(await authority.http.post(TOKEN, data=form, headers=headers)) == (400, "invalid_request")


@pytest.mark.parametrize("path", FORMS)
async def test_r012_secrets_in_the_url_are_refused_even_if_right(authority: TestAuthority, path: str) -> None:
    client = await authority.create_client()
    form = {"grant_type": "client_credentials", "token": "x", "client_id": client.app_id}
    for query in ({"client_secret": client.secret}, {"token": "x"}, {"refresh_token": ""}):
        answer = await authority.http.post(path, data={**form, **client.body}, params=query)
        assert error_of(answer) == (400, "invalid_request")


async def test_r013_percent_encoded_basic_in_the_header_is_decoded(authority: TestAuthority) -> None:
    client = await authority.create_client()
    encoded = "".join(f"%{ord(character):02X}" for character in client.app_id)
    secret = client.secret.replace("_", "%5f")
    headers = {"authorization": credentials.format_basic(encoded, secret)}
    answer = await authority.http.post(TOKEN, data={"grant_type": "client_credentials"}, headers=headers)
    assert answer.status_code == 200


GARBAGE = (
    {"authorization": "Basic !!!"},
    {"authorization": "Basic"},
    {"authorization": ""},
    {"authorization": "Bearer x"},
    {"authorization": "Digest username=x"},
    raw_basic(b"no colon"),
    raw_basic(b"\xff\xfe:\xff"),
    raw_basic(b":secret"),
    raw_basic(b"user:"),
    raw_basic(b"a:b:c:d"),
    raw_basic(b"a:\x00"),
    raw_basic(b"x" * 5000 + b":y"),
)


async def test_r009_r014_garbage_in_the_header_is_no_client(authority: TestAuthority) -> None:
    form = {"grant_type": "client_credentials", "token": "x"}
    for path in FORMS:
        for headers in GARBAGE:
            answer = await authority.http.post(path, data=form, headers=headers)
            is_caller = path == INTROSPECT and headers == {"authorization": "Bearer x"}
            assert error_of(answer) == (401, "invalid_token" if is_caller else "invalid_client")
            assert "www-authenticate" in answer.headers


async def test_r015_a16_confidential_client_always_authenticates(authority: TestAuthority) -> None:
    client = await authority.create_client()
    silent = Client(client.app_id)
    tokens = await authority.sign_in(client)
    for answer in (
        await redeem(authority, silent, await authority.issue_code(client)),
        await refresh(authority, silent, tokens.refresh_token),
        await for_itself(authority, silent),
        await post(authority, REVOKE, silent, token=tokens.refresh_token),
        await post(authority, INTROSPECT, silent, token=tokens.access_token),
        await post(authority, PUSH, silent, redirect_uri=REDIRECT_URI),
    ):
        assert error_of(answer) == (401, "invalid_client")
    assert await authority.is_alive(tokens.access_token)


async def test_r016_descriptions_keep_to_their_characters_and_echo_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    canary = 'ca"na\\ry<svg>\r\n\x7fß'
    for form in (
        {},
        {"grant_type": canary},
        {"grant_type": "authorization_code"},
        {"grant_type": "authorization_code", "code": canary},
        {"grant_type": "refresh_token", "refresh_token": canary},
        {"grant_type": "client_credentials", "scope": canary},
        {"grant_type": "client_credentials", "resource": canary},
        {canary: canary},
    ):
        answer = await post(authority, TOKEN, client, **form)
        body = answer.json()
        assert body.keys() == {"error", "error_description"}
        assert DESCRIPTION.fullmatch(body["error_description"])
        assert "na" not in body["error_description"].split()
        assert "svg" not in answer.text
    assert error_description(ClientInvalid('a "b" \\ c\nß')) == "a 'b'  c"


async def test_r131_guesses_over_https_wait_longer_each_time_and_are_counted(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime(), failure_limit=3) as authority:
        client = await authority.create_client()
        guess = Client(client.app_id, "rpzs_" + "A" * 64)
        answers = [await for_itself(authority, guess) for _ in range(5)]
        assert [error_of(answer) for answer in answers] == [
            *[(401, "invalid_client")] * 3,
            *[(429, "temporarily_unavailable")] * 2,
        ]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await for_itself(authority, client)).status_code == 200  # the rightful App is not held up
        counted = {
            (item.app_id, item.reason): item.count for item in authority.authority.limiter.refusals.take()
        }
        assert counted == {(client.app_id, "CLIENT_INVALID"): 3, (client.app_id, "RATE_LIMITED"): 2}


async def test_what_is_refused_before_anybody_has_authenticated_is_counted_too(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime()) as authority:
        await authority.http.post("/oauth/token", content=b"{}", headers={"content-type": "text/json"})
        await authority.http.post("/oauth/token", data={"grant_type": "x"}, params={"client_secret": "x"})
        counted = {
            (item.app_id, item.reason): item.count for item in authority.authority.limiter.refusals.take()
        }
        assert counted == {("", "REQUEST_INVALID"): 2}
