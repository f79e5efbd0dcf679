"""Tells why a call to the authority failed, in words to act upon."""

from __future__ import annotations

import grpc
import rpz_auth

from rpz_auth_server.cli.failures import Failure


def explain(error: grpc.RpcError, *, address: str, timeout: float) -> Failure:
    """Turn a failed call into something to act upon.

    The texts of refusals are the authority's, and those of lost connections are grpc's; neither repeats
    what was sent.

    Args:
        error: As a stub raised it; it is a `grpc.Call` too.
        address: Where the call went, `host:port`.
        timeout: How many seconds the call was given.
    """
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    reason = rpz_auth.reason_of(error)
    if reason is not None:
        return Failure(reason, details, mend=_MENDS.get(reason))
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(address, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(
            code.name,
            f"{address} did not answer within {timeout:g} seconds",
            mend="Whether it was done is not known: look before you repeat it.",
        )
    return Failure(code.name, details or f"{address} answered without a text")


def _unreachable(address: str, details: str) -> Failure:
    # grpc prefixes the reason with one or two sentences that say the same for every reason.
    cause = details.rpartition("last error: ")[2] or "the connection was lost"
    if any(sign in details for sign in ("handshake", "CERTIFICATE", "Hostname Verification")):
        mend = (
            "The server's certificate does not fit the credentials file: use the file that the authority "
            "at this address wrote, and a host name that stands in its certificate."
        )
    else:
        mend = f"Is the authority running, and reachable from here as {address}?"
    return Failure(grpc.StatusCode.UNAVAILABLE.name, f"cannot reach {address}: {cause}", mend=mend)


_EXPIRED = (
    "The token in the credentials file has expired or was revoked. Where the authority keeps its data, "
    "`rpz-auth-server bootstrap --data-dir DIR` makes a new administrator file."
)
_MENDS = {
    rpz_auth.Reason.TOKEN_INVALID: _EXPIRED,
    rpz_auth.Reason.TOKEN_EXPIRED: _EXPIRED,
    rpz_auth.Reason.ORIGIN_NOT_ALLOWED: (
        "The App may not call from this machine; a bootstrap file works on the authority's own machine only."
    ),
    rpz_auth.Reason.SCOPE_INSUFFICIENT: "Use the credentials file of an App that has the right to do this.",
}
