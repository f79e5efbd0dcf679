"""`rpz-auth-server backup` and `restore`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import bootstrap
from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    JsonOption,
    check_embedded,
    check_founded,
    failing,
    load_settings,
    say,
)
from rpz_auth_server.commands.progress import showing
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.event import KEYS_CHANGED
from rpz_auth_server.domain.key import NEVER, drop
from rpz_auth_server.flows.signing_keys import Author
from rpz_auth_server.storage import backup as copies
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; it will have mode 0600.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Copy the database, also while the authority runs. The copy is of the moment in which it begins.

    The master keys (keyring.json) are not in it, and without them it is worth nothing: keep a copy of them,
    apart. Nor is the bootstrap file.
    """
    with failing():
        settings = load_settings(config, data_dir, database)
        check_founded(settings)
        check_embedded(settings)
        with showing("copying") as progress:
            copies.back_up(settings.database_path, file, partial(progress, "copying"))
    done = f"{file} holds the database; keep {settings.keyring_path} apart from it"
    say(done, as_json=as_json, backup=file, keyring=settings.keyring_path)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` made.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    *,
    keep_later: Annotated[
        bool,
        typer.Option(
            "--keep-later",
            help="Let grants go on that were refreshed after the backup; else their users sign in again.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of a stopped authority's database.

    All signing keys are dropped, so that access tokens from before end; clients refresh. Verifiers take a new
    snapshot. What was issued after the backup is refused; what was revoked after it is alive again: look
    through the audit records of the database that was there, which is kept.
    """
    with failing():
        settings = load_settings(config, data_dir, database)
        check_embedded(settings)
        place = settings.database_path
        ring = KeyRing.open(settings.keyring_path, os.environ)
        copies.ensure_unused(place)
        with (
            showing("copying") as progress,
            copies.draft_from(file, place, partial(progress, "copying")) as draft,
        ):
            asyncio.run(_renew(draft, ring, keep_later=keep_later))
            copies.forget_cursors(draft)
            kept = copies.put(draft, place)
    done = f"{place} is restored from {file}" + (f"; the one before is {kept}" if kept else "")
    say(done, as_json=as_json, database=place, backup=file, kept=kept)


async def _renew(path: Path, ring: KeyRing, *, keep_later: bool) -> None:
    """End what must not outlive the restore.

    Raises:
        ConfigurationError: The master keys are not those of this database.
    """
    store = await SqliteStore.open(path)
    try:
        issuer = await store.issuer()
        if issuer is None:
            raise ConfigurationError("the backup is of an authority that was never founded")
        signing = SigningKeyring(ring, issuer=issuer.issuer, instance=await store.instance())
        await bootstrap.found(store, signing, issuer=issuer.issuer)  # the ring fits
        now = store.now()
        new = signing.generate(now=now, sign_at=NEVER if issuer.locked else now)
        restored = replace(
            issuer,
            restored_at=issuer.restored_at if keep_later else now,
            version=issuer.version + 1,
        )
        audit = Author("restore").audit("database.restore", keep_later=str(keep_later).lower())
        await store.commit(
            Commit(
                rows=(restored, *drop(await store.signing_keys(), now), new),
                events=(KEYS_CHANGED,),
                audit=(audit,),
            )
        )
    finally:
        await store.close()
