"""What comes from the authority reaches the terminal as text and nothing else."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from rpz.auth.v1 import app_service_pb2 as pb
from rpz_auth_server.cli.output import escape
from server.cli.command import Cli, Result
from server.cli.conftest import FalseAuthority

HOSTILE = (
    "\x1b]0;owned\x07[bold red]x[/] [link=https://evil.example]y[/link] :boom:\u202e\u2028\r\nforged\x9b2J"
)
SHOWN = (
    r"\x1b]0;owned\x07[bold red]x[/] [link=https://evil.example]y[/link] :boom:\u202e\u2028\r\nforged\x9b2J"
)


def app() -> pb.App:
    return pb.App(
        app_id=HOSTILE,
        display_name=HOSTILE,
        kind=pb.APP_KIND_DEVICE,
        owner=HOSTILE,
        redirect_uris=[HOSTILE],
        scopes=[HOSTILE, HOSTILE],
        resources=[HOSTILE],
        whitelist=[HOSTILE],
        sign_in=pb.SignIn(client_ids=[HOSTILE], subject_prefix=HOSTILE),
    )


def refuse(_request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.INTERNAL, HOSTILE)


@pytest.fixture
def hostile(false_authority: FalseAuthority) -> Cli:
    secret = pb.ClientSecret(secret_id=HOSTILE, display_name=HOSTILE)
    return false_authority(
        ListApps=lambda _request, _context: pb.ListAppsResponse(apps=[app()]),
        GetApp=lambda _request, _context: pb.GetAppResponse(app=app()),
        ListClientSecrets=lambda _request, _context: pb.ListClientSecretsResponse(client_secrets=[secret]),
        DeleteApp=refuse,
    )


def check_harmless(result: Result) -> None:
    for text in (result.out, result.err):
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
        assert "💥" not in text


def test_names_are_shown_as_what_they_are(hostile: Cli) -> None:
    for arguments, times in (
        (["apps", "list"], 2),
        (["apps", "get", "x"], 10),
        (["secrets", "list", "x"], 2),
    ):
        result = hostile(*arguments)
        assert (result.code, result.err) == (0, "")
        check_harmless(result)
        assert result.out.count(SHOWN) == times


def test_one_name_never_looks_like_two_rows(hostile: Cli) -> None:
    assert len(hostile("apps", "list").out.splitlines()) == 2


def test_question_and_refusal_are_escaped_too(hostile: Cli) -> None:
    asked = hostile("apps", "delete", "x", stdin="n\n")
    check_harmless(asked)
    assert SHOWN in asked.err
    refused = hostile("apps", "delete", "x", "--yes")
    check_harmless(refused)
    # grpc itself drops what stands behind a line's end, or does not: only the beginning is certain.
    assert refused.code == 1
    assert refused.err.startswith(r"INTERNAL: \x1b]0;owned\x07[bold red]x[/]")


def test_json_is_the_text_itself_in_visible_characters(hostile: Cli) -> None:
    result = hostile("apps", "list", "--json")
    check_harmless(result)
    assert result.out.isascii()
    assert json.loads(result.out)["apps"][0]["display_name"] == HOSTILE


def test_letters_of_all_languages_stay_readable() -> None:
    assert escape("Käse 寿司 שלום \\n") == "Käse 寿司 שלום \\n"
    assert escape("\ud800") == "\\ud800"
