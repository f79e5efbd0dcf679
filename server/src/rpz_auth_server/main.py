"""The program `rpz-auth-server`: reads its settings, puts the authority together, runs it."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import os
import sys
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import structlog
import typer
import uvloop
from rpz_auth.errors import ConfigurationError, Refusal

from rpz_auth_server import backup_command, bootstrap, first_sign_in, keys_command, log, move_command
from rpz_auth_server.crypto.handles import Handles
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE as KEYRING_VARIABLE
from rpz_auth_server.crypto.passwords import Passwords
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.doctor.command import doctor
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.flows.pipeline import Authority
from rpz_auth_server.handover import end_when_moved, patiently, wait_for_move
from rpz_auth_server.live.collector import collect_forever
from rpz_auth_server.live.dns import Dns
from rpz_auth_server.live.endings import tell_forever
from rpz_auth_server.live.expiry import warn_forever
from rpz_auth_server.live.hub import Hub
from rpz_auth_server.live.keyring import follow_keyring
from rpz_auth_server.live.keys import keep_keys_forever
from rpz_auth_server.live.limiter import Sharing, share_forever
from rpz_auth_server.live.recorder import record, record_forever
from rpz_auth_server.live.resolver import Resolver
from rpz_auth_server.offline import JsonOption, say
from rpz_auth_server.setting_values import OFF, split_address, split_dns_server
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.postgres.store import PostgresStore
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Store
from rpz_auth_server.transport.console.running import Running
from rpz_auth_server.transport.console.try_it import Connection
from rpz_auth_server.transport.grpc.server import GrpcServer
from rpz_auth_server.transport.http.app import build
from rpz_auth_server.transport.http.server import HttpServer
from rpz_auth_server.transport.http.tls import server_context
from rpz_auth_server.transport.metrics import Metrics
from rpz_auth_server.transport.tls import DevelopmentFiles, server_credentials
from rpz_auth_server.worker import MOVED, Life

if TYPE_CHECKING:
    from rpz_auth_server.transport.traces import Traces

_log = structlog.get_logger("rpz_auth_server")

_NO_SETTINGS = ("user_name", "as_json")

_YOUNG = 20_000
"""Objects after which the garbage collector looks; Python's own choice is 700."""

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
    standard error; 2 wrong usage.
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
    console = f"{scheme}://{_connectable(address, int(address.rpartition(':')[2]))}{path}"
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


async def run(settings: Settings, environ: Mapping[str, str], *, control: int | None = None) -> None:
    """Run an authority until a signal asks it to stop.

    Args:
        settings: How.
        environ: May hold the master keys.
        control: The socket of the supervisor, for one of several workers.

    Raises:
        ConfigurationError: It cannot start as it is set up.
        DatabaseMoved: It has ended because it lives on another database now.
    """
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    life = Life(control)

    async with AsyncExitStack() as cleanup:
        traces = _open_traces(cleanup) if settings.traces else None
        patience = 0.0 if settings.is_embedded else await wait_for_move(settings.database, life.wait_on)
        authority, hub = await open_authority(settings, environ, cleanup, traces=traces)
        server = GrpcServer(
            authority,
            hub,
            offer_reflection=settings.reflection,
            trusted_proxies=settings.trusted_proxies,
            streams_per_verifier=settings.streams_per_verifier,
            connection_age=None if control is None else settings.connection_age,
            traces=traces,
        )
        if settings.insecure:
            _log.warning("INSECURE: credentials travel without TLS; for development on this machine only")
        credentials = None if settings.insecure else server_credentials(settings)
        port = await patiently(patience, lambda: server.listen(settings.grpc_address, credentials))
        connection = describe_connection(settings, port)
        beside = Running(hub, server.verifiers)
        http = HttpServer(
            build(authority, settings, Connection(**connection), beside),
            trusted_proxies=settings.trusted_proxies,
        )
        address, console = await _listen_http(http, settings, patience, share_port=control is not None)
        await bootstrap.ensure_administrator(authority, settings.data_dir, connection)
        link = await first_sign_in.ensure_first_person(authority, settings.data_dir, console)
        if settings.metrics_address != OFF:
            _serve_metrics(settings, authority, hub, server, cleanup)
        resolver = Resolver(authority.store, Dns(tuple(map(split_dns_server, settings.dns_servers))))
        await resolver.settle()  # while it was down, answers may have become too old
        await hub.catch_up()
        await server.start()
        await http.start()
        for work in (resolver.keep_forever(), *_background_work(authority, settings, environ)):
            cleanup.callback(asyncio.create_task(work).cancel)
        cleanup.callback(asyncio.create_task(end_when_moved(hub.moved, life.stopping)).cancel)
        _settle()
        life.greet(
            f"rpz-auth-server listens on {connection['grpc_address']} as {settings.issuer}\n"
            f"administrator: {settings.data_dir / bootstrap.FILE_NAME}\n"
            f"OAuth 2: {address}\n"
            f"console: {console}{f' (first sign-in: open the link in {link})' if link else ''}"
        )
        if await life.last():
            _log.info("leaving")
            await asyncio.gather(server.leave(life.stopping), http.leave(life.stopping))
        _log.info("stopping")
        await asyncio.gather(server.stop(hub), http.stop())
        await record(authority.store, authority.uses)
    _log.info("stopped")
    if hub.moved.is_set():
        raise DatabaseMoved


