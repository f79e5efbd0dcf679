"""Moves a live database from SQLite to PostgreSQL, so that at no moment two of them live.

The bulk is copied while the authority goes on; triggers note which rows change meanwhile. Then the source is
fenced: a mark in its `meta`, which every transaction that writes looks at, ends writes and heartbeats, and no
process opens it again. What changed last is copied, everything is compared, and with one commit the target
opens. Until that commit the target carries a mark, too. Whatever fails, the command can be run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import sql as pg
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.storage.file import connect
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.sql import INCOMING

Row: TypeAlias = tuple[Any, ...]
Target: TypeAlias = "psycopg.Connection[Row]"
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done at the moment, how much of it, and of how much."""

_REFERRED_TO = ("apps", "accounts")
_BATCH = 5_000
_LITTLE = 100
"""Changed rows that are worth stopping the source for; more are copied while it goes on."""
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def places(self) -> list[int]:
        return [self.columns.index(column) for column in self.key]


_Changed: TypeAlias = tuple[_Table, list[Any], Row | None]
"""A row that has changed: its table, its key, and what it is now, if it is there."""


class _Digest:
    """A sum over rows that does not depend on their order."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, row: Row) -> None:
        text = json.dumps([value.hex() if isinstance(value, bytes) else value for value in row])
        self._sum += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        self.rows += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Digest) and (self.rows, self._sum) == (other.rows, other._sum)

    __hash__ = None  # type: ignore[assignment]


def move(path: Path, lock: FileLock, url: str, name: str, progress: Progress) -> int:
    """Move the database at `path` to the one at `url`, whose tables exist; return the number of rows.

    Args:
        path: The SQLite file.
        lock: That of its writers.
        url: Of the target.
        name: Of the target, without a password; the mark that the source keeps.
        progress: Is told how far it is.

    Raises:
        ConfigurationError: Source or target is not what it must be; nothing is lost, and nothing lives twice.
    """
    with (
        contextlib.closing(connect(path)) as source,
        psycopg.connect(url, autocommit=True, target_session_attrs="read-write") as target,
    ):
        target.execute("SET synchronous_commit = on")
        tables = _tables(source)
        _prepare(source, target, name)
        _watch(source, lock, tables)
        rows = _copy_all(path, target, tables, progress)
        for _ in range(_ROUNDS):  # while the source goes on
            if _catch_up(source, lock, target, tables) <= _LITTLE:
                break
        with lock.held():
            source.execute("UPDATE meta SET moved_to = ?", (name,))  # a transaction of its own: the fence
        _catch_up(source, lock, target, tables)
        _compare_counts(source, target, tables)
        _open_target(source, target)
        _unwatch(source, lock, tables)
    return rows


def _tables(source: sqlite3.Connection) -> list[_Table]:
    names = [
        name
        for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        if not name.startswith(("sqlite_", "_sqlite_")) and name not in {"meta", "moving"}
    ]
    found = []
    for name in sorted(names, key=lambda name: (name not in _REFERRED_TO, name)):
        described = source.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
        key = sorted((place, column) for column, place in described if place)
        found.append(
            _Table(name, tuple(column for column, _ in described), tuple(column for _, column in key))
        )
    return found


def _prepare(source: sqlite3.Connection, target: Target, name: str) -> None:
    (moved_to,) = source.execute("SELECT moved_to FROM meta").fetchone()
    if moved_to not in {None, name}:
        raise ConfigurationError(f"the database was moved to {moved_to} already")
    instance, mark = _one(target, "SELECT instance, moved_to FROM meta")
    (own,) = source.execute("SELECT instance FROM meta").fetchone()
    if mark is None and instance == own:
        raise ConfigurationError(f"the move to {name} is finished: start the authority with --database")
    if mark is None and _one(target, "SELECT count(*) FROM issuer") != (0,):
        raise ConfigurationError(f"{name} holds another authority: name an empty database")
    target.execute("UPDATE meta SET moved_to = %s", [INCOMING])


def _watch(source: sqlite3.Connection, lock: FileLock, tables: Iterable[_Table]) -> None:
    """Note from now on which rows change."""
    with lock.held(), _transaction(source):
        source.execute(
            "CREATE TABLE IF NOT EXISTS moving"
            " (name TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (name, key)) STRICT, WITHOUT ROWID"
        )
        source.execute("DELETE FROM moving")
        for table in tables:
            for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
                notes = "".join(
                    f"INSERT OR IGNORE INTO moving VALUES ('{table.name}', json_array("  # noqa: S608 - of our schema
                    f"{', '.join(f'{row}.{column}' for column in table.key)})); "
                    for row in rows
                )
                source.execute(
                    f"CREATE TRIGGER IF NOT EXISTS moving_{table.name}_{event.lower()}"
                    f" AFTER {event} ON {table.name} BEGIN {notes}END"
                )


def _unwatch(source: sqlite3.Connection, lock: FileLock, tables: Iterable[_Table]) -> None:
    with lock.held(), _transaction(source):
        for table in tables:
            for event in ("insert", "update", "delete"):
                source.execute(f"DROP TRIGGER IF EXISTS moving_{table.name}_{event}")
        source.execute("DROP TABLE moving")


def _copy_all(path: Path, target: Target, tables: Sequence[_Table], progress: Progress) -> int:
    """Copy what the source holds at one moment, and see that the target gives it back."""
    copied = 0
    with contextlib.closing(connect(path, read_only=True)) as reader, target.transaction():
        reader.execute("BEGIN")
        for table in reversed(tables):
            target.execute(pg.SQL("DELETE FROM {}").format(pg.Identifier(table.name)))
        for table in tables:
            (total,) = reader.execute(f"SELECT count(*) FROM {table.name}").fetchone()  # noqa: S608 - of our schema
            given, taken = _Digest(), _Digest()
            columns = pg.SQL(", ").join(map(pg.Identifier, table.columns))
            copy = pg.SQL("COPY {} ({}) FROM STDIN").format(pg.Identifier(table.name), columns)
            rows = reader.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}")  # noqa: S608 - as above
            with target.cursor().copy(copy) as writer:
                for row in rows:
                    writer.write_row(row)
                    given.add(row)
                    if given.rows % _BATCH == 0:
                        progress(f"copying {table.name}", given.rows, total)
            with target.cursor(name="moving") as cursor:
                cursor.itersize = _BATCH
                cursor.execute(pg.SQL("SELECT {} FROM {}").format(columns, pg.Identifier(table.name)))
                for row in cursor:
                    taken.add(row)
                    if taken.rows % _BATCH == 0:
                        progress(f"comparing {table.name}", taken.rows, total)
            if given != taken:
                raise ConfigurationError(
                    f"{table.name} does not come back as it was copied; nothing was moved"
                )
            copied += given.rows
        reader.execute("ROLLBACK")
    return copied


def _catch_up(source: sqlite3.Connection, lock: FileLock, target: Target, tables: Iterable[_Table]) -> int:
    """Copy the rows that have changed since the last time; return how many those were."""
    changed: list[_Changed] = []
    # The source waits for as long as they are read, and not until they are written. If that fails, all of
    # it begins anew.
    with lock.held(), _transaction(source):
        for table in tables:
            condition = " AND ".join(f"{column} = ?" for column in table.key)
            select = f"SELECT {', '.join(table.columns)} FROM {table.name} WHERE {condition}"  # noqa: S608 - of our schema
            for (text,) in source.execute("SELECT key FROM moving WHERE name = ?", (table.name,)).fetchall():
                key = json.loads(text)
                changed.append((table, key, source.execute(select, key).fetchone()))
        source.execute("DELETE FROM moving")
    with target.transaction(), target.pipeline():
        for table, _, row in changed:
            if row is not None:
                _put(target, table, row)
        for table, key, row in reversed(changed):  # those that others refer to go last
            if row is None:
                delete = pg.SQL("DELETE FROM {} WHERE {}")
                target.execute(delete.format(pg.Identifier(table.name), _condition(table)), key)
    for (table, _, row), found in zip(changed, _get(target, changed), strict=True):
        if found != row:
            raise ConfigurationError(f"a row of {table.name} does not come back as it was copied")
    return len(changed)


def _put(target: Target, table: _Table, row: Row) -> None:
    columns = pg.SQL(", ").join(map(pg.Identifier, table.columns))
    changes = pg.SQL(", ").join(
        pg.SQL("{0} = excluded.{0}").format(pg.Identifier(column)) for column in table.columns
    )
    target.execute(
        pg.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}").format(
            pg.Identifier(table.name),
            columns,
            pg.SQL(", ").join([pg.Placeholder()] * len(table.columns)),
            pg.SQL(", ").join(map(pg.Identifier, table.key)),
            changes,
        ),
        row,
    )


def _get(target: Target, changed: Iterable[_Changed]) -> list[Row | None]:
    with target.pipeline():  # one round trip for all
        cursors = [
            target.execute(
                pg.SQL("SELECT {} FROM {} WHERE {}").format(
                    pg.SQL(", ").join(map(pg.Identifier, table.columns)),
                    pg.Identifier(table.name),
                    _condition(table),
                ),
                key,
            )
            for table, key, _ in changed
        ]
    return [cursor.fetchone() for cursor in cursors]


def _condition(table: _Table) -> pg.Composed:
    return pg.SQL(" AND ").join(
        pg.SQL("{} = {}").format(pg.Identifier(column), pg.Placeholder()) for column in table.key
    )


def _compare_counts(source: sqlite3.Connection, target: Target, tables: Iterable[_Table]) -> None:
    for table in tables:
        own = source.execute(f"SELECT count(*) FROM {table.name}").fetchone()  # noqa: S608 - of our schema
        theirs = target.execute(
            pg.SQL("SELECT count(*) FROM {}").format(pg.Identifier(table.name))
        ).fetchone()
        if own != theirs:
            raise ConfigurationError(
                f"{table.name} has {own} rows here and {theirs} there; the source stays fenced: run it again"
            )


def _open_target(source: sqlite3.Connection, target: Target) -> None:
    """Let the target take over, with one commit. Name, time and place in the stream are the source's."""
    held = source.execute("SELECT instance, now, collected_event FROM meta").fetchone()
    target.execute(
        "UPDATE meta SET instance = %s, now = %s, collected_event = %s, moved_to = NULL"
        " WHERE moved_to IS NOT NULL",
        held,
    )
    if _one(target, "SELECT instance, now, collected_event, moved_to FROM meta") != (*held, None):
        raise ConfigurationError("the target did not take over; the source stays fenced: run it again")


def _one(target: Target, statement: str) -> Row:
    row = target.execute(statement.encode()).fetchone()
    if row is None:
        raise ConfigurationError("the target has lost its meta row")
    return row


@contextlib.contextmanager
def _transaction(source: sqlite3.Connection) -> Iterator[None]:
    source.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        source.execute("ROLLBACK")
        raise
    source.execute("COMMIT")
