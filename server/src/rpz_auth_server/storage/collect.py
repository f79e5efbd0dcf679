"""Deletes rows that nothing can ask for any more."""

from __future__ import annotations

import sqlite3

from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.storage import events

SHOWN = 30 * 86400.0
"""Seconds for which people see a secret or API token that has ended."""

AUDIT_KEPT = 90 * 86400.0

_DEAD_AT = f"max(min(idle_expires_at, expires_at), access_expires_at) + {MARGIN}"
"""The same as `rows.dead_at`."""


def collect(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Delete up to `limit` rows of each kind, within the caller's transaction.

    Return how many rows were deleted or put off; 0 says that nothing is left to do for now.
    """
    return (
        _grants(connection, now, limit)
        + _credentials(connection, now, limit)
        + _deleted_apps(connection, now, limit)
        + _signing_keys(connection, now)
        + _sessions(connection, now, limit)
        + _consents(connection, now, limit)
        + events.collect(connection, now, limit)
        + _audit(connection, now, limit)
    )


def _grants(connection: sqlite3.Connection, now: float, limit: int) -> int:
    due = "SELECT grant_id FROM grants WHERE collect_at <= :now ORDER BY collect_at LIMIT :limit"
    values = {"now": now, "limit": limit}
    # S608: nothing of these texts comes from outside this module.
    # Those that were renewed since are looked at again when they may be dead.
    put_off = connection.execute(
        f"UPDATE grants SET collect_at = {_DEAD_AT} WHERE grant_id IN ({due}) AND {_DEAD_AT} > :now",  # noqa: S608 - see above
        values,
    ).rowcount
    deleted = connection.execute(
        f"DELETE FROM grants WHERE grant_id IN ({due}) AND {_DEAD_AT} <= :now",  # noqa: S608 - see above
        values,
    ).rowcount
    return put_off + deleted


def _credentials(connection: sqlite3.Connection, now: float, limit: int) -> int:
    ended_before = now - MARGIN - SHOWN
    return sum(
        connection.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table}"  # noqa: S608 - names from the line below
            " WHERE coalesce(revoked_at, expires_at) <= ? LIMIT ?)",
            (ended_before, limit),
        ).rowcount
        for table, key in (("client_secrets", "secret_id"), ("api_tokens", "api_token_id"))
    )


def _deleted_apps(connection: sqlite3.Connection, now: float, limit: int) -> int:
    # An App may have had any number of grants, so they go in batches too, and the App after the last.
    deleted_before = now - MARGIN
    rows = sum(
        connection.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE app_id IN"  # noqa: S608 - names from the lines below
            " (SELECT app_id FROM apps WHERE deleted AND updated_at <= ?) LIMIT ?)",
            (deleted_before, limit),
        ).rowcount
        for table, key in (
            ("client_secrets", "secret_id"),
            ("api_tokens", "api_token_id"),
            ("grants", "grant_id"),
            ("consents", "consent_id"),
        )
    )
    apps = connection.execute(
        "DELETE FROM apps WHERE app_id IN (SELECT app_id FROM apps WHERE deleted AND updated_at <= ?"
        " AND NOT EXISTS (SELECT 1 FROM client_secrets WHERE client_secrets.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM api_tokens WHERE api_tokens.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM consents WHERE consents.app_id = apps.app_id) LIMIT ?)",
        (deleted_before, limit),
    ).rowcount
    return rows + apps


def _signing_keys(connection: sqlite3.Connection, now: float) -> int:
    # A handful of rows, so neither an index nor a limit.
    return connection.execute("DELETE FROM signing_keys WHERE retire_at <= ?", (now - MARGIN,)).rowcount


def _sessions(connection: sqlite3.Connection, now: float, limit: int) -> int:
    # No index: an account has a handful, and each use of a session would have to move its entry.
    return connection.execute(
        "DELETE FROM sessions WHERE session_id IN (SELECT session_id FROM sessions"
        " WHERE ended_at IS NOT NULL OR idle_expires_at <= ? OR expires_at <= ? LIMIT ?)",
        (now, now, limit),
    ).rowcount


def _consents(connection: sqlite3.Connection, now: float, limit: int) -> int:
    return connection.execute(
        "DELETE FROM consents WHERE consent_id IN (SELECT consent_id FROM consents"
        " WHERE expires_at <= ? LIMIT ?)",
        (now, limit),
    ).rowcount


def _audit(connection: sqlite3.Connection, now: float, limit: int) -> int:
    # Times rise with the sequence, so the oldest are the first: no index. The newest stays, for the chain.
    return connection.execute(
        "DELETE FROM audit WHERE sequence IN (SELECT sequence FROM"
        " (SELECT sequence, recorded_at FROM audit ORDER BY sequence LIMIT ?) WHERE recorded_at <= ?)"
        " AND sequence < (SELECT max(sequence) FROM audit)",
        (limit, now - AUDIT_KEPT),
    ).rowcount
