"""What OAuth 2 secrets and API tokens have in common when they are made."""

from __future__ import annotations

from rpz_auth_server.domain.refusal import RequestInvalid


def check_deadline(expires_at: float | None, now: float) -> None:
    """Take a deadline in the future, or none.

    Raises:
        RequestInvalid: It has passed.
    """
    if expires_at is not None and expires_at <= now:
        raise RequestInvalid("expire_time has passed already")
