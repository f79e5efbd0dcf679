"""Fills the database of an authority, so that it is as large as in later years."""

from __future__ import annotations

import sqlite3
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

_DIGITS = sorted(string.ascii_letters + string.digits + "-_")
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def fill(path: Path, tables: Mapping[str, tuple[str, str | None, int]]) -> None:
    """Copy a row of each table under other identifiers, which lie evenly among all.

    Args:
        path: The database of an authority that does not run.
        tables: Of each name: the column of the identifier, that of the row to copy, any when None, and how
            many to add.
    """
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("PRAGMA synchronous = OFF")
        for table, (key, like, rows) in tables.items():
            cursor = database.execute(
                f"SELECT * FROM {table} WHERE {key} = ? OR ? IS NULL LIMIT 1",  # noqa: S608 - names of columns
                (like, like),
            )
            columns = [column for column, *_ in cursor.description]
            values = dict(zip(columns, cursor.fetchone(), strict=True))
            fixed = [column for column in columns if column not in {key, "subject"}]
            other = [column for column in columns if column in {key, "subject"}]
            database.execute("BEGIN")
            database.executemany(
                f"INSERT INTO {table} ({', '.join(other + fixed)}) VALUES"  # noqa: S608 - names of columns
                f" ({', '.join(['?'] * len(other))}, {', '.join(map(_literal, (values[c] for c in fixed)))})",
                ((identifier,) * len(other) for identifier in _identifiers(rows)),
            )
            database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"x'{value.hex()}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case _:
            return repr(value)


def _identifiers(count: int) -> Iterator[str]:
    """Identifiers of 22 characters in order, so that inserting them does not jump about."""
    step = len(_PAIRS) ** 4 // count
    for number in range(0, step * count, step):
        parts = (number >> 36, number >> 24 & 4095, number >> 12 & 4095, number & 4095)
        yield "".join(_PAIRS[part] for part in parts) + "0" * 14
