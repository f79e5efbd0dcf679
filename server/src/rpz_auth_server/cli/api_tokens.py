"""`rpz-auth api-tokens`: API tokens of Apps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import credential_output as shown
from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.inputs import read_credential_mask, read_deadline, read_duration
from rpz_auth_server.cli.options import (
    AppIdArgument,
    AsCredentialsOption,
    CredentialsOption,
    ExpiresAtOption,
    ExpiresInOption,
    JsonOption,
    NameOption,
    NeverExpiresOption,
    OutputOption,
    OverlapOption,
    RequestIdOption,
    SuccessorNeverExpiresOption,
)

app = typer.Typer(help="API tokens of an App.", no_args_is_help=True, rich_markup_mode=None)

_PAGE = 1000


@app.command()
def create(  # noqa: PLR0913, PLR0917 - one for each field of the request
    app_id: AppIdArgument,
    scope: Annotated[list[str], typer.Option(metavar="SCOPE", help="Among the App's; may be repeated.")],
    resource: Annotated[list[str], typer.Option(metavar="URI", help="Among the App's; may be repeated.")],
    name: NameOption = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    request_id: RequestIdOption = "",
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    as_credentials: AsCredentialsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create an API token, and show it this once. It travels as HTTP Basic, the App ID as user."""
    request = pb.CreateApiTokenRequest(
        app_id=app_id,
        display_name=name,
        scopes=scope,
        resources=resource,
        expire_time=read_deadline(expires_in, expires_at, now=datetime.now(UTC), request_id=request_id),
        request_id=request_id,
    )
    _check_output(file, as_credentials=as_credentials)
    with connect(credentials) as authority:
        answer = authority.call(authority.tokens.CreateApiToken, request)
        _write(authority, answer, file, as_credentials=as_credentials)
    shown.print_made(answer, "api_token", file, _fields(answer.record), as_json=as_json)


@app.command()
def rotate(  # noqa: PLR0913, PLR0917 - one for each field of the request
    app_id: AppIdArgument,
    api_token_id: Annotated[str, typer.Argument(metavar="API_TOKEN_ID", help="The one to replace.")],
    overlap: OverlapOption = "24h",
    name: Annotated[str, typer.Option("--name", help="Of the successor; else the same.")] = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    request_id: RequestIdOption = "",
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    never_expires: SuccessorNeverExpiresOption = False,
    as_credentials: AsCredentialsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create a successor that may do the same; the old one goes on.

    It is shown this once; the old one goes on for the overlap only.
    """
    deadline = read_deadline(
        expires_in,
        expires_at,
        now=datetime.now(UTC),
        request_id=request_id,
        never_expires=never_expires,
    )
    request = pb.RotateApiTokenRequest(
        app_id=app_id,
        api_token_id=api_token_id,
        overlap=read_duration(overlap, option="--overlap"),
        display_name=name,
        expire_time=deadline,
        request_id=request_id,
    )
    _check_output(file, as_credentials=as_credentials)
    with connect(credentials) as authority:
        if deadline is None and not never_expires and not request_id:  # a repeated one finds its own deadline
            shown.check_endless(each for each in _all(authority, app_id) if each.api_token_id == api_token_id)
        answer = authority.call(authority.tokens.RotateApiToken, request)
        _write(authority, answer, file, as_credentials=as_credentials)
    shown.print_made(answer, "api_token", file, _fields(answer.record), as_json=as_json)
    if not as_json and answer.HasField("replaced"):
        output.print_line(shown.ending(answer.replaced, answer.replaced.api_token_id))


@app.command()
def update(
    app_id: AppIdArgument,
    api_token_id: Annotated[
        str, typer.Argument(metavar="API_TOKEN_ID", help="As `api-tokens list` shows it.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    credentials: CredentialsOption = None,
    *,
    never_expires: NeverExpiresOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change the name or the deadline of a live API token."""
    deadline = read_deadline(expires_in, expires_at, now=datetime.now(UTC), never_expires=never_expires)
    record = pb.ApiToken(
        app_id=app_id, api_token_id=api_token_id, display_name=name or "", expire_time=deadline
    )
    mask = read_credential_mask(name, deadline, never_expires=never_expires)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.tokens.UpdateApiToken, pb.UpdateApiTokenRequest(api_token=record, update_mask=mask)
        )
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_record(_fields(answer.api_token))


_Made = pb.CreateApiTokenResponse | pb.RotateApiTokenResponse


def _check_output(file: Path | None, *, as_credentials: bool) -> None:
    if as_credentials and file is None:
        raise typer.BadParameter("goes together with --output", param_hint="--as-credentials")
    shown.check_output(file)


def _write(authority: Authority, answer: _Made, file: Path | None, *, as_credentials: bool) -> None:
    record, value = answer.record, answer.api_token
    if value and as_credentials:
        value = replace(
            authority.credentials,
            kind="",
            client_certificate_pem=None,  # they prove who runs this command
            client_key_pem=None,
            app_id=record.app_id,
            api_token=value,
            resources=None,
        ).write()
    revocation = pb.RevokeApiTokenRequest(app_id=record.app_id, api_token_id=record.api_token_id)
    shown.write(
        value,
        file,
        undo=lambda: authority.call(authority.tokens.RevokeApiToken, revocation),
        created=f"the API token {record.api_token_id}",
    )


def _fields(record: pb.ApiToken) -> Mapping[str, output.Cell]:
    return {
        "API token ID": record.api_token_id,
        "App ID": record.app_id,
        "Name": record.display_name,
        "Scopes": record.scopes,
        "Resources": record.resources,
        "Expires (UTC)": shown.end(record),
    }


@app.command("list")
def list_tokens(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """List an App's API tokens; never the values."""
    with connect(credentials) as authority:
        pages = list(_pages(authority, app_id))
    found = [each for page in pages for each in page.api_tokens]
    warnings = [each for page in pages for each in page.warnings]
    if as_json:
        output.print_json({"api_tokens": [output.to_dict(each) for each in found], "warnings": warnings})
        return
    output.print_table(
        ("API TOKEN ID", "STATE", "EXPIRES (UTC)", "LAST USED (UTC)", "ALLOWS", "NAME"),
        [
            (
                each.api_token_id,
                shown.state(each),
                shown.end(each),
                shown.last_use(each),
                [*each.scopes, *(f"at {resource}" for resource in each.resources)],
                each.display_name,
            )
            for each in found
        ],
        fixed=4,
    )
    output.print_warnings(warnings)


@app.command()
def revoke(
    app_id: AppIdArgument,
    api_token_id: Annotated[
        str, typer.Argument(metavar="API_TOKEN_ID", help="As `api-tokens list` shows it.")
    ],
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Revoke an API token, everywhere and at once."""
    with connect(credentials) as authority:
        answer = authority.call(
            authority.tokens.RevokeApiToken,
            pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=api_token_id),
        )
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line(f"{api_token_id} is revoked")


def _all(authority: Authority, app_id: str) -> Iterator[pb.ApiToken]:
    for page in _pages(authority, app_id):
        yield from page.api_tokens


def _pages(authority: Authority, app_id: str) -> Iterator[pb.ListApiTokensResponse]:
    token = ""
    while True:
        request = pb.ListApiTokensRequest(app_id=app_id, page_size=_PAGE, page_token=token)
        page = authority.call(authority.tokens.ListApiTokens, request)
        yield page
        token = page.next_page_token
        if not token:
            return
