"""What the messages of the contract say, in this library's own types."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import verification_service_pb2 as pb

from rpz_auth.errors import ConfigurationError
from rpz_auth.view import AppState, Change, Revocation, SigningKeys, Snapshot


def read_snapshot(parts: Sequence[pb.Snapshot]) -> Snapshot:
    """A snapshot, of all its parts."""
    return Snapshot(
        keys=read_keys(next(part.keys for part in parts if part.HasField("keys"))),
        revocations=itertools.chain.from_iterable(map(_read_revocations, parts)),
        apps=[read_app(item) for part in parts for item in part.apps],
    )


def _read_revocations(part: pb.Snapshot) -> Iterator[Revocation]:
    yield from map(read_revocation, part.revocations)
    for block in part.revocation_blocks:
        ids, length, forget_at = block.ids, block.id_length, seconds(block.forget_time)
        if length < 1 or len(ids) % length:
            raise ConfigurationError("a block of revocations is not made of whole identifiers")
        for start in range(0, len(ids), length):
            yield Revocation(ids[start : start + length], forget_at)


def read_event(event: pb.Event) -> Change:
    """One change.

    Raises:
        ConfigurationError: It is of a kind that a newer authority knows; what it means for calls cannot be
            guessed.
    """
    match event.WhichOneof("change"):
        case "revoked":
            return read_revocation(event.revoked)
        case "app":
            return read_app(event.app)
        case "keys":
            return read_keys(event.keys)
        case _:
            raise ConfigurationError("the authority sends events that this version of rpz-auth cannot read")


def read_keys(item: pb.SigningKeys) -> SigningKeys:
    """The signing keys, and whether the issuer is locked."""
    return SigningKeys(item.jwks, locked=item.locked)


def read_revocation(item: pb.Revocation) -> Revocation:
    """One revocation."""
    return Revocation(item.id, seconds(item.forget_time))


def read_app(item: pb.AppState) -> AppState:
    """One App's state."""
    return AppState(
        app_id=item.app_id,
        version=item.version,
        locked=item.locked,
        deleted=item.deleted,
        epoch=item.epoch,
        whitelist=tuple(item.whitelist),
        query_token_allowed=item.query_token_allowed,
        forget_at=seconds(item.forget_time) if item.HasField("forget_time") else None,
    )


def seconds(time: Timestamp) -> float:
    """Seconds since the epoch."""
    return time.ToNanoseconds() / 1e9
