"""The records of decisions can be named by their numbers."""

from __future__ import annotations

import re
from pathlib import Path

_RECORDS = sorted(Path(__file__).parent.with_name("docs").joinpath("decisions").glob("*.md"))


def test_each_decision_has_a_number_of_its_own_and_bears_it() -> None:
    numbers = {record.name: int(record.name.partition("-")[0]) for record in _RECORDS}
    headings = {
        record.name: re.match(r"# (\d+)\. ", record.read_text(encoding="utf-8")) for record in _RECORDS
    }
    assert len(set(numbers.values())) == len(numbers), sorted(numbers)
    assert {name: int(found[1]) if found else None for name, found in headings.items()} == numbers
