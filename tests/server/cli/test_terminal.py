"""The command on a terminal, with nothing between: a pseudo terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Callable

import pytest
from server.cli.command import PROGRAM, Cli, run

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    cli: Cli, *arguments: str, until: Callable[[str], bool] | None = None, **environ: str
) -> tuple[int, str]:
    """Run it, and press Ctrl-C once `until` is true; return its exit code and all that it showed."""
    own, terminal = pty.openpty()
    base = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [str(PROGRAM), "--credentials", str(cli.credentials), *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**base, "COLUMNS": "80", "TERM": "xterm", "GRPC_VERBOSITY": "NONE", **environ},
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    try:
        while True:
            try:
                part = os.read(own, 4096)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not part:
                break
            shown += part
            if until is not None and until(shown.decode(errors="replace")):
                until = None
                process.send_signal(2)
        return process.wait(timeout=60), shown.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(own)


@pytest.fixture
def kid(cli: Cli) -> str:
    return str(cli.json("signing-keys", "list")["signing_keys"][0]["kid"])


def test_narrow_terminal_cuts_nothing_off(cli: Cli, kid: str) -> None:
    code, shown = on_terminal(cli, "signing-keys", "list")
    assert code == 0
    assert "\x1b[1m" in shown  # headings are bold
    lines = CONTROL.sub("", shown).splitlines()
    assert any(line.split() == ["KEY", "ID", kid] for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_no_color_is_obeyed(cli: Cli) -> None:
    code, shown = on_terminal(cli, "apps", "get", "nobody", NO_COLOR="1")
    assert (code, re.findall(r"\x1b\[[0-9;]*3[0-7]m", shown)) == (1, [])
    assert CONTROL.sub("", shown) == "NOT_FOUND: no such object among those of the caller\n"


def test_ctrl_c_ends_what_follows_and_leaves_no_traceback(cli: Cli) -> None:
    code, shown = on_terminal(
        cli, "audit", "follow", "--since", "1h", until=lambda text: "app.create" in text
    )
    assert (code, "Traceback" in shown) == (0, False)


def test_pipe_gets_neither_colours_nor_columns_of_spaces(cli: Cli) -> None:
    for arguments in (["apps", "list"], ["signing-keys", "list"], ["audit", "list"]):
        result = run(["--credentials", str(cli.credentials), *arguments])
        assert (result.code, "\x1b" in result.out) == (0, False)
        assert result.out.splitlines() == [line.rstrip() for line in result.out.splitlines()]
        assert result.out.count("\n") > 1
