"""Looking a database over before it is opened, which could migrate it."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.storage.backup import reading
from rpz_auth_server.storage.postgres.session import Address, Session, connected
from rpz_auth_server.storage.schema import MIGRATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found."""

    damage: tuple[str, ...] = ()
    """What is broken in it, a line each."""
    applied: frozenset[str] = field(default_factory=frozenset)
    """Changes of the schema that it has seen."""
    moved_to: str | None = None
    time: float = 0.0
    """The latest that its authority knew, in seconds since the epoch; the server's own on PostgreSQL."""
    has_checksums: bool = True
    """Whether damage of the disk would be noticed."""

    @property
    def is_older(self) -> bool:
        """Whether opening it would change its schema."""
        return bool(set(MIGRATIONS) - self.applied)

    @property
    def is_newer(self) -> bool:
        """Whether this version cannot open it."""
        return bool(self.applied - set(MIGRATIONS))


def inspect_sqlite(path: Path) -> Inspection:
    """Read a whole file, also while authorities write to it; nothing is changed.

    Raises:
        ConfigurationError: It is no database of ours, or damaged beyond reading.
    """
    try:
        with reading(path) as connection:
            damage = [
                text for (text,) in connection.execute("PRAGMA integrity_check").fetchall() if text != "ok"
            ]
            damage += [
                f"a row of {table} refers to one of {parent} that is missing"
                for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall()
            ]
            rows = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
            moved_to, time = connection.execute("SELECT moved_to, now FROM meta").fetchone()
    except (sqlite3.Error, TypeError):
        raise ConfigurationError(f"{path} is not a database of rpz-auth-server, or is damaged") from None
    return Inspection(
        damage=tuple(damage), applied=frozenset(name for (name,) in rows), moved_to=moved_to, time=time
    )


async def inspect_postgres(url: str) -> Inspection:
    """Look at a database on a server; nothing is changed. What is damaged there only the server can tell.

    Raises:
        ConfigurationError: It cannot be reached or used, or is no database of ours.
    """
    address = Address(url)
    try:
        async with connected(address) as session:
            with session.limit():
                return await _inspect(session)
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError(f"{address} holds no authority") from None
    except (psycopg.Error, OSError) as error:
        raise ConfigurationError(f"{address}: {_first_line(error)}") from None


async def _inspect(session: Session) -> Inspection:
    connection = session.connection
    cursor = await connection.execute("SELECT name FROM migrations")
    applied = frozenset(name for (name,) in await cursor.fetchall())
    cursor = await connection.execute(
        "SELECT moved_to, CAST(extract(epoch FROM clock_timestamp()) AS double precision),"
        " current_setting('data_checksums') = 'on' FROM meta"
    )
    ((moved_to, time, has_checksums),) = await cursor.fetchall()
    cursor = await connection.execute(
        "SELECT COALESCE(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()"
    )
    ((failures,),) = await cursor.fetchall()
    return Inspection(
        damage=(f"{failures} pages failed their checksum",) if failures else (),
        applied=applied,
        moved_to=moved_to,
        time=time,
        has_checksums=has_checksums,
    )


def _first_line(error: Exception) -> str:
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
