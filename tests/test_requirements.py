"""The page of requirements says what the tests say."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "requirements.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([RA][0-9]{2,3}) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
CITED = re.compile(r"([^(>|]+) \(`([a-z0-9_/.]+)`\)")


def numbered_tests() -> dict[str, set[tuple[str, str]]]:
    """From a number to the tests that have it in their names: file and sentence."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                sentence = re.sub(r"^test_(?:[ra][0-9]{2,3}_)*", "", node.name).replace("_", " ")
                for number in re.findall(r"(?<=_)[ra][0-9]{2,3}(?=_)", node.name):
                    found[number.upper()].add((str(path.relative_to(TESTS)), sentence))
    return found


def test_a_line_is_held_exactly_if_a_test_names_it() -> None:
    rows = {number: (state.split(":")[0], what) for number, state, what in ROW.findall(PAGE)}
    shown = set(numbered_tests())
    by_others = {number for number, (_, what) in rows.items() if what.startswith("by the tests of ")}
    assert {re.search(r"[RA][0-9]+$", rows[number][1])[0] for number in by_others} <= shown  # type: ignore[index] # the pattern of such a row
    held = {number for number, (state, _) in rows.items() if state in ("held", "partly")}
    assert held - by_others == shown & rows.keys()


def test_every_test_that_the_page_cites_exists() -> None:
    tests = numbered_tests()
    cited = {
        (number, (file, sentence.strip()))
        for number, _, what in ROW.findall(PAGE)
        for sentence, file in CITED.findall(what.replace("<br>", ">"))
    }
    assert len(cited) > len(tests)
    assert {(number, test) for number, test in cited if test not in tests[number]} == set()


def test_no_line_stands_twice_and_none_is_missing() -> None:
    numbers = [number for number, _, _ in ROW.findall(PAGE)]
    assert len(numbers) == len(set(numbers)) == 101 + 122
