"""The program `rpz-auth-server`: its commands."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from rpz_auth_server.deferred import defer

app = typer.Typer(
    name="rpz-auth-server", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
for _name, _place, _summary in (
    ("serve", "commands.serve:serve", "Run the authority until SIGTERM or Ctrl-C."),
    (
        "bootstrap",
        "commands.bootstrap:make_administrator",
        "Make a new administrator file, as the first start did.",
    ),
    (
        "sign-in-link",
        "commands.sign_in_link:make_sign_in_link",
        "Make a one-time link to the console for who is locked out.",
    ),
    ("doctor", "doctor.command:doctor", "Look an authority over, and say what is wrong."),
    ("backup", "commands.backup:backup", "Copy the database, also while the authority runs."),
    ("restore", "commands.backup:restore", "Put a backup in the place of a stopped authority's database."),
    ("move", "commands.move:move", "Move the authority from SQLite to PostgreSQL while it runs."),
    ("keys", "commands.keys:app", "The master keys."),
):
    defer(app, _name, f"rpz_auth_server.{_place}", _summary)


def _print_version(value: bool) -> None:  # noqa: FBT001 - called by typer
    if value:
        typer.echo(f"rpz-auth-server {importlib.metadata.version('rpz-auth-server')}")
        raise typer.Exit


@app.callback()
def _commands(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run a token authority, and look after its files.

    Apps, tokens and records are administered by rpz-auth. Exit codes: 0 done; 1 not done, with the reason on
    standard error; 2 wrong usage; 3 from serve, when its database was moved to another.
    """


def main() -> None:
    """Run the program."""
    sys.exit(app())


if __name__ == "__main__":
    main()
