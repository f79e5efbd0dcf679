"""Refusals as answers of HTTP: the status and OAuth 2 `error` of the one table."""

from __future__ import annotations

import math
import re

from rpz_auth.errors import Internal, Reason, Refusal
from rpz_auth.status import TABLE
from starlette.responses import JSONResponse, PlainTextResponse, Response

REALM = "rpz-auth"

_NOT_DESCRIPTION = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


def error_description(refusal: Refusal) -> str:
    """The refusal's text in the characters of RFC 6749 §5.2; quotes become apostrophes."""
    return _NOT_DESCRIPTION.sub("", refusal.message.replace('"', "'"))


def oauth_error(refusal: Refusal) -> str:
    """What stands in `error` (RFC 6749 §5.2); a refusal without a name there is `access_denied`."""
    return TABLE[refusal.reason].oauth_error or "access_denied"


def refused(refusal: Refusal, *, challenge: str | None = None) -> Response:
    """Answer in the form of RFC 6749 §5.2.

    Args:
        refusal: Why.
        challenge: For `WWW-Authenticate`, which every 401 that asked for authentication has.
    """
    headers = {}
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    content = {"error": oauth_error(refusal), "error_description": error_description(refusal)}
    return JSONResponse(content, TABLE[refusal.reason].http, headers)


def failed() -> Response:
    """Answer for a fault of ours; the detail is in the log and only there."""
    return refused(Internal())


def plain(status: int, text: str) -> Response:
    """Answer about HTTP itself, to whoever asked for what is not there."""
    return PlainTextResponse(text + "\n", status)


BASIC_CHALLENGE = f'Basic realm="{REALM}", charset="UTF-8"'
"""RFC 7617 §2.1."""
BEARER_CHALLENGE = f'Bearer realm="{REALM}"'


def bearer_challenge(refusal: Refusal) -> str:
    """RFC 6750 §3: without an error where no credential was sent (§3.1)."""
    error = TABLE[refusal.reason].oauth_error
    if refusal.reason is Reason.CREDENTIALS_MISSING or error is None:
        return BEARER_CHALLENGE
    challenge = f'{BEARER_CHALLENGE}, error="{error}", error_description="{error_description(refusal)}"'
    scope = refusal.metadata.get("required_scopes")
    return f'{challenge}, scope="{scope}"' if scope else challenge
