"""`rpz-auth audit`: who did what, and the proof that nothing of it was changed."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rpz.auth.v1 import administration_service_pb2 as pb

from rpz_auth_server import files
from rpz_auth_server.audit_chain import Chain, Link
from rpz_auth_server.cli import inputs, output, secret_file
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.failures import Failure
from rpz_auth_server.cli.options import CredentialsOption, JsonOption, SinceOption

app = typer.Typer(help="Audit records.", no_args_is_help=True, rich_markup_mode=None)

T = TypeVar("T")

_PAGE = 1000
_PAUSE = 1.0
_HEAD = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", re.ASCII)

_AppOption = Annotated[str, typer.Option("--app", metavar="APP_ID", help="Of one App.")]
_ActionOption = Annotated[
    str, typer.Option("--action", metavar="ACTION", help="As in app.lock; app. stands for all of its kind.")
]
_ActorOption = Annotated[str, typer.Option("--actor", metavar="SUBJECT", help="Of one actor, as in app:ID.")]
_UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="As for --since.")]
_HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="SEQUENCE:HASH",
        help="As an export printed it: that record must be there, and be the same.",
    ),
]


@app.command("list")
def list_records(
    app_id: _AppOption = "",
    action: _ActionOption = "",
    actor: _ActorOption = "",
    since: SinceOption = None,
    until: _UntilOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest that fit.")] = 100,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the newest records that fit, the oldest first."""
    request = _request(app_id, action, actor, since, until)
    with connect(credentials) as authority:
        found = list(itertools.islice(_newest(authority, request, limit), limit))[::-1]
    if as_json:
        output.print_json({"records": [_to_dict(record) for record in found]})
        return
    output.print_table(
        ("NUMBER", "TIME (UTC)", "ACTION", "ACTOR", "PEER", "DETAILS"),
        [
            (
                str(each.sequence),
                _second(each),
                each.action,
                each.actor,
                each.peer,
                [*([f"app {each.app_id}"] if each.app_id else []), *_details(each)],
            )
            for each in found
        ],
        fixed=3,
    )


