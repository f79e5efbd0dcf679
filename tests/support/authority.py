"""A real authority in a process of its own, and what a test does with it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import rpz_auth
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import app_service_pb2_grpc as app_grpc
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz.auth.v1 import token_service_pb2_grpc as token_grpc
from rpz_auth.connection_file import VerifierFile

START_TIMEOUT = 150.0  # of a supervisor and its workers, on a machine that does much else
REDIRECT_URI = "https://shop.example/callback"
RESOURCE = "https://orders.example"
CODE_VERIFIER = "correct-horse-battery-staple-correct-horse-battery"
CODE_CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(CODE_VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


@dataclass(frozen=True)
class Client:
    """An App with an OAuth 2 secret."""

    app_id: str
    secret: str = field(repr=False)


class AuthorityProcess:
    """One authority, started by `rpz-auth-server serve` and reached over TLS."""

    def __init__(
        self, data_dir: Path, *flags: str, prefix: Sequence[str] = (), start_timeout: float = START_TIMEOUT
    ) -> None:
        self._start_timeout = start_timeout
        self.data_dir = data_dir
        self.log = data_dir.with_name(f"{data_dir.name}-{os.urandom(4).hex()}.log")
        program = str(Path(sys.executable).with_name("rpz-auth-server"))
        addresses = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
        command = [*prefix, program, "serve", "--data-dir", str(data_dir), *addresses]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, *flags], stdout=subprocess.PIPE, stderr=log, text=True, env=environ
            )
        try:
            self.address, self.url = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        self.bootstrap: dict[str, Any] = json.loads((data_dir / "bootstrap.json").read_text())
        self.tls = (
            grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
            if self.bootstrap["insecure"]
            else grpc.ssl_channel_credentials(Path(self.bootstrap["ca_certificate"]).read_bytes())
        )
        administrator = rpz_auth.ApiToken(self.bootstrap["app_id"], self.bootstrap["api_token"])
        self._channels = [
            rpz_auth.secure_channel(self.address, administrator, tls=self.tls),
            grpc.secure_channel(self.address, self.tls),
        ]
        self.apps = app_grpc.AppServiceStub(self._channels[0])
        self.tokens = token_grpc.TokenServiceStub(self._channels[0])
        """As the administrator."""
        self.anonymous = token_grpc.TokenServiceStub(self._channels[1])
        """Without a credential, for OAuth 2 clients."""

    def _wait_until_ready(self) -> tuple[str, str]:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            assert self.process.stdout is not None
            with self.process.stdout:  # for as long as a worker has it
                for line in self.process.stdout:
                    lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        first = lines.get(timeout=self._start_timeout)
        assert first, f"it ended before it was ready: {self.log.read_text()}"
        assert lines.get(timeout=self._start_timeout).startswith("administrator:")
        last = lines.get(timeout=self._start_timeout)
        assert last.startswith("OAuth 2: ")
        return first.split()[3], last.split()[2]

    def stop(self) -> int:
        """Ask it to stop, as a service manager would, and return its exit code."""
        for channel in self._channels:
            channel.close()
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(timeout=30)

    def create_client(self, **fields: Any) -> Client:
        """Register a backend App with a secret."""
        app = self.apps.CreateApp(
            app_pb.CreateAppRequest(
                app=app_pb.App(
                    **{
                        "kind": app_pb.APP_KIND_BACKEND,
                        "display_name": "shop",
                        "redirect_uris": [REDIRECT_URI],
                        "scopes": ["orders.read", "orders.write"],
                        "resources": [RESOURCE],
                        **fields,
                    }
                )
            )
        ).app
        created = self.apps.CreateClientSecret(app_pb.CreateClientSecretRequest(app_id=app.app_id))
        return Client(app.app_id, created.client_secret)

    def issue_code(self, client: Client, subject: str = "user:1") -> str:
        """Issue a code for a user."""
        return self.tokens.IssueCode(
            token_pb.IssueCodeRequest(
                client_id=client.app_id,
                redirect_uri=REDIRECT_URI,
                scopes=["orders.read"],
                subject=subject,
                code_challenge=CODE_CHALLENGE,
                code_challenge_method="S256",
            )
        ).code

    def exchange(self, client: Client, code: str) -> token_pb.ExchangeTokenResponse:
        """Redeem a code."""
        return self.anonymous.ExchangeToken(exchange_request(client, code))

    def refresh(self, client: Client, refresh_token: str) -> token_pb.RefreshResponse:
        """Renew an access token."""
        return self.anonymous.Refresh(refresh_request(client, refresh_token))

    def revoke_api_token(self, client: Client, api_token_id: str) -> None:
        """Revoke an API token of an App."""
        request = token_pb.RevokeApiTokenRequest(app_id=client.app_id, api_token_id=api_token_id)
        self.tokens.RevokeApiToken(request)

    def revoke(self, client: Client, token: str) -> None:
        """Revoke an access or refresh token, as its client."""
        self.anonymous.RevokeToken(
            token_pb.RevokeTokenRequest(token=token, client_id=client.app_id, client_secret=client.secret)
        )

    @contextlib.contextmanager
    def connect(self) -> Iterator[token_grpc.TokenServiceStub]:
        """Call it on a connection of one's own, without a credential."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.address, self.tls, options) as channel:
            yield token_grpc.TokenServiceStub(channel)

    def create_verifier(self, path: Path, resource: str = RESOURCE) -> Path:
        """Register a service that verifies tokens, and write its file."""
        scopes, resources = ["rpz.introspect", "rpz.verify"], [resource, self.bootstrap["issuer"]]
        app = self.apps.CreateApp(
            app_pb.CreateAppRequest(
                app=app_pb.App(
                    kind=app_pb.APP_KIND_BACKEND, display_name="orders", scopes=scopes, resources=resources
                )
            )
        ).app
        created = self.tokens.CreateApiToken(
            token_pb.CreateApiTokenRequest(app_id=app.app_id, scopes=scopes, resources=resources)
        )
        file = VerifierFile(
            grpc_address=self.address,
            issuer=self.bootstrap["issuer"],
            ca_certificate_pem=Path(self.bootstrap["ca_certificate"]).read_text(),
            app_id=app.app_id,
            api_token=created.api_token,
            resources=(resource,),
        )
        path.write_text(file.write())
        return path


def exchange_request(client: Client, code: str) -> token_pb.ExchangeTokenRequest:
    """What a client sends to redeem a code."""
    return token_pb.ExchangeTokenRequest(
        code=code,
        redirect_uri=REDIRECT_URI,
        code_verifier=CODE_VERIFIER,
        client_id=client.app_id,
        client_secret=client.secret,
    )


def refresh_request(client: Client, refresh_token: str) -> token_pb.RefreshRequest:
    """What a client sends to renew."""
    return token_pb.RefreshRequest(
        refresh_token=refresh_token, client_id=client.app_id, client_secret=client.secret
    )


@contextlib.contextmanager
def running_authority(data_dir: Path, *flags: str) -> Iterator[AuthorityProcess]:
    """An authority that is stopped at the end, whatever happens."""
    authority = AuthorityProcess(data_dir, *flags)
    try:
        yield authority
        assert authority.stop() == 0, authority.log.read_text()
    finally:
        if authority.process.poll() is None:
            authority.kill()


def reason(error: grpc.RpcError) -> str | None:
    """The reason in an error, as text."""
    found = rpz_auth.reason_of(error)
    return None if found is None else str(found)
