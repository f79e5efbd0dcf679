"""Tells the story in the terminal; the exit code is 1 if a step is not as it should be."""

from __future__ import annotations

import io
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from demo.story import tell
from demo.telling import Narrator, StoryEnded

EXAMPLE = Path(__file__).parents[1]
PROGRAMS = {"orders on threads": EXAMPLE / "server_sync.py", "orders on asyncio": EXAMPLE / "server_aio.py"}


def main(programs: Mapping[str, Path] = PROGRAMS) -> int:
    """Tell it of order services by name; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that what was started is stopped
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal knows arrows
    console = Console(highlight=False)
    say = Narrator(console)
    began = time.monotonic()
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="rpz-auth-demo-"))
        try:
            tell(say, Path(folder), cleanup, programs)
        except (StoryEnded, KeyboardInterrupt):
            console.print(f"\nStopped at step {say.told}.", style="bold red")
            return 1
    seconds = time.monotonic() - began
    console.print(f"\nAll {say.good} steps are as they should be ({seconds:.1f} s).", style="bold green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
