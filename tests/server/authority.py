"""An authority in this process, whose clock and database the test holds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import rpz_auth
import rpz_auth.aio
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2
from rpz.auth.v1 import (
    administration_service_pb2_grpc,
    app_service_pb2,
    app_service_pb2_grpc,
    token_service_pb2,
    token_service_pb2_grpc,
    verification_service_pb2_grpc,
)
from rpz_auth import credentials
from rpz_auth.connection_file import VerifierFile
from rpz_auth.errors import Reason
from rpz_auth.status import DOMAIN, TABLE
from rpz_auth_server import bootstrap, log
from rpz_auth_server.domain.event import AuditRecord
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.live.hub import TASK_NAME, Hub
from rpz_auth_server.serving import describe_connection, open_authority
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.transport.console.running import Running
from rpz_auth_server.transport.console.try_it import Connection
from rpz_auth_server.transport.grpc.patience import LONGEST
from rpz_auth_server.transport.grpc.server import GrpcServer
from rpz_auth_server.transport.grpc.tls import server_credentials
from rpz_auth_server.transport.http.guard import Guard
from rpz_auth_server.transport.http.server import HttpServer
from rpz_auth_server.transport.http.tls import server_context
from rpz_auth_server.transport.oauth.people import People
from rpz_auth_server.transport.routes import build
from rpz_auth_server.transport.traces import Traces

START = 1_700_000_000.25
REDIRECT_URI = "https://shop.example/callback"
ORDERS, STOCK = "https://orders.example", "https://stock.example"
CODE_VERIFIER = "correct-horse-battery-staple-correct-horse-battery"
OTHER_VERIFIER = "another-verifier-of-somebody-else-1234567890"
TIMEOUT = 20.0
UNLIMITED = dict.fromkeys(
    (
        "failure_limit",
        "peer_failure_limit",
        "app_failure_limit",
        "refresh_limit",
        "verification_limit",
        "revocation_limit",
        "change_limit",
    ),
    0,
)
"""Time that stands forgives no failure; tests of the limits set their own."""

Metadata = Sequence[tuple[str, str]]


def challenge_of(verifier: str) -> str:
    """RFC 7636 §4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def basic(user: str, password: str, header: str = "authorization") -> Metadata:
    """Metadata with a Basic credential."""
    return ((header, credentials.format_basic(user, password)),)


def bearer(token: str, header: str = "authorization") -> Metadata:
    """Metadata with a Bearer credential."""
    return ((header, credentials.format_bearer(token)),)


class FakeTime:
    """Wall clock and monotonic clock that stand until they are moved."""

    def __init__(self) -> None:
        self.passed = 0.0

    def wall(self) -> float:
        return START + self.passed

    def monotonic(self) -> float:
        return self.passed


class HeldStore:
    """A store whose methods fail, or wait, when the test says so."""

    def __init__(self, store: SqliteStore) -> None:
        self.inner = store
        self.faults: dict[str, Exception] = {}
        """By method; raised instead of calling it."""
        self.before: dict[str, Callable[..., Awaitable[None]]] = {}
        """By method; awaited, with its arguments, before calling it."""
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}
        """By method; awaited before its answer is handed over."""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name in ("now", "write_load"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            task = asyncio.current_task()
            if task is None or task.get_name() != TASK_NAME:
                self.calls.append(name)
            if name in self.before:
                await self.before[name](*args, **kwargs)
            if name in self.faults:
                raise self.faults[name]
            answer = await method(*args, **kwargs)
            if name in self.after:
                await self.after[name]()
            return answer

        return call


@dataclass(frozen=True)
class Refused:
    """How a call was refused."""

    reason: Reason | None
    code: grpc.StatusCode
    text: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare with a reason: the code must be the one of the table, or the refusal is of another kind."""
        if isinstance(other, Reason):
            return self.reason is other and self.code is TABLE[other].grpc
        return isinstance(other, Refused) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment] # compared with two types


async def outcome(call: Awaitable[Any]) -> Any:
    """The answer of a call, or how it was refused."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)


async def refusal(call: Awaitable[Any]) -> Refused:
    """How a call was refused; an answer is a failure of the test."""
    found = await outcome(call)
    assert isinstance(found, Refused), f"was not refused: {type(found).__name__}"
    return found


def read_refusal(error: grpc.aio.AioRpcError) -> Refused:
    """Read an error, and check that it carries at most one ErrorInfo, of our domain (AIP-193)."""
    infos = []
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], error.details())
            infos += [detail for detail in status.details if detail.Is(_INFO)]
    if not infos:
        return Refused(None, error.code(), error.details() or "")
    (packed,) = infos
    info = error_details_pb2.ErrorInfo.FromString(packed.value)
    assert info.domain == DOMAIN
    return Refused(Reason(info.reason), error.code(), error.details() or "", dict(info.metadata))


