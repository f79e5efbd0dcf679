"""People who sign in, for tests of flows and pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import argon2
from rpz_auth.address import Peer, parse_address
from rpz_auth_server.crypto.passwords import Passwords
from rpz_auth_server.domain.account import Role
from rpz_auth_server.flows import accounts, passwords, sign_in
from rpz_auth_server.flows.accounts import AccountFields
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.sign_in import Browser, SignedIn

PASSWORD = "correct horse battery staple"
LOCAL = Browser(peer=Peer(parse_address("127.0.0.1")), agent="Firefox")
ELSEWHERE = Browser(peer=Peer(parse_address("203.0.113.9")), agent="Safari")


def hurried(authority: Authority) -> Authority:
    """The same authority, whose passwords cost next to nothing to hash."""
    passwords = Passwords(
        authority.keyring,
        issuer=authority.issuer,
        instance="test",
        hasher=argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
    )
    return replace(authority, passwords=passwords)


async def a_person(authority: Authority, user_name: str = "bob", **fields: Any) -> Person:
    """Make an account as the first start does, choose its password, and sign in."""
    return (await signed_in(authority, user_name, **fields)).person


async def signed_in(authority: Authority, user_name: str = "bob", **fields: Any) -> SignedIn:
    """As `a_person`, with the cookie's value."""
    invited = await accounts.make_account(authority, user_name, AccountFields(**fields), actor="test")
    return await passwords.choose_password(
        authority,
        account_id=invited.account.account_id,
        code=invited.code,
        password=PASSWORD,
        browser=LOCAL,
    )


async def an_administrator(authority: Authority) -> Person:
    """Somebody who may do everything."""
    return await a_person(authority, "root", role=Role.ADMINISTRATOR)


async def sign_in_again(
    authority: Authority, user_name: str = "bob", *, password: str = PASSWORD, browser: Browser = ELSEWHERE
) -> SignedIn:
    """Sign in by password."""
    return await sign_in.sign_in(authority, user_name=user_name, password=password, browser=browser)
