"""The refusals that only the authority makes.

::

    rpz_auth.errors.Refusal
    ├── ClientInvalid
    ├── GrantInvalid
    ├── GrantTypeUnknown
    ├── GrantTypeNotAllowed
    ├── ScopeInvalid
    ├── TargetInvalid
    ├── RequestInvalid
    ├── RightsInsufficient
    ├── NotFound
    ├── NotImplementedYet
    ├── RateLimited
    │   └── TooManyGuesses
    ├── Conflict
    ├── ApiTokenInvalid            by way of rpz_auth.errors.TokenInvalid
    ├── TokenUndecided             by way of rpz_auth.errors.BackendUnavailable
    ├── DatabaseMoved              by way of rpz_auth.errors.BackendUnavailable
    └── Overloaded                 by way of rpz_auth.errors.BackendUnavailable
"""

from __future__ import annotations

from rpz_auth.errors import BackendUnavailable, Reason, Refusal, TokenInvalid


class ClientInvalid(Refusal):
    """OAuth 2 client authentication failed (RFC 6749 §5.2 `invalid_client`)."""

    reason = Reason.CLIENT_INVALID
    default_message = "client authentication failed"


class GrantInvalid(Refusal):
    """A code or refresh token: unknown, expired, used, revoked or somebody else's (`invalid_grant`)."""

    reason = Reason.GRANT_INVALID
    default_message = "the code or refresh token is not valid; ask the user to sign in again"


class GrantTypeUnknown(Refusal):
    """A way to get tokens that this authority does not offer (`unsupported_grant_type`)."""

    reason = Reason.GRANT_TYPE_UNKNOWN
    default_message = "this authority does not offer this grant_type"


class GrantTypeNotAllowed(Refusal):
    """A way to get tokens that is not open to this App (`unauthorized_client`)."""

    reason = Reason.GRANT_TYPE_NOT_ALLOWED
    default_message = "this App may not use this grant_type"


class ScopeInvalid(Refusal):
    """A scope that may not be asked for here (`invalid_scope`)."""

    reason = Reason.SCOPE_INVALID
    default_message = "a scope that was asked for is not allowed for this App or grant"


class TargetInvalid(Refusal):
    """A resource that may not be asked for here (RFC 8707 §2 `invalid_target`)."""

    reason = Reason.TARGET_INVALID
    default_message = "name one resource that is allowed for this App and grant"


class RequestInvalid(Refusal):
    """A request that is malformed; the message says what to change."""

    reason = Reason.REQUEST_INVALID
    default_message = "the request is malformed"


class RightsInsufficient(Refusal):
    """A caller who asks for more than it may grant or do."""

    reason = Reason.RIGHTS_INSUFFICIENT
    default_message = "the caller may not do this"


class NotFound(Refusal):
    """Missing, or not the caller's: one answer for both (AIP-211)."""

    reason = Reason.NOT_FOUND
    default_message = "no such object among those of the caller"


class NotImplementedYet(Refusal):
    """Part of the contract that this version does not fill."""

    reason = Reason.NOT_IMPLEMENTED
    default_message = "this version of the authority does not offer this method"


class RateLimited(Refusal):
    """Asked too often; `retry_after` says when to ask again, if that helps."""

    reason = Reason.RATE_LIMITED
    default_message = "asked too often; wait before asking again"


class TooManyGuesses(RateLimited):
    """Asked too often in a way in which one guesses; the answer may be held back."""


class Conflict(Refusal):
    """The object kept changing under the request."""

    reason = Reason.CONFLICT
    default_message = "the object was changed at the same time; read it again and repeat"


class ApiTokenInvalid(TokenInvalid):
    """An API token that was looked at where the authority is called; counted there."""


class TokenUndecided(BackendUnavailable):
    """A token that somebody asks about, whose master key this process does not have; another may.

    Not the credential of who asks: that one's key being unknown is as good as no answer to any question.
    """

    reason = Reason.TOKEN_UNDECIDED
    default_message = "the token names a master key that is not known here; ask again"


class DatabaseMoved(BackendUnavailable):
    """The database was moved to another server, and this authority with it: what is left here has ended."""

    default_message = "the database has been moved; call the authority on the other one"


class Overloaded(BackendUnavailable):
    """More waits for the database than can be answered in time; nothing was done."""

    reason = Reason.RATE_LIMITED  # to be told from a database that does not answer
    default_message = "the authority has more to do than it can at the moment"
