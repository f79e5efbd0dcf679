"""`rpz-auth api-tokens`: API tokens of Apps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import output, secret_file
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.inputs import read_deadline
from rpz_auth_server.cli.options import (
    AppIdArgument,
    CredentialsOption,
    ExpiresAtOption,
    ExpiresInOption,
    JsonOption,
    NameOption,
    OutputOption,
)

app = typer.Typer(help="API tokens of an App.", no_args_is_help=True, rich_markup_mode=None)

_PAGE = 1000


@app.command()
def create(  # noqa: PLR0913 - one for each field of the request
    app_id: AppIdArgument,
    scope: Annotated[list[str], typer.Option(metavar="SCOPE", help="Among the App's; may be repeated.")],
    resource: Annotated[list[str], typer.Option(metavar="URI", help="Among the App's; may be repeated.")],
    name: NameOption = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create an API token, and show it this once. It travels as HTTP Basic, the App ID as user."""
    deadline = read_deadline(expires_in, expires_at, now=datetime.now(UTC))
    if file is not None:
        secret_file.check_free(file, option="--output")
    with connect(credentials) as authority:
        answer = authority.call(
            authority.tokens.CreateApiToken,
            pb.CreateApiTokenRequest(
                app_id=app_id, display_name=name, scopes=scope, resources=resource, expire_time=deadline
            ),
        )
        if file is not None:
            revocation = pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=answer.record.api_token_id)
            secret_file.write(
                file,
                answer.api_token,
                undo=lambda: authority.call(authority.tokens.RevokeApiToken, revocation),
                created=f"the API token {answer.record.api_token_id}",
            )
    if as_json:
        content = output.to_dict(answer)
        output.print_json({"record": content["record"], "output": str(file)} if file else content)
        return
    output.print_record(
        {
            "API token ID": answer.record.api_token_id,
            "App ID": answer.record.app_id,
            "Name": answer.record.display_name,
            "Scopes": answer.record.scopes,
            "Resources": answer.record.resources,
            "Expires (UTC)": output.format_time(_expire_time(answer.record)),
        }
    )
    if file is not None:
        output.print_line(f"Written to {file}, readable by you only.")
    else:
        output.print_secret("API token", answer.api_token)


@app.command("list")
def list_tokens(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """List an App's API tokens; never the values."""
    with connect(credentials) as authority:
        found = list(_all_tokens(authority, app_id))
    if as_json:
        output.print_json({"api_tokens": [output.to_dict(each) for each in found]})
        return
    output.print_table(
        ("API TOKEN ID", "STATE", "EXPIRES (UTC)", "ALLOWS", "NAME"),
        [
            (
                each.api_token_id,
                _state(each),
                output.format_time(_expire_time(each)),
                [*each.scopes, *(f"at {resource}" for resource in each.resources)],
                each.display_name,
            )
            for each in found
        ],
        fixed=3,
    )


@app.command()
def revoke(
    app_id: AppIdArgument,
    api_token_id: Annotated[str, typer.Argument(metavar="API_TOKEN_ID")],
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


def _all_tokens(authority: Authority, app_id: str) -> Iterator[pb.ApiToken]:
    token = ""
    while True:
        request = pb.ListApiTokensRequest(app_id=app_id, page_size=_PAGE, page_token=token)
        page = authority.call(authority.tokens.ListApiTokens, request)
        yield from page.api_tokens
        token = page.next_page_token
        if not token:
            return


def _state(record: pb.ApiToken) -> str:
    return output.format_state(
        expire_time=_expire_time(record),
        revoke_time=record.revoke_time if record.HasField("revoke_time") else None,
    )


def _expire_time(record: pb.ApiToken) -> Timestamp | None:
    return record.expire_time if record.HasField("expire_time") else None
