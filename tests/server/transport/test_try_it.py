from __future__ import annotations

import asyncio
import json
import os
import subprocess
from asyncio.subprocess import PIPE
from dataclasses import replace

import pytest
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.transport.console.try_it import Connection, Lines, lines_for
from server.authority import ORDERS, TestAuthority

CONNECTION = Connection(
    grpc_address="127.0.0.1:50051",
    issuer="https://auth.example",
    ca_certificate="/tmp/it's $(echo X).pem",  # noqa: S108 - never opened
    insecure=False,
)
APP = App(
    app_id="0f9f3a52-8d0c-4d0e-9c39-6cf1f9b7a001",
    owner="user:x",
    kind=AppKind.BACKEND,
    display_name="Shop",
    created_at=0,
    updated_at=0,
)


@pytest.mark.parametrize("hostile", ["$(id)", "`id`", "';id;'", "&id&", '"$(id)"'])
def test_lines_to_copy_run_nothing_that_the_owner_of_an_app_wrote(hostile: str) -> None:
    app = replace(
        APP,
        redirect_uris=(f"https://shop.example/{hostile}",),
        scopes=frozenset({hostile}),
        resources=frozenset({f"https://orders.example/{hostile}"}),
    )
    fakes = 'curl() { printf \'%s\\n\' "$@"; }\ngrpcurl() { curl "$@"; }\nid() { echo RUN; }\n'
    for way in in_shell(app):
        done = subprocess.run(  # noqa: S603 - what it runs is what is tested
            ["/bin/sh", "-c", fakes + way.text], capture_output=True, text=True, check=True, timeout=10
        )
        assert "RUN" not in done.stdout
        assert hostile not in done.stdout
        assert "X.pem" not in done.stdout.replace("(echo X).pem", "")


def test_lines_in_python_are_python_whatever_the_file_of_the_ca_is_called() -> None:
    hostile = replace(APP, resources=frozenset({"https://x/\"'\\"}))
    for app in (APP, hostile):
        for way in lines_for(app, CONNECTION):
            if way.title.startswith("Python"):
                compile(way.text, "lines", "exec")


def test_frontend_is_offered_nothing_that_takes_a_secret() -> None:
    frontend = replace(APP, kind=AppKind.FRONTEND)
    assert not any("CLIENT_SECRET" in way.text for way in lines_for(frontend, CONNECTION))


async def test_lines_in_the_shell_make_a_protected_call(authority: TestAuthority) -> None:
    client = await authority.create_client()
    app = await authority.store.app(client.app_id)
    ca = authority.bootstrap["ca_certificate"]
    here = replace(CONNECTION, issuer=authority.url, ca_certificate=ca)
    (call,) = [way.text for way in lines_for(app, here) if "protected call" in way.title]
    running = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", call, env={**os.environ, "CLIENT_SECRET": client.secret}, stdout=PIPE, stderr=PIPE
    )
    stdout, _ = await running.communicate()
    told = json.loads(stdout)
    assert (told["active"], told["client_id"], told["aud"]) == (True, client.app_id, ORDERS)


def in_shell(app: App) -> list[Lines]:
    return [way for way in lines_for(app, CONNECTION) if not way.title.startswith("Python")]
