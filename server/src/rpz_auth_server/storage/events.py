"""The table of events: the stream that watchers follow, which is also the set of live revocations.

An event is inserted in the transaction of its change. Every database has one writer at a time (SQLite by its
nature, PostgreSQL by a lock that each transaction takes first), so the order of sequence numbers is the order
of commits, and whoever sees an event sees all before it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict

from rpz_auth.view import AppState, Change, Revocation, SigningKeys

from rpz_auth_server.domain.app import forget_at
from rpz_auth_server.domain.event import BEGINNING, Cursor, Event, StoredSnapshot
from rpz_auth_server.storage.rows import to_json
from rpz_auth_server.storage.steps import Steps, sql

KEEP = 600.0
"""Seconds for which a watcher that was cut off can go on from its cursor, whatever happened since."""

_NONCE_BYTES = 16


def write(change: Change, now: float) -> Steps[None]:
    """Append a change to the stream."""
    match change:
        case Revocation():
            kind, body, forget_at = "revocation", change.id, change.forget_at
        # The other two are kept for those who follow only; snapshots find them elsewhere.
        case AppState():
            kind, body, forget_at = "app", to_json(asdict(change)), now
        case SigningKeys():
            kind, body, forget_at = "keys", change.jwks, now
    # The newest event is never collected, so that no place in the stream is given twice.
    yield sql(
        "INSERT INTO events (sequence, nonce, kind, body, created_at, forget_at)"
        " SELECT coalesce(max(sequence), 0) + 1, ?, ?, ?, ?, ? FROM events",
        secrets.token_bytes(_NONCE_BYTES),
        kind,
        body,
        now,
        forget_at,
    )


def newest() -> Steps[Cursor]:
    """Tell the place of the newest event, which is never collected; `BEGINNING` without one."""
    found = yield sql("SELECT sequence, nonce FROM events ORDER BY sequence DESC LIMIT 1")
    return BEGINNING if found.row is None else Cursor(found.row[0], found.row[1].hex())


def after(cursor: Cursor, limit: int) -> Steps[tuple[Event, ...] | None]:
    """Read the events behind a cursor, or None if there were others that are gone.

    Events end at different times, so a cursor whose own event is kept proves nothing about those behind it.
    Nothing behind it is missing if and only if nothing beyond it was ever collected.
    """
    found = yield sql("SELECT collected_event FROM meta")
    if cursor.sequence < found.rows[0][0]:
        return None
    if cursor != BEGINNING:
        found = yield sql("SELECT nonce FROM events WHERE sequence = ?", cursor.sequence)
        if found.row is None or found.row[0].hex() != cursor.nonce:
            return None
    found = yield sql(
        "SELECT sequence, nonce, kind, body, forget_at FROM events WHERE sequence > ?"
        " ORDER BY sequence LIMIT ?",
        cursor.sequence,
        limit,
    )
    return tuple(
        Event(Cursor(sequence, nonce.hex()), _load(kind, body, forget_at))
        for sequence, nonce, kind, body, forget_at in found.rows
    )


def collect(now: float, limit: int) -> Steps[int]:
    """Delete events that are forgotten and that no cursor of the last ten minutes has before or behind it.

    A watcher may have stood at an old event until just now, when the next one came. So everything stays from
    the newest event on that is itself older than ten minutes; in a quiet stream that is the last of all.
    """
    kept_from = yield sql(
        "SELECT sequence FROM events WHERE created_at <= ? ORDER BY sequence DESC LIMIT 1", now - KEEP
    )
    if kept_from.row is None:
        return 0
    gone = yield sql(
        "DELETE FROM events WHERE sequence IN (SELECT sequence FROM events"
        " WHERE forget_at <= ? AND sequence < ? ORDER BY forget_at LIMIT ?) RETURNING sequence",
        now,
        *kept_from.row,
        limit,
    )
    if gone.rows:
        (last,) = max(gone.rows)
        yield sql("UPDATE meta SET collected_event = ? WHERE collected_event < ?", last, last)
    return len(gone.rows)


def snapshot(now: float) -> Steps[StoredSnapshot]:
    """Read everything that is not as a verifier would assume, and the cursor, in one transaction."""
    revoked = yield sql(
        "SELECT body, max(forget_at) FROM events"
        " WHERE kind = 'revocation' AND forget_at > ? GROUP BY body ORDER BY body",
        now,
    )
    apps = yield sql(
        "SELECT app_id, version, locked, deleted, epoch, whitelist, resolved, query_token_allowed, updated_at"
        " FROM apps"
        " WHERE locked = 1 OR deleted = 1 OR epoch > 0 OR whitelist <> '[]'"
        " OR query_token_allowed = 1 ORDER BY app_id"
    )
    cursor = yield from newest()
    return StoredSnapshot(
        cursor=cursor,
        revocations=tuple(Revocation(revoked_id, forget_at) for revoked_id, forget_at in revoked.rows),
        apps=tuple(
            AppState(
                app_id=app_id,
                version=version,
                locked=bool(locked),
                deleted=bool(deleted),
                epoch=epoch,
                whitelist=(*json.loads(whitelist), *json.loads(resolved)),
                query_token_allowed=bool(query_token_allowed),
                forget_at=forget_at(updated_at) if deleted else None,
            )
            for (
                app_id,
                version,
                locked,
                deleted,
                epoch,
                whitelist,
                resolved,
                query_token_allowed,
                updated_at,
            ) in apps.rows
        ),
    )


def _load(kind: str, body: str, forget_at: float) -> Change:
    match kind:
        case "revocation":
            return Revocation(body, forget_at)
        case "app":
            state = json.loads(body)
            return AppState(**{**state, "whitelist": tuple(state["whitelist"])})
        case _:
            return SigningKeys(body)
