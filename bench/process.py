"""A program under measurement: started, asked what it used, stopped."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from bench.machine import cpu_seconds, resident_bytes


class Subject:
    """A module of ours that reads what it shall be from standard input, and says when it is ready."""

    def __init__(self, module: str, spec: object) -> None:
        """Run the `main` of a module."""
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-c", f"import {module}; {module}.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(spec, self._process.stdin)
        self._process.stdin.close()
        self.ready: Any = pickle.load(self._process.stdout)  # noqa: S301 - our own process's

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Used so far."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """In memory now."""
        return resident_bytes(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
