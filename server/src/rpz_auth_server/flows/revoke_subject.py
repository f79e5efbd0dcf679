"""Revoking all that a user has allowed."""

from __future__ import annotations

from rpz_auth.caller import Caller

from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.issue_code import check_subject
from rpz_auth_server.flows.revoke_token import revocation_commit

_BATCH = 100


async def revoke_subject(authority: Authority, caller: Caller, subject: str) -> int:
    """Revoke every grant of a user, codes that wait for redemption included.

    Grants are revoked one by one and not by a date: an access token issued in the same second, after the
    user has signed in again, must not be hit.

    Returns:
        How many.

    Raises:
        RightsInsufficient: The caller may not speak of this user.
    """
    await check_subject(authority, caller, subject)
    revoked = 0
    while grants := await authority.store.grants_of_subject(subject, limit=_BATCH):
        for grant in grants:
            try:
                await authority.store.commit(
                    revocation_commit(authority, grant, actor=caller.subject, peer=str(caller.peer))
                )
            except Conflict:  # renewed in this moment; the next round sees it again
                continue
            revoked += 1
    return revoked
