"""What an examination finds."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class State(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    mend: str = ""
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Check:
    """Makes the findings of one check."""

    name: str

    def ok(self, found: str, mend: str = "") -> Finding:
        """It is as it should be."""
        return Finding(self.name, State.OK, found, mend)

    def warning(self, found: str, mend: str) -> Finding:
        """It works, and should be seen to."""
        return Finding(self.name, State.WARNING, found, mend)

    def error(self, found: str, mend: str) -> Finding:
        """It does not work, or is not safe."""
        return Finding(self.name, State.ERROR, found, mend)

    def all_or(self, problems: Iterator[Finding], fine: str) -> Sequence[Finding]:
        """The problems, or that there are none."""
        return list(problems) or [self.ok(fine)]
