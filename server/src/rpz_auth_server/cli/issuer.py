"""`rpz-auth issuer`, `signing-keys` and `verifiers`: the authority as a whole."""

from __future__ import annotations

from typing import Annotated

import typer
from rpz.auth.v1 import administration_service_pb2 as pb

from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption

issuer = typer.Typer(help="The emergency stop.", no_args_is_help=True, rich_markup_mode=None)
signing_keys = typer.Typer(
    help="The keys that access tokens are signed with.", no_args_is_help=True, rich_markup_mode=None
)
verifiers = typer.Typer(help="Services that verify tokens.", no_args_is_help=True, rich_markup_mode=None)

_YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@issuer.command()
def lock(
    credentials: CredentialsOption = None, *, yes: _YesOption = False, as_json: JsonOption = False
) -> None:
    """Stop every credential of every App, everywhere and at once.

    Access tokens issued so far never work again. Administrators' API tokens still work at the authority, so
    that this command can be undone.
    """
    if not yes:
        typer.confirm("Stop every credential of every App?", abort=True, err=True)
    with connect(credentials) as authority:
        answer = authority.call(authority.administration.LockIssuer, pb.LockIssuerRequest())
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line("The issuer is locked; `rpz-auth issuer unlock` undoes it, but for access tokens.")


@issuer.command()
def unlock(credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """Let refresh tokens, API tokens and OAuth 2 secrets work again."""
    with connect(credentials) as authority:
        answer = authority.call(authority.administration.UnlockIssuer, pb.UnlockIssuerRequest())
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line("The issuer is not locked.")


@signing_keys.command("list")
def list_keys(credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """List the keys that are published."""
    with connect(credentials) as authority:
        answer = authority.call(authority.administration.ListSigningKeys, pb.ListSigningKeysRequest())
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_table(
        ("KEY ID", "PUBLISHED (UTC)", "SIGNS FROM (UTC)", "ENDS (UTC)"),
        [_row(key) for key in answer.signing_keys],
        fixed=4,
    )


@signing_keys.command()
def rotate(
    credentials: CredentialsOption = None,
    *,
    compromised: Annotated[
        bool,
        typer.Option(
            "--compromised", help="Drop all keys at once, with every access token; Apps must refresh."
        ),
    ] = False,
    yes: _YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a new key, which signs after a while; no token ends by it."""
    if compromised and not yes:
        typer.confirm("End every access token that was issued so far?", abort=True, err=True)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.administration.RotateSigningKey, pb.RotateSigningKeyRequest(compromised=compromised)
        )
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    key_id, published, signs, _ = _row(answer.signing_key)
    output.print_record({"Key ID": key_id, "Published (UTC)": published, "Signs from (UTC)": signs})


@verifiers.callback()
def _verifiers() -> None:
    """Keep the name `list`: typer would drop it for a lone command."""


@verifiers.command("list")
def list_verifiers(credentials: CredentialsOption = None, *, as_json: JsonOption = False) -> None:
    """List the services that are connected to the process which answers."""
    with connect(credentials) as authority:
        answer = authority.call(authority.administration.ListVerifiers, pb.ListVerifiersRequest())
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_table(
        ("APP ID", "PEER", "CONNECTED (UTC)", "LAST TOLD (UTC)", "RESOURCES"),
        [
            (
                each.app_id,
                each.peer,
                output.format_time(each.connect_time),
                output.format_time(each.told_time),
                each.resources,
            )
            for each in answer.verifiers
        ],
        fixed=4,
    )
    output.print_line("Connected to the process that answered; each worker and replica has its own.")


def _row(key: pb.SigningKey) -> tuple[str, str, str, str]:
    return (
        key.kid,
        output.format_time(key.publish_time),
        output.format_time(key.sign_time) if key.HasField("sign_time") else "when unlocked",
        output.format_time(key.retire_time) if key.HasField("retire_time") else "has no successor yet",
    )
