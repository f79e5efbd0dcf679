"""Work on a database, written once for every driver.

What is to be done is a generator: it yields statements, gets their results, and returns what came of it.
Drivers are a few lines each: `file.run` for SQLite, `Session.run` for PostgreSQL. The texts are what both
databases read alike:

- `?` stands for each value, in order; the PostgreSQL driver turns it into its own sign.
- Truth values are integers: write `deleted = 1`.
- The larger of two values is a CASE: `max` and `min` of two arguments are SQLite's alone.
- A value whose column the database cannot tell, as in `? IS NULL`, needs a CAST.
- In tables, write TEXT, INTEGER, REAL and BLOB; a subquery in FROM has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave."""

    rows: Sequence[tuple[Any, ...]]
    count: int
    """Rows that it wrote, or read."""

    @property
    def row(self) -> tuple[Any, ...] | None:
        """The first row, if there is one."""
        return self.rows[0] if self.rows else None


Statement: TypeAlias = tuple[str, Sequence[Any]]


def sql(text: str, *values: Any) -> Statement:
    """A statement and its values."""
    return text, values


Steps: TypeAlias = Generator[Statement, Result, T]
Work: TypeAlias = Callable[[float], Steps[T]]
"""Steps of one operation: all of them are written, or none if they raise. The number is the time of their
transaction."""
