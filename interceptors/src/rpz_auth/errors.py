"""Everything that rpz_auth raises.

::

    RpzAuthError
    ├── ConfigurationError         the program must be changed; raised at start-up
    ├── RenewalFailed              a client has no access token to send
    │   └── SignInRequired
    └── Refusal                    one call is refused; `status` maps it to the wire
        ├── CredentialsMissing
        ├── CredentialsAmbiguous
        ├── TokenInvalid
        ├── TokenExpired
        ├── ScopeInsufficient
        ├── OriginNotAllowed
        ├── MethodUnknown
        ├── BackendUnavailable
        └── Internal

The authority derives its own refusals from `Refusal`; the reasons of both stand in `Reason`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import ClassVar


class Reason(enum.StrEnum):
    """Why a call was refused: the stable `reason` of its google.rpc.ErrorInfo."""

    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_AMBIGUOUS = "CREDENTIALS_AMBIGUOUS"
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 - the name of a reason
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - the name of a reason
    SCOPE_INSUFFICIENT = "SCOPE_INSUFFICIENT"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    INTERNAL = "INTERNAL"
    CLIENT_INVALID = "CLIENT_INVALID"
    GRANT_INVALID = "GRANT_INVALID"
    GRANT_TYPE_UNKNOWN = "GRANT_TYPE_UNKNOWN"
    GRANT_TYPE_NOT_ALLOWED = "GRANT_TYPE_NOT_ALLOWED"
    SCOPE_INVALID = "SCOPE_INVALID"
    TARGET_INVALID = "TARGET_INVALID"
    REQUEST_INVALID = "REQUEST_INVALID"
    RIGHTS_INSUFFICIENT = "RIGHTS_INSUFFICIENT"
    NOT_FOUND = "NOT_FOUND"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    RATE_LIMITED = "RATE_LIMITED"
    CONFLICT = "CONFLICT"
    TOKEN_UNDECIDED = "TOKEN_UNDECIDED"  # noqa: S105 - the name of a reason


class RpzAuthError(Exception):
    """The root of all errors of this library."""


class ConfigurationError(RpzAuthError):
    """The program that uses the library is set up wrongly; the message names the mend."""


class RenewalFailed(RpzAuthError):  # noqa: N818 - what happened, and perhaps only for now
    """A client's credential has no access token, and the authority gave none; the message says why."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """Make a failure; `retry_after` is in seconds, and for how long the authority asks to wait."""
        super().__init__(message)
        self.retry_after = retry_after


class SignInRequired(RenewalFailed):
    """The grant has ended for good: it expired, was revoked, or its refresh token was used twice."""

    def __init__(
        self,
        message: str = "the grant has ended, or there never was one: ask the user to sign in again",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Say that the user must sign in again."""
        super().__init__(message, retry_after=retry_after)


class Refusal(RpzAuthError):  # noqa: N818 - a refusal is an answer, not a fault
    """One call is refused.

    The message is for the developer of the client and never contains anything that the client sent.
    """

    reason: ClassVar[Reason]
    default_message: ClassVar[str]

    def __init__(
        self,
        message: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Make a refusal; `retry_after` is in seconds."""
        super().__init__(message or self.default_message)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.app_id = ""
        """The App whose credential was genuine and did not do; empty where none was. It is not sent."""

    @property
    def message(self) -> str:
        """The text that goes to the client."""
        return str(self.args[0])


class CredentialsMissing(Refusal):
    """No credential, or one of a scheme that is not understood (RFC 6750 §3.1)."""

    reason = Reason.CREDENTIALS_MISSING
    default_message = (
        "send 'Bearer <access token>' or 'Basic <App ID:API token>' in x-rpz-auth or authorization"
    )


class CredentialsAmbiguous(Refusal):
    """More than one credential where one is read."""

    reason = Reason.CREDENTIALS_AMBIGUOUS
    default_message = "send exactly one credential"


class TokenInvalid(Refusal):
    """Malformed, unknown, revoked, or meant for somebody else: one answer for all (RFC 6750 §3.1)."""

    reason = Reason.TOKEN_INVALID
    default_message = "the credential is not valid here"


class TokenExpired(Refusal):
    """Genuine, and past its time."""

    reason = Reason.TOKEN_EXPIRED
    default_message = "the token has expired; renew it"


class ScopeInsufficient(Refusal):
    """A known caller without a scope that the method demands."""

    reason = Reason.SCOPE_INSUFFICIENT
    default_message = "the credential lacks a scope that this method demands"

    def __init__(self, required: Iterable[str]) -> None:
        """Name the scopes that the method demands."""
        super().__init__(metadata={"required_scopes": " ".join(sorted(required))})


class OriginNotAllowed(Refusal):
    """A known caller, from where its App may not call."""

    reason = Reason.ORIGIN_NOT_ALLOWED
    default_message = "the App's whitelist does not allow calls from this peer"


class MethodUnknown(Refusal):
    """An authenticated caller asked for a method that does not exist or has no policy."""

    reason = Reason.METHOD_UNKNOWN
    default_message = "no such method"


class BackendUnavailable(Refusal):
    """Whether the credential is good could not be found out."""

    reason = Reason.BACKEND_UNAVAILABLE
    default_message = "the credential cannot be checked at the moment; try again"


class Internal(Refusal):
    """A fault of ours; the detail is in the log and only there."""

    reason = Reason.INTERNAL
    default_message = "internal error"
