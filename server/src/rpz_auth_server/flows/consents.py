"""What people have allowed Apps: remembered, shown, withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rpz_auth.caller import APP_ID

from rpz_auth_server.domain.account import Consent, consent_id, covers, extend
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import Conflict, NotFound
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.revoke_token import revocation_commit
from rpz_auth_server.storage.store import Commit

_BATCH = 100


async def is_remembered(
    authority: Authority, caller: Person, app_id: str, scopes: frozenset[str], resources: frozenset[str]
) -> bool:
    """Tell whether the caller need not be asked for this again."""
    consent = await authority.store.consent(consent_id(caller.subject, app_id))
    return covers(consent, scopes, resources, authority.store.now())


async def version_of(authority: Authority, caller: Person, app_id: str) -> int:
    """The version of what the caller allowed an App, 0 for nothing yet: what a page that asks is bound to."""
    known = await authority.store.consent(consent_id(caller.subject, app_id))
    return 0 if known is None else known.version


async def remember(
    authority: Authority,
    caller: Person,
    app_id: str,
    scopes: frozenset[str],
    resources: frozenset[str],
    *,
    expected_version: int | None = None,
) -> None:
    """Remember that the caller allowed an App this, beside what it allowed before.

    Raises:
        Conflict: What was allowed is in another version than expected, None for whichever it is in.
    """

    async def attempt() -> None:
        known = await authority.store.consent(consent_id(caller.subject, app_id))
        if expected_version is not None and expected_version != (known.version if known else 0):
            raise Conflict
        consent = extend(
            known,
            subject=caller.subject,
            app_id=app_id,
            scopes=scopes,
            resources=resources,
            now=authority.store.now(),
        )
        details = {"scopes": " ".join(sorted(scopes)), "resources": " ".join(sorted(resources))}
        audit = _audit(caller, "consent.give", app_id, details)
        await authority.store.commit(Commit(rows=(consent,), audit=(audit,)))

    await (retry_conflicts(attempt) if expected_version is None else attempt())


async def list_consents(authority: Authority, caller: Person, *, after: str, limit: int) -> Sequence[Consent]:
    """Show what the caller has allowed, in order of ID, beyond the ID `after`."""
    return await authority.store.consents(caller.subject, after=after, limit=limit)


async def withdraw(authority: Authority, caller: Person, app_id: str) -> int:
    """Forget what the caller allowed an App, and revoke what the App got by it.

    Returns:
        How many grants were revoked.

    Raises:
        NotFound: The caller has allowed this App nothing.
    """
    if not APP_ID.fullmatch(app_id):
        raise NotFound

    async def forget() -> bool:
        now = authority.store.now()
        consent = await authority.store.consent(consent_id(caller.subject, app_id))
        if consent is None or now >= consent.expires_at:
            return False
        forgotten = replace(consent, expires_at=now, version=consent.version + 1)
        await authority.store.commit(
            Commit(rows=(forgotten,), audit=(_audit(caller, "consent.withdraw", app_id, {}),))
        )
        return True

    # The consent first: what is asked for from now on must ask the person.
    known = await retry_conflicts(forget)
    revoked = 0
    while grants := await authority.store.grants_of_subject(caller.subject, app_id=app_id, limit=_BATCH):
        for grant in grants:
            commit = revocation_commit(authority, grant, actor=caller.subject, peer=str(caller.peer))
            try:
                await authority.store.commit(commit)
            except Conflict:  # renewed in this moment; the next round sees it again
                continue
            revoked += 1
    if not known and not revoked:
        raise NotFound
    return revoked


def _audit(caller: Person, action: str, app_id: str, details: dict[str, str]) -> Audit:
    return Audit(actor=caller.subject, action=action, app_id=app_id, peer=str(caller.peer), details=details)
