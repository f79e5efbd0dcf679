"""The messages of `ExplainCredential`."""

from __future__ import annotations

from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.address import Peer, parse_address

from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows.explain_credential import Call, Explanation, Outcome

_Answer = pb.ExplainCredentialResponse
_OUTCOMES = {
    Outcome.PASSED: _Answer.OUTCOME_PASSED,
    Outcome.REFUSED: _Answer.OUTCOME_REFUSED,
    Outcome.NOT_LOOKED_AT: _Answer.OUTCOME_NOT_LOOKED_AT,
}
_UNIX = "unix"


def read_call(request: pb.ExplainCredentialRequest) -> Call:
    """Read what is known of a call.

    Raises:
        RequestInvalid: The peer is no address.
    """
    return Call(
        credential=request.credential,
        resource=request.resource,
        scopes=frozenset(request.scopes),
        peer=_read_peer(request),
    )


def write_explanation(explained: Explanation) -> pb.ExplainCredentialResponse:
    """Write what it comes to."""
    steps = [
        _Answer.Step(
            name=step.name, outcome=_OUTCOMES[step.outcome], reason=step.reason or "", text=step.text
        )
        for step in explained.steps
    ]
    return _Answer(steps=steps, reason=explained.reason or "", app_id=explained.app_id)


def _read_peer(request: pb.ExplainCredentialRequest) -> Peer:
    names = frozenset(name.lower().removesuffix(".") for name in request.certificate_names)
    try:
        address = parse_address(request.peer) if request.peer not in ("", _UNIX) else None
    except ValueError:
        raise RequestInvalid("peer is an IP address, or unix") from None
    return Peer(address, unix=request.peer == _UNIX, names=names, origin=request.origin or None)
