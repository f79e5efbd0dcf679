"""Passwords of people's own: chosen by a one-time code, and changed."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from dataclasses import replace

from rpz_auth.address import Peer

from rpz_auth_server.domain.account import Account, check_password, hash_setup_code
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import ClientInvalid, Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.sign_in import (
    Browser,
    SignedIn,
    SignInRefused,
    check_current_password,
    sessions_to_end,
    start_session,
)
from rpz_auth_server.storage.store import Commit


async def find_invited(authority: Authority, account_id: str, code: str, peer: Peer) -> Account:
    """Let pass who holds the one-time code of an account, from where it is good.

    Raises:
        SignInRefused: Unknown, used, expired, or of another account: one answer.
    """
    account = await authority.store.account(account_id)
    digest = hash_setup_code(code)
    if (
        account is None
        or account.disabled
        or account.setup_hash is None
        or account.setup_expires_at is None
        or authority.store.now() >= account.setup_expires_at
        or not hmac.compare_digest(account.setup_hash, digest)
        or (account.setup_local and not _is_local(peer))
    ):
        raise SignInRefused
    return account


async def choose_password(
    authority: Authority, *, account_id: str, code: str, password: str, browser: Browser
) -> SignedIn:
    """Set the password of who holds the one-time code, which is used up; sign in, and out everywhere else.

    Raises:
        SignInRefused: The code is good for nothing.
        RequestInvalid: The password is too weak; the code stays good.
        RateLimited: Too many codes were tried for this account or from this peer.
    """
    try:
        with authority.limiter.guarded(f"code {account_id}", browser.peer), _counted():
            account = await find_invited(authority, account_id, code, browser.peer)
    except ClientInvalid:
        raise SignInRefused from None
    check_password(password, user_name=account.user_name)
    hashed = await authority.passwords.hash(password)

    async def attempt() -> Account:
        # A second use of the code may have been faster.
        found = await find_invited(authority, account_id, code, browser.peer)
        return await _set(authority, found, hashed, "account.choose_password", peer=browser.peer)

    return await start_session(authority, await retry_conflicts(attempt), browser, how="one-time code")


async def change_password(authority: Authority, caller: Person, *, current: str, chosen: str) -> None:
    """Change the caller's own password, and sign every other browser out in the same moment.

    Raises:
        SignInRefused: The current one is another.
        RequestInvalid: The new one is too weak.
        RateLimited: Too many were tried.
        Conflict: It was changed elsewhere since the caller was let in.
    """
    proved = caller.account
    await check_current_password(authority, caller, current)
    check_password(chosen, user_name=proved.user_name)
    hashed = await authority.passwords.hash(chosen)

    async def attempt() -> Account:
        account = await authority.store.account(proved.account_id)
        if account is None or account.disabled or account.password_hash != proved.password_hash:
            raise Conflict
        kept = caller.session.session_id
        return await _set(authority, account, hashed, "account.change_password", peer=caller.peer, kept=kept)

    await retry_conflicts(attempt)


async def _set(
    authority: Authority,
    account: Account,
    hashed: tuple[str, int],
    action: str,
    *,
    peer: Peer,
    kept: str = "",
) -> Account:
    """Write a password; whoever signed in by the one before is signed out by the same commit (A143).

    Raises:
        Conflict: The account, or a session of it, was changed in this moment.
    """
    password_hash, key_number = hashed
    changed = replace(
        account,
        password_hash=password_hash,
        key_number=key_number,
        setup_hash=None,
        setup_expires_at=None,
        setup_local=False,
        updated_at=authority.store.now(),
        version=account.version + 1,
    )
    sessions = await sessions_to_end(authority, account.account_id, kept=kept)
    audit = Audit(actor=account.subject, action=action, peer=str(peer), details={"account": account.subject})
    await authority.store.commit(Commit(rows=(changed, *sessions), audit=(audit,)))
    return changed


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    try:
        yield
    except SignInRefused:
        raise ClientInvalid from None  # which the limiter counts


def _is_local(peer: Peer) -> bool:
    return peer.unix or (peer.address is not None and peer.address.is_loopback)
