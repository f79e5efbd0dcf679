"""What users have allowed Apps: listed and revoked, grant by grant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpz_auth.caller import Caller

from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.domain.refusal import NotFound, RequestInvalid, RightsInsufficient
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.revoke_token import revocation_commit
from rpz_auth_server.flows.rights import find_app, is_administrator


@dataclass(frozen=True, slots=True)
class GrantPage:
    """Some grants that are alive, and where to go on."""

    grants: Sequence[Grant]
    next_after: str
    """The ID beyond which the next page begins; empty on the last one."""


async def list_grants(
    authority: Authority, caller: Caller, *, client_id: str, subject: str, after: str, limit: int
) -> GrantPage:
    """Show grants that are neither revoked nor expired, in order of their IDs, beyond the ID `after`.

    A page is what is alive among `limit` rows: an App may have any number of dead ones, and one call must
    not walk them all.

    Raises:
        NotFound: The App is missing, or not the caller's.
        RightsInsufficient: Only an administrator asks about all Apps at once.
        RequestInvalid: Neither an App nor a user is named.
    """
    if client_id:
        await find_app(authority, caller, client_id)
    elif not is_administrator(caller):
        raise RightsInsufficient("name an App of yours; only an administrator lists the grants of all Apps")
    if subject:
        # Few Apps to a user, many users to an App.
        rows = await authority.store.grants_by_subject(subject, after=after, limit=limit)
    elif client_id:
        rows = await authority.store.grants_of_app(client_id, after=after, limit=limit)
    else:
        raise RequestInvalid("name an App by client_id, a user by subject, or both")
    now = authority.store.now()
    alive = [
        grant
        for grant in rows
        if grant.state is not GrantState.REVOKED and now < grant.ends_at and client_id in ("", grant.app_id)
    ]
    return GrantPage(alive, rows[-1].grant_id if len(rows) == limit else "")


async def revoke_grant(authority: Authority, caller: Caller, grant_id: str) -> None:
    """End a grant with its code, refresh token and access tokens; a second time does nothing.

    Raises:
        NotFound: The grant is missing, or of an App that is not the caller's.
    """

    async def attempt() -> None:
        grant = await authority.store.grant(grant_id)
        if grant is None:
            raise NotFound
        await find_app(authority, caller, grant.app_id)
        if grant.state is not GrantState.REVOKED:
            await authority.store.commit(
                revocation_commit(authority, grant, actor=caller.subject, peer=str(caller.peer))
            )

    await retry_conflicts(attempt)
