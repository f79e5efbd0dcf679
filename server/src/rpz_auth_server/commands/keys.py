"""`rpz-auth-server keys`: the ring of master keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    JsonOption,
    failing,
    load_settings,
    opened_store,
    say,
)
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.key import KeyUse
from rpz_auth_server.flows.signing_keys import Author, reseal_signing_keys
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.lock import FileLock

app = typer.Typer(
    help="The master keys. Run as the authority's own user.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PATIENCE = 60.0
"""Seconds in which every process has taken over a ring, and so mints with the new key only."""


@dataclass(frozen=True, slots=True)
class _Ring:
    """A ring, and what its database needs of it."""

    ring: KeyRing
    uses: Sequence[KeyUse]

    def needs(self, number: int) -> list[KeyUse]:
        """What stands in the way of taking a key out."""
        return [use for use in self.uses if use.key_number in (number, 0)]


@app.command()
def status(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show each master key, whether it mints, and which rows need it."""
    with failing():
        settings = load_settings(config, data_dir, database)
        found = asyncio.run(_read(settings, KeyRing.open(settings.keyring_path, os.environ)))
    keys = [_describe(found, number) for number in (*found.ring.numbers, *sorted(found.ring.retired))]
    if as_json:
        typer.echo(json.dumps({"keys": keys}, indent=2))
        return
    for key in keys:
        rows = ", ".join(f"{count} {kind}" for kind, count in key["rows"].items())
        typer.echo(f"key {key['number']}: {key['state']}; needed by {rows or 'nothing'}")


@app.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    after: Annotated[
        float,
        typer.Option(
            "--after",
            min=5,
            max=30 * 86400,
            help="Seconds until it mints. Every process must have the ring by then: on one machine they take "
            "it over within a second; with more machines, time to copy the file to all of them.",
        ),
    ] = 60,
    as_json: JsonOption = False,
) -> None:
    """Add a master key: it verifies at once, and mints after a while. The old one goes on verifying."""
    with failing():
        path = _path_of(load_settings(config, data_dir, database))
        with _alone_with(path):
            ring = KeyRing.load(path).with_new_key(mints_from=time.time() + after)
            ring.save(path)
    number = ring.numbers[-1]
    say(
        f"master key {number} added to {path}; it mints in {after:g} seconds. Keep a copy of the file where "
        "you keep the old one, apart from backups of the database.",
        as_json=as_json,
        number=number,
        file=path,
        mints_after=after,
    )


@app.command()
def retire(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As `keys status` shows it.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take a master key out of the ring, once nothing needs it.

    Refresh tokens move to the new key when they are used, passwords when their people sign in, signing keys
    by themselves; OAuth 2 secrets and API tokens must be replaced.
    """
    with failing():
        settings = load_settings(config, data_dir, database)
        path = _path_of(settings)
        with _alone_with(path):
            ring = KeyRing.load(path)
            smaller = ring.without_key(number)
            if time.time() < ring.minting_since + _PATIENCE:
                raise ConfigurationError(
                    f"master key {ring.minting_number} mints only since a moment ago; wait a minute"
                )
            found = asyncio.run(_read(settings, ring, reseal=True))
            if needs := found.needs(number):
                rows = ", ".join(f"{use.rows} {use.kind}" for use in needs)
                raise ConfigurationError(
                    f"master key {number} is still needed by {rows}; OAuth 2 secrets and API tokens must be "
                    "replaced (rpz-auth secrets rotate, api-tokens rotate), the others move on in use"
                )
            smaller.save(path)
    done = f"master key {number} is retired; what was made with it is refused from now on"
    say(done, as_json=as_json, number=number, file=path)


def _describe(found: _Ring, number: int) -> dict[str, Any]:
    ring = found.ring
    if number in ring.retired:
        state = "retired"
    elif number == ring.minting_number:
        state = "mints"
    elif ring.upcoming is not None and number == ring.upcoming.number:
        state = f"mints from {datetime.fromtimestamp(ring.upcoming.start, UTC):%Y-%m-%dT%H:%M:%SZ}"
    else:
        state = "verifies"
    rows = {use.kind: use.rows for use in found.uses if use.key_number == number}
    return {"number": number, "state": state, "rows": rows}


async def _read(settings: Settings, ring: KeyRing, *, reseal: bool = False) -> _Ring:
    async with opened_store(settings) as store:
        if reseal:
            issuer = await store.issuer()
            if issuer is not None:
                signing = SigningKeyring(ring, issuer=issuer.issuer, instance=await store.instance())
                await reseal_signing_keys(store, signing, Author("keys retire"))
        return _Ring(ring, await store.key_usage())


def _path_of(settings: Settings) -> Path:
    if ENVIRONMENT_VARIABLE in os.environ:
        raise ConfigurationError(
            f"the ring is in {ENVIRONMENT_VARIABLE}, which only its owner can change; write it to a file of "
            "mode 0600, change that, and put its text back"
        )
    KeyRing.load(settings.keyring_path)  # before anything is made beside it
    return settings.keyring_path


@contextlib.contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Two who change the ring at the same moment must not lose a key of one of them."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        with lock.held():
            yield
    finally:
        lock.close()
