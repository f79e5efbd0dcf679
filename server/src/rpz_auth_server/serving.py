"""An authority that runs: put together from what its data directory holds, served, and ended."""

from __future__ import annotations

import asyncio
import gc
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import bootstrap, first_sign_in, log
from rpz_auth_server.crypto.handles import Handles
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE as KEYRING_VARIABLE
from rpz_auth_server.crypto.passwords import Passwords
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.limits import Limiter
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
from rpz_auth_server.setting_values import OFF, connectable, split_address, split_dns_server
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage import postgres
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Store
from rpz_auth_server.transport import descriptors, ports
from rpz_auth_server.transport.console.running import Running
from rpz_auth_server.transport.console.try_it import Connection
from rpz_auth_server.transport.grpc.server import GrpcServer
from rpz_auth_server.transport.grpc.tls import server_credentials
from rpz_auth_server.transport.http.guard import Guard
from rpz_auth_server.transport.http.server import HttpServer
from rpz_auth_server.transport.http.tls import server_context
from rpz_auth_server.transport.routes import build
from rpz_auth_server.transport.tls.development import DevelopmentFiles
from rpz_auth_server.worker import Life

if TYPE_CHECKING:
    from rpz_auth_server.transport.traces import Traces

_log = structlog.get_logger("rpz_auth_server")

_Take = Callable[[Callable[[], int]], Awaitable[int]]
"""Takes a port, when it is free."""
_YOUNG, _SELDOM = 500, 2_000
"""Objects after which the garbage collector looks at the young ones, and after how many such looks at older
ones; Python's own choice is 700 and 10."""


async def run(settings: Settings, environ: Mapping[str, str], *, control: int | None = None) -> None:
    """Run an authority until a signal asks it to stop.

    Args:
        settings: How.
        environ: May hold the master keys.
        control: The socket of the supervisor, for one of several workers.

    Raises:
        ConfigurationError: It cannot start as it is set up.
        DatabaseMoved: It has ended because it lives on another database now.
        Stopped: It was asked to stop while it waited for its database or its ports.
    """
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    life = Life(control)
    descriptors.raise_limit()

    async with AsyncExitStack() as cleanup:
        traces = _open_traces(cleanup) if settings.traces else None
        patience = (
            0.0
            if settings.is_embedded
            else await wait_for_move(settings.database, life.wait_on, life.stopping)
        )
        if control is None and not patience:  # a supervisor has looked
            # Before the founding: the issuer is derived from a port, and never changes.
            ports.refuse_taken(settings.listens_on)
        take: _Take = partial(patiently, patience, life.stopping)
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
        port = await take(partial(_listen_grpc, server, settings))
        connection = describe_connection(settings, port)
        beside = Running(hub, server.verifiers)
        guard = build(authority, settings, Connection(**connection), beside)
        http = HttpServer(guard, trusted_proxies=settings.trusted_proxies)
        address, console = await _listen_http(http, settings, take, share_port=control is not None)
        await bootstrap.ensure_administrator(authority, settings.data_dir, connection)
        link = await first_sign_in.ensure_first_person(authority, settings.data_dir, console)
        if settings.metrics_address != OFF:
            _serve_metrics(settings, authority, hub, server, guard, cleanup)
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
    """Have the garbage collector leave alone what is there for good, and look seldom at what stays for long.

    Each call leaves one small cycle behind, by the way that grpc finds its method, and nothing more. It is
    young: to look often keeps the looks short, a millisecond or two each. Looks at all that is older go over
    every call that is under way, take tens of milliseconds where a thousand guessers are held back, and find
    a few kilobytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _SELDOM)


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
    settings: Settings,
    authority: Authority,
    hub: Hub,
    server: GrpcServer,
    guard: Guard,
    cleanup: AsyncExitStack,
) -> None:
    from rpz_auth_server.transport.metrics import Metrics  # noqa: PLC0415 - most serve none

    metrics = Metrics(authority, hub, server.verifiers)
    host, port = split_address(settings.metrics_address)
    port = metrics.serve(host, port)
    cleanup.callback(metrics.close)
    server.time_calls(metrics.took)
    guard.time_calls(metrics.took)
    cleanup.callback(asyncio.create_task(metrics.look_forever()).cancel)
    _log.info("metrics are served", port=port)


def _listen_grpc(server: GrpcServer, settings: Settings) -> int:
    # Anew for each try: grpc takes the first certificate out of them, and a second try would find none.
    return server.listen(settings.grpc_address, None if settings.insecure else server_credentials(settings))


async def _listen_http(
    http: HttpServer, settings: Settings, take: _Take, *, share_port: bool
) -> tuple[str, str]:
    """Take the ports of HTTP; return the URL that everybody uses, and that of the console on this machine."""
    context = None if settings.insecure else server_context(settings)
    listen = partial(http.listen, share_port=share_port)
    port = await take(lambda: listen(settings.http_address, context))
    address = f"{'http' if settings.insecure else 'https'}://{connectable(settings.http_address, port)}"
    if settings.console_address == OFF:
        return address, address + urllib.parse.urlsplit(settings.issuer).path
    flag = "--console-address"
    port = await take(lambda: listen(settings.console_address, None, flag=flag))
    return address, _console_url(settings, port)


def _console_url(settings: Settings, port: int) -> str:
    path = urllib.parse.urlsplit(settings.issuer).path
    return f"http://{connectable(settings.console_address, port)}{path}"


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
        store = await postgres.open_store(settings.database)
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
        bounds=settings.bounds,
        query_tokens=settings.query_tokens,
        expiry_warning=settings.expiry_warning,
    )
    return authority, hub


def describe_connection(settings: Settings, port: int) -> dict[str, Any]:
    """How clients on this machine connect, as it stands in the files that are made for them."""
    own_ca = settings.insecure or settings.tls_certificate is not None
    return {
        "grpc_address": connectable(settings.grpc_address, port),
        "issuer": settings.issuer,
        "ca_certificate": None if own_ca else str(DevelopmentFiles.of(settings.data_dir).ca),
        "insecure": settings.insecure,
    }
