"""An API token that stays at home: exchanged at the authority for short-lived access tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rpz_auth.client.credential import ApiToken, check_sendable
from rpz_auth.client.endpoint import TokenEndpoint
from rpz_auth.client.renewing import Obtained, RenewingToken
from rpz_auth.errors import RenewalFailed, SignInRequired


class ExchangingToken(RenewingToken):
    """Access tokens of an App for itself (RFC 8693), for calls that should not carry a long-lived secret."""

    def __init__(
        self,
        endpoint: TokenEndpoint,
        api_token: ApiToken,
        *,
        resource: str = "",
        scopes: Iterable[str] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Have no access token yet; nothing is sent before one is needed.

        Args:
            endpoint: The authority.
            api_token: What to exchange.
            resource: Where the access tokens are for; needed when the API token has several.
            scopes: A part of the API token's; all of them when empty.
            clock: As in `RenewingToken`.

        Raises:
            ConfigurationError: The API token is none.
        """
        super().__init__(clock=clock)
        check_sendable(api_token)
        self._endpoint = endpoint
        self._api_token = api_token
        self._resource = resource
        self._scopes = tuple(scopes)

    def __repr__(self) -> str:
        return f"ExchangingToken({self._api_token!r})"

    def _obtain(self) -> Obtained:
        asked_at = self._clock()
        try:
            answer = self._endpoint.token_exchange(
                self._api_token, scopes=self._scopes, resource=self._resource
            )
        except SignInRequired:
            # Nobody has to sign in, and a locked App may be unlocked: it is worth asking again.
            raise RenewalFailed(
                "the authority refuses the API token: it was revoked, has expired or is another App's, "
                "or its App is locked"
            ) from None
        return Obtained(answer.access_token, asked_at, answer.expires_in)
