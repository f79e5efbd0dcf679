"""The program `rpz-auth`, put together from its commands."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from rpz_auth_server.cli.failures import Failure
from rpz_auth_server.cli.options import CREDENTIALS_HELP, JSON_HELP, VARIABLE, Common
from rpz_auth_server.deferred import defer

app = typer.Typer(
    name="rpz-auth", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
for _name, _place, _summary in (
    ("apps", "apps:app", "Apps and Devices: create, change, lock, delete."),
    ("secrets", "client_secrets:app", "OAuth 2 secrets (client_secret) of an App."),
    ("api-tokens", "api_tokens:app", "API tokens of an App."),
    ("codes", "codes:app", "Authorization codes, as a sign-in service issues them."),
    ("tokens", "tokens:app", "Tokens, as OAuth 2 clients and services see them."),
    ("grants", "grants:app", "What users have allowed Apps."),
    ("subjects", "subjects:app", "Users."),
    ("refusals", "refusals:app", "Refused calls."),
    ("explain", "explain:explain", "Tell step by step why a service refuses a credential."),
    ("audit", "audit:app", "Audit records."),
    ("issuer", "issuer:issuer", "The emergency stop."),
    ("signing-keys", "issuer:signing_keys", "The keys that access tokens are signed with."),
    ("verifiers", "issuer:verifiers", "Services that verify tokens."),
):
    defer(app, _name, f"rpz_auth_server.cli.{_place}", _summary)


def _print_version(value: bool) -> None:  # noqa: FBT001 - called by typer
    if value:
        typer.echo(f"rpz-auth {importlib.metadata.version('rpz-auth-server')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    credentials: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar=VARIABLE, show_envvar=False, help=CREDENTIALS_HELP),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Administer a token authority.

    Exit codes: 0 done; 1 refused or not reachable, with "REASON: text" on standard error; 2 wrong usage.
    """
    context.obj = Common(credentials, as_json)


def run() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except Failure as failure:
        from rpz_auth_server.cli import output  # noqa: PLC0415 - what it imports is slow, and seldom needed here

        output.print_failure(failure)
        sys.exit(1)
