"""`rpz-auth tokens`: what OAuth 2 clients and verifiers do with tokens, by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import inputs, output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import ClientIdOption, CredentialsOption, JsonOption

app = typer.Typer(
    help="Tokens, as OAuth 2 clients and services see them. No secret is taken from the arguments.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_API_TOKEN_TYPE = "urn:rpz:token-type:api_token"  # noqa: S105 - the name of a kind


def _file_help(what: str, variable: str) -> str:
    return f"File with the {what}; else {variable} in the environment, else standard input (also as -)."


_SecretFileOption = Annotated[
    Path | None,
    typer.Option(
        "--client-secret-file",
        metavar="FILE",
        help=_file_help("OAuth 2 secret", inputs.CLIENT_SECRET_VARIABLE),
    ),
]
_PublicOption = Annotated[
    bool, typer.Option("--public", help="The App has no secret; neither look for one nor ask.")
]
_TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help=_file_help("token", inputs.TOKEN_VARIABLE)),
]
_ResourceOption = Annotated[
    str,
    typer.Option(
        "--resource", metavar="URI", help="Where the access token is for; needed if several were granted."
    ),
]


@app.command()
def exchange(  # noqa: PLR0913 - one for each field of the request
    client_id: ClientIdOption,
    redirect_uri: Annotated[str, typer.Option(metavar="URI", help="The one that the code was issued for.")],
    resource: _ResourceOption = "",
    code_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help=_file_help("code", inputs.CODE_VARIABLE))
    ] = None,
    code_verifier_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=_file_help("PKCE verifier", inputs.CODE_VERIFIER_VARIABLE)),
    ] = None,
    client_secret_file: _SecretFileOption = None,
    credentials: CredentialsOption = None,
    *,
    public: _PublicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Redeem a code.

    Code, verifier and client secret come from files or the environment. Those that do not are read from
    standard input, a line each, in this order; a terminal asks without echo. The credentials file only says
    where the authority is.
    """
    code = inputs.read_secret("code", option="--code-file", file=code_file, variable=inputs.CODE_VARIABLE)
    code_verifier = inputs.read_secret(
        "code verifier",
        option="--code-verifier-file",
        file=code_verifier_file,
        variable=inputs.CODE_VERIFIER_VARIABLE,
        optional=True,
    )
    client_secret = _client_secret(client_secret_file, public=public)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.as_client.ExchangeToken,
            pb.ExchangeTokenRequest(
                code=code,
                redirect_uri=redirect_uri,
                code_verifier=code_verifier,
                client_id=client_id,
                client_secret=client_secret,
                resource=resource,
            ),
        )
    _show_tokens(answer, as_json=as_json)


@app.command()
def refresh(
    client_id: ClientIdOption,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="A part of those granted; may be repeated.")
    ] = None,
    resource: _ResourceOption = "",
    refresh_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=_file_help("refresh token", inputs.REFRESH_TOKEN_VARIABLE)),
    ] = None,
    client_secret_file: _SecretFileOption = None,
    credentials: CredentialsOption = None,
    *,
    public: _PublicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Renew an access token.

    Refresh token and client secret come from files or the environment. Those that do not are read from
    standard input, a line each, in this order; a terminal asks without echo. The credentials file only says
    where the authority is.
    """
    refresh_token = inputs.read_secret(
        "refresh token",
        option="--refresh-token-file",
        file=refresh_token_file,
        variable=inputs.REFRESH_TOKEN_VARIABLE,
    )
    client_secret = _client_secret(client_secret_file, public=public)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.as_client.Refresh,
            pb.RefreshRequest(
                refresh_token=refresh_token,
                scopes=scope or (),
                client_id=client_id,
                client_secret=client_secret,
                resource=resource,
            ),
        )
    _show_tokens(answer, as_json=as_json)


@app.command()
def token_exchange(
    client_id: ClientIdOption,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="A part of the token's; may be repeated.")
    ] = None,
    resource: Annotated[
        str, typer.Option(metavar="URI", help="Where the access token is for; needed if there are several.")
    ] = "",
    token_file: _TokenFileOption = None,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Exchange an API token for an access token (RFC 8693).

    The API token comes from a file or the environment, else from standard input; a terminal asks without
    echo. The credentials file only says where the authority is.
    """
    request = pb.TokenExchangeRequest(
        subject_token=_token(token_file),
        subject_token_type=_API_TOKEN_TYPE,
        scopes=scope or (),
        resource=resource,
        client_id=client_id,
    )
    with connect(credentials) as authority:
        answer = authority.call(authority.as_client.TokenExchange, request)
    _show_tokens(answer, as_json=as_json)


@app.command()
def revoke(
    client_id: ClientIdOption,
    token_file: _TokenFileOption = None,
    client_secret_file: _SecretFileOption = None,
    credentials: CredentialsOption = None,
    *,
    public: _PublicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Revoke a grant by its refresh token, or one access token.

    As the App that it was issued to.

    Token and client secret come from files or the environment. Those that do not are read from standard
    input, a line each, in this order; a terminal asks without echo. An unknown token, or another App's, is
    not an error (RFC 7009 §2.2).
    """
    token = _token(token_file)
    client_secret = _client_secret(client_secret_file, public=public)
    with connect(credentials) as authority:
        answer = authority.call(
            authority.as_client.RevokeToken,
            pb.RevokeTokenRequest(token=token, client_id=client_id, client_secret=client_secret),
        )
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line("If this token was the App's, it is revoked.")


@app.command()
def introspect(
    token_file: _TokenFileOption = None, credentials: CredentialsOption = None, *, as_json: JsonOption = False
) -> None:
    """Tell what an access or API token means at a service.

    The service is the one whose verifier file is --credentials.

    The token comes from a file or the environment, else from standard input; a terminal asks without
    echo.
    """
    token = _token(token_file)
    with connect(credentials) as authority:
        answer = authority.call(authority.tokens.IntrospectToken, pb.IntrospectTokenRequest(token=token))
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    if not answer.active:
        output.print_line(
            "Not active: unknown, expired, revoked, or not for the service of these credentials."
        )
        return
    output.print_record(
        {
            "Active": "yes",
            "Subject": answer.sub,
            "App ID": answer.client_id,
            "Scopes": answer.scopes,
            "Audience": answer.aud,
            "Issuer": answer.iss,
            "Sent as": answer.token_type,
            "Issued (UTC)": _time(answer.iat),
            "Expires (UTC)": _time(answer.exp) if answer.exp else "never",
            "Token ID": answer.jti,
        }
    )


def _client_secret(file: Path | None, *, public: bool) -> str:
    if public:
        if file is not None:
            raise typer.BadParameter("contradicts --public", param_hint="--client-secret-file")
        return ""
    return inputs.read_secret(
        "client secret",
        option="--client-secret-file",
        file=file,
        variable=inputs.CLIENT_SECRET_VARIABLE,
        optional=True,
    )


def _token(file: Path | None) -> str:
    return inputs.read_secret("token", option="--token-file", file=file, variable=inputs.TOKEN_VARIABLE)


def _show_tokens(
    answer: pb.ExchangeTokenResponse | pb.RefreshResponse | pb.TokenExchangeResponse, *, as_json: bool
) -> None:
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_record(
        {
            "Token type": answer.token_type,
            "Expires in": f"{answer.expires_in} seconds",
            "Scopes": answer.scopes,
        }
    )
    output.print_secret("Access token", answer.access_token)
    if not isinstance(answer, pb.TokenExchangeResponse):
        output.print_secret("Refresh token", answer.refresh_token)


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
