"""Signing in by an outside OpenID Connect provider, whose identities are linked by issuer and subject."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rpz_auth_server.domain.account import ExternalIdentity, identity_id
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import Conflict, NotFound, RequestInvalid
from rpz_auth_server.flows import accounts
from rpz_auth_server.flows.accounts import AccountFields
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.pipeline import Authority, retry_conflicts
from rpz_auth_server.flows.sign_in import Browser, SignedIn, SignInRefused, start_session
from rpz_auth_server.storage.store import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideIdentity:
    """Who a provider says that it is, in an ID token that was verified."""

    issuer: str
    subject: str
    name: str = ""
    """To show, and for nothing else: providers let people change it, as they do e-mail addresses."""


async def sign_in_with(
    authority: Authority, identity: OutsideIdentity, browser: Browser, *, may_sign_up: bool
) -> SignedIn:
    """Sign the person in to whom the identity is linked.

    Raises:
        SignInRefused: To nobody, or the account is disabled.
    """
    known = await authority.store.external_identity(identity_id(identity.issuer, identity.subject))
    if known is not None and known.account_id is not None:
        account = await authority.store.account(known.account_id)
        if account is None:
            raise SignInRefused
        return await start_session(authority, account, browser, how=identity.issuer)
    if not may_sign_up:
        raise SignInRefused
    name = f"user-{hashlib.sha256(identity_id(identity.issuer, identity.subject).encode()).hexdigest()[:16]}"
    shown = identity.name if identity.name.isprintable() else ""
    try:
        invited = await accounts.make_account(
            authority,
            name,
            AccountFields(display_name=shown[:100]),
            actor=identity.issuer,
            peer=str(browser.peer),
        )
    except RequestInvalid:  # its identity was unlinked from the account of that name
        raise SignInRefused from None
    await _link(authority, known, identity, invited.account.account_id, peer=str(browser.peer))
    return await start_session(authority, invited.account, browser, how=identity.issuer)


async def link(authority: Authority, caller: Person, identity: OutsideIdentity) -> None:
    """Let an outside identity sign the caller in; a second time does nothing.

    Raises:
        RequestInvalid: It signs somebody else in.
    """
    known = await authority.store.external_identity(identity_id(identity.issuer, identity.subject))
    if known is not None and known.account_id == caller.account.account_id:
        return
    if known is not None and known.account_id is not None:
        raise RequestInvalid("this identity is linked to another account")
    await _link(authority, known, identity, caller.account.account_id, peer=str(caller.peer))


async def list_identities(authority: Authority, caller: Person) -> Sequence[ExternalIdentity]:
    """Show by which outside identities the caller can sign in."""
    return await authority.store.external_identities(caller.account.account_id)


async def unlink(authority: Authority, caller: Person, linked_id: str) -> None:
    """Take a link away.

    Raises:
        NotFound: There is none, or it is somebody else's.
        RequestInvalid: The caller could not sign in any more.
    """

    async def attempt() -> None:
        account = await authority.store.account(caller.account.account_id)
        linked = await list_identities(authority, caller)
        found = next((one for one in linked if one.identity_id == linked_id), None)
        if account is None or found is None:
            raise NotFound
        if len(linked) == 1 and account.password_hash is None:
            raise RequestInvalid(
                "this is the only way to sign in to your account; have a password made first"
            )
        # The account is written as well: of two links that go at once, the second is looked at anew.
        touched = replace(account, updated_at=authority.store.now(), version=account.version + 1)
        unlinked = replace(found, account_id=None, version=found.version + 1)
        audit = _audit(caller.subject, "account.unlink", found.issuer, str(caller.peer))
        await authority.store.commit(Commit(rows=(touched, unlinked), audit=(audit,)))

    await retry_conflicts(attempt)


async def _link(
    authority: Authority,
    known: ExternalIdentity | None,
    identity: OutsideIdentity,
    account_id: str,
    *,
    peer: str,
) -> None:
    if known is None:
        linked = ExternalIdentity(
            identity_id=identity_id(identity.issuer, identity.subject),
            account_id=account_id,
            issuer=identity.issuer,
            subject=identity.subject,
            created_at=authority.store.now(),
        )
    else:
        linked = replace(known, account_id=account_id, version=known.version + 1)
    audit = _audit(f"user:{account_id}", "account.link", identity.issuer, peer)
    try:
        await authority.store.commit(Commit(rows=(linked,), audit=(audit,)))
    except Conflict:
        raise RequestInvalid("this identity is being linked in another window") from None


def _audit(actor: str, action: str, issuer: str, peer: str) -> Audit:
    return Audit(actor=actor, action=action, peer=peer, details={"issuer": issuer})
