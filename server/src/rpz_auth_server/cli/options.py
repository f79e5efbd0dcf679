"""The options that every command has, before its name or after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

VARIABLE = "RPZ_AUTH_CREDENTIALS"
DEFAULTS = (Path("rpz-auth-data/bootstrap.json"), Path("data/bootstrap.json"))
"""Where a credentials file is looked for when none is named, in the working directory."""


@dataclass(frozen=True, slots=True)
class Common:
    """What was said before the command's name."""

    credentials: Path | None
    as_json: bool


def _credentials(context: typer.Context, value: Path | None) -> Path | None:
    common = context.obj
    return common.credentials if value is None and isinstance(common, Common) else value


def _as_json(context: typer.Context, value: bool) -> bool:  # noqa: FBT001 - called by typer
    common = context.obj
    return value or (isinstance(common, Common) and common.as_json)


CREDENTIALS_HELP = (
    f"File that says where the authority is and as which App to speak, such as bootstrap.json. Else "
    f"{VARIABLE} in the environment, else {' or '.join(map(str, DEFAULTS))}."
)
JSON_HELP = "Print JSON with the names of the contract (rpz/auth/v1/*.proto)."

CredentialsOption = Annotated[
    Path | None,
    typer.Option("--credentials", metavar="FILE", help=CREDENTIALS_HELP, callback=_credentials),
]
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP, callback=_as_json)]
AppIdArgument = Annotated[str, typer.Argument(metavar="APP_ID", help="The App's ID (its OAuth 2 client_id).")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Write the value to a new file of mode 0600, not here."),
]
AsCredentialsOption = Annotated[
    bool,
    typer.Option(
        "--as-credentials",
        help="Write a whole file for --credentials to --output: where the authority is, whom to trust, as "
        "which App to speak.",
    ),
]
RequestIdOption = Annotated[
    str,
    typer.Option(
        "--request-id",
        metavar="UUID",
        help="Makes a repeated command give what the first one created, and not another. A deadline is then "
        "given by --expires-at.",
    ),
]
OverlapOption = Annotated[
    str,
    typer.Option(
        "--overlap", metavar="DURATION", help="For how long what is replaced goes on, as in 24h; 0s for not."
    ),
]
NeverExpiresOption = Annotated[bool, typer.Option("--never-expires", help="Take the deadline away.")]
SuccessorNeverExpiresOption = Annotated[
    bool,
    typer.Option("--never-expires", help="No deadline, although what is replaced has one."),
]
NameOption = Annotated[str, typer.Option("--name", help="What people will know it by.")]
ExpiresInOption = Annotated[
    str | None, typer.Option("--expires-in", metavar="DURATION", help="As in 90d, 12h, 30m or 45s.")
]
ExpiresAtOption = Annotated[
    str | None, typer.Option("--expires-at", metavar="TIME", help="As in 2030-01-31T00:00:00Z.")
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="How long ago, as in 24h; or 2030-01-31T00:00:00Z."),
]
ClientIdOption = Annotated[str, typer.Option("--client-id", metavar="APP_ID", help="The OAuth 2 client.")]
