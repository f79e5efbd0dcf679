"""`rpz-auth secrets`: OAuth 2 secrets of Apps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import output, secret_file
from rpz_auth_server.cli.connection import connect
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

app = typer.Typer(
    help="OAuth 2 secrets (client_secret) of an App.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def create(
    app_id: AppIdArgument,
    name: NameOption = "",
    expires_in: ExpiresInOption = None,
    expires_at: ExpiresAtOption = None,
    file: OutputOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create a secret, and show it this once. Several may live at once, so that one can be replaced."""
    deadline = read_deadline(expires_in, expires_at, now=datetime.now(UTC))
    if file is not None:
        secret_file.check_free(file, option="--output")
    with connect(credentials) as authority:
        answer = authority.call(
            authority.apps.CreateClientSecret,
            pb.CreateClientSecretRequest(app_id=app_id, display_name=name, expire_time=deadline),
        )
        if file is not None:
            revocation = pb.RevokeClientSecretRequest(app_id=app_id, secret_id=answer.record.secret_id)
            secret_file.write(
                file,
                answer.client_secret,
                undo=lambda: authority.call(authority.apps.RevokeClientSecret, revocation),
                created=f"the secret {answer.record.secret_id}",
            )
    if as_json:
        content = output.to_dict(answer)
        output.print_json({"record": content["record"], "output": str(file)} if file else content)
        return
    output.print_record(
        {
            "Secret ID": answer.record.secret_id,
            "App ID": answer.record.app_id,
            "Name": answer.record.display_name,
            "Expires (UTC)": output.format_time(_expire_time(answer.record)),
        }
    )
    if file is not None:
        output.print_line(f"Written to {file}, readable by you only.")
    else:
        output.print_secret("OAuth 2 secret", answer.client_secret)


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
        ("SECRET ID", "STATE", "EXPIRES (UTC)", "NAME"),
        [
            (each.secret_id, _state(each), output.format_time(_expire_time(each)), each.display_name)
            for each in answer.client_secrets
        ],
        fixed=3,
    )


@app.command()
def revoke(
    app_id: AppIdArgument,
    secret_id: Annotated[str, typer.Argument(metavar="SECRET_ID")],
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


def _state(record: pb.ClientSecret) -> str:
    return output.format_state(
        expire_time=_expire_time(record),
        revoke_time=record.revoke_time if record.HasField("revoke_time") else None,
    )


def _expire_time(record: pb.ClientSecret) -> Timestamp | None:
    return record.expire_time if record.HasField("expire_time") else None
