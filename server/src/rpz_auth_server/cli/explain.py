"""`rpz-auth explain`: why a service refuses a credential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import inputs, output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption

_Answer = pb.ExplainCredentialResponse
_OUTCOMES = {
    _Answer.OUTCOME_PASSED: "ok",
    _Answer.OUTCOME_REFUSED: "refused",
    _Answer.OUTCOME_NOT_LOOKED_AT: "-",
}


def explain(
    resource: Annotated[
        str, typer.Option(metavar="URI", help="The identifier of the service that was called.")
    ] = "",
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="That the method demands; may be repeated.")
    ] = None,
    peer: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="From where the service sees the call: an IP address, or unix. Behind proxies that it "
            "trusts, their client's.",
        ),
    ] = "",
    certificate_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="DNS name in the client's certificate; may be repeated."),
    ] = None,
    origin: Annotated[
        str, typer.Option(metavar="ORIGIN", help="Of a page in a browser, as in https://shop.example.")
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help=f"File with the credential; else {inputs.TOKEN_VARIABLE} in the environment, else standard "
            "input (also as -).",
        ),
    ] = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Tell step by step why a service refuses a credential.

    It must be of one of your Apps: the value of the header that the App sends (Bearer ..., Basic ...), or an
    access token or API token alone. It comes from a file or the environment, else from standard input; a
    terminal asks without echo. What is not given is not looked at.

    Exit code 0 also when it is refused: the field reason of --json, empty if nothing refuses, says so.
    """
    request = pb.ExplainCredentialRequest(
        credential=inputs.read_secret(
            "credential", option="--token-file", file=token_file, variable=inputs.TOKEN_VARIABLE
        ),
        resource=resource,
        scopes=scope or (),
        peer=peer,
        certificate_names=certificate_name or (),
        origin=origin,
    )
    with connect(credentials) as authority:
        answer = authority.call(authority.tokens.ExplainCredential, request)
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_steps((_OUTCOMES.get(step.outcome, "?"), step.name, step.text) for step in answer.steps)
    verdict = f"refused with {answer.reason}" if answer.reason else "nothing that was looked at refuses it"
    output.print_line(verdict, style="bold red" if answer.reason else "bold green")
