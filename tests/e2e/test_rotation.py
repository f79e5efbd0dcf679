"""Everything that can be rotated, rotated while rightful clients call."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import rpz_auth
from google.protobuf.duration_pb2 import Duration
from rpz.auth.v1 import administration_service_pb2 as admin_pb
from rpz.auth.v1 import administration_service_pb2_grpc as admin_grpc
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import app_service_pb2_grpc as app_grpc
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth import credentials
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.transport.tls.development import ensure_development_files
from support.authority import RESOURCE, AuthorityProcess, Client, reason, running_authority
from support.orders import Service, orders_service

ISSUER = ("--issuer", "https://auth.example")
AHEAD = 10
"""Seconds between publishing a key and its first signature: the shortest that can be set."""
OVERLAP = 3
"""Seconds for which a secret or API token that was replaced goes on."""


class Load:
    """Clients that call again and again, each in a thread of its own."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: list[tuple[str, BaseException]] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, call: Callable[[], object], *, pause: float) -> None:
        def run() -> None:
            while not self._stop.wait(pause):
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - whatever it is, it was a rightful call
                    self.failures.append((name, error))
                    return
                self.calls[name] += 1

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Credentials:
    """A secret and an API token of one App, which are replaced again and again under load."""

    def __init__(self, authority: AuthorityProcess, client: Client) -> None:
        self._authority = authority
        request = token_pb.CreateApiTokenRequest(
            app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE]
        )
        created = authority.tokens.CreateApiToken(request)
        self.client, self.api_token = client, created.api_token
        self._api_token_id = created.record.api_token_id
        self.replaced: list[tuple[Client, str]] = []

    def rotate(self) -> None:
        """Give everybody who calls from now on the successors, while the old ones have some seconds left."""
        app_id, overlap = self.client.app_id, Duration(seconds=OVERLAP)
        secret = self._authority.apps.RotateClientSecret(
            app_pb.RotateClientSecretRequest(app_id=app_id, overlap=overlap)
        )
        token = self._authority.tokens.RotateApiToken(
            token_pb.RotateApiTokenRequest(app_id=app_id, api_token_id=self._api_token_id, overlap=overlap)
        )
        self.replaced.append((self.client, self.api_token))
        self.client, self.api_token = Client(app_id, secret.client_secret), token.api_token
        self._api_token_id = token.record.api_token_id

    def check_replaced(self, service: Service, refresh_token: str) -> None:
        """All that was replaced has ended."""
        assert len(self.replaced) > 2
        for old, api_token in self.replaced:
            with pytest.raises(grpc.RpcError) as refused:
                self._authority.refresh(old, refresh_token)
            assert reason(refused.value) == "CLIENT_INVALID"
            answer = service.answer(credentials.format_basic(old.app_id, api_token))
            assert answer in ("TOKEN_EXPIRED", "TOKEN_INVALID")  # as it was known to the service, or not

    def use(self, service: Service) -> None:
        """Call a service with the API token, and with what it is exchanged for."""
        for credential in (
            credentials.format_basic(self.client.app_id, self.api_token),
            credentials.format_bearer(self.exchange()),
        ):
            answer = service.answer(credential)
            assert answer is None, answer

    def exchange(self) -> str:
        """An access token for the API token."""
        request = token_pb.TokenExchangeRequest(
            client_id=self.client.app_id,
            subject_token=self.api_token,
            subject_token_type="urn:rpz:token-type:api_token",
        )
        return self._authority.anonymous.TokenExchange(request).access_token


def kid_of(access_token: str) -> str:
    header = access_token.split(".", maxsplit=1)[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])


def call_on_a_new_connection(authority: AuthorityProcess) -> None:
    own = rpz_auth.ApiToken(authority.bootstrap["app_id"], authority.bootstrap["api_token"])
    # A pool of its own, or grpc would take the connection that is there.
    options = (("grpc.use_local_subchannel_pool", 1),)
    with rpz_auth.secure_channel(authority.address, own, tls=authority.tls, options=options) as channel:
        stub: Any = app_grpc.AppServiceStub(channel)
        stub.ListApps(app_pb.ListAppsRequest(), timeout=30)


def certificate_of(address: str) -> str:
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_r210_r211_rotating_everything_under_load_fails_no_rightful_call(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    folder.mkdir(mode=0o700)
    # A grant that is refreshed this often is throttled otherwise, which is no failure of a rotation.
    (folder / "rpz-auth.toml").write_text(f"signing_key_publish_ahead = {AHEAD}\nrefresh_limit = 0\n")
    with running_authority(folder, *ISSUER) as authority:
        client = authority.create_client()
        held: Any = authority.exchange(client, authority.issue_code(client))
        first_kid, first_certificate = kid_of(held.access_token), certificate_of(authority.address)
        administrator = rpz_auth.ApiToken(authority.bootstrap["app_id"], authority.bootstrap["api_token"])
        own = Credentials(authority, client)
        load = Load()

        def refresh() -> None:
            nonlocal held
            held = authority.refresh(own.client, held.refresh_token)

        with (
            orders_service(authority.create_verifier(tmp_path / "orders.json")) as service,
            rpz_auth.secure_channel(authority.address, administrator, tls=authority.tls) as channel,
        ):

            def use() -> None:
                answer = service.answer(credentials.format_bearer(held.access_token))
                assert answer is None, answer

            load.start("api token", lambda: own.use(service), pause=0.01)
            load.start("refresh", refresh, pause=0.02)
            load.start("use", use, pause=0.01)
            load.start("connect", lambda: call_on_a_new_connection(authority), pause=0.05)
            try:
                administration: Any = admin_grpc.AdministrationServiceStub(channel)
                new = administration.RotateSigningKey(admin_pb.RotateSigningKeyRequest()).signing_key
                ring = KeyRing.load(folder / "keyring.json")
                ring.with_new_key(mints_from=time.time() + 5).save(folder / "keyring.json")
                (folder / "tls" / "server.pem").unlink()
                ensure_development_files(folder)
                deadline = time.monotonic() + AHEAD + 30
                rotated = 0.0
                while kid_of(held.access_token) != new.kid and not load.failures:
                    assert time.monotonic() < deadline
                    if time.monotonic() > rotated + OVERLAP - 1:  # so that three are alive at times
                        own.rotate()
                        rotated = time.monotonic()
                    time.sleep(0.1)  # the key signs when its time has come, in another process
                time.sleep(OVERLAP)  # so that what the new key signs is used, too
            finally:
                load.stop()
            assert load.failures == []
            assert min(load.calls[name] for name in ("api token", "refresh", "use", "connect")) > 10, (
                load.calls
            )
            own.check_replaced(service, held.refresh_token)
        assert kid_of(held.access_token) != first_kid
        assert certificate_of(authority.address) != first_certificate
        # The refresh token was made with the new master key: its number stands in it.
        assert base64.urlsafe_b64decode(held.refresh_token.removeprefix("rpzr_"))[1:4] == b"\0\0\2"