def _settle() -> None:
    """Have the garbage collector leave alone what is there for good, and look less often for the rest.

    Calls leave few cycles behind, and yet the collector's youngest generation is soon full of them. Each of
    its looks goes over calls that are still under way, and every hundredth over all that was ever imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)


def _background_work(
    authority: Authority, settings: Settings, environ: Mapping[str, str]
) -> Iterator[Coroutine[Any, Any, None]]:
    yield collect_forever(authority.store, audit_kept=settings.audit_retention)
    yield keep_keys_forever(authority)
    yield share_forever(Sharing(authority.store, authority.limiter))
    yield record_forever(authority.store, authority.uses)
    yield tell_forever(authority)
    yield warn_forever(authority)
    if KEYRING_VARIABLE not in environ:
        yield follow_keyring(settings.keyring_path, authority.keyring)


def _open_traces(cleanup: AsyncExitStack) -> Traces:
    from rpz_auth_server.transport.traces import Traces  # noqa: PLC0415 - what it imports is optional

    traces = Traces.export()
    cleanup.push_async_callback(asyncio.to_thread, traces.close)
    return traces


def _serve_metrics(
    settings: Settings, authority: Authority, hub: Hub, server: GrpcServer, cleanup: AsyncExitStack
) -> None:
    metrics = Metrics(authority, hub, server.verifiers)
    host, port = split_address(settings.metrics_address)
    port = metrics.serve(host, port)
    cleanup.callback(metrics.close)
    server.time_calls(lambda method, seconds: metrics.calls.labels(method).observe(seconds))
    cleanup.callback(asyncio.create_task(metrics.look_forever()).cancel)
    _log.info("metrics are served", port=port)


async def _listen_http(
    http: HttpServer, settings: Settings, patience: float, *, share_port: bool
) -> tuple[str, str]:
    """Take the ports of HTTP; return the URL that everybody uses, and that of the console on this machine."""
    context = None if settings.insecure else server_context(settings)
    listen = partial(http.listen, share_port=share_port)
    port = await patiently(patience, lambda: listen(settings.http_address, context))
    address = f"{'http' if settings.insecure else 'https'}://{_connectable(settings.http_address, port)}"
    if settings.console_address == OFF:
        return address, address + urllib.parse.urlsplit(settings.issuer).path
    flag = "--console-address"
    port = await patiently(patience, lambda: listen(settings.console_address, None, flag=flag))
    return address, _console_url(settings, port)


def _console_url(settings: Settings, port: int) -> str:
    path = urllib.parse.urlsplit(settings.issuer).path
    return f"http://{_connectable(settings.console_address, port)}{path}"


async def open_authority(
    settings: Settings,
    environ: Mapping[str, str],
    cleanup: AsyncExitStack,
    *,
    open_store: Callable[[Path], Awaitable[Store]] = SqliteStore.open,
    traces: Traces | None = None,
) -> tuple[Authority, Hub]:
    """Put an authority together from what its data directory holds, and make what a new one lacks.

    Raises:
        ConfigurationError: What it holds cannot be used.
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"data directory {settings.data_dir}: {error.strerror}") from None
    store: Store
    if settings.is_embedded:
        keyring = bootstrap.open_keyring(settings, environ, is_new=not settings.database_path.exists())
        store = await open_store(settings.database_path)
        cleanup.push_async_callback(store.close)
    else:
        store = await PostgresStore.open(settings.database)
        cleanup.push_async_callback(store.close)
        keyring = bootstrap.open_keyring(settings, environ, is_new=await store.issuer() is None)
    if traces is not None:
        store = traces.watch(store)
    instance = await store.instance()
    signing = SigningKeyring(keyring, issuer=settings.issuer, instance=instance)
    issuer = await bootstrap.found(store, signing, issuer=settings.issuer)
    hub = Hub(store, signing, heartbeat_interval=settings.heartbeat_interval)
    await hub.start()
    cleanup.push_async_callback(hub.stop)
    authority = Authority(
        store=store,
        keyring=keyring,
        handles=Handles(keyring, issuer=settings.issuer, instance=instance),
        signing=signing,
        passwords=Passwords(keyring, issuer=settings.issuer, instance=instance),
        view=hub.view,
        issuer=settings.issuer,
        lifetimes=settings.lifetimes,
        key_times=settings.key_times,
        restored_at=issuer.restored_at,
        limiter=Limiter(settings.limits, store.now),
        query_tokens=settings.query_tokens,
        expiry_warning=settings.expiry_warning,
    )
    return authority, hub


def describe_connection(settings: Settings, port: int) -> dict[str, Any]:
    """How clients on this machine connect, as it stands in the files that are made for them."""
    own_ca = settings.insecure or settings.tls_certificate is not None
    return {
        "grpc_address": _connectable(settings.grpc_address, port),
        "issuer": settings.issuer,
        "ca_certificate": None if own_ca else str(DevelopmentFiles.of(settings.data_dir).ca),
        "insecure": settings.insecure,
    }


def _connectable(address: str, port: int) -> str:
    host = address.rpartition(":")[0]
    if host in ("0.0.0.0", "[::]"):  # noqa: S104 - not to listen on, but to connect to
        host = "localhost"
    return f"{host}:{port}"


def main() -> None:
    """Run the program."""
    sys.exit(app())


if __name__ == "__main__":
    main()
