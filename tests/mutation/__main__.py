"""`scripts/mutate [MODULE...]`: take the guards out, one at a time, and see whether a test notices.

In a copy of the working tree. First the tests run once, to learn which of them run which line; then each
guard is taken out, and the tests that have seen it refuse are run until one fails. What was found is kept in
`.mutation`, so that it goes on where it was stopped; a guard is tried again when its module has changed.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mutation.guards import Mutant, mutants
from mutation.recording import OUT

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".mutation"
TREE = KEPT / "tree"
RESULTS = KEPT / "results.json"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")

LIBRARY, SERVER = "interceptors/src/rpz_auth", "server/src/rpz_auth_server"
PARTS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "library": ([f"{LIBRARY}/**/*.py"], ["tests/interceptors"]),
    "rules": (
        [f"{SERVER}/{folder}/*.py" for folder in ("domain", "crypto")],
        [f"tests/server/{folder}" for folder in ("domain", "crypto")],
    ),
    "flows": (
        [f"{SERVER}/{folder}/*.py" for folder in ("flows", "live")],
        [f"tests/server/{place}" for place in ("flows", "live", "transport/test_oauth_token.py")],
    ),
    "storage": (
        [f"{SERVER}/storage/{place}.py" for place in ("*", "postgres/*")],
        ["tests/server/storage"],
    ),
    "transport": (
        [
            f"{SERVER}/transport/{place}.py"
            for place in ("*", "tls/*", "grpc/*", "oauth/*", "http/*", "console/*")
        ],
        ["tests/server/transport", "tests/server/flows"],
    ),
}
"""Where guards stand, and the tests that hold them; not those of whole processes, which take minutes.

A guard that its own part's tests do not reach is looked for in the parts behind it.
"""
_LEFT_OUT = {f"{LIBRARY}/testing.py"}
_MISSED = ("survived", "unreached", "unproven")
_FEW = 40
_SECONDS = 300
"""After which a run of two hundred tests has failed: a guard less may mean a loop without end."""
_ENOUGH = 90
"""Seconds that the tests which are run took together, at most; some lines are run by all tests."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one guard less."""

    state: str
    """`killed`, `survived`, `unreached` by any test, `unproven` where not all were run, or `equivalent`."""
    by: str = ""
    """The test that noticed; else how many did not, or the reason."""


