"""`rpz-auth-server move`."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    JsonOption,
    check_founded,
    failing,
    load_settings,
    say,
)
from rpz_auth_server.commands.progress import showing
from rpz_auth_server.settings import ENVIRONMENT_PREFIX
from rpz_auth_server.storage.file import prepare
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.move import move as move_database
from rpz_auth_server.storage.postgres.session import Address
from rpz_auth_server.storage.postgres.store import make_tables

_VARIABLE = f"{ENVIRONMENT_PREFIX}MOVE_TO"


def move(
    to: Annotated[
        str,
        typer.Option("--to", envvar=_VARIABLE, help="postgresql://user@host1,host2/name, an empty database."),
    ],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Move the authority from SQLite to PostgreSQL while it runs.

    It goes on while the bulk is copied. Meanwhile start the new one with --database and the same master keys
    (keyring.json): it waits, and takes over. At the end the old database is fenced for good: what still runs
    on it takes no write, ends, and cannot be started again. Tokens, keys and verifiers stay as they are.

    If anything fails, run it again. The URL may hold a password; name it by RPZ_AUTH_MOVE_TO then.
    """
    with failing():
        environ = {name: value for name, value in os.environ.items() if name != _VARIABLE}
        settings = load_settings(config, data_dir, database, environ)
        if not settings.is_embedded:
            raise ConfigurationError(
                "only an SQLite database is moved; PostgreSQL has tools of its own for that"
            )
        check_founded(settings)
        path = settings.database_path
        address = Address(to)
        asyncio.run(make_tables(address))
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        with lock.held():
            prepare(path).close()  # to the same version of the tables
        with showing("moving") as progress:
            rows = move_database(path, lock, to, str(address), progress)
    say(
        f"{rows} rows are in {address}, compared; {path} is fenced, and the authority on it ends. Start it "
        "with --database and that URL, unless one waits there already.",
        as_json=as_json,
        rows=rows,
        database=address,
        fenced=path,
    )
