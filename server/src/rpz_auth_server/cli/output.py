"""What a command prints: tables for eyes, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rpz_auth_server.cli.failures import Failure

Cell = str | Sequence[str]
"""One value, or several that get a line each."""

STATE_STYLES = {"ok": "green", "warning": "bold yellow", "error": "bold red", "refused": "bold red"}

_NARROWEST = 14
"""Columns below which a field is not worth reading."""

_UNLIMITED = 10_000
"""Columns for output that goes into a file or another program, where nothing may be folded."""


def escape(text: str) -> str:
    """Write what a terminal could take for a command, or not show, as an escape sequence of Python.

    Names come from whoever may register an App, and are read by administrators.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


def to_dict(message: Message) -> dict[str, object]:
    """A message by the names of the contract, in protobuf's JSON; empty texts and lists are there too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(content: Mapping[str, object]) -> None:
    """Print for scripts; JSON's own escapes leave nothing that a terminal would act upon."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=True))


def print_line(text: str = "", *, style: str = "") -> None:
    """Print one line, however long; it can be copied as a whole."""
    _console().print(Text(escape(text), style=style), soft_wrap=True)


def print_secret(what: str, value: str, *, once: bool = True) -> None:
    """Print a secret on a line of its own, under a line that says what it is."""
    print_line()
    print_line(f"{what}, shown this once; keep it now:" if once else f"{what}:", style="bold yellow")
    print_line(value)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, fixed: int = 1) -> None:
    """Print rows under headings; the first `fixed` columns are never folded.

    Where a terminal is too narrow for that, each row becomes a record of its own: nothing is cut off.
    """
    found, width = list(rows), _console().width
    kept = sum(
        2 + max(len(headings[column]), *(len(_cell(row[column])) for row in found), 0)
        for column in range(fixed)
    )
    if found and width - kept < _NARROWEST * (len(headings) - fixed):
        for number, row in enumerate(found):
            if number:
                print_line()
            print_record(dict(zip(headings, row, strict=True)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number < fixed)
    for row in found:
        table.add_row(*map(_cell, row))
    _print(table)


def print_record(fields: Mapping[str, Cell]) -> None:
    """Print one object, a field a line; empty fields are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value:
            table.add_row(Text(name), _cell(value))
    _print(table)


def print_steps(steps: Iterable[tuple[str, str, Cell]]) -> None:
    """Print what was looked at, a row each: how it stands (`STATE_STYLES`), its name, and what to say."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for fixed in (True, True, False):
        table.add_column(no_wrap=fixed, overflow="fold")
    for state, name, text in steps:
        table.add_row(Text(state, style=STATE_STYLES.get(state, "")), Text(escape(name)), _cell(text))
    _print(table)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print what whoever ran a command should know, on standard error."""
    console = Console(stderr=True)
    for warning in warnings:
        console.print(Text.assemble(("warning", "bold yellow"), ": ", escape(warning)), soft_wrap=True)


def format_duration(duration: Duration) -> str:
    """A length of time for eyes, in the largest unit that leaves nothing over."""
    seconds = duration.ToSeconds()
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def print_failure(failure: Failure) -> None:
    """Print why a command ended, on standard error."""
    console = Console(stderr=True)
    message = Text.assemble((escape(failure.reason), "bold red"), ": ", escape(failure.message))
    console.print(message, soft_wrap=True)
    if failure.mend:
        console.print(Text(escape(failure.mend)), soft_wrap=True)


def format_time(time: Timestamp | None) -> str:
    """A time for eyes, in UTC; None is never."""
    return "never" if time is None else time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M")


def _cell(cell: Cell) -> Text:
    # Text, not str: rich would read markup in a string. Escaped one by one, so that none can pass for two.
    return Text("\n".join(map(escape, [cell] if isinstance(cell, str) else cell)))


def _print(table: Table) -> None:
    console = _console()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())  # for programs, no columns of spaces


def _console() -> Console:
    # Made for each use, because a test or a shell may have replaced standard output since.
    return Console(width=None if sys.stdout.isatty() else _UNLIMITED)
