"""The tables that processes share their counts in: levels of limits, and refusals by App, reason and minute.

Neither grows with traffic: a level goes when it has leaked away, refusals after some days, and each table
has a number of rows beyond which the oldest go first.
"""

from __future__ import annotations

from collections.abc import Sequence

from rpz_auth_server.domain.limits import Charge, Level, RefusalCount, SharedLevel
from rpz_auth_server.storage.steps import Steps, sql

MAX_LEVELS = 20_000
MAX_REFUSALS = 200_000
READ = 2_000
"""Levels that are taken over at once, the newest first."""

REFUSALS_KEPT = 7 * 24 * 60
"""Minutes."""


def charge(charges: Sequence[Charge], now: float) -> Steps[None]:
    """Add to levels what one process has charged, and forget those that have leaked away."""
    for item in charges:
        lasts = item.amount / item.rate
        yield sql(
            "INSERT INTO limits AS held (key, charged, at, ends_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET at = excluded.at,"
            " charged = CASE WHEN held.ends_at > excluded.at THEN (held.ends_at - excluded.at) * ? ELSE 0 END"
            " + excluded.charged,"
            " ends_at = CASE WHEN held.ends_at > excluded.at THEN held.ends_at ELSE excluded.at END + ?",
            item.key,
            item.amount,
            now,
            now + lasts,
            item.rate,
            lasts,
        )
    yield sql("DELETE FROM limits WHERE ends_at <= ?", now)
    yield from _bound("limits", "ends_at", MAX_LEVELS)


def levels_since(time: float) -> Steps[list[SharedLevel]]:
    """Read the levels that were charged since a time."""
    found = yield sql(
        "SELECT key, charged, at FROM limits WHERE at >= ? ORDER BY at DESC LIMIT ?", time, READ
    )
    return [SharedLevel(key, Level(charged, at)) for key, charged, at in found.rows]


def count_refusals(counts: Sequence[RefusalCount]) -> Steps[None]:
    """Add to the counts of refusals; what names no App of this database counts for none.

    Names are what strangers say: without that, they could fill the table with made-up ones.
    """
    for item in counts:
        yield sql(
            "INSERT INTO refusals AS held (minute, app_id, reason, count) VALUES"
            " (?, coalesce((SELECT app_id FROM apps WHERE app_id = ?), ''), ?, ?)"
            " ON CONFLICT (minute, app_id, reason) DO UPDATE SET count = held.count + excluded.count",
            item.minute,
            item.app_id,
            item.reason,
            item.count,
        )


def refusals(app_id: str | None, before: tuple[int, str, str], limit: int) -> Steps[list[RefusalCount]]:
    """Read counts, the newest first, beyond a place; of one App, or of all."""
    select = "SELECT app_id, reason, minute, count FROM refusals WHERE (minute, app_id, reason) < (?, ?, ?)"
    order = "ORDER BY minute DESC, app_id DESC, reason DESC LIMIT ?"
    if app_id is None:
        found = yield sql(f"{select} {order}", *before, limit)
    else:
        found = yield sql(f"{select} AND app_id = ? {order}", *before, app_id, limit)
    return [RefusalCount(*row) for row in found.rows]


def expiring(now: float, before: float) -> Steps[dict[str, int]]:
    """Count live credentials that end between now and a time."""
    counts = {}
    for kind, table in (("secret", "client_secrets"), ("api_token", "api_tokens")):
        found = yield sql(
            f"SELECT count(*) FROM {table} WHERE revoked_at IS NULL AND expires_at > ? AND expires_at <= ?",  # noqa: S608 - names from the line above
            now,
            before,
        )
        counts[kind] = int(found.rows[0][0])
    return counts


def collect(now: float, limit: int) -> Steps[int]:
    """Delete up to `limit` old counts of refusals, within the caller's transaction; return how many."""
    deleted = yield sql(
        "DELETE FROM refusals WHERE (minute, app_id, reason) IN"
        " (SELECT minute, app_id, reason FROM refusals WHERE minute < ? LIMIT ?)",
        int(now // 60) - REFUSALS_KEPT,
        limit,
    )
    return deleted.count + (yield from _bound("refusals", "minute", MAX_REFUSALS))


def _bound(table: str, order: str, size: int) -> Steps[int]:
    found = yield sql(f"SELECT count(*) FROM {table}")  # noqa: S608 - names from above
    rows = found.rows[0][0]
    if rows <= size:
        return 0
    last = f"SELECT {order} FROM {table} ORDER BY {order} LIMIT 1 OFFSET {rows - size - 1}"  # noqa: S608 - as above
    deleted = yield sql(f"DELETE FROM {table} WHERE {order} <= ({last})")  # noqa: S608 - as above
    return deleted.count
