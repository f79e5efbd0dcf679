"""Deletes rows that nothing can ask for any more."""

from __future__ import annotations

from rpz_auth_server.domain.account import QUESTION_LIFETIME
from rpz_auth_server.domain.creation import KEPT as CREATION_KEPT
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.domain.resolution import LONGEST
from rpz_auth_server.storage import events, limits
from rpz_auth_server.storage.steps import Steps, sql
from rpz_auth_server.storage.store import AUDIT_KEPT

SHOWN = 30 * 86400.0
"""Seconds for which people see a secret or API token that has ended."""


_ENDS_AT = "CASE WHEN idle_expires_at < expires_at THEN idle_expires_at ELSE expires_at END"
_DEAD_AT = f"CASE WHEN {_ENDS_AT} > access_expires_at THEN {_ENDS_AT} ELSE access_expires_at END + {MARGIN}"
"""The same as `rows.dead_at`."""


def collect(now: float, limit: int, audit_kept: float = AUDIT_KEPT) -> Steps[int]:
    """Delete up to `limit` rows of each kind, within the caller's transaction.

    Return how many rows were deleted or put off; 0 says that nothing is left to do for now.
    """
    collected = yield from _grants(now, limit)
    collected += yield from _credentials(now, limit)
    collected += yield from _deleted_apps(now, limit)
    collected += yield from _signing_keys(now)
    collected += yield from _sessions(now, limit)
    collected += yield from _consents(now, limit)
    collected += yield from _pushed_requests(now, limit)
    collected += yield from _creations(now, limit)
    collected += yield from _resolutions(now, limit)
    collected += yield from events.collect(now, limit)
    collected += yield from limits.collect(now, limit)
    collected += yield from _audit(now, limit, audit_kept)
    return collected


def _grants(now: float, limit: int) -> Steps[int]:
    due = "SELECT grant_id FROM grants WHERE collect_at <= ? ORDER BY collect_at LIMIT ?"
    values = (now, limit, now)
    # S608: nothing of these texts comes from outside this module.
    # Those that were renewed since are looked at again when they may be dead.
    put_off = yield sql(
        f"UPDATE grants SET collect_at = {_DEAD_AT} WHERE grant_id IN ({due}) AND {_DEAD_AT} > ?",  # noqa: S608 - see above
        *values,
    )
    deleted = yield sql(
        f"DELETE FROM grants WHERE grant_id IN ({due}) AND {_DEAD_AT} <= ?",  # noqa: S608 - see above
        *values,
    )
    return put_off.count + deleted.count


def _credentials(now: float, limit: int) -> Steps[int]:
    collected = 0
    for table, key in (("client_secrets", "secret_id"), ("api_tokens", "api_token_id")):
        deleted = yield sql(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table}"  # noqa: S608 - names from the line above
            " WHERE coalesce(revoked_at, expires_at) <= ? LIMIT ?)",
            now - MARGIN - SHOWN,
            limit,
        )
        collected += deleted.count
    return collected


def _deleted_apps(now: float, limit: int) -> Steps[int]:
    # An App may have had any number of grants, so they go in batches too, and the App after the last.
    deleted_before = now - MARGIN
    collected = 0
    for table, key in (
        ("client_secrets", "secret_id"),
        ("api_tokens", "api_token_id"),
        ("grants", "grant_id"),
        ("consents", "consent_id"),
    ):
        deleted = yield sql(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE app_id IN"  # noqa: S608 - names from the lines above
            " (SELECT app_id FROM apps WHERE deleted = 1 AND updated_at <= ?) LIMIT ?)",
            deleted_before,
            limit,
        )
        collected += deleted.count
    deleted = yield sql(
        "DELETE FROM apps WHERE app_id IN (SELECT app_id FROM apps WHERE deleted = 1 AND updated_at <= ?"
        " AND NOT EXISTS (SELECT 1 FROM client_secrets WHERE client_secrets.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM api_tokens WHERE api_tokens.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.app_id = apps.app_id)"
        " AND NOT EXISTS (SELECT 1 FROM consents WHERE consents.app_id = apps.app_id) LIMIT ?)",
        deleted_before,
        limit,
    )
    return collected + deleted.count


def _signing_keys(now: float) -> Steps[int]:
    # A handful of rows, so neither an index nor a limit.
    deleted = yield sql("DELETE FROM signing_keys WHERE retire_at <= ?", now - MARGIN)
    return deleted.count


def _sessions(now: float, limit: int) -> Steps[int]:
    # No index: an account has a handful, and each use of a session would have to move its entry.
    deleted = yield sql(
        "DELETE FROM sessions WHERE session_id IN (SELECT session_id FROM sessions"
        " WHERE ended_at IS NOT NULL OR idle_expires_at <= ? OR expires_at <= ? LIMIT ?)",
        now,
        now,
        limit,
    )
    return deleted.count


def _consents(now: float, limit: int) -> Steps[int]:
    # Not before every page that asked for one is too old: without its version one could be answered again.
    deleted = yield sql(
        "DELETE FROM consents WHERE consent_id IN (SELECT consent_id FROM consents"
        " WHERE expires_at <= ? LIMIT ?)",
        now - QUESTION_LIFETIME,
        limit,
    )
    return deleted.count


def _pushed_requests(now: float, limit: int) -> Steps[int]:
    deleted = yield sql(
        "DELETE FROM pushed_requests WHERE request_id IN (SELECT request_id FROM pushed_requests"
        " WHERE expires_at <= ? LIMIT ?)",
        now,
        limit,
    )
    return deleted.count


def _creations(now: float, limit: int) -> Steps[int]:
    deleted = yield sql(
        "DELETE FROM creations WHERE request_key IN (SELECT request_key FROM creations"
        " WHERE created_at <= ? LIMIT ?)",
        now - CREATION_KEPT,
        limit,
    )
    return deleted.count


def _resolutions(now: float, limit: int) -> Steps[int]:
    # A name that some whitelist holds is asked for when it is due, whatever comes of it.
    deleted = yield sql(
        "DELETE FROM resolutions WHERE name IN (SELECT name FROM resolutions WHERE due_at <= ? LIMIT ?)",
        now - LONGEST,
        limit,
    )
    return deleted.count


def _audit(now: float, limit: int, audit_kept: float) -> Steps[int]:
    # Times rise with the sequence, so the oldest are the first: no index. The newest stays, for the chain.
    deleted = yield sql(
        "DELETE FROM audit WHERE sequence IN (SELECT sequence FROM"
        " (SELECT sequence, recorded_at FROM audit ORDER BY sequence LIMIT ?) AS oldest"
        " WHERE recorded_at <= ?) AND sequence < (SELECT max(sequence) FROM audit)",
        limit,
        now - audit_kept,
    )
    return deleted.count
