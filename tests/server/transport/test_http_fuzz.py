"""Hostile requests to every path over HTTPS: always an answer, never a fault, and nothing of theirs in it."""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpz_auth_server.domain.authorization import NAMES
from server.authority import CODE_VERIFIER, ORDERS, REDIRECT_URI, TestAuthority, challenge_of
from server.oauth import AUTHORIZE, FORMS, METADATA
from server.transport.test_grpc_fuzz import HOSTILE

CANARY = "<script>canary</script>"
LIMITS = settings(max_examples=120, suppress_health_check=list(HealthCheck))
PATHS = (*FORMS, AUTHORIZE, METADATA, "/oauth/jwks.json", "/console", "/console/sign-in", "/")
PARAMETERS = (
    *sorted(NAMES),
    *("grant_type", "code", "code_verifier", "refresh_token", "client_secret", "token", "token_type_hint"),
    *("subject_token", "subject_token_type", "requested_token_type", "actor_token", "digest", "decision"),
)
GRANT_TYPES = (
    *("authorization_code", "refresh_token", "client_credentials"),
    "urn:ietf:params:oauth:grant-type:token-exchange",
)

Pairs = Sequence[tuple[str, str]]


def pairs(real: Sequence[str]) -> st.SearchStrategy[Pairs]:
    """Forms with names that mean something and values that are real, hostile, or anything."""
    names = st.sampled_from(PARAMETERS) | st.text(max_size=8)
    values = st.sampled_from([*real, *HOSTILE, ""]) | st.text(max_size=40) | st.just(CANARY)
    sensible = st.fixed_dictionaries(
        {"grant_type": st.sampled_from((*GRANT_TYPES, CANARY))},
        optional={name: values for name in PARAMETERS if name != "grant_type"},
    ).map(lambda form: tuple(form.items()))
    return sensible | st.lists(st.tuples(names, values), max_size=8)


def encode(form: Pairs) -> str:
    return urllib.parse.urlencode(form, errors="surrogatepass")


async def everything(authority: TestAuthority) -> list[str]:
    """Texts that mean something to this authority."""
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    created = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    return [
        *(client.app_id, client.secret, await authority.issue_code(client), REDIRECT_URI, ORDERS),
        *(tokens.access_token, tokens.refresh_token, created.api_token, CODE_VERIFIER, "S256", "code"),
        *(challenge_of(CODE_VERIFIER), "orders.read", "orders.read orders.write", "rpz.admin"),
    ]


async def fuzz(authority: TestAuthority, attack: Callable[[httpx.Client], None]) -> None:
    """Attack from a thread, while the authority serves in this one; at the end it is as it was."""

    def run() -> None:
        trusted = ssl.create_default_context(cadata=authority.ca)
        with httpx.Client(base_url=authority.url, verify=trusted, timeout=20, trust_env=False) as client:
            attack(client)

    await asyncio.to_thread(run)
    assert "Traceback" not in authority.logged.getvalue()
    assert '"level": "error"' not in authority.logged.getvalue()
    assert (await authority.http.get("/oauth/jwks.json")).status_code == 200


def check(answer: httpx.Response) -> None:
    """No fault, nothing echoed, nothing stored."""
    assert answer.status_code < 500, answer.text
    assert "canary" not in answer.text
    assert CANARY not in str(answer.headers.multi_items())
    # Where a browser is sent to may name, encoded, where it came from.
    assert not any("canary" in value for name, value in answer.headers.multi_items() if name != "location")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] in ("no-store", "public, max-age=300") or answer.status_code == 200


@pytest.mark.timeout(180)
async def test_r014_r016_a104_a120_a142_no_form_is_a_fault_or_comes_back(authority: TestAuthority) -> None:
    real = await everything(authority)

    def attack(client: httpx.Client) -> None:
        @LIMITS
        @given(
            st.sampled_from(FORMS),
            pairs(real),
            st.none() | st.sampled_from([*real, CANARY]) | st.binary(max_size=60),
            st.sampled_from(["Basic ", "Bearer ", "basic  ", ""]),
        )
        def one(path: str, form: Pairs, credential: Any, scheme: str) -> None:
            headers = {"content-type": "application/x-www-form-urlencoded"}
            if isinstance(credential, bytes):  # what the client's own parser lets out; the wire is for below
                credential = credential.translate(None, bytes((*range(32), 127))).decode("latin-1")
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            if credential is not None:
                raw.append((b"authorization", (scheme + credential).encode("latin-1").strip()))
            check(client.post(path, content=encode(form), headers=raw))

        one()

    await fuzz(authority, attack)


@pytest.mark.timeout(180)
async def test_r044_a12_no_query_is_a_fault_or_comes_back(authority: TestAuthority) -> None:
    real = await everything(authority)

    def attack(client: httpx.Client) -> None:
        @LIMITS
        @given(st.sampled_from(PATHS), pairs(real), st.sampled_from(["GET", "POST", "HEAD", "PUT"]))
        def one(path: str, query: Pairs, method: str) -> None:
            answer = client.request(method, f"{path}?{encode(query)[:20_000]}")
            if path != "/":  # nothing is there
                check(answer)

        one()

    await fuzz(authority, attack)


async def send(authority: TestAuthority, *parts: bytes) -> bytes:
    """What comes back until the connection ends; the parts arrive one by one."""
    host, _, port = authority.url.removeprefix("https://").partition(":")
    trusted = ssl.create_default_context(cadata=authority.ca)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusted)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), 15)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.timeout(180)
async def test_a148_no_bytes_on_the_wire_are_a_fault(authority: TestAuthority) -> None:
    form = b"content-type: application/x-www-form-urlencoded\r\n"
    heads = [
        b"POST /oauth/token HTTP/1.1\r\nhost: x\r\n" + form,
        b"POST /oauth/token HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + form + b"\r\n",
        b"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n",
        b"GET /oauth/authorize?",
        b"GET /console HTTP/1.1\r\nhost: ",
        b"GET ",
        b"",
    ]
    ends = [b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\na=b&c", b" HTTP/1.1\r\nhost: x\r\n\r\n", b""]
    last = b"GET /oauth/jwks.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    loop = asyncio.get_running_loop()

    def attack(_client: httpx.Client) -> None:
        @settings(LIMITS, max_examples=80)
        @given(st.sampled_from(heads), st.binary(max_size=80), st.sampled_from(ends))
        def one(head: bytes, noise: bytes, end: bytes) -> None:
            sending = send(authority, head, noise + end, last)
            got = asyncio.run_coroutine_threadsafe(sending, loop).result(20)
            assert b"HTTP/1.1 5" not in got

        one()

    await fuzz(authority, attack)
