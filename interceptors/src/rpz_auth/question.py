"""What a decision may have to ask the authority, and what that answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth.address import UNKNOWN, Peer
from rpz_auth.caller import Verdict
from rpz_auth.view import Moment, Standing


@dataclass(frozen=True, slots=True)
class ApiTokenQuestion:
    """Is this API token good, and for what? The answer is a `Verdict`, or `TokenInvalid`."""

    app_id: str
    api_token: str = field(repr=False)
    peer: Peer = field(default=UNKNOWN, compare=False)
    """Who presents it. The answer does not depend on it; its App's owner will see it as *last used*."""
    version: tuple[int, int] = (0, 0)
    """Of the App when this was asked: who asks after a change must not share an answer from before it."""


@dataclass(frozen=True, slots=True)
class StandingQuestion:
    """Which of these hold, and what keys are published? The answer is a `Standing`."""

    app_ids: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """Of grants, tokens and secrets."""
    asked: Moment | None = None
    """What was known when this was asked, for the reason that `ApiTokenQuestion.version` has."""

    @classmethod
    def about(cls, *verdicts: Verdict) -> StandingQuestion:
        """Ask whether verified credentials still hold."""
        ids = {name for v in verdicts for name in (v.token_id, v.grant_id, v.secret_id) if name is not None}
        return cls(tuple(sorted({verdict.app_id for verdict in verdicts})), tuple(sorted(ids)))


Question = ApiTokenQuestion | StandingQuestion
Answer = Verdict | Standing
