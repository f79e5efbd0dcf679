"""The page of requirements claims no more than the tests prove."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")

LINES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "R": (
        *((1, 19), (20, 31), (40, 53), (60, 66), (70, 84), (90, 96), (100, 108), (120, 131), (140, 145)),
        *((200, 221), (300, 307)),
    ),
    "A": ((1, 17), (20, 29), (30, 48), (50, 64), (70, 85), (90, 98), (100, 111), (120, 131), (140, 151)),
}
"""Every number there is, by first and last of each group."""
NOT_PLANNED = "not planned"

_ROW = re.compile(r"^\| ([RA][0-9]+) \| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
_CITED = re.compile(r"`((?:tests/[\w/]+\.py::)?test_\w+)`", re.ASCII)
_NUMBERS = re.compile(r"test((?:_[ra][0-9]+)+)_", re.ASCII)


@dataclass(frozen=True)
class Row:
    number: str
    state: str
    tests: tuple[str, ...]

    @property
    def is_partly_held(self) -> bool:
        return self.state == "held" or re.fullmatch(r"partly: \S.*", self.state) is not None


ROWS = [Row(number, state, tuple(_CITED.findall(tests))) for number, _, state, tests in _ROW.findall(PAGE)]


def _tests() -> Iterator[str]:
    """Every test as pytest names it, without parameters."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    names = [name]
                case ast.Assign(targets=targets):  # a state machine of hypothesis is a test by its name
                    names = [target.id for target in targets if isinstance(target, ast.Name)]
                case _:
                    continue
            for name in names:
                if name.startswith("test_"):
                    yield f"{path.relative_to(ROOT).as_posix()}::{name}"


TESTS = list(_tests())


def test_every_test_that_is_cited_is_one_test() -> None:
    cited = set(_CITED.findall(PAGE))
    assert cited
    found = {name: [test for test in TESTS if test == name or test.endswith(f"::{name}")] for name in cited}
    assert {name: tests for name, tests in found.items() if len(tests) != 1} == {}


def test_every_number_in_the_name_of_a_test_is_held_at_least_partly() -> None:
    held = {row.number for row in ROWS if row.is_partly_held}
    carried = {
        number.upper()
        for test in TESTS
        if (match := _NUMBERS.match(test.rpartition("::")[2]))
        for number in match[1].strip("_").split("_")
    }
    assert carried
    assert carried - held == set()


def test_every_line_stands_on_the_page_once() -> None:
    expected = [
        f"{letter}{number:0{3 if letter == 'R' else 2}}"
        for letter, groups in LINES.items()
        for first, last in groups
        for number in range(first, last + 1)
    ]
    assert Counter(row.number for row in ROWS) == Counter(expected)


def test_what_is_held_has_a_test_and_what_is_not_planned_has_none() -> None:
    assert [row for row in ROWS if not row.is_partly_held and row.state != NOT_PLANNED] == []
    assert [row for row in ROWS if row.state == "held" and not row.tests] == []
    assert [row for row in ROWS if row.state == NOT_PLANNED and row.tests] == []
