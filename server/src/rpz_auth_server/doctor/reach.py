"""Whether an authority runs, and can be reached as clients reach it."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpz_auth.connection_file import ConnectionFile
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import bootstrap
from rpz_auth_server.doctor.certificates import name_of
from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.setting_values import connectable, split_address
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.oauth import paths
from rpz_auth_server.transport.tls.development import DevelopmentFiles

_CHECK = Check("reachability")
_TIMEOUT = 5.0
_CERTIFICATE = ("handshake", "CERTIFICATE", "certificate", "Hostname Verification")


@dataclass(frozen=True, slots=True)
class _Trust:
    """Whom a client on this machine trusts, and what it shows."""

    ca: str | None
    pair: tuple[str, str] | None = field(default=None, repr=False)


async def check_reachability(settings: Settings) -> Sequence[Finding]:
    """Ask for its health by gRPC, and for its metadata by HTTPS, as anybody may."""
    try:
        trust = _trust(settings)
    except ConfigurationError as error:
        return [_CHECK.error(str(error), "`rpz-auth-server bootstrap` makes another")]
    if settings.tls_client_ca is not None and trust.pair is None:
        return [
            _CHECK.warning(
                "it takes connections only from clients with a certificate, and none is here",
                f"add client_certificate and client_key to {settings.data_dir / bootstrap.FILE_NAME}",
            )
        ]
    listening = await asyncio.gather(*map(_is_listening, (settings.grpc_address, settings.http_address)))
    if not any(listening):
        return [
            _CHECK.warning(
                f"none runs: nothing listens on {settings.grpc_address} or {settings.http_address}",
                "`rpz-auth-server serve` starts it; name its ports by --grpc-address and --http-address",
            )
        ]
    found = [
        *await asyncio.gather(_ask_grpc(settings, trust), _ask_http(settings, trust, settings.http_address))
    ]
    issuer = urlsplit(settings.issuer)
    outside = f"{issuer.hostname}:{issuer.port or 443}"
    if outside.replace("localhost", "127.0.0.1") != settings.http_address.replace("localhost", "127.0.0.1"):
        found.append(await _ask_http(settings, _Trust(None, trust.pair), None))
    return found


def _trust(settings: Settings) -> _Trust:
    path = settings.data_dir / bootstrap.FILE_NAME
    if path.exists():
        file = ConnectionFile.read(path)
        certificate, key = file.client_certificate_pem, file.client_key_pem
        return _Trust(
            file.ca_certificate_pem, None if certificate is None or key is None else (certificate, key)
        )
    ca = DevelopmentFiles.of(settings.data_dir).ca
    made = settings.tls_certificate is None and ca.exists()
    return _Trust(ca.read_text(encoding="ascii") if made else None)


async def _is_listening(address: str) -> bool:
    host, port = split_address(connectable(address))
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _ask_grpc(settings: Settings, trust: _Trust) -> Finding:
    address = connectable(settings.grpc_address)
    options: list[tuple[str, object]] = [("grpc.enable_http_proxy", 0)]
    if not settings.insecure:
        options.append(("grpc.ssl_target_name_override", name_of(settings)))
    async with grpc.aio.secure_channel(address, _channel_credentials(settings, trust), options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(  # type: ignore[attr-defined]  # the stubs lack it
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            return _grpc_failure(settings.grpc_address, error, trust)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return _CHECK.error(
            f"gRPC at {settings.grpc_address} is stopping", "wait until it has, or look at its log"
        )
    return _CHECK.ok(f"gRPC at {settings.grpc_address} serves")


def _channel_credentials(settings: Settings, trust: _Trust) -> grpc.ChannelCredentials:
    if settings.insecure:
        return grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    certificate, key = (text.encode() for text in trust.pair) if trust.pair else (None, None)
    return grpc.ssl_channel_credentials(trust.ca.encode() if trust.ca else None, key, certificate)


def _untrusted(what: str, trust: _Trust) -> Finding:
    text = f"{what} shows a certificate that is not trusted here"
    if trust.ca is not None:
        return _CHECK.error(text, "was it started with other files? Whoever calls must have its CA")
    return _CHECK.warning(text, f"if its CA is your own, name it as ca_certificate in {bootstrap.FILE_NAME}")


def _grpc_failure(address: str, error: grpc.aio.AioRpcError, trust: _Trust) -> Finding:
    details = error.details() or error.code().name
    if any(sign in details for sign in _CERTIFICATE):
        return _untrusted(f"gRPC at {address}", trust)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return _CHECK.error(f"gRPC at {address} does not answer", "look at its log, and who has that port")
    return _CHECK.error(f"gRPC at {address} answers {error.code().name}", "is it an rpz-auth-server?")


async def _ask_http(settings: Settings, trust: _Trust, address: str | None) -> Finding:
    """Read the metadata at an address of this machine, or where the issuer's name leads."""
    issuer = urlsplit(settings.issuer)
    where, extensions = f"{issuer.scheme}://{issuer.netloc}", {}
    if address is not None:
        where = f"{'http' if settings.insecure else 'https'}://{connectable(address)}"
        extensions = {} if settings.insecure else {"sni_hostname": name_of(settings)}
    context = _ssl_context(trust)
    url = where + paths.METADATA + issuer.path
    shown = settings.issuer if address is None else address
    try:
        async with httpx.AsyncClient(verify=context, timeout=_TIMEOUT, trust_env=False) as client:
            answer = await client.get(url, headers={"host": issuer.netloc}, extensions=extensions)
        answer.raise_for_status()
        named = answer.json()["issuer"]
    except httpx.ConnectError as error:
        if any(sign in str(error) for sign in _CERTIFICATE):
            return _untrusted(f"HTTPS at {shown}", trust)
        if address is None:
            return _CHECK.warning(
                f"{settings.issuer} cannot be reached from here", "try it from where clients are"
            )
        return _CHECK.error(f"nothing listens on {shown}", "look at its log")
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return _CHECK.error(
            f"HTTPS at {shown} does not tell its metadata ({type(error).__name__})", "look at its log"
        )
    if named != settings.issuer:
        return _CHECK.error(
            f"at {shown} answers the issuer {named}", "name the right ports or data directory"
        )
    return _CHECK.ok(f"HTTPS at {shown} serves {named}")


def _ssl_context(trust: _Trust) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=trust.ca)
    if trust.pair is not None:
        _show(context, trust.pair)
    return context


def _show(context: ssl.SSLContext, pair: tuple[str, str]) -> None:
    # ssl takes certificates from files only.
    with tempfile.TemporaryDirectory(prefix="rpz-auth-doctor-") as folder:
        path = Path(folder) / "pair.pem"
        path.touch(mode=0o600)
        path.write_text("\n".join(pair), encoding="ascii")
        context.load_cert_chain(path)
