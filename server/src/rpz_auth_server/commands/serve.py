"""`rpz-auth-server serve`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop

from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    HttpAddressOption,
    IssuerOption,
    failing,
)
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.handover import Stopped
from rpz_auth_server.settings import Settings
from rpz_auth_server.worker import MOVED


def serve(  # noqa: PLR0913, PLR0917 - one for each setting
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    grpc_address: Annotated[str | None, typer.Option(help="host:port to listen on.")] = None,
    http_address: HttpAddressOption = None,
    console_address: Annotated[
        str | None, typer.Option(help="host:port on loopback of the console without TLS, or off.")
    ] = None,
    trusted_proxies: Annotated[
        str | None, typer.Option(help="Networks, by commas, whose x-forwarded-for is believed.")
    ] = None,
    cors_origins: Annotated[
        str | None, typer.Option(help="Origins, by commas, whose pages may call OAuth 2 endpoints.")
    ] = None,
    issuer: IssuerOption = None,
    database: DatabaseOption = None,
    dns_servers: Annotated[
        str | None, typer.Option(help="IP addresses, by commas, to ask for dns: names in whitelists.")
    ] = None,
    query_token_scopes: Annotated[
        str | None, typer.Option(help="Scopes, in one text, that are safe in a URL (?token=).")
    ] = None,
    query_token_lifetime: Annotated[
        float | None, typer.Option(help="Seconds that an API token may live that is taken from a URL.")
    ] = None,
    expiry_warning: Annotated[
        float | None, typer.Option(help="Seconds before its end from which on a credential is warned of.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file of the server's chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM file; demands client certificates signed by these.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error")] = None,
    *,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="No TLS; on loopback only.")] = None,
    reflection: Annotated[
        bool | None, typer.Option("--reflection", help="Offer gRPC reflection to authenticated callers.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that share ports and database; SIGHUP replaces them."),
    ] = None,
    control: Annotated[int | None, typer.Option(hidden=True, help="Of a worker's supervisor.")] = None,
) -> None:
    """Run the authority until SIGTERM or Ctrl-C.

    Every setting can also be given as RPZ_AUTH_<NAME> in the environment, or in a TOML file; the others
    (lifetimes, key periods, heartbeat_interval) only there.
    """
    flags = {name: value for name, value in locals().items() if name != "control"}
    with failing():
        settings = Settings.load(flags, os.environ)
        if settings.workers > 1 and control is None:
            _supervise(settings)
        from rpz_auth_server.serving import run  # noqa: PLC0415 - a supervisor serves nothing

        try:
            uvloop.run(run(settings, os.environ, control=control))
        except DatabaseMoved:
            raise typer.Exit(MOVED) from None
        except Stopped:
            raise typer.Exit from None


def _supervise(settings: Settings) -> NoReturn:
    """Become the supervisor: another program in this process, since this one has imported grpc."""
    plan = {
        "command": [sys.executable, "-m", "rpz_auth_server.main", *sys.argv[1:]],
        "workers": settings.workers,
        "addresses": settings.listens_on,
        "log_format": settings.log_format,
        "log_level": settings.log_level,
    }
    os.execv(sys.executable, [sys.executable, "-m", "rpz_auth_server.supervisor", json.dumps(plan)])  # noqa: S606 - ourselves
