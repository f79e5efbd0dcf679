"""`python -m bench [NAME...]`: measure, show, and keep what was measured."""

from __future__ import annotations

import argparse
import importlib
import time
from datetime import UTC, datetime

from bench.machine import Noise
from bench.report import check_places, keep

SUBJECTS: dict[str, str] = {
    "interceptor": "what the interceptor costs a service",
    "authority": "what the authority's calls cost, beside other servers",
    "growth": "how cost grows with the database",
    "refresh-loss": "a client whose every third refresh answer is lost stays signed in",
    "flood": "a rightful client while guesses come as fast as they can",
    "move": "how long a move from SQLite to PostgreSQL takes, and who notices",
    "push": "how fast revocations arrive, and what it costs to tell everybody",
}
"""Each is a module of that name in `bench`, with `run(*, quick: bool) -> Report`; the text is for people."""

SPEED = ("interceptor", "authority", "growth")
"""What is taken when none is named, in less than 25 minutes. Each of the others runs for long by itself: they
look for what only time or numbers bring about."""


def main() -> None:
    """Run the subjects that were named, or those of speed."""
    listed = "\n".join(f"  {name:<14} {what}" for name, what in SUBJECTS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures rpz-auth on this machine; opens no connection beyond it.",
        epilog=f"subjects:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subjects", metavar="NAME", nargs="*", help=f"what to measure; without a name: {', '.join(SPEED)}"
    )
    parser.add_argument("--quick", action="store_true", help="a short look, that is not for quoting")
    parser.add_argument(
        "--keep", action="store_true", help="write the results into docs/performance.md and docs/performance/"
    )
    options = parser.parse_args()
    for name in options.subjects:
        if name not in SUBJECTS:
            parser.error(f"no subject {name!r}; there are {', '.join(SUBJECTS)}")
    subjects = options.subjects or SPEED
    if options.keep and options.quick:
        parser.error("a short look is not for quoting: --keep goes without --quick")
    if options.keep:
        check_places(subjects)
    for name in subjects:
        started, noise = time.monotonic(), Noise()
        print(f"\n# {name}: {SUBJECTS[name]}", flush=True)
        report = importlib.import_module(f"bench.{name.replace('-', '_')}").run(quick=options.quick)
        print(report.markdown(), flush=True)
        circumstances = f"{time.monotonic() - started:.0f} s; {noise.describe()}"
        print(f"\n{circumstances}", flush=True)
        if options.keep:
            keep(name, report, f"Taken on {datetime.now(UTC).date()} in {circumstances}.")


if __name__ == "__main__":
    main()
