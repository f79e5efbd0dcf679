"""What a client may send with its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rpz_auth import credentials
from rpz_auth.client.renewing import RenewingToken
from rpz_auth.errors import ConfigurationError, Refusal

Header = Literal["authorization", "x-rpz-auth"]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token, sent as `Bearer` (RFC 6750 §2.1)."""

    token: str = field(repr=False)

    def field_value(self) -> str:
        """The header's value."""
        return credentials.format_bearer(self.token)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An App's API token, sent as `Basic` with the App ID as user (RFC 7617)."""

    app_id: str
    token: str = field(repr=False)

    def field_value(self) -> str:
        """The header's value."""
        return credentials.format_basic(self.app_id, self.token)


Credential = AccessToken | ApiToken | RenewingToken
"""What channels send; for annotations."""


def check_sendable(credential: AccessToken | ApiToken) -> str:
    """Make the header's value of a credential, and see that it will be understood.

    Raises:
        ConfigurationError: It cannot be a header's value. Said now: grpc would fail every call instead, with
            a text that does not name the mistake.
    """
    value = credential.field_value()
    try:
        understood = credentials.parse(value)
    except Refusal:
        understood = None
    match credential:
        case AccessToken(token):
            meant: credentials.Bearer | credentials.Basic = credentials.Bearer(token)
        case ApiToken(app_id, token):
            meant = credentials.Basic(app_id, token)
    if understood != meant or len(value) > credentials.MAX_LENGTH:
        raise ConfigurationError(
            "the credential cannot be sent: it is empty, or has characters that no credential has "
            "(a line's end, a space); was it read from a file?"
        )
    return value
