"""`?token=`, for clients that cannot set a header: an API token in a URL, as `App ID:API token`.

A URL stands in logs, histories and Referer headers. So this is off unless a service asks for it, good for
API tokens only, for those only that authority and App let travel so, and gone from the URL before anything
else sees it.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import MutableMapping, Sequence
from typing import Any

from rpz_auth.credentials import format_basic
from rpz_auth.errors import CredentialsAmbiguous, TokenInvalid

PARAMETER = "token"


def strip(scope: MutableMapping[str, Any]) -> Sequence[str]:
    """Take the parameter out of a request's URL, so that the server, too, logs the URL without it.

    Returns:
        Its values, in their order.
    """
    query: bytes = scope.get("query_string", b"")
    parts = [part.partition(b"=") for part in query.split(b"&")]
    kept = [b"".join(part) for part in parts if _decode(part[0]) != PARAMETER]
    if len(kept) < len(parts):
        scope["query_string"] = b"&".join(kept)
    return [_decode(value) for name, _, value in parts if _decode(name) == PARAMETER]


def as_field(values: Sequence[str]) -> str:
    """Write what stood in the URL as an `authorization` field has it.

    Raises:
        CredentialsAmbiguous: It was there more than once.
        TokenInvalid: It is not `App ID:API token`; OAuth 2 tokens have no place in a URL (RFC 9700 §4.3.2).
    """
    if len(values) != 1:
        raise CredentialsAmbiguous
    app_id, _, api_token = values[0].partition(":")
    if not (app_id and api_token):
        raise TokenInvalid
    return format_basic(app_id, api_token)


def _decode(text: bytes) -> str:
    return urllib.parse.unquote_plus(text.decode("latin-1"))
