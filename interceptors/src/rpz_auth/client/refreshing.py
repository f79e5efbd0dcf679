"""A user's grant, kept alive by its refresh token."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth.client.endpoint import TokenEndpoint
from rpz_auth.client.renewing import Obtained, RenewingToken
from rpz_auth.client.store import RefreshTokenStore
from rpz_auth.errors import SignInRequired

_log = logging.getLogger("rpz_auth")


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """A refresh token that the store did not take, and what stands there instead."""

    instead_of: str | None = field(repr=False)
    token: str = field(repr=False)


class RefreshingToken(RenewingToken):
    """Access tokens that a user allowed an App (RFC 6749 §6), for as long as the grant lives.

    The refresh token changes with every renewal. It is written to the store before the new access token is
    used; if the program dies in between, the next start repeats the renewal, which the authority allows for a
    grace period (a minute unless it is set otherwise). Programs that share a store take turns.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        store: RefreshTokenStore,
        *,
        client_id: str,
        client_secret: str = "",
        resource: str = "",
        scopes: Iterable[str] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Have no access token yet; nothing is read or sent before one is needed.

        Args:
            endpoint: The authority.
            store: Where the refresh token is kept.
            client_id: The App's ID.
            client_secret: Its OAuth 2 secret; empty for a public App.
            resource: Where the access tokens are for; needed when several were granted.
            scopes: A part of those granted; all of them when empty.
            clock: As in `RenewingToken`.
        """
        super().__init__(clock=clock)
        self._endpoint = endpoint
        self._store = store
        self._client = {"client_id": client_id, "client_secret": client_secret}
        self._resource = resource
        self._scopes = tuple(scopes)
        self._unsaved: _Unsaved | None = None
        self._ended: str | None = None

    def __repr__(self) -> str:
        return f"RefreshingToken(client_id={self._client['client_id']!r}, store={self._store!r})"

    def sign_in(self, code: str, *, redirect_uri: str, code_verifier: str = "") -> None:
        """Redeem a code, and keep what it brings in place of what was; waits, so not on an event loop.

        The code is sent once. When its answer is lost, the user must sign in again.

        Raises:
            SignInRequired: The code is good for nothing, or the answer was lost.
            RenewalFailed: The authority refuses the request itself.
        """
        with self._store.lock():
            asked_at = self._clock()
            answer = self._endpoint.exchange_token(
                pb.ExchangeTokenRequest(
                    code=code,
                    redirect_uri=redirect_uri,
                    code_verifier=code_verifier,
                    resource=self._resource,
                    **self._client,
                )
            )
            self._keep(answer.refresh_token, instead_of=self._store.load())
        with self._lock:
            self._adopt(Obtained(answer.access_token, asked_at, answer.expires_in))

    def _obtain(self) -> Obtained:
        with self._store.lock():
            stored = self._store.load()
            presented = stored
            if self._unsaved is not None and stored == self._unsaved.instead_of:
                presented = self._unsaved.token
            # What has ended never comes back; another one may be in the store by now.
            if presented is None or presented == self._ended:
                raise SignInRequired
            asked_at = self._clock()
            try:
                answer = self._endpoint.refresh(
                    pb.RefreshRequest(
                        refresh_token=presented,
                        scopes=self._scopes,
                        resource=self._resource,
                        **self._client,
                    )
                )
            except SignInRequired:
                self._ended = presented
                raise
            self._keep(answer.refresh_token, instead_of=stored)
        return Obtained(answer.access_token, asked_at, answer.expires_in)

    def _keep(self, refresh_token: str, *, instead_of: str | None) -> None:
        self._unsaved = None
        try:
            self._store.save(refresh_token)
        except Exception:  # noqa: BLE001 - a store of whoever's, and the token is worth more than its fault
            # It is good all the same, and lost only if this program ends before a later one is saved.
            self._unsaved = _Unsaved(instead_of, refresh_token)
            _log.exception("rpz-auth: the refresh token could not be stored; it is kept in memory")
