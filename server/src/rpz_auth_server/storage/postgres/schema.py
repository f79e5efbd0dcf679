"""Brings a PostgreSQL database to this version's schema, one of many processes at a time."""

from __future__ import annotations

from rpz_auth.errors import ConfigurationError

from rpz_auth_server.storage.postgres.session import Session
from rpz_auth_server.storage.schema import MIGRATIONS

_LOCK = 0x72707A61757468  # "rpzauth"


async def migrate(session: Session) -> None:
    """Apply what is missing, in one transaction under a lock: all of it, or nothing.

    Raises:
        ConfigurationError: The database is of a newer version, or not ours.
    """
    connection = session.connection
    await connection.execute("BEGIN")
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    cursor = await connection.execute(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()"
    )
    tables = {name for (name,) in await cursor.fetchall()}
    if "migrations" not in tables:
        if tables:
            raise ConfigurationError("the database belongs to another program: name another one, or a schema")
        await connection.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY)")
    cursor = await connection.execute("SELECT name FROM migrations")
    applied = {name for (name,) in await cursor.fetchall()}
    if applied - set(MIGRATIONS):
        raise ConfigurationError(
            "the database was made by a newer rpz-auth-server: start that version or a later one"
        )
    for name, steps in MIGRATIONS.items():
        if name not in applied:
            await session.run(steps())
            await session.connection.execute("INSERT INTO migrations VALUES (%s)", [name])
    await session.commit()
