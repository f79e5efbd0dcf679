"""A user's grant at a real authority, kept by a client that renews through a proxy."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rpz_auth
from rpz.auth.v1 import token_service_pb2 as pb

from support.authority import CODE_VERIFIER, REDIRECT_URI, AuthorityProcess, Client


class LeapingClock:
    """A clock on which a whole lifetime of an access token has passed each time that it is told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def leap(self) -> None:
        self.now += 7200.0


def unlimited(data_dir: Path) -> None:
    """Let an authority that will be started here renew as fast as nobody would."""
    data_dir.mkdir(mode=0o700)
    (data_dir / "rpz-auth.toml").write_text("refresh_limit = 0\n")


def sign_in(
    authority: AuthorityProcess,
    client: Client,
    endpoint: rpz_auth.TokenEndpoint,
    store: rpz_auth.RefreshTokenStore,
    clock: Callable[[], float] | None = None,
    subject: str = "user:1",
) -> rpz_auth.RefreshingToken:
    """A credential whose user has just signed in."""
    credential = rpz_auth.RefreshingToken(
        endpoint, store, client_id=client.app_id, client_secret=client.secret, clock=clock
    )
    code = authority.issue_code(client, subject)
    credential.sign_in(code, redirect_uri=REDIRECT_URI, code_verifier=CODE_VERIFIER)
    return credential


@dataclass(frozen=True)
class Lineage:
    """What the authority knows of the grants of an App."""

    alive: int
    generations: list[int]
    """Of the newest refresh token of each grant, dead or alive."""
    alarms: list[str]
    """What was recorded that should never happen to a client that only lost answers."""


def lineage(authority: AuthorityProcess, client: Client) -> Lineage:
    """Ask the authority, and look into its database."""
    alarming = {"grant.reuse", "grant.revoke", "grant.recovered", "grant.repeated_from_elsewhere"}
    listed = authority.tokens.ListGrants(pb.ListGrantsRequest(client_id=client.app_id)).grants
    generations = _column(authority, "SELECT generation FROM grants WHERE app_id = ?", client)
    alarms = [action for action in actions(authority, client) if action in alarming]
    return Lineage(len(listed), generations, alarms)


def actions(authority: AuthorityProcess, client: Client) -> list[str]:
    """What was recorded of an App, in order."""
    return _column(authority, "SELECT action FROM audit WHERE app_id = ? ORDER BY sequence", client)


def _column(authority: AuthorityProcess, query: str, client: Client) -> list[Any]:
    path = f"file:{authority.data_dir / 'rpz-auth.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
        return [value for (value,) in database.execute(query, (client.app_id,))]
