from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.connection import messages
from rpz_auth.errors import ConfigurationError
from rpz_auth.view import AppState, Revocation, SigningKeys, Snapshot

FORGET = Timestamp(seconds=2_000, nanos=500_000_000)


def test_a_snapshot_is_of_all_its_parts() -> None:
    parts = [
        pb.Snapshot(apps=[pb.AppState(app_id="a", version=1, epoch=2)]),
        pb.Snapshot(
            keys=pb.SigningKeys(jwks="{}", locked=True),
            revocations=[pb.Revocation(id="one", forget_time=FORGET)],
            revocation_blocks=[
                pb.RevocationBlock(ids="twosix", id_length=3, forget_time=FORGET),
                pb.RevocationBlock(id_length=3, forget_time=FORGET),
                pb.RevocationBlock(ids="four", id_length=4, forget_time=FORGET),
            ],
        ),
        pb.Snapshot(apps=[pb.AppState(app_id="b", version=3, deleted=True, forget_time=FORGET)], last=True),
    ]
    read = messages.read_snapshot(parts)
    assert Snapshot(read.keys, list(read.revocations), read.apps) == Snapshot(
        SigningKeys("{}", locked=True),
        [Revocation(name, 2_000.5) for name in ("one", "two", "six", "four")],
        [
            AppState(app_id="a", version=1, epoch=2),
            AppState(app_id="b", version=3, deleted=True, forget_at=2_000.5),
        ],
    )


@pytest.mark.parametrize(("ids", "length"), [("abcd", 0), ("abcd", -2), ("abcde", 2), ("abcd", 5), ("", 0)])
def test_a_block_that_is_not_made_of_whole_identifiers_is_an_error(ids: str, length: int) -> None:
    block = pb.RevocationBlock(ids=ids, id_length=length, forget_time=FORGET)
    read = messages.read_snapshot([pb.Snapshot(keys=pb.SigningKeys(), revocation_blocks=[block])])
    with pytest.raises(ConfigurationError, match="whole identifiers"):
        list(read.revocations)


def test_an_event_of_a_kind_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        messages.read_event(pb.Event())
