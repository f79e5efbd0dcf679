"""A client in another language, made of protos/ alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpz.auth.v1 import token_service_pb2 as pb
from support.authority import (
    CODE_VERIFIER,
    REDIRECT_URI,
    RESOURCE,
    AuthorityProcess,
    running_authority,
)
from support.proxies import missing, program

NODE = Path(__file__).parents[2] / "examples" / "node"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    with running_authority(tmp_path_factory.mktemp("node") / "data") as running:
        yield running


def test_node_signs_in_renews_exchanges_and_revokes(authority: AuthorityProcess) -> None:
    node = program("node")
    if not (NODE / "node_modules").is_dir():
        missing("the packages of examples/node are")
    client = authority.create_client()
    api_token = authority.tokens.CreateApiToken(
        pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
    ).api_token
    port = authority.address.rpartition(":")[2]
    ran = subprocess.run(  # noqa: S603 - our own example
        [node, "tokens.js"],
        cwd=NODE,
        env={
            "PATH": os.environ["PATH"],
            "ADDRESS": f"localhost:{port}",
            "CA": authority.bootstrap["ca_certificate"],
            "CLIENT_ID": client.app_id,
            "CLIENT_SECRET": client.secret,
            "CODE": authority.issue_code(client),
            "CODE_VERIFIER": CODE_VERIFIER,
            "REDIRECT_URI": REDIRECT_URI,
            "API_TOKEN": api_token,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    said = json.loads(ran.stdout)
    assert said["refused"] == {"code": "FAILED_PRECONDITION", "reason": "GRANT_INVALID"}
    for name in ("signedIn", "renewed", "exchanged"):
        answer = said[name]
        assert (answer["token_type"], answer["expires_in"], answer["scopes"]) == (
            "Bearer",
            7200,
            ["orders.read"],
        )
        assert answer["access_token"].count(".") == 2
    assert said["signedIn"]["refresh_token"] != said["renewed"]["refresh_token"]
    assert said["exchanged"]["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
