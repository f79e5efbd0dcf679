"""Who a verified credential speaks for."""

from __future__ import annotations

import contextvars
import enum
import math
import re
from dataclasses import dataclass

from rpz_auth.address import Peer

APP_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
"""How every App ID is written: a UUID in lower case (RFC 9562 §4)."""

APP_SUBJECT_PREFIX = "app:"
"""Begins the subject of an App that speaks for itself; no user's subject may (RFC 9700 §4.15)."""


class How(enum.StrEnum):
    """With which kind of credential."""

    ACCESS_TOKEN = "access_token"  # noqa: S105 - the name of a kind
    API_TOKEN = "api_token"  # noqa: S105 - the name of a kind
    SESSION = "session"
    """A person who is signed in at the authority's console; services never see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verified credential says, whoever presents it, from wherever.

    Whether it still holds (revocations, the App's state, the clock) is asked anew for every call.
    """

    how: How
    app_id: str
    subject: str
    scopes: frozenset[str]
    resources: frozenset[str]
    """Where it may be used (RFC 8707); of an API token, only those that the verifier protects."""
    token_id: str
    """`jti` of an access token, id of an API token."""
    grant_id: str | None = None
    secret_id: str | None = None
    """The OAuth 2 secret or API token that an access token without a grant was issued for, and ends with."""
    epoch: int | None = None
    """Of the App, when the access token was issued."""
    kid: str | None = None
    """The key that signed the access token."""
    query_token_allowed: bool = False
    """Whether this API token may travel in a URL, as far as it is the token's affair and not its App's."""
    issued_at: float = 0.0
    """Seconds since the epoch, on the authority's clock."""
    expires_at: float = math.inf
    """Seconds since the epoch, on the authority's clock."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of the current call."""

    verdict: Verdict
    peer: Peer
    """The client's end of the connection, or the client behind a trusted proxy."""

    @property
    def app_id(self) -> str:
        """The App's ID, the `client_id` of OAuth 2."""
        return self.verdict.app_id

    @property
    def subject(self) -> str:
        """The user, or `app:` and the App ID when the App speaks for itself."""
        return self.verdict.subject

    @property
    def scopes(self) -> frozenset[str]:
        """What the credential allows."""
        return self.verdict.scopes

    @property
    def how(self) -> How:
        """With which kind of credential."""
        return self.verdict.how

    @property
    def expires_at(self) -> float:
        """Seconds since the epoch; infinite for an API token without an end."""
        return self.verdict.expires_at


@dataclass(frozen=True, slots=True)
class Admission:
    """What the interceptor found out about the current call; no caller where the method asks for none."""

    peer: Peer
    caller: Caller | None


CURRENT: contextvars.ContextVar[Admission] = contextvars.ContextVar("rpz_auth_admission")


def caller() -> Caller:
    """The caller of the call that is being handled.

    Raises:
        LookupError: Outside a call, in a thread that a handler started itself, or in a method whose
            policy asks for no credential.
    """
    admission = CURRENT.get(None)
    if admission is None or admission.caller is None:
        raise LookupError(
            "no caller here: use this inside a handler whose policy demands scopes, "
            "and hand the caller to threads that you start"
        )
    return admission.caller


def peer() -> Peer:
    """The other end of the call that is being handled, also where no credential was asked for.

    Raises:
        LookupError: Outside a call.
    """
    admission = CURRENT.get(None)
    if admission is None:
        raise LookupError("no call here: use this inside a handler behind the interceptor")
    return admission.peer
