"""`rpz-auth refusals`: which calls were refused, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rpz.auth.v1 import app_service_pb2 as pb
from rpz_auth.errors import Reason

from rpz_auth_server.cli import inputs, output
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption, SinceOption

_PAGE = 1000

app = typer.Typer(help="Refused calls.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Keep the name `list`: typer would drop it for a lone command."""


@app.command("list")
def list_(
    app_id: Annotated[
        str, typer.Option("--app", metavar="APP_ID", help="Only those of this App; owners must name one.")
    ] = "",
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="Only those for this reason, as in CLIENT_INVALID.")
    ] = "",
    since: SinceOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many lines.")] = 50,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how often calls were refused, by minute, App and reason.

    The newest come first.
    """
    if reason and reason.upper() not in Reason.__members__:
        known = ", ".join(Reason.__members__)
        raise typer.BadParameter(f"there is no such reason; there are {known}", param_hint="--reason")
    start = inputs.read_moment(since, option="--since", now=datetime.now(UTC))
    request = pb.ListRefusalsRequest(app_id=app_id, page_size=_PAGE if reason else min(limit, _PAGE))
    with connect(credentials) as authority:
        counts = _all_refusals(authority, request)
        if start is not None:
            counts = itertools.takewhile(lambda each: _end_of_minute(each) > start, counts)
        fitting = (each for each in counts if reason.upper() in ("", each.reason))
        found = list(itertools.islice(fitting, limit))
    if as_json:
        output.print_json({"refusals": [output.to_dict(each) for each in found]})
        return
    output.print_table(
        ["MINUTE (UTC)", "APP", "REASON", "CALLS"],
        [
            [output.format_time(item.minute), item.app_id or "(none)", item.reason, str(item.count)]
            for item in found
        ],
        fixed=4,
    )


def _all_refusals(authority: Authority, request: pb.ListRefusalsRequest) -> Iterator[pb.RefusalCount]:
    """Read page after page; the request remembers where to go on."""
    while True:
        page = authority.call(authority.apps.ListRefusals, request)
        yield from page.refusals
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def _end_of_minute(count: pb.RefusalCount) -> datetime:
    return count.minute.ToDatetime(tzinfo=UTC) + timedelta(minutes=1)
