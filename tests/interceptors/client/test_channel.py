"""What the channels of the client really send, over TLS to a server that echoes it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import rpz_auth
import rpz_auth.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rpz_auth.client import Header, channel_credentials

Credential = rpz_auth.AccessToken | rpz_auth.ApiToken
APP_ID = "00000000-0000-4000-8000-000000000001"
ACCESS_TOKEN = rpz_auth.AccessToken("header.payload.signature")
API_TOKEN = rpz_auth.ApiToken(APP_ID, "rpzt_secret")
BEARER = "Bearer header.payload.signature"
BASIC = "Basic MDAwMDAwMDAtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAxOnJwenRfc2VjcmV0"
CREDENTIALS = [pytest.param(ACCESS_TOKEN, BEARER, id="Bearer"), pytest.param(API_TOKEN, BASIC, id="Basic")]
HEADERS: list[Header] = ["authorization", "x-rpz-auth"]


def certificate() -> tuple[bytes, bytes]:
    """A throw-away key and its self-signed certificate for the loopback address, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        signed.public_bytes(serialization.Encoding.PEM),
    )


class Echo(grpc.GenericRpcHandler):
    """Answers every call, as a stream, with the metadata that arrived."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        def handle(_messages: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            self.calls.append([(key, str(value)) for key, value in context.invocation_metadata()])
            yield json.dumps(self.calls[-1]).encode()

        return grpc.stream_stream_rpc_method_handler(handle)


class Server:
    def __init__(self, echo: Echo, port: int, certificate: bytes) -> None:
        self.echo = echo
        self.target = f"127.0.0.1:{port}"
        self.tls = grpc.ssl_channel_credentials(certificate)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    key, signed = certificate()
    echo = Echo()
    served = grpc.server(ThreadPoolExecutor(2), handlers=[echo], options=[("grpc.so_reuseport", 0)])
    port = served.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, signed)]))
    served.start()
    yield Server(echo, port, signed)
    served.stop(None).wait()


def method(channel: Any) -> Any:
    """A method with one message each way; the stubs know no untyped ones."""
    return channel.unary_unary("/a.B/C")


def stream_method(channel: Any) -> Any:
    return channel.stream_stream("/a.B/D")


def sent(answer: bytes) -> list[list[str]]:
    """The fields of the answer that carry credentials."""
    return [pair for pair in json.loads(answer) if pair[0] in HEADERS]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("credential", "value"), CREDENTIALS)
def test_r080_a_channel_sends_its_credential_once_with_every_call(
    server: Server, credential: Credential, value: str, header: Header
) -> None:
    with rpz_auth.secure_channel(server.target, credential, header=header, tls=server.tls) as channel:
        unary = method(channel)
        stream = stream_method(channel)
        answers = [unary(b""), unary(b""), *stream(iter([b"", b""]))]
    assert [sent(answer) for answer in answers] == [[[header, value]]] * 3


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("credential", "value"), CREDENTIALS)
async def test_r080_an_asyncio_channel_sends_its_credential_once_with_every_call(
    server: Server, credential: Credential, value: str, header: Header
) -> None:
    async with rpz_auth.aio.secure_channel(
        server.target, credential, header=header, tls=server.tls
    ) as channel:
        unary = method(channel)
        stream = stream_method(channel)
        answers = [await unary(b""), await unary(b"")]
        answers += [answer async for answer in stream(iter([b"", b""]))]
    assert [sent(answer) for answer in answers] == [[[header, value]]] * 3


def test_authorization_stays_free_for_the_service_beside_x_rpz_auth(server: Server) -> None:
    with rpz_auth.secure_channel(server.target, API_TOKEN, header="x-rpz-auth", tls=server.tls) as channel:
        answer = method(channel)(b"", metadata=[("authorization", "AWS4 own")])
    assert sorted(sent(answer)) == [["authorization", "AWS4 own"], ["x-rpz-auth", BASIC]]


def test_the_standard_header_is_the_default_and_options_reach_the_channel(server: Server) -> None:
    options = [("grpc.primary_user_agent", "orders-client")]
    with rpz_auth.secure_channel(server.target, API_TOKEN, tls=server.tls, options=options) as channel:
        answer = method(channel)(b"")
    assert sent(answer) == [["authorization", BASIC]]
    assert any(
        key == "user-agent" and value.startswith("orders-client ") for key, value in json.loads(answer)
    )


async def test_options_reach_the_asyncio_channel(server: Server) -> None:
    options = [("grpc.primary_user_agent", "orders-client")]
    async with rpz_auth.aio.secure_channel(
        server.target, API_TOKEN, tls=server.tls, options=options
    ) as channel:
        answer = await method(channel)(b"")
    assert sent(answer) == [["authorization", BASIC]]
    assert any(
        key == "user-agent" and value.startswith("orders-client ") for key, value in json.loads(answer)
    )


def test_a_server_that_nobody_vouches_for_sees_no_credential(server: Server) -> None:
    server.echo.calls.clear()
    for tls in (None, grpc.ssl_channel_credentials(certificate()[1])):
        with rpz_auth.secure_channel(server.target, API_TOKEN, tls=tls) as channel:
            with pytest.raises(grpc.RpcError) as failed:
                method(channel)(b"")
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.echo.calls == []


@pytest.mark.parametrize(
    "header",
    ["Authorization", "X-RPZ-Auth", "", "cookie", "x-api-key", "authorization-bin", "authorization ", None],
)
def test_another_header_is_an_error_at_once(header: Any) -> None:
    with pytest.raises(rpz_auth.ConfigurationError, match="in authorization or x-rpz-auth"):
        channel_credentials(API_TOKEN, header=header)
    with pytest.raises(rpz_auth.ConfigurationError):
        rpz_auth.secure_channel("127.0.0.1:1", API_TOKEN, header=header)
    with pytest.raises(rpz_auth.ConfigurationError):
        rpz_auth.aio.secure_channel("127.0.0.1:1", API_TOKEN, header=header)


NOT_SENDABLE: list[Credential] = [
    rpz_auth.AccessToken(""),
    rpz_auth.AccessToken("secret-word\n"),
    rpz_auth.AccessToken("secret-word "),
    rpz_auth.AccessToken(" secret-word"),
    rpz_auth.AccessToken("Bearer secret-word"),
    rpz_auth.AccessToken("secret-word,"),
    rpz_auth.AccessToken("secret-wörd"),
    rpz_auth.AccessToken('"secret-word"'),
    rpz_auth.AccessToken("secret-word" * 1000),
    rpz_auth.ApiToken("", "secret-word"),
    rpz_auth.ApiToken(APP_ID, ""),
    rpz_auth.ApiToken(APP_ID, "secret-word\n"),
    rpz_auth.ApiToken(APP_ID, "secret-word\r"),
    rpz_auth.ApiToken(APP_ID, "secret-word\0"),
    rpz_auth.ApiToken(APP_ID + "\n", "secret-word"),
    rpz_auth.ApiToken(APP_ID + ":x", "secret-word"),
    rpz_auth.ApiToken(APP_ID, "secret-word" * 1000),
]


@pytest.mark.parametrize("credential", NOT_SENDABLE, ids=range(len(NOT_SENDABLE)))
def test_a_credential_that_no_header_can_carry_is_an_error_that_does_not_tell_it(
    credential: Credential,
) -> None:
    with pytest.raises(rpz_auth.ConfigurationError, match="was it read from a file") as refused:
        channel_credentials(credential)
    assert "secret-w" not in str(refused.value)


@pytest.mark.parametrize("credential", [ACCESS_TOKEN, API_TOKEN])
def test_no_text_of_a_credential_shows_its_token(credential: Credential) -> None:
    for text in (
        repr(credential),
        str(credential),
        f"{credential}",
        repr([credential]),
        f"{credential!r:>90}",
    ):
        assert credential.token not in text
        assert credential.field_value() not in text
    assert repr(API_TOKEN) == f"ApiToken(app_id='{APP_ID}')"


def test_the_field_values_are_those_of_the_rfcs() -> None:
    assert (ACCESS_TOKEN.field_value(), API_TOKEN.field_value()) == (BEARER, BASIC)
