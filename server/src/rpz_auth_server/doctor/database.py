"""The database: whole, of this version, in time with the machine, and with a record that nobody changed."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence

from rpz_auth.errors import BackendUnavailable, ConfigurationError

from rpz_auth_server.audit_chain import Chain
from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.audit import link_of
from rpz_auth_server.storage.inspection import Inspection, inspect_postgres, inspect_sqlite
from rpz_auth_server.storage.store import Store

_CHECK = Check("database")
_CLOCK = Check("clock")
_RECORDS = Check("audit records")
_MEGABYTE = 2**20
_LITTLE = 256 * _MEGABYTE
_NOTHING = 16 * _MEGABYTE
_SLOW = 0.5
_CLOSE = 2.0
_FAR = 60.0
_PAGE = 1000


async def inspect(settings: Settings, now: float) -> tuple[list[Finding], bool]:
    """Look it over from outside; also return whether it can be opened without a change to it."""
    try:
        found = await (
            asyncio.to_thread(inspect_sqlite, settings.database_path)
            if settings.is_embedded
            else inspect_postgres(settings.database)
        )
    except (ConfigurationError, BackendUnavailable) as error:
        return [_CHECK.error(str(error), "name another by --database, or restore a backup")], False
    findings = [*_clock(found.time - now, is_file=settings.is_embedded), *_state(found)]
    if settings.is_embedded:
        findings += _room(shutil.disk_usage(settings.database_path.parent).free)
    can_open = not (found.damage or found.moved_to is not None or found.is_older or found.is_newer)
    return findings, can_open


def _state(found: Inspection) -> Iterator[Finding]:
    if found.moved_to is not None:
        yield _CHECK.error(f"it was moved ({found.moved_to}), and is fenced", "name the other by --database")
    elif found.is_newer:
        yield _CHECK.error("it is of a newer rpz-auth-server", "use that version or a later one")
    elif found.is_older:
        yield _CHECK.warning(
            "it is of an older rpz-auth-server", "the next start of this version brings it up"
        )
    for what in found.damage[:10]:
        yield _CHECK.error(f"it is damaged: {what}", "restore a backup; and look at the disk")
    if not found.damage:
        yield _CHECK.ok("nothing in it is broken")
    if not found.has_checksums:
        yield _CHECK.warning(
            "its server keeps no checksums, so that damage of the disk goes unnoticed",
            "stop the server, and run `pg_checksums --enable`",
        )


def _clock(ahead: float, *, is_file: bool) -> Iterator[Finding]:
    """Of a file, only what is ahead says something: it stands still while no authority runs."""
    off = ahead if is_file else abs(ahead)
    if off <= _CLOSE:
        yield _CLOCK.ok("this machine and the database agree")
        return
    side = "ahead of" if ahead > 0 else "behind"
    found = f"the database's time is {abs(ahead):.0f} seconds {side} this machine's"
    mend = "set the clock, and keep it by NTP; the authority goes by the database's, which never goes back"
    yield _CLOCK.error(found, mend) if off > _FAR else _CLOCK.warning(found, mend)


def _room(free: int) -> Iterator[Finding]:
    text = f"{free // _MEGABYTE} MB are free on its disk"
    mend = "make room: without it, whatever needs a write is refused"
    if free < _NOTHING:
        yield _CHECK.error(text, mend)
    elif free < _LITTLE:
        yield _CHECK.warning(text, mend)
    else:
        yield _CHECK.ok(text)


async def check_store(store: Store) -> list[Finding]:
    """Write once, and read the audit records."""
    begin = time.perf_counter()
    await store.heartbeat()
    taken = time.perf_counter() - begin
    text = f"a durable write takes {taken * 1000:.1f} ms"
    written = (
        _CHECK.ok(text)
        if taken < _SLOW
        else _CHECK.warning(text, "look at the disk: each answer that changes something waits for one")
    )
    return [written, *await _records(store)]


async def _records(store: Store) -> Sequence[Finding]:
    chain, count = Chain(), 0
    while page := await store.audit_records(after=chain.sequence, limit=_PAGE):
        for record in page:
            count += 1
            if not chain.follows(link_of(record)):
                mend = "compare with an export: records were lost or changed"
                return [_RECORDS.error(f"record {record.sequence} does not follow from the one before", mend)]
    head = f"; the head is {chain.sequence}:{chain.digest.hex()}" if count else ""
    return [_RECORDS.ok(f"{count}, each follows from the one before{head}")]
