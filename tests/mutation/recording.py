"""A plugin of pytest that writes down which test runs which lines, and how long it takes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

OUT = "RPZ_MUTATION_RECORD"
"""Names the file that is written; in the environment, since a plugin takes no arguments."""

_ROOT = Path.cwd()
_recorder = coverage.Coverage(
    data_file=None,
    config_file=False,
    source=[str(_ROOT / "interceptors/src/rpz_auth"), str(_ROOT / "server/src/rpz_auth_server")],
)
_recorder._warn_no_data = False
_recorder.start()  # before anything of the project is imported
_failed: set[str] = set()
_seconds: dict[str, float] = defaultdict(float)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Have all that happens during a test counted as its own."""
    _recorder.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        _recorder.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the time that a test takes, and which cannot prove anything since they fail anyway."""
    _seconds[report.nodeid] += report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write it down: for each file and line the tests that run it, the shortest first."""
    _recorder.stop()
    data = _recorder.get_data()
    lines = {
        str(Path(name).relative_to(_ROOT)): {
            line: sorted(set(tests) - _failed - {""}, key=lambda test: _seconds[test])
            for line, tests in data.contexts_by_lineno(name).items()
        }
        for name in data.measured_files()
    }
    Path(os.environ[OUT]).write_text(json.dumps({"lines": lines, "seconds": _seconds}), encoding="utf-8")
