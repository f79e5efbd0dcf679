"""Repeating a creation by its request ID gives the first one's record (AIP-155)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from rpz_auth.caller import Caller

from rpz_auth_server.domain.creation import TEXT_KEPT, Creation
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows.authority import Authority

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CreationRequest:
    """What may be repeated. Without a request ID nothing can be: it finds nothing and leaves nothing."""

    key: str = ""
    content: str = ""

    async def find(self, authority: Authority) -> Creation | None:
        """The creation that this one repeats.

        Raises:
            RequestInvalid: The request ID was used for something else.
        """
        earlier = await authority.store.creation(self.key) if self.key else None
        if earlier is not None and earlier.content != self.content:
            raise RequestInvalid("this request_id was used for another request; draw a new one")
        return earlier

    def rows(self, object_id: str, now: float) -> tuple[Creation, ...]:
        """What is written together with the object: a second creation conflicts with it, and finds it."""
        if not self.key:
            return ()
        return (Creation(request_key=self.key, content=self.content, object_id=object_id, created_at=now),)


def read_request(caller: Caller, what: str, request_id: str, content: object) -> CreationRequest:
    """Read a request ID.

    Args:
        caller: Whose it is; another caller's equal one is another.
        what: Is created.
        request_id: As received; empty for none.
        content: All that was asked for, as JSON can hold it.

    Raises:
        RequestInvalid: It is no UUID.
    """
    if not request_id:
        return CreationRequest()
    if not _UUID.fullmatch(request_id):
        raise RequestInvalid("a request_id is a UUID, drawn anew for each thing that is to be created")
    return CreationRequest(
        _digest([caller.subject, caller.app_id, what, request_id.lower()]), _digest(content)
    )


def may_show_again(creation: Creation, now: float) -> bool:
    """Tell whether a repeated creation may still give the secret: its first answer was probably lost."""
    return now < creation.created_at + TEXT_KEPT


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()
