"""What is used: the master keys that rows need, and the Apps that call."""

from __future__ import annotations

from collections.abc import Sequence

from rpz_auth_server.domain.grant import GrantState
from rpz_auth_server.domain.key import KeyUse
from rpz_auth_server.storage.steps import Steps, sql

_LONGEST_GRACE = 600.0


def count(now: float) -> Steps[list[KeyUse]]:
    """Count rows by master key and kind; it reads whole tables."""
    live = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
    alive = "state <> ? AND idle_expires_at > ? AND expires_at > ?"
    grants = (str(GrantState.REVOKED), now, now)
    uses: list[KeyUse] = []
    for kind, condition, values in (
        ("grants", alive, grants),
        ("client_secrets", live, (now,)),
        ("api_tokens", live, (now,)),
        ("signing_keys", "published = 1", ()),
        ("accounts", "password_hash IS NOT NULL", ()),
    ):
        # S608: the texts stand above.
        found = yield sql(
            f"SELECT key_number, count(*) FROM {kind} WHERE {condition} GROUP BY key_number"  # noqa: S608
            " ORDER BY key_number",
            *values,
        )
        uses += [KeyUse(number, kind, rows) for number, rows in found.rows]
    found = yield sql(
        f"SELECT count(*) FROM grants WHERE {alive} AND generation > 0 AND key_since = generation"  # noqa: S608
        " AND key_number > 1 AND rotated_at > ?",
        *grants,
        now - _LONGEST_GRACE,
    )
    ((rows,),) = found.rows
    return [*uses, KeyUse(0, "refreshes in grace", rows)] if rows else uses


def last_uses(app_ids: Sequence[str]) -> Steps[dict[str, float]]:
    """When a secret or API token of each App was used last."""
    latest: dict[str, float] = {}
    for table in ("client_secrets", "api_tokens") if app_ids else ():
        marks = ", ".join("?" * len(app_ids))
        # S608: the texts stand above.
        found = yield sql(
            f"SELECT app_id, max(last_used_at) FROM {table} WHERE app_id IN ({marks})"  # noqa: S608
            " AND last_used_at IS NOT NULL GROUP BY app_id",
            *app_ids,
        )
        for app_id, used_at in found.rows:
            latest[app_id] = max(used_at, latest.get(app_id, used_at))
    return latest
