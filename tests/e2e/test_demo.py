"""The demonstration: good when all is as it should be, and only then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders"
UNGUARDED = Path(__file__).with_name("unguarded_orders.py")
ENVIRON = {**os.environ, "PYTHONPATH": str(EXAMPLE), "COLUMNS": "80"}
STEP = re.compile(r"^ +([0-9]+) \S")
VERDICT = re.compile(r"^    ([✓✗]) ")
WHOLE_CREDENTIAL = re.compile(
    r"rpz[a-z]_[A-Za-z0-9_-]{8}|eyJ[A-Za-z0-9_-]{8}|Basic [A-Za-z0-9+/]{16}|[\w~-]{43}"
)


def told(output: str) -> list[tuple[int, str]]:
    """The number of each step, with its verdicts."""
    steps: list[tuple[int, str]] = []
    for line in output.splitlines():
        if step := STEP.match(line):
            steps.append((int(step[1]), ""))
        elif verdict := VERDICT.match(line):
            number, verdicts = steps.pop()
            steps.append((number, verdicts + verdict[1]))
    return steps


@pytest.mark.timeout(180)
def test_a124_every_step_is_as_it_should_be_and_no_credential_is_shown_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"], env=ENVIRON, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(done.stdout) == [(number, "✓") for number in range(1, 27)]
    assert re.search(r"^All 26 steps are as they should be", done.stdout, re.MULTILINE)
    assert done.stderr == ""
    assert len(re.findall(r"the stream that ran was ended after [0-9]+ ms", done.stdout)) == 2
    assert "client_secret: rpzs_…" in done.stdout
    assert not WHOLE_CREDENTIAL.search(done.stdout)
    assert "\x1b" not in done.stdout  # colours are for terminals


@pytest.mark.timeout(180)
def test_services_without_the_interceptor_fail_the_demonstration(tmp_path: Path) -> None:
    done = run_with({"unguarded": UNGUARDED}, tmp_path)
    assert done.returncode == 1
    assert told(done.stdout) == [*((number, "✓") for number in range(1, 10)), (10, "✗")]
    assert "NOT AS IT SHOULD BE: expected UNAUTHENTICATED CREDENTIALS_MISSING, got an" in done.stdout
    assert "Stopped at step 10." in done.stdout


@pytest.mark.timeout(180)
def test_ctrl_c_stops_what_the_demonstration_started() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    assert demo.stdout is not None
    with demo, demo.stdout:
        for line in demo.stdout:
            if STEP.match(line) and line.split()[0] == "3":
                break
        children = [
            int(pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        ]
        os.killpg(demo.pid, signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait() == 1
    assert len(children) == 4
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert "Stopped at step" in rest
    assert "Traceback" not in rest


def run_with(programs: dict[str, Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the demonstration with other programs than the example's."""
    program = folder / "demo_with.py"
    named = {name: str(path) for name, path in programs.items()}
    program.write_text(
        "import pathlib, sys\n"
        "from demo.__main__ import main\n"
        f"sys.exit(main({{name: pathlib.Path(path) for name, path in {named!r}.items()}}))\n"
    )
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, program], env=ENVIRON, capture_output=True, text=True, timeout=150, check=False
    )
