from __future__ import annotations

from rpz_auth.address import Peer, parse_address
from rpz_auth_server.flows.introspect_for_client import introspect_for_client
from rpz_auth_server.flows.pipeline import ClientCredentials
from server.authority import TestAuthority


async def test_client_is_told_nothing_of_what_is_not_active(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    peer = Peer(parse_address("192.0.2.7"))
    itself = ClientCredentials(client_id=client.app_id, client_secret=client.secret, peer=peer)

    async def is_active(token: str) -> bool:
        return await introspect_for_client(authority.authority, itself, token) is not None

    assert await is_active(tokens.access_token)
    await authority.advance(7200)
    for token in (tokens.access_token, tokens.refresh_token, "rpzt_" + "A" * 64, "nonsense"):
        assert not await is_active(token)
