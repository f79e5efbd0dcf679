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
from typing import Annotated, Any, NoReturn

import typer
import uvloop
from rpz_auth.errors import ConfigurationError, Refusal

from rpz_auth_server import backup_command, bootstrap, first_sign_in, keys_command, log, move_command
from rpz_auth_server.doctor.command import doctor
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.offline import JsonOption, say
from rpz_auth_server.serving import connectable, describe_connection, open_authority, run
from rpz_auth_server.setting_values import OFF
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.postgres.store import PostgresStore
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
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    grpc_address: Annotated[str | None, typer.Option(help="host:port to listen on.")] = None,
    http_address: Annotated[
        str | None, typer.Option(help="host:port of OAuth 2 over HTTPS and the console.")
    ] = None,
    console_address: Annotated[
        str | None, typer.Option(help="host:port on loopback of the console without TLS, or off.")
    ] = None,
    trusted_proxies: Annotated[
        str | None, typer.Option(help="Networks, by commas, whose x-forwarded-for is believed.")
    ] = None,
    cors_origins: Annotated[
        str | None, typer.Option(help="Origins, by commas, whose pages may call OAuth 2 endpoints.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="The https URL that clients know it by.")] = None,
    database: Annotated[
        str | None, typer.Option(help="sqlite:///path/to/file.db or postgresql://user@host/name")
    ] = None,
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
    settings = _load({name: value for name, value in locals().items() if name != "control"})
    if settings.workers > 1 and control is None:
        _supervise(settings)
    try:
        uvloop.run(run(settings, os.environ, control=control))
    except DatabaseMoved:
        raise SystemExit(MOVED) from None
    except (ConfigurationError, Refusal) as error:
        raise SystemExit(f"rpz-auth-server: {error}") from None


@app.command("bootstrap")
def make_administrator(
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    grpc_address: Annotated[str | None, typer.Option(help="host:port that it listens on.")] = None,
    http_address: Annotated[
        str | None, typer.Option(help="host:port of OAuth 2 over HTTPS and the console.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="The https URL that clients know it by.")] = None,
    database: Annotated[
        str | None, typer.Option(help="sqlite:///path/to/file.db or postgresql://user@host/name")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a new administrator file, as the first start did.

    It takes the place of the one that was there, whose token is revoked. Also while the authority runs, and
    when the old token has expired. Run it as the authority's own user.
    Where the file of the last start is still there, its address and issuer hold unless flags say otherwise.
    """
    flags = {
        name: value for name, value in locals().items() if value is not None and name not in _NO_SETTINGS
    }
    path = _load(flags).data_dir / bootstrap.FILE_NAME
    recorded = bootstrap.read_connection(path)
    settings = _load(
        {name: recorded[name] for name in ("grpc_address", "issuer") if name in recorded} | flags
    )
    try:
        asyncio.run(_make_administrator(settings, os.environ, path, recorded))
    except (ConfigurationError, Refusal) as error:
        raise SystemExit(f"rpz-auth-server: {error}") from None
    say(f"administrator: {path}", as_json=as_json, administrator=path)


@app.command("sign-in-link")
def make_sign_in_link(
    user_name: Annotated[str, typer.Argument(help="Whose; a name that nobody has becomes an administrator.")],
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    http_address: Annotated[str | None, typer.Option(help="host:port that it listens on.")] = None,
    console_address: Annotated[str | None, typer.Option(help="host:port of the console, or off.")] = None,
    issuer: Annotated[str | None, typer.Option(help="The https URL that clients know it by.")] = None,
    database: Annotated[str | None, typer.Option(help="sqlite:///path/to/file.db")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a one-time link to the console for who is locked out.

    It is good on this machine only. Also while the authority runs; run it as the authority's own user.
    """
    flags = {
        name: value for name, value in locals().items() if value is not None and name not in _NO_SETTINGS
    }
    recorded = bootstrap.read_connection(_load(flags).data_dir / bootstrap.FILE_NAME)
    settings = _load({name: recorded[name] for name in ("issuer",) if name in recorded} | flags)
    try:
        link = asyncio.run(_make_sign_in_link(settings, os.environ, user_name))
    except (ConfigurationError, Refusal) as error:
        raise SystemExit(f"rpz-auth-server: {error}") from None
    say(f"open the link in {link}", as_json=as_json, file=link)


async def _make_sign_in_link(settings: Settings, environ: Mapping[str, str], user_name: str) -> Path:
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    off = settings.console_address == OFF
    address = settings.http_address if off else settings.console_address
    scheme = "https" if off and not settings.insecure else "http"
    path = urllib.parse.urlsplit(settings.issuer).path
    console = f"{scheme}://{connectable(address, int(address.rpartition(':')[2]))}{path}"
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        return await first_sign_in.make_link(authority, settings.data_dir, user_name, console)


async def _make_administrator(
    settings: Settings, environ: Mapping[str, str], path: Path, recorded: Mapping[str, object]
) -> None:
    if not await _is_there(settings):  # a typing error must not found a second authority
        raise ConfigurationError(
            f"{settings.data_dir} holds no authority; name its data directory by --data-dir, and its "
            "database by --database if that is elsewhere, or found one with `rpz-auth-server serve`"
        )
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    port = int(settings.grpc_address.rpartition(":")[2])
    if not port:
        raise ConfigurationError("name the port that the authority listens on by --grpc-address")
    connection = describe_connection(settings, port)
    kept = ("ca_certificate", "insecure", *bootstrap.CLIENT_PAIR)
    connection |= {name: recorded[name] for name in kept if name in recorded}
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        await bootstrap.replace_administrator(authority, path, connection)


async def _is_there(settings: Settings) -> bool:
    if settings.is_embedded:
        return settings.database_path.exists()
    store = await PostgresStore.open(settings.database)
    try:
        return await store.issuer() is not None
    finally:
        await store.close()


def _load(flags: Mapping[str, Any]) -> Settings:
    try:
        return Settings.load(flags, os.environ)
    except ConfigurationError as error:
        raise SystemExit(f"rpz-auth-server: {error}") from None


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
