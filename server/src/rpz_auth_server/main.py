"""The program `rpz-auth-server`: its commands."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import urllib.parse
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import backup_command, bootstrap, first_sign_in, keys_command, log, move_command
from rpz_auth_server.doctor.command import doctor
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.handover import Stopped
from rpz_auth_server.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    GrpcAddressOption,
    HttpAddressOption,
    IssuerOption,
    JsonOption,
    ensure_founded,
    failing,
    load_as_started,
    say,
)
from rpz_auth_server.serving import describe_connection, open_authority, run
from rpz_auth_server.setting_values import OFF, connectable
from rpz_auth_server.settings import Settings
from rpz_auth_server.worker import MOVED

_NO_SETTINGS = ("user_name", "as_json")

app = typer.Typer(
    name="rpz-auth-server", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


app.add_typer(keys_command.app, name="keys")
app.command()(backup_command.backup)
app.command()(backup_command.restore)
app.command()(move_command.move)
app.command()(doctor)


def _print_version(value: bool) -> None:  # noqa: FBT001 - called by typer
    if value:
        typer.echo(f"rpz-auth-server {importlib.metadata.version('rpz-auth-server')}")
        raise typer.Exit


@app.callback()
def _commands(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run a token authority, and look after its files.

    Apps, tokens and records are administered by rpz-auth. Exit codes: 0 done; 1 not done, with the reason on
    standard error; 2 wrong usage; 3 from serve, when its database was moved to another.
    """


@app.command()
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
        try:
            uvloop.run(run(settings, os.environ, control=control))
        except DatabaseMoved:
            raise typer.Exit(MOVED) from None
        except Stopped:
            raise typer.Exit from None


@app.command("bootstrap")
def make_administrator(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    grpc_address: GrpcAddressOption = None,
    http_address: HttpAddressOption = None,
    issuer: IssuerOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a new administrator file, as the first start did.

    It takes the place of the one that was there, whose token is revoked. Also while the authority runs, and
    when the old token has expired. Run it as the authority's own user.
    Address and issuer of the last start are known, as long as its file is still there.
    """
    flags = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    with failing():
        settings = load_as_started(flags)
        path = settings.data_dir / bootstrap.FILE_NAME
        asyncio.run(_make_administrator(settings, os.environ, path))
    say(f"administrator: {path}", as_json=as_json, administrator=path)


@app.command("sign-in-link")
def make_sign_in_link(
    user_name: Annotated[str, typer.Argument(help="Whose; a name that nobody has becomes an administrator.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    http_address: HttpAddressOption = None,
    console_address: Annotated[str | None, typer.Option(help="host:port of the console, or off.")] = None,
    issuer: IssuerOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a one-time link to the console for who is locked out.

    It is good on this machine only. Also while the authority runs; run it as the authority's own user.
    Address and issuer of the last start are known, as long as the administrator file is still there.
    """
    flags = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    with failing():
        link = asyncio.run(_make_sign_in_link(load_as_started(flags), os.environ, user_name))
    say(f"open the link in {link}", as_json=as_json, file=link)


async def _make_sign_in_link(settings: Settings, environ: Mapping[str, str], user_name: str) -> Path:
    await ensure_founded(settings)
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    off = settings.console_address == OFF
    address = settings.http_address if off else settings.console_address
    scheme = "https" if off and not settings.insecure else "http"
    path = urllib.parse.urlsplit(settings.issuer).path
    console = f"{scheme}://{connectable(address)}{path}"
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        return await first_sign_in.make_link(authority, settings.data_dir, user_name, console)


async def _make_administrator(settings: Settings, environ: Mapping[str, str], path: Path) -> None:
    await ensure_founded(settings)
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    port = int(settings.grpc_address.rpartition(":")[2])
    if not port:
        raise ConfigurationError("name the port that the authority listens on by --grpc-address")
    connection, recorded = describe_connection(settings, port), bootstrap.read_connection(path)
    if settings.insecure is recorded.get("insecure"):  # else the last start was of another kind
        kept = ("ca_certificate", *bootstrap.CLIENT_PAIR)
        connection |= {name: recorded[name] for name in kept if name in recorded}
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        await bootstrap.replace_administrator(authority, path, connection)


def _supervise(settings: Settings) -> NoReturn:
    """Become the supervisor: another program in this process, since this one has imported grpc."""
    addresses = {"--grpc-address": settings.grpc_address, "--http-address": settings.http_address}
    if settings.console_address != OFF:
        addresses["--console-address"] = settings.console_address
    plan = {
        "command": [sys.executable, "-m", "rpz_auth_server.main", *sys.argv[1:]],
        "workers": settings.workers,
        "addresses": addresses,
        "log_format": settings.log_format,
        "log_level": settings.log_level,
    }
    os.execv(sys.executable, [sys.executable, "-m", "rpz_auth_server.supervisor", json.dumps(plan)])  # noqa: S606 - ourselves


def main() -> None:
    """Run the program."""
    sys.exit(app())


if __name__ == "__main__":
    main()
