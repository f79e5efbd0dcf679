"""How the first person gets in, and anybody who is locked out: a one-time link in a private file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rpz_auth.address import Peer, parse_address
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import files
from rpz_auth_server.bootstrap import alone_with
from rpz_auth_server.domain.account import Account, Role
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows import accounts, passwords
from rpz_auth_server.flows.accounts import AccountFields, Invited
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.sign_in import SignInRefused
from rpz_auth_server.transport.console.sign_in import WELCOME

FILE_NAME = "first-sign-in.txt"
USER_NAME = "admin"

_SEVERAL = 100
_LINK = re.compile(r"#([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})$", re.ASCII | re.MULTILINE)
_HERE = Peer(parse_address("127.0.0.1"))


async def ensure_first_person(authority: Authority, data_dir: Path, console: str) -> Path | None:
    """Make the first account where there is none, and a new link for as long as nobody has signed in.

    Args:
        authority: The authority.
        data_dir: Where the file goes.
        console: The address of its pages on this machine.

    Returns:
        The file with the link; None when somebody has signed in.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    path = data_dir / FILE_NAME
    async with alone_with(path):
        people = await authority.store.accounts(after="", limit=_SEVERAL)
        if any(account.signed_in_at is not None for account in people):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        invited = await _read_invited(authority, path)
        if invited is None:
            try:
                invited = await _invite(authority, USER_NAME, people)
            except RequestInvalid:  # founded on another machine in this moment: the link is there
                return None
        _write(path, console, invited)
    return path


async def _read_invited(authority: Authority, path: Path) -> Invited | None:
    """Whom the file invites, if a start before this one made it and its code is still good."""
    found = _LINK.search(_read(path))
    if found is None:
        return None
    try:
        account = await passwords.find_invited(authority, found[1], found[2], _HERE)
    except SignInRefused:
        return None
    return Invited(account, found[2])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # a file that is gone or damaged says nothing
        return ""


@dataclass(frozen=True, slots=True)
class Link:
    """A one-time link that somebody is to open."""

    path: Path
    """The private file that holds it."""
    is_new: bool
    """Whether the account was made for it."""


async def make_link(authority: Authority, data_dir: Path, user_name: str, console: str) -> Link:
    """Make a link for somebody who is locked out; a name that nobody has becomes an administrator.

    Who may run this reads the master keys, and could do anything anyway.

    Raises:
        ConfigurationError: The file cannot be written.
        RequestInvalid: The name is not of its form.
    """
    known = await authority.store.account_of_user(user_name)
    invited = await _invite(authority, user_name, [known] if known else [])
    path = data_dir / FILE_NAME
    async with alone_with(path):
        _write(path, console, invited)
    return Link(path, is_new=known is None)


async def _invite(authority: Authority, user_name: str, people: Sequence[Account]) -> Invited:
    known = next((account for account in people if account.user_name == user_name), None)
    if known is not None:
        return await accounts.invite_locally(authority, known.account_id)
    fields = AccountFields(role=Role.ADMINISTRATOR)
    return await accounts.make_account(authority, user_name, fields, actor="bootstrap", local=True)


def _write(path: Path, console: str, invited: Invited) -> None:
    account = invited.account
    text = (
        f"Open this link on this machine to choose a password and sign in as {account.user_name}. "
        "It works once, for three days.\n"
        f"\n{console}{WELCOME}#{account.account_id}.{invited.code}\n"
    )
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
