"""The emergency stop: the issuer locked as a whole, and unlocked."""

from __future__ import annotations

from dataclasses import replace

from rpz_auth_server.domain.key import NEVER, drop, start_signing
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.signing_keys import Author, keys_commit, read_issuer


async def lock_issuer(authority: Authority, author: Author) -> None:
    """Stop every credential of every App; a second time does nothing.

    All signing keys go, so that no access token of before is ever good again. Their successor is published
    now, while nobody can use it, and signs from the unlocking on.
    """

    async def attempt() -> None:
        issuer = await read_issuer(authority)
        if issuer.locked:
            return
        keys = await authority.store.signing_keys()
        now = authority.store.now()
        new = authority.signing.generate(now=now, sign_at=NEVER)
        locked = replace(issuer, locked=True)
        await authority.store.commit(
            keys_commit(locked, (*drop(keys, now), new), author.audit("issuer.lock"))
        )

    await retry_conflicts(attempt)


async def unlock_issuer(authority: Authority, author: Author) -> None:
    """Revive what does not depend on signing keys: refresh tokens, API tokens and OAuth 2 secrets."""

    async def attempt() -> None:
        issuer = await read_issuer(authority)
        if not issuer.locked:
            return
        keys = start_signing(await authority.store.signing_keys(), authority.store.now())
        unlocked = replace(issuer, locked=False)
        await authority.store.commit(keys_commit(unlocked, keys, author.audit("issuer.unlock")))

    await retry_conflicts(attempt)
