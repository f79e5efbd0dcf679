"""Signing in by an outside OpenID Connect provider, whose identities are linked by issuer and subject."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rpz_auth_server.domain.account import Account, ExternalIdentity, identity_id
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import Conflict, NotFound, RequestInvalid
from rpz_auth_server.flows import accounts
from rpz_auth_server.flows.accounts import AccountFields
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.person import Person
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
    known = await _find_linked(authority, identity)
    if known is None and may_sign_up:
        known = await _sign_up(authority, identity, peer=str(browser.peer))
    if known is None:
        raise SignInRefused
    account, linked = known
    return await start_session(authority, account, browser, how=identity.issuer, by=(linked,))


async def _find_linked(
    authority: Authority, identity: OutsideIdentity
) -> tuple[Account, ExternalIdentity] | None:
    """The account that an identity is linked to, and the link."""
    known = await authority.store.external_identity(identity_id(identity.issuer, identity.subject))
    if known is None or known.account_id is None:
        return None
    account = await authority.store.account(known.account_id)
    return None if account is None else (account, known)


async def _sign_up(
    authority: Authority, identity: OutsideIdentity, *, peer: str
) -> tuple[Account, ExternalIdentity] | None:
    """Make an account and its link, both or neither; None if the account is there and was unlinked."""
    known_id = identity_id(identity.issuer, identity.subject)
    known = await authority.store.external_identity(known_id)
    shown = identity.name if identity.name.isprintable() else ""
    account = accounts.new_account(
        authority,
        f"user-{hashlib.sha256(known_id.encode()).hexdigest()[:16]}",
        AccountFields(display_name=shown[:100]),
    ).account
    account = replace(account, setup_hash=None, setup_expires_at=None)
    linked = _linked(authority, known, identity, account.account_id)
    audit = (
        accounts.creation_of(account, actor=identity.issuer, peer=peer),
        _audit(account.subject, "account.link", identity.issuer, peer),
    )
    try:
        await authority.store.commit(Commit(rows=(account, linked), audit=audit))
    except Conflict:  # two windows of one person, or the link was taken away
        return await _find_linked(authority, identity)
    return account, linked


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
    linked = _linked(authority, known, identity, account_id)
    audit = _audit(f"user:{account_id}", "account.link", identity.issuer, peer)
    try:
        await authority.store.commit(Commit(rows=(linked,), audit=(audit,)))
    except Conflict:
        raise RequestInvalid("this identity is being linked in another window") from None


def _linked(
    authority: Authority, known: ExternalIdentity | None, identity: OutsideIdentity, account_id: str
) -> ExternalIdentity:
    if known is not None:
        return replace(known, account_id=account_id, version=known.version + 1)
    return ExternalIdentity(
        identity_id=identity_id(identity.issuer, identity.subject),
        account_id=account_id,
        issuer=identity.issuer,
        subject=identity.subject,
        created_at=authority.store.now(),
    )


def _audit(actor: str, action: str, issuer: str, peer: str) -> Audit:
    return Audit(actor=actor, action=action, peer=peer, details={"issuer": issuer})
