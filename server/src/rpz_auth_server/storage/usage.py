"""Which master keys the rows that are alive need."""

from __future__ import annotations

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
