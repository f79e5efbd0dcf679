"""The lines that a person copies to call with an App for the first time."""

from __future__ import annotations

import shlex
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from rpz_auth_server.domain.app import App, AppKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How clients reach the authority."""

    grpc_address: str
    issuer: str
    ca_certificate: str | None
    """The file of the development CA; None where the system trusts the certificate, or there is none."""
    insecure: bool


@dataclass(frozen=True, slots=True)
class Lines:
    """One way to call."""

    title: str
    text: str


def lines_for(app: App, connection: Connection) -> Sequence[Lines]:
    """All ways that fit the App, for a POSIX shell and for Python; credentials come from the environment.

    What an App's owner wrote stands in them percent-encoded: an administrator who copies the lines runs them,
    and `$(...)` is a valid part of a URI, and of a scope.
    """
    ways = []
    if app.redirect_uris:
        ways.append(Lines("A person signs in: open this in a browser", _authorize(app, connection)))
    if app.kind is not AppKind.FRONTEND:
        ways += [
            Lines("curl: get an access token by the OAuth 2 secret", _client_credentials(app, connection)),
            Lines("curl: make a protected call with it, here and now", _protected_call(app, connection)),
        ]
    ways += [
        Lines("grpcurl: call a service with an API token", _grpcurl(app, connection)),
        Lines("Python: call a service with an API token", _python(app, connection)),
        Lines("Python: the service, which lets in nobody else", _service(app)),
    ]
    return ways


def _authorize(app: App, connection: Connection) -> str:
    scope = urllib.parse.quote(" ".join(sorted(app.scopes)) or "SCOPE", safe="")
    redirect_uri = urllib.parse.quote(app.redirect_uris[0], safe=":/")
    return (
        "# PKCE: keep the verifier, it redeems the code\n"
        "VERIFIER=$(openssl rand -hex 32)\n"
        'CHALLENGE=$(printf %s "$VERIFIER" | openssl dgst -sha256 -binary'
        " | base64 | tr '+/' '-_' | tr -d '=\\n')\n"
        f'echo "{connection.issuer}/oauth/authorize?response_type=code&client_id={app.app_id}'
        f"&redirect_uri={redirect_uri}&scope={scope}&state=$RANDOM"
        '&code_challenge=$CHALLENGE&code_challenge_method=S256"'
    )


def _client_credentials(app: App, connection: Connection) -> str:
    return (
        f"curl{_curl_ca(connection)} \\\n"
        f"    -u {app.app_id}:$CLIENT_SECRET \\\n"
        f"    -d grant_type=client_credentials -d resource={_resource(app)} \\\n"
        f"    {connection.issuer}/oauth/token"
    )


def _protected_call(app: App, connection: Connection) -> str:
    return (
        "# What the authority says of a token, it tells only the App that the token is for\n"
        f"ACCESS_TOKEN=$(curl -s{_curl_ca(connection)} \\\n"
        f"    -u {app.app_id}:$CLIENT_SECRET \\\n"
        f"    -d grant_type=client_credentials -d resource={_resource(app)} \\\n"
        f'    {connection.issuer}/oauth/token | sed \'s/.*"access_token":"\\([^"]*\\)".*/\\1/\')\n'
        f"curl{_curl_ca(connection)} \\\n"
        f"    -u {app.app_id}:$CLIENT_SECRET -d token=$ACCESS_TOKEN \\\n"
        f"    {connection.issuer}/oauth/introspect"
    )


def _service(app: App) -> str:
    return (
        "# By this file it connects; an administrator makes it once, in a terminal:\n"
        f"#     rpz-auth apps create orders --verifier orders.json --resource {_resource(app)}\n"
        "from concurrent import futures\n\nimport grpc\nimport rpz_auth\n\n"
        'authority = rpz_auth.connect("orders.json")\n'
        "auth = rpz_auth.AuthInterceptor(\n"
        f'    authority, resource="{_resource(app)}", services=["orders.v1.OrderService"]\n'
        ")\n"
        "server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[auth])"
    )


def _resource(app: App) -> str:
    return urllib.parse.quote(next(iter(sorted(app.resources)), "https://RESOURCE"), safe=":/")


def _grpcurl(app: App, connection: Connection) -> str:
    return (
        f"grpcurl{_grpcurl_tls(connection)} \\\n"
        f'    -H "authorization: Basic $(printf %s "{app.app_id}:$API_TOKEN" | base64 -w0)" \\\n'
        '    -d \'{"order_id": "7"}\' \\\n'
        "    YOUR-SERVICE:50051 orders.v1.OrderService/GetOrder"
    )


def _python(app: App, connection: Connection) -> str:
    tls = (
        "grpc.ssl_channel_credentials()"
        if connection.ca_certificate is None
        else f'grpc.ssl_channel_credentials(open({connection.ca_certificate!r}, "rb").read())'
    )
    return (
        "import os\n\nimport grpc\nimport rpz_auth\n\n"
        f'credential = rpz_auth.ApiToken("{app.app_id}", os.environ["API_TOKEN"])\n'
        f"tls = {tls}\n"
        'with rpz_auth.secure_channel("YOUR-SERVICE:50051", credential, tls=tls) as channel:\n'
        "    ...  # your stub on this channel; each call carries the token"
    )


def _curl_ca(connection: Connection) -> str:
    return "" if connection.ca_certificate is None else f" --cacert {shlex.quote(connection.ca_certificate)}"


def _grpcurl_tls(connection: Connection) -> str:
    return "" if connection.ca_certificate is None else f" -cacert {shlex.quote(connection.ca_certificate)}"