_INFO = error_details_pb2.ErrorInfo.DESCRIPTOR


@dataclass(frozen=True)
class Client:
    """An App with an OAuth 2 secret, or a public one without."""

    app_id: str
    secret: str = field(default="", repr=False)

    @property
    def body(self) -> dict[str, str]:
        """Its credentials as fields of a message."""
        return {"client_id": self.app_id, "client_secret": self.secret}


class Stubs:
    """The services over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        # Typed for synchronous channels; the stubs know no other.
        self.tokens: Any = token_service_pb2_grpc.TokenServiceStub(channel)
        self.apps: Any = app_service_pb2_grpc.AppServiceStub(channel)
        self.verification: Any = verification_service_pb2_grpc.VerificationServiceStub(channel)
        self.administration: Any = administration_service_pb2_grpc.AdministrationServiceStub(channel)


class TestAuthority:
    """A running authority with everything that a test may want to do with it."""

    __test__ = False

    def __init__(
        self,
        settings: Settings,
        authority: Authority,
        hub: Hub,
        server: GrpcServer,
        store: HeldStore,
        time: FakeTime | None,
        port: int,
        http_port: int,
    ) -> None:
        self.settings = settings
        self.authority = authority
        self.hub = hub
        self.server = server
        self.guard: Guard
        self.store = store
        self.address = f"127.0.0.1:{port}"
        self.bootstrap: dict[str, Any] = json.loads((settings.data_dir / bootstrap.FILE_NAME).read_text())
        self.ca = Path(self.bootstrap["ca_certificate"]).read_text()
        self.tls = grpc.ssl_channel_credentials(self.ca.encode())
        self._clients: list[httpx.AsyncClient] = []
        self.url = f"https://127.0.0.1:{http_port}"
        self.http = self.http_client()
        self.logged = io.StringIO()
        self.people: People | None = None
        """Who signs in at the authorization endpoint."""
        self._time = time
        self._channels: list[grpc.aio.Channel] = []
        self.anonymous = self.stubs(None)
        self.admin = self.stubs(rpz_auth.ApiToken(self.bootstrap["app_id"], self.bootstrap["api_token"]))

    def stubs(self, credential: rpz_auth.AccessToken | rpz_auth.ApiToken | None) -> Stubs:
        """The services as somebody calls them."""
        channel = (
            grpc.aio.secure_channel(self.address, self.tls)
            if credential is None
            else rpz_auth.aio.secure_channel(self.address, credential, tls=self.tls)
        )
        self._channels.append(channel)
        return Stubs(channel)

    def http_client(self, **options: Any) -> httpx.AsyncClient:
        """Somebody who speaks HTTPS to it, without a credential."""
        trusted = ssl.create_default_context(cadata=self.ca)
        defaults: dict[str, Any] = {"base_url": self.url, "timeout": TIMEOUT, "trust_env": False}
        client = httpx.AsyncClient(verify=trusted, **{**defaults, **options})
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for client in self._clients:
            await client.aclose()

    async def advance(self, seconds: float) -> None:
        """Let time pass, with the heartbeats that it would have had."""
        assert self._time is not None
        self._time.passed += seconds
        await self.hub._pulse()

    async def catch_up(self) -> None:
        """Let the authority's own view learn what was committed."""
        await self.hub._advance()

    def asked(self) -> list[str]:
        """What the store was asked for by calls, and not by what goes on in the background."""
        background = {"heartbeat", "events_after", "wait_for_events", "collect"}
        return [name for name in self.store.calls if name not in background]

    async def audit(self) -> list[AuditRecord]:
        """All audit records."""
        return list(await self.store.inner.audit_records(after=0, limit=1000))

    async def actions(self) -> list[str]:
        """What the audit records say was done."""
        return [record.audit.action for record in await self.audit()]

    async def create_app(self, as_: Stubs | None = None, **fields: Any) -> app_service_pb2.App:
        """Register an App, a backend for orders unless fields say otherwise."""
        defaults = {
            "kind": app_service_pb2.APP_KIND_BACKEND,
            "display_name": "shop",
            "redirect_uris": [REDIRECT_URI],
            "scopes": ["orders.read", "orders.write"],
            "resources": [ORDERS],
        }
        message = app_service_pb2.App(**{**defaults, **fields})
        request = app_service_pb2.CreateAppRequest(app=message)
        created: app_service_pb2.App = (await (as_ or self.admin).apps.CreateApp(request)).app
        return created

    async def update_app(
        self, app_id: str, *, as_: Stubs | None = None, allow_any_peer: bool = False, **fields: Any
    ) -> app_service_pb2.App:
        """Change these fields of an App."""
        request = app_service_pb2.UpdateAppRequest(
            app=app_service_pb2.App(app_id=app_id, **fields),
            update_mask=FieldMask(paths=[name for name in fields if name != "etag"]),
            allow_any_peer=allow_any_peer,
        )
        updated: app_service_pb2.App = (await (as_ or self.admin).apps.UpdateApp(request)).app
        return updated

    async def create_client(self, **fields: Any) -> Client:
        """Register a backend with a secret."""
        app = await self.create_app(**fields)
        return Client(app.app_id, await self.create_secret(app.app_id))

    async def create_secret(self, app_id: str) -> str:
        """A new OAuth 2 secret."""
        request = app_service_pb2.CreateClientSecretRequest(app_id=app_id)
        return str((await self.admin.apps.CreateClientSecret(request)).client_secret)

    async def create_public_client(self, **fields: Any) -> Client:
        """Register a frontend."""
        return Client((await self.create_app(kind=app_service_pb2.APP_KIND_FRONTEND, **fields)).app_id)

    async def create_api_token(
        self, app_id: str, scopes: Sequence[str], resources: Sequence[str], **fields: Any
    ) -> token_service_pb2.CreateApiTokenResponse:
        """A new API token."""
        request = token_service_pb2.CreateApiTokenRequest(
            app_id=app_id, scopes=scopes, resources=resources, **fields
        )
        created: token_service_pb2.CreateApiTokenResponse = await self.admin.tokens.CreateApiToken(request)
        return created

    async def app_with(self, *scopes: str, **fields: Any) -> tuple[str, Stubs]:
        """Register an App whose API token has these scopes at the authority; return its ID and its stubs.

        Other scopes and resources of the App, if there are any, are the token's too.
        """
        issuer = self.settings.issuer
        fields = {"scopes": list(scopes), "resources": [issuer], "redirect_uris": [], **fields}
        app = await self.create_app(**fields)
        created = await self.create_api_token(app.app_id, app.scopes, app.resources)
        return app.app_id, self.stubs(rpz_auth.ApiToken(app.app_id, created.api_token))

    async def create_verifier(
        self, *resources: str, scopes: Sequence[str] = ("rpz.verify", "rpz.introspect")
    ) -> tuple[rpz_auth.ApiToken, Stubs]:
        """Register a service that protects these resources."""
        places = [self.settings.issuer, *(resources or (ORDERS,))]
        app = await self.create_app(display_name="orders", redirect_uris=[], scopes=scopes, resources=places)
        created = await self.create_api_token(app.app_id, scopes, places)
        credential = rpz_auth.ApiToken(app.app_id, created.api_token)
        return credential, self.stubs(credential)

    async def verifier_file(self, path: Path, *resources: str) -> Path:
        """A verifier file as `rpz-auth apps create --verifier` writes it."""
        credential, _ = await self.create_verifier(*resources)
        file = VerifierFile(
            grpc_address=self.address,
            issuer=self.settings.issuer,
            ca_certificate_pem=self.ca,
            app_id=credential.app_id,
            api_token=credential.token,
            resources=resources or (ORDERS,),
        )
        await asyncio.to_thread(path.write_text, file.write())
        return path

    async def issue_code(self, client: Client, *, as_: Stubs | None = None, **fields: Any) -> str:
        """Issue a code for a user who consents to `orders.read`."""
        return str((await (as_ or self.admin).tokens.IssueCode(code_request(client, **fields))).code)

    async def exchange(
        self, client: Client, code: str, *, metadata: Metadata = (), **fields: Any
    ) -> token_service_pb2.ExchangeTokenResponse:
        """Redeem a code."""
        request = exchange_request(client, code, **fields)
        answer: token_service_pb2.ExchangeTokenResponse = await self.anonymous.tokens.ExchangeToken(
            request, metadata=metadata, timeout=TIMEOUT
        )
        return answer

    async def sign_in(self, client: Client, **fields: Any) -> token_service_pb2.ExchangeTokenResponse:
        """Issue a code and redeem it."""
        return await self.exchange(client, await self.issue_code(client, **fields))

    async def refresh(
        self, client: Client, refresh_token: str, *, metadata: Metadata = (), **fields: Any
    ) -> token_service_pb2.RefreshResponse:
        """Renew."""
        request = token_service_pb2.RefreshRequest(refresh_token=refresh_token, **{**client.body, **fields})
        answer: token_service_pb2.RefreshResponse = await self.anonymous.tokens.Refresh(
            request, metadata=metadata, timeout=TIMEOUT
        )
        return answer

    async def is_alive(self, access_token: str, resource: str = ORDERS) -> bool:
        """Ask, as a service that protects the resource, whether an access token or API token is good."""
        await self.catch_up()
        _, verifier = await self.create_verifier(resource)
        request = token_service_pb2.IntrospectTokenRequest(token=access_token)
        return bool((await verifier.tokens.IntrospectToken(request)).active)


