"""The grammar of credentials as they travel in metadata or headers.

Sources: RFC 6750 §2.1 and RFC 7235 §2.1 (`scheme 1*SP token68`), RFC 7617 (`Basic`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rpz_auth.errors import CredentialsAmbiguous, CredentialsMissing, TokenInvalid

OWN_KEY = "x-rpz-auth"
STANDARD_KEY = "authorization"

MAX_LENGTH = 8192
"""Characters; grpc refuses metadata over 8 KiB at random, and our tokens stay under 4 KiB."""

# Explicit classes: \w, \s and str.split() would admit letters and spaces outside ASCII.
_FIELD = re.compile(r" *([A-Za-z0-9!#$%&'*+.^_`|~-]+) +([\x21-\x7e][\x20-\x7e]*)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Bearer:
    """An access token as presented; nothing about it is verified."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Basic:
    """A user and a password as presented; nothing about them is verified."""

    user: str
    password: str = field(repr=False)


def find(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Pick the one field that decides: `x-rpz-auth` if present, else `authorization`.

    Keys are in lower case, as gRPC and ASGI hand them over.

    Returns:
        The field's value, or None when there is neither.

    Raises:
        CredentialsAmbiguous: The field that is read is there more than once.
        TokenInvalid: It is not text, or longer than `MAX_LENGTH`.
    """
    own: list[str | bytes] = []
    standard: list[str | bytes] = []
    for key, value in metadata:
        if key == OWN_KEY:
            own.append(value)
        elif key == STANDARD_KEY:
            standard.append(value)
    values = own or standard
    if not values:
        return None
    if len(values) > 1:
        raise CredentialsAmbiguous
    value = values[0]
    if not isinstance(value, str) or len(value) > MAX_LENGTH:
        raise TokenInvalid
    return value


def parse(value: str) -> Bearer | Basic:
    """Read one field's value.

    Raises:
        CredentialsMissing: The scheme is neither `Bearer` nor `Basic`; what follows it is its own affair.
        CredentialsAmbiguous: Several fields are folded into this one.
        TokenInvalid: The value breaks the grammar.
    """
    match = _FIELD.fullmatch(value)
    scheme = match[1].lower() if match else ""
    if match and scheme not in ("bearer", "basic"):
        raise CredentialsMissing
    if "," in value:  # equal keys may be folded into one value (gRPC over HTTP/2, "Custom-Metadata")
        raise CredentialsAmbiguous
    token = match[2].rstrip(" ") if match else ""
    if not _TOKEN68.fullmatch(token):
        raise TokenInvalid
    return Bearer(token) if scheme == "bearer" else _parse_basic(token)


def _parse_basic(token: str) -> Basic:
    try:
        raw = base64.b64decode(token, validate=True)
        text = raw.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise TokenInvalid from None
    # One text per value: a decoder that ignores slack bits would accept several.
    if base64.b64encode(raw).decode("ascii") != token or _CONTROL.search(text):
        raise TokenInvalid
    user, _, password = text.partition(":")
    if not (user and password):
        raise TokenInvalid
    return Basic(user, password)


def format_bearer(token: str) -> str:
    """Write an access token as a field's value."""
    return f"Bearer {token}"


def format_basic(user: str, password: str) -> str:
    """Write a user and a password as a field's value (RFC 7617 §2)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
