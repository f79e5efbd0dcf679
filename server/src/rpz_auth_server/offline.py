"""What the commands have in common that work on the files of an authority."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rpz_auth.errors import ConfigurationError, Refusal

from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.sqlite import SqliteStore

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Where everything is kept.")]
DatabaseOption = Annotated[str | None, typer.Option("--database", help="sqlite:///path/to/file.db")]


def load_settings(config: Path | None, data_dir: Path | None, database: str | None) -> Settings:
    """Read the settings that say where the files are.

    Raises:
        ConfigurationError: They cannot be used.
    """
    return Settings.load({"config": config, "data_dir": data_dir, "database": database}, os.environ)


def check_founded(settings: Settings) -> None:
    """Let pass a database that is there; a typing error must not found a second authority.

    Raises:
        ConfigurationError: There is none.
    """
    if not settings.database_path.exists():
        raise ConfigurationError(f"{settings.data_dir} holds no authority; name its directory by --data-dir")


@contextlib.asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[SqliteStore]:
    """Open the database of an authority, which may be running.

    Raises:
        ConfigurationError: There is none.
    """
    check_founded(settings)
    store = await SqliteStore.open(settings.database_path)
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """End with exit code 1 and a line for people, instead of a traceback."""
    try:
        yield
    except (ConfigurationError, Refusal) as error:
        typer.echo(f"rpz-auth-server: {error}", err=True)
        raise typer.Exit(1) from None
