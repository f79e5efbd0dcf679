"""Accounts of people: invited, given rights, disabled.

One administrator who can sign in always remains. Who changes an account is one when the change is committed,
and never the one who loses something by it: so each change leaves at least its maker.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.caller import Caller

from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.account import Account, Role, hash_setup_code, read_user_name
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import (
    Conflict,
    NotFound,
    RequestInvalid,
    RightsInsufficient,
    ScopeInvalid,
)
from rpz_auth_server.domain.uri import check_resource
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.revoke_subject import revoke_subject
from rpz_auth_server.flows.rights import is_administrator
from rpz_auth_server.flows.sign_in import sessions_to_end
from rpz_auth_server.storage.store import Commit

SETUP_LIFETIME = 3 * 86400.0
"""Seconds for which somebody may choose a first password, or a new one."""

_MAX_RESOURCES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFields:
    """What an administrator enters; None for what stays as it is."""

    display_name: str | None = None
    role: Role | None = None
    scopes: Collection[str] | None = None
    resources: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Invited:
    """An account, and the one-time code by which its person chooses a password."""

    account: Account
    code: str = field(repr=False)


async def create_account(
    authority: Authority, caller: Caller, user_name: str, fields: AccountFields
) -> Invited:
    """Make an account; its person chooses the password by the code.

    Raises:
        RightsInsufficient: The caller is no administrator.
        RequestInvalid: A field is not of its form, or the name is taken.
    """

    async def attempt() -> Invited:
        return await make_account(
            authority,
            user_name,
            fields,
            actor=caller.subject,
            peer=str(caller.peer),
            granted_by=await _administrator(authority, caller),
        )

    return await retry_conflicts(attempt)


async def make_account(
    authority: Authority,
    user_name: str,
    fields: AccountFields,
    *,
    actor: str,
    peer: str = "",
    local: bool = False,
    granted_by: Sequence[Account] = (),
) -> Invited:
    """Make an account without asking who wants it: the first start's, and a new outside identity's.

    Raises:
        RequestInvalid: A field is not of its form, or the name is taken.
        Conflict: Who grants it was changed in this moment.
    """
    invited = new_account(authority, user_name, fields, local=local)
    account = invited.account
    try:
        await authority.store.commit(
            Commit(
                rows=(account,),
                unchanged=tuple(granted_by),
                audit=(creation_of(account, actor=actor, peer=peer),),
            )
        )
    except Conflict:
        if await authority.store.account_of_user(account.user_name) is None:
            raise
        raise RequestInvalid(f"the user name {account.user_name} is taken") from None
    return invited


def new_account(
    authority: Authority, user_name: str, fields: AccountFields, *, local: bool = False
) -> Invited:
    """An account that nobody has written yet.

    Raises:
        RequestInvalid: A field is not of its form.
    """
    now = authority.store.now()
    name = read_user_name(user_name)
    blank = Account(
        account_id=new_id(),
        user_name=name,
        display_name=name,
        key_number=authority.passwords.key_number,
        created_at=now,
        updated_at=now,
    )
    account, code = _with_code(_apply(blank, fields), now, local=local)
    return Invited(account, code)


def creation_of(account: Account, *, actor: str, peer: str) -> Audit:
    """The record of an account that is new."""
    return _audit(actor, "account.create", account, peer)


async def list_accounts(authority: Authority, caller: Caller, *, after: str, limit: int) -> Sequence[Account]:
    """Show accounts in order of user name, beyond the name `after`.

    Raises:
        RightsInsufficient: The caller is no administrator.
    """
    check_administrator(caller)
    return await authority.store.accounts(after=after, limit=limit)


async def get_account(authority: Authority, caller: Caller, account_id: str) -> Account:
    """Show an account.

    Raises:
        RightsInsufficient: The caller is no administrator.
        NotFound: There is none.
    """
    check_administrator(caller)
    account = await authority.store.account(account_id)
    if account is None:
        raise NotFound
    return account


async def update_account(
    authority: Authority, caller: Person, account_id: str, fields: AccountFields
) -> Account:
    """Change what an account may do.

    Raises:
        RightsInsufficient: The caller is no administrator, or would stop being one.
        NotFound: There is none.
        RequestInvalid: A field is not of its form.
    """
    if account_id == caller.account.account_id and fields.role not in (None, caller.account.role):
        raise RightsInsufficient("have another administrator change your role, so that one remains")
    return await _change(authority, caller, account_id, "account.update", lambda found: _apply(found, fields))


async def invite_again(authority: Authority, caller: Caller, account_id: str) -> Invited:
    """Make a new one-time code for somebody who lost the password, or the code before.

    Raises:
        RightsInsufficient: The caller is no administrator.
        NotFound: There is none.
    """
    code = ""

    def change(account: Account) -> Account:
        nonlocal code
        invited, code = _with_code(account, authority.store.now(), local=False)
        return invited

    account = await _change(authority, caller, account_id, "account.invite", change)
    return Invited(account, code)


async def invite_locally(authority: Authority, account_id: str) -> Invited:
    """Make a new one-time code that is good on this machine only, and let a disabled account in again.

    Raises:
        NotFound: There is none.
    """
    code = ""

    async def attempt() -> Account:
        nonlocal code
        account = await authority.store.account(account_id)
        if account is None:
            raise NotFound
        now = authority.store.now()
        invited, code = _with_code(account, now, local=True)
        invited = replace(invited, disabled=False, updated_at=now, version=account.version + 1)
        audit = _audit("bootstrap", "account.invite", account, "")
        await authority.store.commit(Commit(rows=(invited,), audit=(audit,)))
        return invited

    return Invited(await retry_conflicts(attempt), code)


async def disable_account(authority: Authority, caller: Person, account_id: str) -> Account:
    """Sign somebody out everywhere, let nobody in, and revoke all that they allowed Apps to do.

    Raises:
        RightsInsufficient: The caller is no administrator, or means itself.
        NotFound: There is none.
    """
    if account_id == caller.account.account_id:
        raise RightsInsufficient("have another administrator disable your account, so that one remains")
    disabled = await _change(
        authority,
        caller,
        account_id,
        "account.disable",
        lambda account: replace(account, disabled=True, setup_hash=None, setup_expires_at=None),
        signs_out=True,
    )
    await revoke_subject(authority, caller, disabled.subject)
    return disabled


async def enable_account(authority: Authority, caller: Caller, account_id: str) -> Account:
    """Let somebody in again.

    Raises:
        RightsInsufficient: The caller is no administrator.
        NotFound: There is none.
    """
    return await _change(
        authority, caller, account_id, "account.enable", lambda account: replace(account, disabled=False)
    )


def check_administrator(caller: Caller) -> None:
    """Let administrators pass.

    Raises:
        RightsInsufficient: The caller is none.
    """
    if not is_administrator(caller):
        raise RightsInsufficient("only an administrator does this")


async def _change(
    authority: Authority,
    caller: Caller,
    account_id: str,
    action: str,
    change: Callable[[Account], Account],
    *,
    signs_out: bool = False,
) -> Account:
    async def attempt() -> Account:
        makers = await _administrator(authority, caller)
        account = await get_account(authority, caller, account_id)
        changed = change(account)
        if changed == account:
            return account
        changed = replace(changed, updated_at=authority.store.now(), version=account.version + 1)
        sessions = await sessions_to_end(authority, account_id) if signs_out else ()
        await authority.store.commit(
            Commit(
                rows=(changed, *sessions),
                unchanged=tuple(maker for maker in makers if maker.account_id != account_id),
                audit=(_audit(caller.subject, action, account, str(caller.peer)),),
            )
        )
        return changed

    return await retry_conflicts(attempt)


async def _administrator(authority: Authority, caller: Caller) -> Sequence[Account]:
    """The account by which a caller may act, as it is now and must be when it has acted; none for an App's.

    Raises:
        RightsInsufficient: The caller is no administrator, or since it was let in not any more.
    """
    check_administrator(caller)
    if not isinstance(caller, Person):
        return ()
    account = await authority.store.account(caller.account.account_id)
    if account is None or account.disabled or account.role is not Role.ADMINISTRATOR:
        raise RightsInsufficient("you are no administrator any more")
    return (account,)


def _apply(account: Account, fields: AccountFields) -> Account:
    scopes = account.scopes
    if fields.scopes is not None:
        scopes = scope.check_scopes(fields.scopes)
        if any(name.startswith(scope.RESERVED_PREFIX) for name in scopes):
            raise ScopeInvalid("the authority's own scopes come with the role of administrator")
    resources = account.resources
    if fields.resources is not None:
        resources = frozenset(fields.resources)
        if len(resources) > _MAX_RESOURCES:
            raise RequestInvalid(f"an account has at most {_MAX_RESOURCES} resources")
        for uri in resources:
            check_resource(uri)
    return replace(
        account,
        display_name=check_name(fields.display_name or account.user_name, "display_name")
        if fields.display_name is not None
        else account.display_name,
        role=fields.role or account.role,
        scopes=scopes,
        resources=resources,
    )


def _with_code(account: Account, now: float, *, local: bool) -> tuple[Account, str]:
    code = secrets.token_urlsafe(32)
    invited = replace(
        account, setup_hash=hash_setup_code(code), setup_expires_at=now + SETUP_LIFETIME, setup_local=local
    )
    return invited, code


def _audit(actor: str, action: str, account: Account, peer: str) -> Audit:
    return Audit(actor=actor, action=action, peer=peer, details={"account": account.subject})
