"""How OAuth 2 clients present themselves, over gRPC and over HTTP alike."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

from rpz_auth import credentials
from rpz_auth.address import Peer
from rpz_auth.errors import CredentialsAmbiguous, CredentialsMissing, TokenInvalid

from rpz_auth_server.domain.refusal import ClientInvalid
from rpz_auth_server.flows.pipeline import ClientCredentials


def read_client(
    metadata: Iterable[tuple[str, str | bytes]], *, client_id: str, client_secret: str, peer: Peer
) -> ClientCredentials:
    """Read a client's credentials from metadata or headers, else from message or form (RFC 6749 §2.3.1).

    Args:
        metadata: As received, keys in lower case.
        client_id: As the message or form has it, perhaps empty.
        client_secret: As the message or form has it, perhaps empty.
        peer: The other end of the connection.

    Raises:
        CredentialsAmbiguous: Both have some, or they name different clients.
        ClientInvalid: The metadata has something else than `Basic`.
    """
    try:
        value = credentials.find(metadata)
        parsed = None if value is None else credentials.parse(value)
    except (TokenInvalid, CredentialsMissing):
        raise ClientInvalid from None
    if parsed is None:
        return ClientCredentials(client_id=client_id, client_secret=client_secret, peer=peer)
    if not isinstance(parsed, credentials.Basic):
        raise ClientInvalid("authenticate with Basic, the App ID as user and its OAuth 2 secret as password")
    user, password = map(urllib.parse.unquote_plus, (parsed.user, parsed.password))
    if client_secret or client_id not in ("", user):
        raise CredentialsAmbiguous(
            "send the client's credentials in the header or in the body of the request, not both"
        )
    return ClientCredentials(client_id=user, client_secret=password, peer=peer)
