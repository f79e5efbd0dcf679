"""What people know things by."""

from __future__ import annotations

from rpz_auth_server.domain.refusal import RequestInvalid

MAX_NAME = 128


def check_name(text: str, what: str, *, may_be_empty: bool = False) -> str:
    """Take a name; `what` says of which field in the message.

    Raises:
        RequestInvalid: Empty, too long, or not printable.
    """
    if len(text) > MAX_NAME or not text.isprintable() or not (text or may_be_empty):
        raise RequestInvalid(f"{what} has {0 if may_be_empty else 1} to {MAX_NAME} printable characters")
    return text
