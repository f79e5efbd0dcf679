"""A signed-in person, as the flows see a caller."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth.address import Peer
from rpz_auth.caller import Caller, How, Verdict

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.account import Account, Role, Session


@dataclass(frozen=True, slots=True)
class Person(Caller):
    """A caller who speaks for no App: what it owns, and what it may grant, is the account's."""

    account: Account
    session: Session


def person(account: Account, session: Session, peer: Peer) -> Person:
    """Say who a session speaks for; `authenticate` has made sure that it may."""
    scopes = scope.OWN if account.role is Role.ADMINISTRATOR else frozenset({scope.APPS})
    verdict = Verdict(
        how=How.SESSION,
        app_id="",
        subject=account.subject,
        scopes=scopes,
        resources=frozenset(),
        token_id=session.session_id,
        issued_at=session.created_at,
        expires_at=session.expires_at,
    )
    return Person(verdict, peer, account, session)
