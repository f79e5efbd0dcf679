"""Showing which calls were refused."""

from __future__ import annotations

from collections.abc import Sequence

from rpz_auth.caller import Caller

from rpz_auth_server.domain.limits import RefusalCount
from rpz_auth_server.domain.refusal import RightsInsufficient
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.rights import find_app, is_administrator

NEWEST = (2**62, "", "")
"""The place before the first count."""


async def list_refusals(
    authority: Authority, caller: Caller, app_id: str, *, before: tuple[int, str, str], limit: int
) -> Sequence[RefusalCount]:
    """Show how often calls of an App were refused, the newest minute first; beyond the place `before`.

    Without an App: those of all, and of nobody's, for administrators.

    Raises:
        NotFound: The App is missing, or not the caller's.
        RightsInsufficient: Only an administrator may leave out the App.
    """
    if app_id:
        await find_app(authority, caller, app_id)
    elif not is_administrator(caller):
        raise RightsInsufficient("name one of your Apps; only an administrator sees the refusals of all")
    return await authority.store.refusals(app_id or None, before=before, limit=limit)
