"""What the commands have in common that work on the files of an authority."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rpz_auth.errors import ConfigurationError, Refusal

from rpz_auth_server import bootstrap
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage import postgres
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Store

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Where everything is kept.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", help="sqlite:///path/to/file.db or postgresql://user@host/name"),
]
GrpcAddressOption = Annotated[
    str | None, typer.Option("--grpc-address", help="host:port that it listens on.")
]
HttpAddressOption = Annotated[
    str | None, typer.Option("--http-address", help="host:port of OAuth 2 over HTTPS and the console.")
]
IssuerOption = Annotated[str | None, typer.Option("--issuer", help="The https URL that clients know it by.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_settings(
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings that say where the files are.

    Raises:
        ConfigurationError: They cannot be used.
    """
    return Settings.load({"config": config, "data_dir": data_dir, "database": database}, environ)


def load_as_started(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of an authority that was started with flags which nobody repeats here.

    Flags, environment and TOML file say what holds now; for what they leave open, the bootstrap file tells
    how the last start was reached. Only then come defaults.

    Raises:
        ConfigurationError: They cannot be used.
    """

    def load(*names: str) -> Settings:
        def left_in(data_dir: Path) -> dict[str, Any]:
            recorded = bootstrap.read_connection(data_dir / bootstrap.FILE_NAME)
            return {name: recorded[name] for name in names if name in recorded}

        return Settings.load(flags, environ, left_in=left_in)

    try:
        return load("grpc_address", "issuer", "insecure")
    except ConfigurationError:  # perhaps only because TLS was set up since then
        return load("grpc_address", "issuer")


def check_founded(settings: Settings) -> None:
    """Let pass a database that is there; a typing error must not found a second authority.

    Raises:
        ConfigurationError: There is none.
    """
    if not settings.data_dir.is_dir() or (settings.is_embedded and not settings.database_path.exists()):
        raise ConfigurationError(
            f"{settings.data_dir} holds no authority; name its data directory by --data-dir, and its "
            "database by --database if that is elsewhere, or found one with `rpz-auth-server serve`"
        )


def check_embedded(settings: Settings) -> None:
    """Let pass a database that is a file of ours.

    Raises:
        ConfigurationError: It is a server's, which has tools of its own.
    """
    if not settings.is_embedded:
        raise ConfigurationError("back a PostgreSQL database up by its own tools: pg_basebackup, pgBackRest")


@contextlib.asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the database of an authority, which may be running.

    Raises:
        ConfigurationError: There is none.
    """
    store: Store
    if settings.is_embedded:
        check_founded(settings)
        store = await SqliteStore.open(settings.database_path)
    else:
        store = await postgres.open_store(settings.database)
    try:
        if await store.issuer() is None:
            raise ConfigurationError("the database holds no authority; name another by --database")
        yield store
    finally:
        await store.close()


async def ensure_founded(settings: Settings) -> None:
    """Let pass an authority that is there, wherever its database is.

    Raises:
        ConfigurationError: There is none.
    """
    async with opened_store(settings):
        pass


def say(text: str, *, as_json: bool, **fields: object) -> None:
    """Print what was done: a sentence for people, fields for scripts."""
    typer.echo(json.dumps(fields, indent=2, default=str) if as_json else text)


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """End with exit code 1 and a line for people, instead of a traceback."""
    try:
        yield
    except (ConfigurationError, Refusal) as error:
        # Whoever calls is not told why the database does not answer; whoever runs it is.
        why = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ else ""
        typer.echo(f"rpz-auth-server: {error}{why}", err=True)
        raise typer.Exit(1) from None