def main() -> int:
    """Try all guards, or those of some modules."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.split("\n\n")[0])
    parser.add_argument("modules", metavar="MODULE", nargs="*", help="a part of their paths; all without one")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long; 60 without it")
    parser.add_argument(
        "--again", action="store_true", help="try those that no test noticed again, by all tests of today"
    )
    parser.add_argument("--list", action="store_true", help="show the guards, and what is known of each")
    options = parser.parse_args()
    wanted = [
        (part, mutant)
        for part in PARTS
        for mutant in _mutants(part)
        if not options.modules or any(name in str(mutant.path) for name in options.modules)
    ]
    known = _known(wanted, again=options.again)
    if not options.list:
        _try_all(wanted, known, time.monotonic() + 60 * options.minutes, thorough=options.again)
    return _tell(wanted, known, everything=options.list)


def _mutants(part: str) -> Iterator[Mutant]:
    for pattern in PARTS[part][0]:
        for path in sorted(ROOT.glob(pattern)):
            relative = path.relative_to(ROOT)
            if str(relative) not in _LEFT_OUT:
                yield from mutants(relative, path.read_text(encoding="utf-8"))


def _known(wanted: Sequence[tuple[str, Mutant]], *, again: bool) -> dict[str, Outcome]:
    """What was found before of guards whose modules are as they were."""
    reasons = {
        f"{path} {function}: {change}": reason
        for path, functions in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).items()
        for function, changes in functions.items()
        for change, reason in changes.items()
    }
    stray = set(reasons) - {mutant.key for part in PARTS for mutant in _mutants(part)}
    if stray:
        sys.exit(f"{EQUIVALENT.name} names what is no guard: {', '.join(sorted(stray))}")
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known = {}
    for _, mutant in wanted:
        if mutant.key in reasons:
            known[mutant.key] = Outcome("equivalent", reasons[mutant.key])
        elif (found := kept.get(mutant.key)) and found["module"] == _digest_of([ROOT / mutant.path]):
            outcome = Outcome(found["state"], found["by"])
            if _still_there(outcome.by) if outcome.state == "killed" else not again:
                known[mutant.key] = outcome
    return known


def _still_there(test: str) -> bool:
    """Whether the test that noticed is among those of today; what noticed by itself always is."""
    path, _, rest = test.partition("::")
    name = rest.rpartition("::")[2].partition("[")[0]
    return not rest or (
        (ROOT / path).exists() and f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
    )


def _try_all(
    wanted: Sequence[tuple[str, Mutant]], known: dict[str, Outcome], until: float, *, thorough: bool
) -> None:
    left = [(part, mutant) for part, mutant in wanted if mutant.key not in known]
    if not left:
        return
    _copy()
    began, records = time.monotonic(), dict[str, Mapping[str, Any]]()
    for tried, (part, mutant) in enumerate(left, start=1):
        if time.monotonic() > until:
            print(f"out of time; {len(left) - tried + 1} guards are left for the next run", flush=True)
            return
        tests, seconds = _reaching(part, mutant, records)
        outcome = _try(mutant, tests, tests if thorough else _shortest(tests, seconds))
        known[mutant.key] = outcome
        _keep(mutant, outcome)
        pace = (time.monotonic() - began) / tried
        print(
            f"{tried}/{len(left)} {outcome.state:<9} {mutant.path.name}:{mutant.line} "
            f"{mutant.removed[:60]}  ({pace * (len(left) - tried) / 60:.0f} min left)",
            flush=True,
        )


def _reaching(
    part: str, mutant: Mutant, records: dict[str, Mapping[str, Any]]
) -> tuple[Sequence[str], Mapping[str, float]]:
    """The tests that a guard makes a difference to, the shortest first, and how long each takes."""
    names = list(PARTS)
    for name in names[names.index(part) :]:
        if name not in records:
            records[name] = _record(name)
        tests = records[name]["lines"].get(str(mutant.path), {}).get(str(mutant.felt), [])
        if tests or part == "library":
            return tests, records[name]["seconds"]
    return [], {}


def _copy() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git of the path
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    shutil.rmtree(TREE, ignore_errors=True)
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)


def _record(part: str) -> Mapping[str, Any]:
    """Which tests run which lines. Kept; when tests were changed, theirs alone is learned anew."""
    _, folders = PARTS[part]
    sources = [LIBRARY] if part == "library" else [LIBRARY, SERVER]
    modules = _digest_of(path for place in sources for path in sorted((TREE / place).rglob("*.py")))
    tests = {
        str(path.relative_to(TREE)): _digest_of([path])
        for folder in folders
        for path in (
            [TREE / folder] if folder.endswith(".py") else sorted((TREE / folder).rglob("test_*.py"))
        )
    }
    kept = KEPT / f"{part}.json"
    record: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if record.get("modules") != modules:
        record = {"modules": modules, "tests": {}, "lines": {}, "seconds": {}}
    changed = [name for name, digest in tests.items() if record["tests"].get(name) != digest]
    gone = set(record["tests"]) - set(tests)
    _merge(record, {"lines": {}, "seconds": {}}, gone)
    if changed:
        print(
            f"running {len(changed)} files of tests once, to learn which test runs which line ...", flush=True
        )
        fresh = KEPT / "fresh.json"
        fresh.unlink(missing_ok=True)
        _pytest(["-p", "mutation.recording", *changed], timeout=3600, **{OUT: str(fresh)})
        if not fresh.exists():
            sys.exit("the tests could not be run")
        _merge(record, json.loads(fresh.read_text(encoding="utf-8")), changed)
    if changed or gone:
        record["tests"] = tests
        kept.write_text(json.dumps(record), encoding="utf-8")
    return record


def _digest_of(paths: Iterable[Path]) -> str:
    state = hashlib.sha256()
    for path in paths:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def _merge(record: dict[str, Any], fresh: Mapping[str, Any], outdated: Collection[str]) -> None:
    record["seconds"].update(fresh["seconds"])
    for lines in record["lines"].values():
        for line, tests in lines.items():
            lines[line] = [test for test in tests if test.partition("::")[0] not in outdated]
    for name, lines in fresh["lines"].items():
        known = record["lines"].setdefault(name, {})
        for line, tests in lines.items():
            known[line] = sorted({*known.get(line, []), *tests}, key=record["seconds"].__getitem__)


def _try(mutant: Mutant, tests: Sequence[str], chosen: Sequence[str]) -> Outcome:
    if not tests:
        return Outcome("unreached")
    file = TREE / mutant.path
    whole = file.read_text(encoding="utf-8")
    _write(file, mutant.text)
    try:
        for some in (chosen[:_FEW], chosen[_FEW:]):
            patience = _SECONDS * (1 + len(some) // 200)
            failed = _pytest(["-x", "--timeout=30", *some], timeout=patience) if some else None
            if failed is not None:
                return Outcome("killed", failed)
    finally:
        _write(file, whole)
    state = "survived" if len(chosen) == len(tests) else "unproven"
    return Outcome(state, f"{len(chosen)} of {len(tests)} tests that it refuses in")


def _shortest(tests: Sequence[str], seconds: Mapping[str, float]) -> Sequence[str]:
    together = itertools.accumulate(seconds[test] for test in tests)
    return tests[: max(1, bisect.bisect(list(together), _ENOUGH))]


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    # Python would take what it compiled from a text of the same length within the same second.
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def _pytest(arguments: Sequence[str], *, timeout: float, **environment: str) -> str | None:
    """Run tests in the copy; return the first that fails, None when all pass."""
    paths = [str(TREE / folder) for folder in ("interceptors/src", "server/src", "tests")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
    try:
        done = subprocess.run(  # noqa: S603 - our own tests
            [*command, *arguments],
            cwd=TREE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no end"
    if done.returncode == pytest.ExitCode.OK:
        return None
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if failed:
        return failed[0]
    if "conftest" in done.stderr:
        return "import"
    # No test has noticed anything: there is something wrong with how they were run.
    sys.exit(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _keep(mutant: Mutant, outcome: Outcome) -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept[mutant.key] = {"state": outcome.state, "by": outcome.by, "module": _digest_of([ROOT / mutant.path])}
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    fresh.replace(RESULTS)


def _tell(wanted: Sequence[tuple[str, Mutant]], known: Mapping[str, Outcome], *, everything: bool) -> int:
    counts: Counter[str] = Counter()
    for _, mutant in wanted:
        outcome = known.get(mutant.key, Outcome("untried"))
        counts[outcome.state] += 1
        if everything or outcome.state in _MISSED:
            print(f"{outcome.state}: {mutant.path}:{mutant.line} in {mutant.function}")
            print(f"    {mutant.removed}  ->  {mutant.becomes}   {outcome.by}")
    print(f"{len(wanted)} guards: " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return 1 if any(counts[state] for state in _MISSED) else 0


if __name__ == "__main__":
    sys.exit(main())
