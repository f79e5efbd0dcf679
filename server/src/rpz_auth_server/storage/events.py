"""The table of events: the stream that watchers follow, which is also the set of live revocations.

An event is inserted in the transaction of its change. SQLite has one writer at a time, so the order of
sequence numbers is the order of commits, and whoever sees an event sees all before it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict

from rpz_auth.view import AppState, Change, Revocation, SigningKeys

from rpz_auth_server.domain.event import BEGINNING, Cursor, Event, StoredSnapshot
from rpz_auth_server.storage.rows import to_json

KEEP = 600.0
"""Seconds for which a watcher that was cut off can go on from its cursor, whatever happened since."""

_NONCE_BYTES = 16


def write(connection: sqlite3.Connection, change: Change, now: float) -> None:
    """Append a change to the stream."""
    match change:
        case Revocation():
            kind, body, forget_at = "revocation", change.id, change.forget_at
        # The other two are kept for those who follow only; snapshots find them elsewhere.
        case AppState():
            kind, body, forget_at = "app", to_json(asdict(change)), now
        case SigningKeys():
            kind, body, forget_at = "keys", change.jwks, now
    connection.execute(
        "INSERT INTO events (nonce, kind, body, created_at, forget_at) VALUES (?, ?, ?, ?, ?)",
        (secrets.token_bytes(_NONCE_BYTES), kind, body, now, forget_at),
    )


def newest(connection: sqlite3.Connection) -> Cursor:
    """Tell the place of the newest event, which is never collected; `BEGINNING` without one."""
    row = connection.execute("SELECT sequence, nonce FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
    return BEGINNING if row is None else Cursor(row[0], row[1].hex())


def after(connection: sqlite3.Connection, cursor: Cursor, limit: int) -> tuple[Event, ...] | None:
    """Read the events behind a cursor, or None if there were others that are gone.

    Events end at different times, so a cursor whose own event is kept proves nothing about those behind it.
    Nothing behind it is missing if and only if nothing beyond it was ever collected.
    """
    with reading(connection):
        (collected,) = connection.execute("SELECT collected_event FROM meta").fetchone()
        if cursor.sequence < collected or not _is_known(connection, cursor):
            return None
        rows = connection.execute(
            "SELECT sequence, nonce, kind, body, forget_at FROM events WHERE sequence > ?"
            " ORDER BY sequence LIMIT ?",
            (cursor.sequence, limit),
        ).fetchall()
    return tuple(
        Event(Cursor(sequence, nonce.hex()), _load(kind, body, forget_at))
        for sequence, nonce, kind, body, forget_at in rows
    )


def collect(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Delete events that are forgotten and that no cursor of the last ten minutes has before or behind it.

    A watcher may have stood at an old event until just now, when the next one came. So everything stays from
    the newest event on that is itself older than ten minutes; in a quiet stream that is the last of all.
    """
    kept_from = connection.execute(
        "SELECT sequence FROM events WHERE created_at <= ? ORDER BY sequence DESC LIMIT 1", (now - KEEP,)
    ).fetchone()
    if kept_from is None:
        return 0
    gone = connection.execute(
        "DELETE FROM events WHERE sequence IN (SELECT sequence FROM events"
        " WHERE forget_at <= ? AND sequence < ? ORDER BY forget_at LIMIT ?) RETURNING sequence",
        (now, *kept_from, limit),
    ).fetchall()
    if gone:
        connection.execute("UPDATE meta SET collected_event = max(collected_event, ?)", max(gone))
    return len(gone)


def snapshot(connection: sqlite3.Connection, now: float) -> StoredSnapshot:
    """Read everything that is not as a verifier would assume, and the cursor, in one transaction."""
    with reading(connection):
        revoked = connection.execute(
            "SELECT body, max(forget_at) FROM events"
            " WHERE kind = 'revocation' AND forget_at > ? GROUP BY body",
            (now,),
        ).fetchall()
        apps = connection.execute(
            "SELECT app_id, version, locked, deleted, epoch, whitelist FROM apps"
            " WHERE locked OR deleted OR epoch > 0 OR whitelist <> '[]' ORDER BY app_id"
        ).fetchall()
        cursor = newest(connection)
    return StoredSnapshot(
        cursor=cursor,
        revocations=tuple(Revocation(revoked_id, forget_at) for revoked_id, forget_at in revoked),
        apps=tuple(
            AppState(
                app_id=app_id,
                version=version,
                locked=bool(locked),
                deleted=bool(deleted),
                epoch=epoch,
                whitelist=tuple(json.loads(whitelist)),
            )
            for app_id, version, locked, deleted, epoch, whitelist in apps
        ),
    )


@contextlib.contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several statements see one state of the database."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _is_known(connection: sqlite3.Connection, cursor: Cursor) -> bool:
    if cursor == BEGINNING:
        return True
    row = connection.execute("SELECT nonce FROM events WHERE sequence = ?", (cursor.sequence,)).fetchone()
    return row is not None and row[0].hex() == cursor.nonce


def _load(kind: str, body: str, forget_at: float) -> Change:
    match kind:
        case "revocation":
            return Revocation(body, forget_at)
        case "app":
            state = json.loads(body)
            return AppState(**{**state, "whitelist": tuple(state["whitelist"])})
        case _:
            return SigningKeys(body)
