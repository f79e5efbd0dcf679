"""Deadlines in words, secrets from a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from rpz_auth_server.cli.inputs import read_deadline
from server.cli.command import PROGRAM, Cli

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    deadline = read_deadline(text, None, now=NOW)
    assert deadline is not None
    assert deadline.ToDatetime(tzinfo=UTC) == NOW + expected


@pytest.mark.parametrize(
    "text", ["", "90", "d", "90 d", "-1d", "1.5h", "1y", "1D", "٣d", "999999999w", "9999999999s"]
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="as in 90d"):
        read_deadline(text, None, now=NOW)


@pytest.mark.parametrize("text", ["2030-06-01T10:00:00Z", "2030-06-01T12:00:00+02:00", "20300601T100000Z"])
def test_time_has_a_zone(text: str) -> None:
    deadline = read_deadline(None, text, now=NOW)
    assert deadline is not None
    assert deadline.ToDatetime(tzinfo=UTC) == datetime(2030, 6, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "2030-06-01", "2030-06-01T10:00:00", "tomorrow", "0001-01-01T00:00:00+14:00"]
)
def test_time_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="with its zone"):
        read_deadline(None, text, now=NOW)


def test_no_deadline_unless_one_is_given_and_never_two() -> None:
    assert read_deadline(None, None, now=NOW) is None
    with pytest.raises(typer.BadParameter, match="give one of"):
        read_deadline("1d", "2030-06-01T10:00:00Z", now=NOW)


def test_terminal_asks_without_echo(cli: Cli) -> None:
    # pty.spawn gives the command a terminal of its own, which this process sees through the two pipes.
    terminal = [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
    environ["TERM"] = "dumb"  # no colours
    arguments = ["--credentials", str(cli.credentials), "tokens", "revoke", "--client-id", "x"]
    with subprocess.Popen(  # noqa: S603 - our own program
        [*terminal, str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = b""
        for prompt, answer in (
            (b"token: ", b"canary-one\n"),
            (b"client secret (empty for none): ", b"canary-two\n"),
        ):
            while not seen.endswith(prompt):
                byte = process.stdout.read(1)
                assert byte, seen
                seen += byte
            process.stdin.write(answer)
            process.stdin.flush()
        seen += process.stdout.read()
    assert process.returncode == 1
    assert b"CLIENT_INVALID: client authentication failed" in seen
    assert b"canary" not in seen


def test_variables_of_the_command_are_no_settings_of_the_server(tmp_path: Path) -> None:
    from rpz_auth_server.cli import inputs, options  # noqa: PLC0415 - all that are called a variable
    from rpz_auth_server.settings import Settings  # noqa: PLC0415 - the other side of the comparison

    names = {
        value
        for module in (inputs, options)
        for name, value in vars(module).items()
        if name.endswith("VARIABLE")
    }
    assert len(names) == 6
    environ = dict.fromkeys(names, "x")
    assert Settings.load({"data_dir": tmp_path}, environ) == Settings.load({"data_dir": tmp_path}, {})
