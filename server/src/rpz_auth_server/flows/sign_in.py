"""Signing in and out, and the sessions in between."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.address import Peer
from rpz_auth.errors import RpzAuthError

from rpz_auth_server.crypto.passwords import PasswordInvalid
from rpz_auth_server.domain.account import Account, Session, is_signed_in, read_user_name
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.refusal import ClientInvalid, Conflict, NotFound, RequestInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.person import Person, person
from rpz_auth_server.storage.store import Commit, Row

IDLE_LIFETIME = 8 * 3600.0
"""Seconds after which a session that nobody uses ends."""

ABSOLUTE_LIFETIME = 7 * 86400.0

MAX_SESSIONS = 20
"""Of one account; one more ends the oldest."""

_TOUCH_AFTER = 60.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_MAX_AGENT = 160


class SignInRefused(RpzAuthError):  # noqa: N818 - like a refusal, but of a page and not of the contract
    """Wrong name or password, a disabled account, no session: one answer for all (ASVS 6.3.8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """From where somebody signs in."""

    peer: Peer
    agent: str = ""
    replaces: str = field(default="", repr=False)
    """The cookie that the browser had; its session ends (ASVS 7.2.4)."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session, and its cookie's value, which is nowhere else."""

    person: Person
    token: str = field(repr=False)


async def sign_in(authority: Authority, *, user_name: str, password: str, browser: Browser) -> SignedIn:
    """Sign a person in by name and password.

    Raises:
        SignInRefused: Whatever is wrong; it takes as long as if nothing were.
        RateLimited: Too many tries for this name or from this peer, whether there is such a user or not.
    """
    try:
        with authority.limiter.guarded(f"user {user_name.strip().lower()}", browser.peer, slow=True):
            account = await _verify(authority, await _find(authority, user_name), password)
    except ClientInvalid:
        raise SignInRefused from None
    if authority.passwords.is_outdated(str(account.password_hash), key_number=account.key_number):
        account = await _renew_hash(authority, account, password)
    return await start_session(authority, account, browser, how="password")


async def check_current_password(authority: Authority, caller: Person, password: str) -> None:
    """Let pass who knows the caller's own password, too.

    Raises:
        SignInRefused: It is another.
        RateLimited: Too many were tried.
    """
    try:
        with authority.limiter.guarded(f"user {caller.account.user_name}", caller.peer, slow=True):
            await _verify(authority, caller.account, password)
    except ClientInvalid:
        raise SignInRefused from None


async def _verify(authority: Authority, account: Account | None, password: str) -> Account:
    """The account that a password is of; it takes as long where there is none.

    Raises:
        ClientInvalid: Which the limiter counts.
    """
    known = account is not None and not account.disabled
    try:
        await authority.passwords.verify(
            password,
            account.password_hash if account is not None and known else None,
            key_number=account.key_number if account is not None else authority.passwords.key_number,
        )
    except PasswordInvalid:
        raise ClientInvalid from None
    if account is None:  # nobody's password never passes
        raise ClientInvalid
    return account


async def start_session(
    authority: Authority, account: Account, browser: Browser, *, how: str, by: tuple[Row, ...] = ()
) -> SignedIn:
    """Open a session for somebody who has proved who they are.

    Args:
        authority: The authority.
        account: The person's.
        browser: Where.
        how: For the audit record.
        by: Rows beside the account's that it was proved by, and that must be as they were.

    Raises:
        SignInRefused: The account was disabled or changed meanwhile.
        Conflict: What it was proved by was.
    """
    proved = account.password_hash

    async def attempt(found: Account) -> SignedIn:
        if found.disabled:
            raise SignInRefused
        now = authority.store.now()
        token = secrets.token_urlsafe(32)
        session = Session(
            session_id=session_id_of(token),
            account_id=found.account_id,
            peer=str(browser.peer),
            agent=_printable(browser.agent),
            created_at=now,
            seen_at=now,
            idle_expires_at=now + IDLE_LIFETIME,
            expires_at=now + ABSOLUTE_LIFETIME,
        )
        # Also written so that a session cannot slip through while the password is changed.
        signed_in = replace(found, signed_in_at=now, version=found.version + 1)
        ended = await _superseded(authority, found, browser, now)
        audit = Audit(actor=found.subject, action="account.sign_in", peer=session.peer, details={"how": how})
        await authority.store.commit(Commit(rows=(signed_in, session, *ended), unchanged=by, audit=(audit,)))
        return SignedIn(person(signed_in, session, browser.peer), token)

    async def again() -> SignedIn:
        found = await authority.store.account(account.account_id)
        if found is None or found.password_hash != proved:
            raise SignInRefused
        return await attempt(found)

    try:
        return await attempt(account)
    except Conflict:  # somebody signs in, or changes the account, in this moment
        return await retry_conflicts(again)


async def authenticate(authority: Authority, token: str, peer: Peer) -> Person:
    """Find out who a session cookie speaks for, and note that it was used.

    Raises:
        SignInRefused: Nobody, any more.
    """
    if not _TOKEN.fullmatch(token):
        raise SignInRefused
    session = await authority.store.session(session_id_of(token))
    now = authority.store.now()
    if session is None or not is_signed_in(session, now):
        raise SignInRefused
    account = await authority.store.account(session.account_id)
    if account is None or account.disabled:
        raise SignInRefused
    if now >= session.seen_at + _TOUCH_AFTER:
        session = await _touch(authority, session, peer, now)
    return person(account, session, peer)


async def list_sessions(authority: Authority, caller: Person) -> Sequence[Session]:
    """Show in which browsers the caller is signed in."""
    return await authority.store.sessions(caller.account.account_id)


async def end_session(authority: Authority, caller: Person, session_id: str) -> None:
    """Sign one of the caller's browsers out; a second time does nothing.

    Raises:
        NotFound: No session, or somebody else's.
    """

    async def attempt() -> None:
        session = await authority.store.session(session_id)
        if session is None or session.account_id != caller.account.account_id:
            raise NotFound
        if session.ended_at is None:
            audit = Audit(actor=caller.subject, action="account.sign_out", peer=str(caller.peer))
            await authority.store.commit(
                Commit(rows=(ended(session, authority.store.now()),), audit=(audit,))
            )

    await retry_conflicts(attempt)


async def end_other_sessions(authority: Authority, caller: Person) -> int:
    """Sign the caller out everywhere but here; return of how many browsers."""

    async def attempt() -> int:
        rows = await sessions_to_end(authority, caller.account.account_id, kept=caller.session.session_id)
        if rows:
            await authority.store.commit(Commit(rows=tuple(rows)))
        return len(rows)

    return await retry_conflicts(attempt)


async def sessions_to_end(authority: Authority, account_id: str, *, kept: str = "") -> Sequence[Session]:
    """What to write to sign somebody out everywhere, or everywhere but in one session.

    With the account's own row in the same commit no session that begins in this moment slips through.
    """
    now = authority.store.now()
    found = await authority.store.sessions(account_id)
    return [ended(session, now) for session in found if session.session_id != kept]


def ended(session: Session, now: float) -> Session:
    """End a session for ever."""
    return replace(session, ended_at=now, version=session.version + 1)


def session_id_of(token: str) -> str:
    """The session's name in the database: the cookie's value cannot be had from it."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


async def _find(authority: Authority, user_name: str) -> Account | None:
    try:
        return await authority.store.account_of_user(read_user_name(user_name))
    except RequestInvalid:
        return None


async def _renew_hash(authority: Authority, account: Account, password: str) -> Account:
    password_hash, key_number = await authority.passwords.hash(password)
    renewed = replace(
        account, password_hash=password_hash, key_number=key_number, version=account.version + 1
    )
    try:
        await authority.store.commit(Commit(rows=(renewed,)))
    except Conflict:  # the next sign-in will
        return account
    return renewed


async def _superseded(
    authority: Authority, account: Account, browser: Browser, now: float
) -> Sequence[Session]:
    """The sessions that a new one ends: this browser's own, and the oldest of too many."""
    current = await authority.store.sessions(account.account_id)
    gone = {session.session_id: session for session in current[: max(0, len(current) - MAX_SESSIONS + 1)]}
    if _TOKEN.fullmatch(browser.replaces):
        before = await authority.store.session(session_id_of(browser.replaces))
        if before is not None and before.ended_at is None:
            gone[before.session_id] = before
    return [ended(session, now) for session in gone.values()]


async def _touch(authority: Authority, session: Session, peer: Peer, now: float) -> Session:
    touched = replace(
        session,
        seen_at=now,
        peer=str(peer),
        idle_expires_at=now + IDLE_LIFETIME,
        version=session.version + 1,
    )
    try:
        await authority.store.commit(Commit(rows=(touched,)))
    except Conflict:  # a request beside this one noted it, or ended the session, which the next one will see
        return session
    return touched


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_AGENT]
