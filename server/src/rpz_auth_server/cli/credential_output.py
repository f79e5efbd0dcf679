"""How OAuth 2 secrets and API tokens are shown, to eyes or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import typer
from rpz.auth.v1 import app_service_pb2, token_service_pb2

from rpz_auth_server.cli import output, secret_file

Record = app_service_pb2.ClientSecret | token_service_pb2.ApiToken
Made = (
    app_service_pb2.CreateClientSecretResponse
    | app_service_pb2.RotateClientSecretResponse
    | token_service_pb2.CreateApiTokenResponse
    | token_service_pb2.RotateApiTokenResponse
)
_NAMES = {"client_secret": "OAuth 2 secret", "api_token": "API token"}
"""Of the fields of the contract that hold a credential."""


def check_output(file: Path | None) -> None:
    """Make sure, before a credential is made, that `--output` can probably be written.

    Raises:
        typer.BadParameter: There is a file already, or no folder for it.
    """
    if file is not None:
        secret_file.check_free(file, option="--output")


def check_endless(replaced: Iterable[Record]) -> None:
    """See that nothing with a deadline is about to be replaced by something without one that nobody chose.

    Raises:
        typer.BadParameter: It is.
    """
    if any(state(each) == "live" and each.HasField("expire_time") for each in replaced):
        raise typer.BadParameter(
            "what is replaced has a deadline; say when its successor ends, or --never-expires",
            param_hint="--expires-in",
        )


def ending(record: Record, name: str) -> str:
    """What becomes of one that was replaced."""
    if state(record) == "live":
        return f"{name} goes on until {end(record)} UTC"
    return f"{name} has ended"


def write(value: str, file: Path | None, *, undo: Callable[[], object], created: str) -> None:
    """Write what was made to the file that was named; a repeated command is told no value, and writes none.

    Args:
        value: The credential.
        file: As in `check_output`.
        undo: Revokes it, if it cannot be written.
        created: What it is, with its ID.

    Raises:
        Failure: It could not be written.
    """
    if file is not None and value:
        secret_file.write(file, value, undo=undo, created=created)


def print_made(
    answer: Made, value: str, file: Path | None, record: Mapping[str, output.Cell], *, as_json: bool
) -> None:
    """Print a credential that was made, without its value where that stands in a file.

    Args:
        answer: With the credential.
        value: Its field that holds the credential.
        file: As in `check_output`.
        record: What a person is shown.
        as_json: Whether a script is to read it.
    """
    if as_json:
        content = output.to_dict(answer)
        if file is not None:
            content["output"] = str(file)
            del content[value]
        output.print_json(content)
        return
    output.print_record(record)
    credential = getattr(answer, value)
    if not credential:
        output.print_line("Created before; the value is not shown again. Create another if it is lost.")
    elif file is not None:
        output.print_line(f"Written to {file}, readable by you only.")
    else:
        output.print_secret(_NAMES[value], credential)


def state(record: Record) -> str:
    """Whether a credential can still be used."""
    if record.HasField("revoke_time"):
        return "revoked"
    if record.HasField("expire_time") and record.expire_time.ToDatetime(tzinfo=UTC) <= datetime.now(UTC):
        return "expired"
    return "live"


def end(record: Record) -> str:
    """Until when a credential is good, in UTC."""
    return output.format_time(record.expire_time if record.HasField("expire_time") else None)


def last_use(record: Record) -> str:
    """When a credential was used last, in UTC, and from where."""
    if not record.HasField("last_use_time"):
        return "never"
    place = f" from {record.last_use_address}" if record.last_use_address else ""
    return output.format_time(record.last_use_time) + place
