"""Refusals as answers of HTTP: the status and OAuth 2 `error` of the one table."""

from __future__ import annotations

import math

from rpz_auth.errors import Internal, Refusal
from rpz_auth.http_status import REALM, error_description, error_of
from rpz_auth.status import TABLE
from starlette.responses import JSONResponse, PlainTextResponse, Response


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
    content = {"error": error_of(refusal), "error_description": error_description(refusal)}
    return JSONResponse(content, TABLE[refusal.reason].http, headers)


def failed() -> Response:
    """Answer for a fault of ours; the detail is in the log and only there."""
    return refused(Internal())


def plain(status: int, text: str) -> Response:
    """Answer about HTTP itself, to whoever asked for what is not there."""
    return PlainTextResponse(text + "\n", status)


BASIC_CHALLENGE = f'Basic realm="{REALM}", charset="UTF-8"'
"""RFC 7617 §2.1."""
