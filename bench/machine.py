"""What the operating system says of processes, and of how quiet the machine was; Linux only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, with all its threads, those that ended too."""
    # The process's CPU clock, as clock_getcpuclockid(3) makes it: (~pid << 3) | CPUCLOCK_SCHED.
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE


@contextlib.contextmanager
def on_processors(which: Collection[int]) -> Iterator[None]:
    """Have this thread, and the processes and threads that it starts, run on some processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, which)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def apart() -> tuple[set[int], set[int]]:
    """A processor for the program under measurement, and all others for who measures it."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


@dataclass(frozen=True, slots=True)
class _Reading:
    total: int
    idle: int
    steal: int


class Noise:
    """How much others used the machine from the making of this object on."""

    def __init__(self) -> None:
        """Begin to count."""
        self._before = _read()
        self._own = _own_seconds()

    def describe(self) -> str:
        """In one sentence."""
        now = _read()
        total = max(1, now.total - self._before.total)
        busy = total - (now.idle - self._before.idle)
        own = (_own_seconds() - self._own) * _TICK
        others = max(0.0, busy - own) / total
        steal = (now.steal - self._before.steal) / total
        return (
            f"{os.cpu_count()} processors; others used {others:.0%} of their time, the host took {steal:.1%}"
        )


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read() -> _Reading:
    values = [
        int(value) for value in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    ]
    return _Reading(sum(values), values[3] + values[4], values[7])
