"""What was used since it was last written down.

To note a use is to change a dictionary: no call waits for it, no call fails because of it, and a busy
credential costs one row's write every few seconds, not one a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rpz_auth_server.domain.use import Use

LIMIT = 10_000
"""Credentials; beyond it a use is forgotten, and the next one counts."""


class Uses:
    """Belongs to one event loop's thread."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        """Keep the last use of at most `limit` credentials."""
        self._limit = limit
        self._uses: dict[str, Use] = {}

    def note(self, credential_id: str, *, at: float, place: str) -> None:
        """Keep in mind that a credential was used."""
        if credential_id in self._uses or len(self._uses) < self._limit:
            self._uses[credential_id] = Use(credential_id=credential_id, used_at=at, used_from=place)

    def take(self, most: int) -> Sequence[Use]:
        """Hand over what is to be written, the longest kept first."""
        return [self._uses.pop(key) for key in list(self._uses)[:most]]

    def put_back(self, uses: Iterable[Use]) -> None:
        """Take back what could not be written, unless it was used again meanwhile."""
        for use in uses:
            if use.credential_id not in self._uses:
                self.note(use.credential_id, at=use.used_at, place=use.used_from)
