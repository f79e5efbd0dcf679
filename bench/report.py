"""What a measurement found, in forms for people and for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path("docs/performance.md")
RAW = Path("docs/performance")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; cells are finished text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [f"**{self.title}**", "", _row(self.headings), _row(["---"] * len(self.headings))]
        lines += [_row(row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one subject found."""

    summary: str
    """A few sentences: what was done, and what to think of it."""
    tables: Sequence[Table]
    raw: Mapping[str, Any] = field(default_factory=dict)
    """Every number, for whoever wants to look closer; kept as JSON."""
    charts: Sequence[str] = ()
    """Names of SVG files in `docs/performance/`, without `-light.svg` and `-dark.svg`."""

    def markdown(self) -> str:
        """The section as Markdown, without its heading."""
        parts = [self.summary, *(table.markdown() for table in self.tables)]
        parts += [
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="performance/{name}-dark.svg">'
            f'<img alt="{name}" src="performance/{name}-light.svg"></picture>'
            for name in self.charts
        ]
        return "\n\n".join(parts)


def check_places(names: Iterable[str]) -> None:
    """Stop before anything is measured for which `docs/performance.md` has no place."""
    text = PAGE.read_text(encoding="utf-8")
    for name in names:
        if not _section(name).search(text):
            raise SystemExit(
                f"{PAGE} has no place for {name}: add <!-- bench: {name} --> and <!-- end: {name} -->"
            )


def keep(name: str, report: Report, circumstances: str) -> None:
    """Put a report into `docs/performance.md`, between the marks of its subject, and its numbers beside."""
    text, section = PAGE.read_text(encoding="utf-8"), _section(name)
    found = f"{report.markdown()}\n\n{circumstances}"
    PAGE.write_text(section.sub(lambda marks: f"{marks[1]}\n{found}\n\n{marks[2]}", text), encoding="utf-8")
    RAW.mkdir(exist_ok=True)
    raw = {**report.raw, "circumstances": circumstances}
    content = json.dumps(raw, indent=1, sort_keys=True)
    (RAW / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def _section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