@app.command()
def follow(
    app_id: _AppOption = "",
    action: _ActionOption = "",
    actor: _ActorOption = "",
    since: SinceOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show records as they are written, until Ctrl-C."""
    request = _request(app_id, action, actor, since or "0s", None)
    with connect(credentials) as authority, contextlib.suppress(KeyboardInterrupt):
        while True:
            for record in _records(authority, request):
                if as_json:
                    typer.echo(json.dumps(_to_dict(record)))
                else:
                    about = [f"app {record.app_id}"] if record.app_id else []
                    words = (_second(record), record.action, record.actor, *about, *_details(record))
                    output.print_line("  ".join(words))
            time.sleep(_PAUSE)


@app.command()
def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A new file of mode 0600, of JSON Lines; - is standard output, without the head.",
        ),
    ],
    app_id: _AppOption = "",
    action: _ActionOption = "",
    actor: _ActorOption = "",
    since: SinceOption = None,
    until: _UntilOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write records to a file, a line of JSON each, and print the head.

    The head is the last number with its hash; keep it apart. `audit verify --head` proves by it that nothing
    up to there was changed or cut off.
    """
    request = _request(app_id, action, actor, since, until)
    if str(file) == "-":
        with connect(credentials) as authority:
            for record in _records(authority, request):
                typer.echo(json.dumps(_to_dict(record)))
        return
    secret_file.check_free(file, option="FILE")
    count, last = 0, None
    try:
        with connect(credentials) as authority, files.creating(file) as lines:
            for record in _counted(_records(authority, request)):
                lines.write(json.dumps(_to_dict(record)).encode("ascii") + b"\n")
                count, last = count + 1, record
    except OSError as error:
        raise Failure("FILE_NOT_WRITTEN", f"{file}: {error.strerror}") from None
    head = "" if last is None else f"{last.sequence}:{last.hash.hex()}"
    if as_json:
        output.print_json({"output": str(file), "records": count, "head": head})
        return
    output.print_line(f"{count} records written to {file}")
    if head:
        output.print_line(f"head: {head}")


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An export without filters; else the authority's.")
    ] = None,
    head: _HeadOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check that each record follows from the one before.

    The head is printed. That the newest records were cut off shows only against a head that was kept.
    """
    wanted = None if head is None else _read_head(head)
    if file is not None:
        result = _check(_counted(_read_export(file)), wanted)
    else:
        with connect(credentials) as authority:
            records = _records(authority, pb.ListAuditRecordsRequest(page_size=_PAGE))
            result = _check(map(_link, _counted(records)), wanted)
    if as_json:
        output.print_json({"records": result.count, "head": result.head})
        return
    output.print_line(f"{result.count} records, each follows from the one before")
    output.print_line(f"head: {result.head}")


@dataclass(frozen=True, slots=True)
class _Checked:
    count: int
    head: str


def _check(links: Iterator[Link], wanted: tuple[int, bytes] | None) -> _Checked:
    chain, count = Chain(), 0
    for link in links:
        count += 1
        if not chain.follows(link):
            raise Failure(
                "AUDIT_BROKEN",
                f"record {link.sequence} does not follow from the one before; records were lost or changed",
            )
        if wanted is not None and link.sequence == wanted[0] and link.digest != wanted[1]:
            raise Failure("AUDIT_BROKEN", f"record {link.sequence} is not the one of the head")
        if wanted is not None and count == 1 and link.sequence > wanted[0]:
            raise Failure("HEAD_TOO_OLD", f"the oldest record that is kept is {link.sequence}")
    if wanted is not None and chain.sequence < wanted[0]:
        raise Failure("AUDIT_BROKEN", f"records up to {wanted[0]} are missing; the last is {chain.sequence}")
    return _Checked(count, f"{chain.sequence}:{chain.digest.hex()}")


def _read_export(file: Path) -> Iterator[Link]:
    try:
        with file.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    content = json.loads(line)
                    yield Link(
                        sequence=content["sequence"],
                        recorded_at=content["hashed_time"],
                        actor=content["actor"],
                        action=content["action"],
                        app_id=content["app_id"],
                        peer=content["peer"],
                        details=content["details"],
                        digest=bytes.fromhex(content["hash"]),
                    )
                except (ValueError, LookupError, TypeError):
                    raise Failure("AUDIT_BROKEN", f"{file}: line {number} is no record") from None
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no export", param_hint="FILE") from None


def _read_head(text: str) -> tuple[int, bytes]:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise typer.BadParameter("write it as an export printed it", param_hint="--head")
    return int(match[1]), bytes.fromhex(match[2])


def _request(
    app_id: str, action: str, actor: str, since: str | None, until: str | None
) -> pb.ListAuditRecordsRequest:
    now = datetime.now(UTC)
    return pb.ListAuditRecordsRequest(
        page_size=_PAGE,
        app_id=app_id,
        action=action,
        actor=actor,
        start_time=_moment(since, "--since", now),
        end_time=_moment(until, "--until", now),
    )


def _moment(text: str | None, option: str, now: datetime) -> Timestamp | None:
    moment = inputs.read_moment(text, option=option, now=now)
    return None if moment is None else inputs.timestamp(moment)


def _records(authority: Authority, request: pb.ListAuditRecordsRequest) -> Iterator[pb.AuditRecord]:
    """Read page after page; the request remembers where to go on."""
    while True:
        page = authority.call(authority.administration.ListAuditRecords, request)
        yield from page.records
        request.after_sequence = page.next_after_sequence
        if page.last_page:
            return


def _newest(
    authority: Authority, request: pb.ListAuditRecordsRequest, limit: int
) -> Iterator[pb.AuditRecord]:
    """Read back page after page, of as many as are wanted."""
    request.newest_first, request.page_size = True, min(limit, _PAGE)
    while True:
        page = authority.call(authority.administration.ListAuditRecords, request)
        yield from page.records
        request.before_sequence = page.next_before_sequence
        if page.last_page:
            return


def _counted(records: Iterator[T]) -> Iterator[T]:
    """Show on a terminal how many there were so far."""
    with Console(stderr=True).status("reading") as shown:
        for number, record in enumerate(records, start=1):
            yield record
            if number % _PAGE == 0:
                shown.update(f"{number} records")


def _link(record: pb.AuditRecord) -> Link:
    return Link(
        sequence=record.sequence,
        recorded_at=record.hashed_time,
        actor=record.actor,
        action=record.action,
        app_id=record.app_id,
        peer=record.peer,
        details=record.details,
        digest=record.hash,
    )


def _to_dict(record: pb.AuditRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "time": record.time.ToJsonString(),
        "actor": record.actor,
        "action": record.action,
        "app_id": record.app_id,
        "peer": record.peer,
        "details": dict(record.details),
        "hash": record.hash.hex(),
        "hashed_time": record.hashed_time,
    }


def _second(record: pb.AuditRecord) -> str:
    return record.time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _details(record: pb.AuditRecord) -> list[str]:
    return [f"{name} {value}" for name, value in sorted(record.details.items())]
