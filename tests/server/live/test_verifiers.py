from __future__ import annotations

import asyncio

from rpz.auth.v1 import administration_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2 as verification_pb
from server.authority import ORDERS, START, STOCK, TestAuthority


async def verifiers(authority: TestAuthority) -> list[pb.Verifier]:
    answer = await authority.admin.administration.ListVerifiers(pb.ListVerifiersRequest())
    return list(answer.verifiers)


async def test_verifier_is_listed_for_as_long_as_it_is_connected(authority: TestAuthority) -> None:
    credential, stubs = await authority.create_verifier(ORDERS, STOCK)
    stream = stubs.verification.Watch(verification_pb.WatchRequest(), timeout=60)
    while not (message := await stream.read()).HasField("heartbeat"):
        pass
    (one,) = await verifiers(authority)
    assert (one.app_id, list(one.resources), one.cursor) == (
        credential.app_id,
        [ORDERS, STOCK],
        message.cursor,
    )
    assert one.peer.startswith("127.0.0.1")
    assert one.connect_time.seconds == one.told_time.seconds == int(START)

    await authority.advance(5)
    while (message := await stream.read()).time.seconds < int(START) + 5:
        pass
    (later,) = await verifiers(authority)
    assert (later.connect_time.seconds, later.told_time.seconds) == (int(START), int(START) + 5)

    stream.cancel()
    async with asyncio.timeout(20):
        while await verifiers(authority):
            await authority.advance(1)  # what is told next finds nobody
