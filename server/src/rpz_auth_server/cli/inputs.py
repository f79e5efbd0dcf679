"""What a command is told: secrets by any way but its arguments, deadlines in words."""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

CLIENT_SECRET_VARIABLE = "RPZ_AUTH_CLIENT_SECRET"  # noqa: S105 - the name of a variable, as are those below
CODE_VARIABLE = "RPZ_AUTH_CODE"
CODE_VERIFIER_VARIABLE = "RPZ_AUTH_CODE_VERIFIER"
REFRESH_TOKEN_VARIABLE = "RPZ_AUTH_REFRESH_TOKEN"  # noqa: S105
TOKEN_VARIABLE = "RPZ_AUTH_TOKEN"  # noqa: S105

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_secret(what: str, *, option: str, file: Path | None, variable: str, optional: bool = False) -> str:
    """Read a secret from the file, else the environment, else standard input.

    Everybody on a machine can read the arguments of its processes, so no secret is taken from there. From
    a terminal it is asked for without echo; from anything else the next line is read.

    Args:
        what: What it is, for the prompt and for errors.
        option: The option that names the file.
        file: The file, or None; `-` is standard input.
        variable: The environment variable.
        optional: Whether it may be empty, which stands for none.

    Raises:
        typer.BadParameter: It is missing, or the file cannot be read.
    """
    if file is not None and str(file) != "-":
        try:
            value = file.read_text(encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{file}: {error.strerror}", param_hint=option) from None
        except ValueError:  # its text may quote the file
            raise typer.BadParameter(f"{file} is not a text", param_hint=option) from None
    elif file is None and variable in os.environ:
        value = os.environ[variable]
    elif sys.stdin.isatty():
        prompt = f"{what} (empty for none)" if optional else what
        value = typer.prompt(prompt, default="", hide_input=True, show_default=False, err=True)
    else:
        value = sys.stdin.readline()
    value = value.rstrip("\r\n")
    if not value and not optional:
        raise typer.BadParameter(
            f"no {what}: name a file with it, set {variable}, or write it to standard input",
            param_hint=option,
        )
    return value


def read_deadline(
    expires_in: str | None,
    expires_at: str | None,
    *,
    now: datetime,
    request_id: str = "",
    never_expires: bool = False,
) -> Timestamp | None:
    """Read a deadline; None when there is to be none.

    Raises:
        typer.BadParameter: It cannot be read, is given twice, or changes with each repetition of a request.
    """
    if never_expires and (expires_in is not None or expires_at is not None):
        raise typer.BadParameter("contradicts the deadline that is given", param_hint="--never-expires")
    if request_id and expires_in is not None:
        raise typer.BadParameter(
            "a repeated command would ask for a later end, and so for another; write --expires-at beside "
            "--request-id",
            param_hint="--expires-in",
        )
    if expires_in is not None and expires_at is not None:
        raise typer.BadParameter("give one of --expires-in and --expires-at", param_hint="--expires-at")
    if expires_in is not None:
        return timestamp(_after(expires_in, now))
    return None if expires_at is None else timestamp(_at(expires_at))


def timestamp(moment: datetime) -> Timestamp:
    """A moment as the contract has it."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def read_credential_mask(name: str | None, deadline: Timestamp | None, *, never_expires: bool) -> FieldMask:
    """Say which fields of a credential's record are to change.

    Raises:
        typer.BadParameter: None.
    """
    given = {"display_name": name is not None, "expire_time": deadline is not None or never_expires}
    mask = FieldMask(paths=[field for field, is_given in given.items() if is_given])
    if not mask.paths:
        raise typer.BadParameter("say what to change, as in --expires-in 24h", param_hint="OPTIONS")
    return mask


def read_duration(text: str | None, *, option: str) -> Duration | None:
    """Read a length of time; None when none was given.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    if text is None:
        return None
    duration = Duration()
    try:
        duration.FromTimedelta(_timedelta(text, option))
    except ValueError:
        raise _no_duration(option) from None
    return duration


def read_moment(text: str | None, *, option: str, now: datetime) -> datetime | None:
    """Read a moment of the past: a time with its zone, or how long ago it was; None when none is given.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    try:
        if match is not None:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(
        "write how long ago it was, as in 24h or 7d, or a time with its zone, as in 2030-01-31T00:00:00Z",
        param_hint=option,
    )


def _after(text: str, now: datetime) -> datetime:
    try:
        return now + _timedelta(text, "--expires-in")
    except OverflowError:
        raise _no_duration("--expires-in") from None


def _timedelta(text: str, option: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _no_duration(option)
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise _no_duration(option) from None


def _no_duration(option: str) -> typer.BadParameter:
    return typer.BadParameter("write a number and one of s, m, h, d, w, as in 90d", param_hint=option)


def _at(text: str) -> datetime:
    problem = typer.BadParameter(
        "write a time with its zone, as in 2030-01-31T00:00:00Z", param_hint="--expires-at"
    )
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise problem from None
    if time.tzinfo is None:
        raise problem
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise problem from None
