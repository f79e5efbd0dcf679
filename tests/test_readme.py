"""What the README shows works, in environments that hold nothing but what it says."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.errors import Reason
from rpz_auth.status import TABLE
from support.authority import CODE_VERIFIER, RESOURCE, AuthorityProcess, running_authority

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The code block behind a mark `<!-- tested: name -->`."""
    match = re.search(rf"<!-- tested: {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match is not None, name
    return match[1]


def test_the_status_table_is_the_one_that_is_served() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", README, re.MULTILINE)
    assert dict(rows) == {str(reason): TABLE[reason].grpc.name for reason in Reason}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    folder = tmp_path_factory.mktemp("readme")
    with running_authority(folder / "rpz-auth-data") as process:
        yield process


PIP = "pip --python={python} install --quiet --disable-pip-version-check --no-compile"
LOWEST = "uv pip install --python={python} --quiet --resolution=lowest-direct"
"""The oldest of everything that the distribution says it can live with."""


def bare_environment(folder: Path, *distributions: str, install: str) -> Path:
    """A virtual environment with the named distributions of this project, and its Python."""
    venv.create(folder)  # pip works on it from outside
    python = folder / "bin" / "python"
    # Copies, so that builds of several tests at a time do not meet in the work tree.
    sources = [shutil.copytree(ROOT / name, folder / "src" / name) for name in distributions]
    program = [sys.executable, "-m", *install.format(python=python).split()]
    subprocess.run([*program, *sources], check=True)  # noqa: S603 - our own programs
    return python


def environ(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RPZ_AUTH_", "PYTHON"))}
    return {**own, "PYTHONPATH": str(ROOT / "examples" / "orders"), **variables}


def first_line_with(process: subprocess.Popen[str], text: str) -> None:
    """Return once a process has printed a line that contains a text."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    printed = []
    while line := lines.get(timeout=60):
        printed.append(line)
        if text in line:
            return
    pytest.fail("".join(printed))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("distributions", "install"),
    [(("interceptors",), PIP), (("interceptors",), LOWEST), (("interceptors", "server"), PIP)],
    ids=["library", "library with the lowest dependencies", "library and server"],
)
def test_server_and_client_run_with_what_pip_installs(
    distributions: Sequence[str], install: str, authority: AuthorityProcess, tmp_path: Path
) -> None:
    python = bare_environment(tmp_path / "venv", *distributions, install=install)
    work = authority.data_dir.parent / tmp_path.name
    shutil.copytree(authority.data_dir, work / "rpz-auth-data", ignore=shutil.ignore_patterns("*.db*"))
    command = Path(sys.executable).with_name("rpz-auth")
    shell = "\n".join(block("shell").splitlines()[1:])  # the first line activates an environment
    shell = shell.replace("rpz-auth ", f"{command} --credentials rpz-auth-data/bootstrap.json ")
    subprocess.run(["/bin/bash", "-euc", shell], cwd=work, env=environ(), check=True, capture_output=True)  # noqa: S603

    # The port is the only thing that is changed: 50051 may be somebody else's.
    port = str(51000 + os.getpid() % 10000)
    server = block("server.py").replace("50051", port)
    server = server.replace(
        "        server.start()\n", '        server.start()\n        print("ready", flush=True)\n'
    )
    (work / "server.py").write_text(server)
    (work / "client.py").write_text(block("client.py").replace("50051", port))
    renewing = block("renewing.py").replace("50051", port).replace("127.0.0.1:8470", authority.address)
    (work / "renewing.py").write_text(renewing)
    running = subprocess.Popen(  # noqa: S603
        [python, "server.py"],
        cwd=work,
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        first_line_with(running, "ready")
        client = authority.create_client()
        token = authority.tokens.CreateApiToken(
            token_pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
        ).api_token
        user = {"CLIENT_ID": client.app_id, "CLIENT_SECRET": client.secret}
        code = {"CODE": authority.issue_code(client), "CODE_VERIFIER": CODE_VERIFIER}
        # The third takes the user's grant from the file that the second left.
        called = [
            subprocess.run(  # noqa: S603
                [python, program],
                cwd=work,
                env=environ(APP_ID=client.app_id, API_TOKEN=token, **variables),
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for program, variables in (
                ("client.py", {}),
                ("renewing.py", {**user, **code}),
                ("renewing.py", user),
            )
        ]
    finally:
        running.terminate()
        running.wait(timeout=30)
        assert running.stdout is not None
        running.stdout.close()
    assert [re.findall(r'requested_by: "(.*)"', each) for each in called] == [
        [f"app:{client.app_id}"],
        [f"app:{client.app_id}", "user:1"],
        [f"app:{client.app_id}", "user:1"],
    ]


@pytest.mark.timeout(600)
def test_a_proto_with_policies_compiles_with_what_pip_installs(tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv", "interceptors", install=f"{PIP} grpcio-tools")
    proto, compiled = "orders/v1/orders.proto", tmp_path / "orders" / "v1" / "orders_pb2.py"
    compiled.parent.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "orders" / proto, tmp_path / proto)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    policies = "rpz_auth.AuthInterceptor(FakeAuthority(), resource='x', services=['orders.v1.OrderService'])"
    program = f"import rpz_auth, orders.v1.orders_pb2; from rpz_auth.testing import FakeAuthority; {policies}"
    for command in (["/bin/bash", "-euc", block("protoc")], [str(python), "-c", program]):
        subprocess.run(command, cwd=tmp_path, env=environ(PATH=path, PYTHONPATH=""), check=True)  # noqa: S603
    assert compiled.exists()


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(block("test_orders.py"))
    (tmp_path / "server.py").write_text(block("server.py"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"],
        cwd=tmp_path,
        env=environ(),
        check=True,
        capture_output=True,
    )
