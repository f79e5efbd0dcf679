from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.transport.console.try_it import Connection, lines_for

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
    for way in lines_for(app, CONNECTION)[:-1]:
        done = subprocess.run(  # noqa: S603 - what it runs is what is tested
            ["/bin/sh", "-c", fakes + way.text], capture_output=True, text=True, check=True, timeout=10
        )
        assert "RUN" not in done.stdout
        assert hostile not in done.stdout
        assert "X.pem" not in done.stdout.replace("(echo X).pem", "")


def test_lines_in_python_are_python_whatever_the_file_of_the_ca_is_called() -> None:
    compile(lines_for(APP, CONNECTION)[-1].text, "lines", "exec")