def code_request(client: Client, **fields: Any) -> token_service_pb2.IssueCodeRequest:
    """What a sign-in service sends."""
    defaults = {
        "client_id": client.app_id,
        "redirect_uri": REDIRECT_URI,
        "scopes": ["orders.read"],
        "subject": "user:1",
        "code_challenge": challenge_of(CODE_VERIFIER),
        "code_challenge_method": "S256",
    }
    return token_service_pb2.IssueCodeRequest(**{**defaults, **fields})


def exchange_request(client: Client, code: str, **fields: Any) -> token_service_pb2.ExchangeTokenRequest:
    """What a client sends to redeem a code."""
    defaults = {
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": CODE_VERIFIER,
        **client.body,
    }
    return token_service_pb2.ExchangeTokenRequest(**{**defaults, **fields})


@contextlib.contextmanager
def _logging() -> Iterator[io.StringIO]:
    """Log as the program does, and see at the end that nothing had to be struck out."""
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()
    logging.getLogger("httpx").setLevel("WARNING")  # the tests' own client would log its URLs
    log.configure(log_format="json", log_level="info", stream=stream)
    try:
        yield stream
        assert "[redacted]" not in stream.getvalue()
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()


@contextlib.asynccontextmanager
async def running_authority(
    data_dir: Path,
    *,
    time: FakeTime | None = None,
    people: People | None = None,
    traces: Traces | None = None,
    longest_call: float = LONGEST,
    **fields: Any,
) -> AsyncIterator[TestAuthority]:
    """Start an authority on a free port, over TLS; with the machine's clocks when no time is given."""
    settings = Settings(data_dir=data_dir, grpc_address="127.0.0.1:0", **{**UNLIMITED, **fields})
    held: list[HeldStore] = []

    async def open_store(path: Path) -> Any:
        clocks: dict[str, Any] = {} if time is None else {"clock": time.wall, "monotonic": time.monotonic}
        held.append(HeldStore(await SqliteStore.open(path, **clocks)))
        return held[0]

    async with AsyncExitStack() as cleanup:
        logged = cleanup.enter_context(_logging())
        authority, hub = await open_authority(settings, {}, cleanup, open_store=open_store, traces=traces)
        server = GrpcServer(
            authority,
            hub,
            offer_reflection=settings.reflection,
            trusted_proxies=settings.trusted_proxies,
            streams_per_verifier=settings.streams_per_verifier,
            longest_call=longest_call,
            traces=traces,
        )
        port = server.listen(settings.grpc_address, server_credentials(settings))
        connection = describe_connection(settings, port)
        await bootstrap.ensure_administrator(authority, data_dir, connection)
        await server.start()
        beside = Running(hub, server.verifiers)
        guard = build(authority, settings, Connection(**connection), beside, people=people)
        http = HttpServer(guard, trusted_proxies=settings.trusted_proxies)
        http_port = http.listen(settings.http_address, server_context(settings))
        await http.start()
        running = TestAuthority(settings, authority, hub, server, held[0], time, port, http_port)
        running.guard = guard
        running.logged = logged
        running.people = people
        try:
            yield running
        finally:
            held[0].faults.clear()
            held[0].before.clear()
            held[0].after.clear()
            await running.close()
            await http.stop()
            await server.stop(hub)
