"""When a long-lived credential was used last, and from where."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth.address import parse_address

UNIX = "unix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One use of an OAuth 2 secret or API token; of several only the last is kept."""

    credential_id: str
    used_at: float
    """Seconds since the epoch, on the database's clock."""
    used_from: str
    """An IP address, `unix`, or nothing."""


def read_place(text: str) -> str:
    """What a verifier says of its peer, as far as it is a place; it is shown to people."""
    if text == UNIX:
        return text
    try:
        return str(parse_address(text))
    except ValueError:
        return ""
