"""Refusals as HTTP has them: status, JSON body, and the challenge in `WWW-Authenticate`.

Sources: RFC 6749 §5.2 (body), RFC 6750 §3 (challenge).
"""

from __future__ import annotations

import json
import re

from rpz_auth.errors import Reason, Refusal
from rpz_auth.status import TABLE

REALM = "rpz-auth"
BEARER_CHALLENGE = f'Bearer realm="{REALM}"'

_NOT_DESCRIPTION = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


def error_of(refusal: Refusal) -> str:
    """What stands in `error`; a refusal that OAuth 2 has no name for is `access_denied`."""
    return TABLE[refusal.reason].oauth_error or "access_denied"


def error_description(refusal: Refusal) -> str:
    """The refusal's text in the characters of RFC 6749 §5.2; quotes become apostrophes."""
    return _NOT_DESCRIPTION.sub("", refusal.message.replace('"', "'"))


def bearer_challenge(refusal: Refusal) -> str:
    """RFC 6750 §3: without an error where no credential was sent (§3.1)."""
    error = TABLE[refusal.reason].oauth_error
    if refusal.reason is Reason.CREDENTIALS_MISSING or error is None:
        return BEARER_CHALLENGE
    challenge = f'{BEARER_CHALLENGE}, error="{error}", error_description="{error_description(refusal)}"'
    scope = refusal.metadata.get("required_scopes")
    return f'{challenge}, scope="{scope}"' if scope else challenge


def body(refusal: Refusal) -> bytes:
    """The refusal as JSON (RFC 6749 §5.2), with its stable reason beside."""
    return json.dumps(
        {
            "error": error_of(refusal),
            "error_description": error_description(refusal),
            "reason": str(refusal.reason),
        }
    ).encode("ascii")
