"""What Envoy is told: whom to let in and under which name, or what to answer instead."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterable

from rpz.auth.ext_authz.v1 import check_pb2 as pb

from rpz_auth import http_status
from rpz_auth.caller import Admission
from rpz_auth.credentials import OWN_KEY
from rpz_auth.errors import Refusal
from rpz_auth.status import TABLE, rpc_status

_OVERWRITE = 2
APP_ID_HEADER, SUBJECT_HEADER, SCOPES_HEADER = "x-rpz-app-id", "x-rpz-subject", "x-rpz-scopes"
_CALLER_HEADERS = (APP_ID_HEADER, SUBJECT_HEADER, SCOPES_HEADER)
_OURS = frozenset({OWN_KEY, *_CALLER_HEADERS})
_SAFE = ":/@._~-"


def admitted(admission: Admission, keys: Iterable[str]) -> pb.CheckResponse:
    """Let a request pass, with the caller in headers that no client can have set; subjects are %-encoded.

    Args:
        admission: What was decided.
        keys: Of the request's headers. Those that look like ours to services which take other characters for
            `-`, as WSGI and CGI do with `_`, and some with all, are removed: nobody has read them.
    """
    caller = admission.caller
    alike = [key for key in keys if _plain(key) in _OURS and key not in _OURS]
    if caller is None:
        return pb.CheckResponse(
            status=pb.Status(), ok_response=pb.OkHttpResponse(headers_to_remove=[*_CALLER_HEADERS, *alike])
        )
    return pb.CheckResponse(
        status=pb.Status(),
        ok_response=pb.OkHttpResponse(
            headers_to_remove=alike,
            headers=[
                _header(APP_ID_HEADER, caller.app_id),
                _header(SUBJECT_HEADER, urllib.parse.quote(caller.subject, safe=_SAFE)),
                _header(SCOPES_HEADER, " ".join(sorted(caller.scopes))),
            ],
        ),
    )


def denied(refusal: Refusal, *, is_grpc: bool) -> pb.CheckResponse:
    """Refuse a request. Envoy makes a gRPC status of the HTTP one; the details are as everywhere."""
    wire, status = TABLE[refusal.reason], rpc_status(refusal)
    headers = [_header("cache-control", "no-store")]
    if is_grpc:
        body = refusal.message
        headers += [
            _header(key, base64.b64encode(value).decode("ascii")) for key, value in status.trailing_metadata
        ]
    else:
        body = http_status.body(refusal).decode("ascii")
        headers.append(_header("content-type", "application/json"))
        if wire.http == 401:  # noqa: PLR2004 - RFC 6750 §3
            headers.append(_header("www-authenticate", http_status.bearer_challenge(refusal)))
    return pb.CheckResponse(
        status=pb.Status(code=wire.grpc.value[0], message=refusal.message),
        denied_response=pb.DeniedHttpResponse(
            status=pb.HttpStatus(code=wire.http), headers=headers, body=body
        ),
    )


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "-", key.lower())


def _header(key: str, value: str) -> pb.HeaderValueOption:
    return pb.HeaderValueOption(header=pb.HeaderValue(key=key, value=value), append_action=_OVERWRITE)
