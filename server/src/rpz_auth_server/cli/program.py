"""The program `rpz-auth`, put together from its commands."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from rpz_auth_server.cli import (
    api_tokens,
    apps,
    audit,
    client_secrets,
    codes,
    explain,
    grants,
    issuer,
    output,
    refusals,
    subjects,
    tokens,
)
from rpz_auth_server.cli.connection import VARIABLE
from rpz_auth_server.cli.failures import Failure
from rpz_auth_server.cli.options import CREDENTIALS_HELP, JSON_HELP, Common

app = typer.Typer(
    name="rpz-auth", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.add_typer(apps.app, name="apps")
app.add_typer(client_secrets.app, name="secrets")
app.add_typer(api_tokens.app, name="api-tokens")
app.add_typer(codes.app, name="codes")
app.add_typer(tokens.app, name="tokens")
app.add_typer(grants.app, name="grants")
app.add_typer(subjects.app, name="subjects")
app.add_typer(refusals.app, name="refusals")
app.command("explain")(explain.explain)
app.add_typer(audit.app, name="audit")
app.add_typer(issuer.issuer, name="issuer")
app.add_typer(issuer.signing_keys, name="signing-keys")
app.add_typer(issuer.verifiers, name="verifiers")


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
        output.print_failure(failure)
        sys.exit(1)
