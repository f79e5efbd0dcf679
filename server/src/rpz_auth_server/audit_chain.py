"""The hash chain of audit records: made by the authority, checked by whoever has the records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

GENESIS = bytes(32)
"""What stands for the digest before the first record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A record, with the digest that it claims."""

    sequence: int
    recorded_at: float
    actor: str
    action: str
    app_id: str
    peer: str
    details: Mapping[str, str]
    digest: bytes = b""

    def follow(self, before: bytes) -> bytes:
        """Bind it to all before it: SHA-256 over the previous digest and the record as canonical JSON."""
        content = [
            self.sequence,
            self.recorded_at,
            self.actor,
            self.action,
            self.app_id,
            self.peer,
            dict(self.details),
        ]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(before + text.encode("ascii")).digest()


class Chain:
    """Checks records one by one, from the oldest that is kept.

    Its own digest can be checked only if it is the first of all; else it is taken as given, and everything
    after it is proved against it. That the newest were cut off shows only to who has kept a head.
    """

    def __init__(self) -> None:
        """Have seen nothing yet."""
        self.sequence = 0
        self.digest = GENESIS

    def follows(self, link: Link) -> bool:
        """Tell whether a record follows from those before, and go on from it."""
        is_first = self.sequence == 0
        if is_first and link.sequence > 1:
            proved = True
        else:
            proved = link.sequence == self.sequence + 1 and link.follow(self.digest) == link.digest
        self.sequence, self.digest = link.sequence, link.digest
        return proved
