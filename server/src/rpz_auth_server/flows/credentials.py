"""What OAuth 2 secrets and API tokens have in common when they are made."""

from __future__ import annotations

from rpz_auth_server.domain.refusal import RequestInvalid

_MAX_NAME = 128


def check_name(text: str) -> str:
    """Take what a person will know the credential by; it may be empty.

    Raises:
        RequestInvalid: Too long, or not printable.
    """
    if len(text) > _MAX_NAME or not text.isprintable():
        raise RequestInvalid(f"a display_name has at most {_MAX_NAME} printable characters")
    return text


def check_deadline(expires_at: float | None, now: float) -> None:
    """Take a deadline in the future, or none.

    Raises:
        RequestInvalid: It has passed.
    """
    if expires_at is not None and expires_at <= now:
        raise RequestInvalid("expire_time has passed already")
