"""`rpz-auth secrets`: OAuth 2 secrets of Apps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import credential_output as shown
from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.inputs import read_credential_mask, read_deadline, read_duration
from rpz_auth_server.cli.options import (
    AppIdArgument,
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

app = typer.Typer(
    help="OAuth 2 secrets (client_secret) of an App.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def create(
    app_id: AppIdArgument,
    name: NameOption = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    request_id: RequestIdOption = "",
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create a secret, and show it this once. Several may live at once, so that one can be replaced."""
    deadline = read_deadline(expires_in, expires_at, now=datetime.now(UTC), request_id=request_id)
    shown.check_output(file)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.apps.CreateClientSecret,
            pb.CreateClientSecretRequest(
                app_id=app_id, display_name=name, expire_time=deadline, request_id=request_id
            ),
        )
        _write(authority, answer, file)
    shown.print_made(answer, "client_secret", file, _fields(answer.record), as_json=as_json)


@app.command()
def rotate(  # noqa: PLR0913, PLR0917 - one for each field of the request
    app_id: AppIdArgument,
    secret_id: Annotated[
        str, typer.Argument(metavar="SECRET_ID", help="The one to replace; else all that are live.")
    ] = "",
    overlap: OverlapOption = "24h",
    name: NameOption = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    request_id: RequestIdOption = "",
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    never_expires: SuccessorNeverExpiresOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create a successor; those before it go on for the overlap only.

    It is shown this once.
    """
    deadline = read_deadline(
        expires_in,
        expires_at,
        now=datetime.now(UTC),
        request_id=request_id,
        never_expires=never_expires,
    )
    request = pb.RotateClientSecretRequest(
        app_id=app_id,
        secret_id=secret_id,
        overlap=read_duration(overlap, option="--overlap"),
        display_name=name,
        expire_time=deadline,
        request_id=request_id,
    )
    shown.check_output(file)
    with connect(credentials) as authority:
        if deadline is None and not never_expires and not request_id:  # a repeated one finds its own deadline
            shown.check_endless(_to_replace(authority, app_id, secret_id))
        answer = authority.call(authority.apps.RotateClientSecret, request)
        _write(authority, answer, file)
    shown.print_made(answer, "client_secret", file, _fields(answer.record), as_json=as_json)
    if not as_json:
        for each in answer.replaced:
            output.print_line(shown.ending(each, each.secret_id))


@app.command()
def update(
    app_id: AppIdArgument,
    secret_id: Annotated[str, typer.Argument(metavar="SECRET_ID", help="As `secrets list` shows it.")],
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    credentials: CredentialsOption = None,
    *,
    never_expires: NeverExpiresOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change the name or the deadline of a live secret."""
    deadline = read_deadline(expires_in, expires_at, now=datetime.now(UTC), never_expires=never_expires)
    record = pb.ClientSecret(
        app_id=app_id, secret_id=secret_id, display_name=name or "", expire_time=deadline
    )
    mask = read_credential_mask(name, deadline, never_expires=never_expires)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.apps.UpdateClientSecret,
            pb.UpdateClientSecretRequest(client_secret=record, update_mask=mask),
        )
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_record(_fields(answer.client_secret))


def _to_replace(authority: Authority, app_id: str, secret_id: str) -> list[pb.ClientSecret]:
    """The one that is named, else the newest that lives: those before it end by an earlier rotation."""
    listed = authority.call(authority.apps.ListClientSecrets, pb.ListClientSecretsRequest(app_id=app_id))
    if secret_id:
        return [each for each in listed.client_secrets if each.secret_id == secret_id]
    live = [each for each in listed.client_secrets if shown.state(each) == "live"]
    return sorted(live, key=lambda each: each.create_time.ToNanoseconds())[-1:]


_Made = pb.CreateClientSecretResponse | pb.RotateClientSecretResponse


def _write(authority: Authority, answer: _Made, file: Path | None) -> None:
    record = answer.record
    revocation = pb.RevokeClientSecretRequest(app_id=record.app_id, secret_id=record.secret_id)
    shown.write(
        answer.client_secret,
        file,
        undo=lambda: authority.call(authority.apps.RevokeClientSecret, revocation),
        created=f"the secret {record.secret_id}",
    )


def _fields(record: pb.ClientSecret) -> Mapping[str, output.Cell]:
    return {
        "Secret ID": record.secret_id,
        "App ID": record.app_id,
        "Name": record.display_name,
        "Expires (UTC)": shown.end(record),
    }


@app.command("list")
def list_secrets(
    app_id: AppIdArgument, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """List an App's secrets; never the values."""
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.ListClientSecrets, pb.ListClientSecretsRequest(app_id=app_id))
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_table(
        ("SECRET ID", "STATE", "EXPIRES (UTC)", "LAST USED (UTC)", "NAME"),
        [
            (
                each.secret_id,
                shown.state(each),
                shown.end(each),
                shown.last_use(each),
                each.display_name,
            )
            for each in answer.client_secrets
        ],
        fixed=4,
    )
    output.print_warnings(answer.warnings)


@app.command()
def revoke(
    app_id: AppIdArgument,
    secret_id: Annotated[str, typer.Argument(metavar="SECRET_ID", help="As `secrets list` shows it.")],
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Revoke a secret."""
    with connect(credentials) as authority:
        answer = authority.call(
            authority.apps.RevokeClientSecret,
            pb.RevokeClientSecretRequest(app_id=app_id, secret_id=secret_id),
        )
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line(f"{secret_id} is revoked")
