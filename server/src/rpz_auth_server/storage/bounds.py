"""Whether what was written is within its bounds."""

from __future__ import annotations

from rpz_auth_server.domain.bound import ApiTokensOfApp, AppsOfOwner, Bound
from rpz_auth_server.storage.steps import Steps, sql

APPS = "SELECT count(*) FROM apps WHERE owner = ? AND deleted = 0"
API_TOKENS = """
    SELECT (SELECT count(*) FROM api_tokens WHERE app_id = ? AND revoked_at IS NULL AND expires_at IS NULL)
         + (SELECT count(*) FROM api_tokens WHERE app_id = ? AND revoked_at IS NULL AND expires_at > ?)
"""
"""Two ranges of one index: what has ended is not walked over, however much of it is kept."""


def check(bound: Bound, now: float) -> Steps[None]:
    """Go on if a bound is kept; all that write take turns, so it is kept to the end.

    Raises:
        RequestInvalid: It is not.
    """
    match bound:
        case AppsOfOwner(owner):
            counted = yield sql(APPS, owner)
        case ApiTokensOfApp(app_id):
            counted = yield sql(API_TOKENS, app_id, app_id, now)
    if counted.rows[0][0] > bound.most:
        raise bound.refusal
