"""Signing keys: shown, rotated on schedule or by command, ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.event import KEYS_CHANGED, Audit
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import NEVER, SealedKey, drop, drop_ended, is_due, succeed
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.storage.store import Commit, Store

_log = structlog.get_logger("rpz_auth_server")

OWN_ACTOR = "authority"
"""Who does what nobody asked for."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes the authority as a whole, for the audit record."""

    actor: str
    peer: str = ""

    def audit(self, action: str, **details: str) -> Audit:
        """A record of it."""
        return Audit(actor=self.actor, action=action, peer=self.peer, details=details)


async def read_issuer(authority: Authority) -> Issuer:
    """The issuer's row.

    Raises:
        Conflict: The database was never founded, which a running authority's was.
    """
    issuer = await authority.store.issuer()
    if issuer is None:
        raise Conflict
    return issuer


def keys_commit(issuer: Issuer, rows: Iterable[SealedKey], *audit: Audit) -> Commit:
    """Change keys or lock. The issuer's version keeps processes that do so at the same moment apart."""
    return Commit(
        rows=(replace(issuer, version=issuer.version + 1), *rows), events=(KEYS_CHANGED,), audit=audit
    )


async def list_signing_keys(authority: Authority) -> Sequence[SealedKey]:
    """The keys that are published now, the oldest first."""
    return [key for key in await authority.store.signing_keys() if key.published]


async def rotate_signing_key(authority: Authority, author: Author, *, compromised: bool) -> SealedKey:
    """Publish a new key.

    Args:
        authority: The authority.
        author: Who asks for it.
        compromised: Drop all published keys at once, with every token that they signed; the new one signs
            at once then.

    Returns:
        The new key.
    """

    async def attempt() -> SealedKey:
        issuer = await read_issuer(authority)
        keys = await authority.store.signing_keys()
        now = authority.store.now()
        sign_at = now if compromised else now + authority.key_times.publish_ahead
        new = authority.signing.generate(now=now, sign_at=NEVER if issuer.locked else sign_at)
        # What was made while the issuer is locked has signed nothing that would have to be waited for.
        changed = drop(keys, now) if compromised or issuer.locked else succeed(keys, new)
        audit = author.audit("signing_key.drop_all" if compromised else "signing_key.rotate", kid=new.kid)
        await authority.store.commit(keys_commit(issuer, (*changed, new), audit))
        return new

    return await retry_conflicts(attempt)


async def reseal_signing_keys(store: Store, signing: SigningKeyring, author: Author) -> None:
    """Encrypt the published keys under the master key that mints now, where they are not.

    Raises:
        Conflict: A running authority does so in this moment.
    """
    issuer = await store.issuer()
    resealed = _reseal(await store.signing_keys(), signing)
    if issuer is not None and resealed:
        audit = [author.audit("signing_key.reseal", kid=key.kid) for key in resealed]
        await store.commit(keys_commit(issuer, resealed, *audit))


def _reseal(keys: Iterable[SealedKey], signing: SigningKeyring) -> list[SealedKey]:
    return [
        signing.reseal(key) for key in keys if key.published and key.key_number != signing.master_key_number
    ]


async def keep_signing_keys(authority: Authority) -> None:
    """Do what is due: publish a successor, end what has ended, encrypt under the present master key.

    Raises:
        Conflict: Another process does so in this moment.
    """
    issuer = await read_issuer(authority)
    keys = await authority.store.signing_keys()
    now = authority.store.now()
    ended = drop_ended(keys, now)
    audit = [Author(OWN_ACTOR).audit("signing_key.end", kid=key.kid) for key in ended]
    rows = {key.kid: key for key in ended}
    if not issuer.locked and is_due(keys, authority.key_times, now):
        new = authority.signing.generate(now=now, sign_at=now + authority.key_times.publish_ahead)
        rows |= {key.kid: key for key in (*succeed(keys, new), new)}
        audit.append(Author(OWN_ACTOR).audit("signing_key.rotate", kid=new.kid))
    resealed = [key for key in _reseal(keys, authority.signing) if key.kid not in rows]
    rows |= {key.kid: key for key in resealed}
    audit += [Author(OWN_ACTOR).audit("signing_key.reseal", kid=key.kid) for key in resealed]
    if rows:
        await authority.store.commit(keys_commit(issuer, rows.values(), *audit))
        for record in audit:
            _log.info("signing keys changed", action=record.action, **record.details)
