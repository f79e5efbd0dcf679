"""An authority for the tests of a service: no network, a clock of its own, credentials on demand.

The decisions are the real ones; only what the authority would say is made up here::

    authority = FakeAuthority()
    auth = AuthInterceptor(authority, resource="https://orders", services=["orders.v1.OrderService"])
    token = authority.access_token(resource="https://orders", scopes=["orders.read"])
"""

from __future__ import annotations

import json
import math
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey

from rpz_auth import access_token
from rpz_auth.caller import APP_SUBJECT_PREFIX, How, Verdict
from rpz_auth.client import AccessToken, ApiToken, Credential
from rpz_auth.errors import BackendUnavailable, TokenInvalid
from rpz_auth.question import Answer, Question, StandingQuestion
from rpz_auth.view import AppState, Revocation, SigningKeys, Snapshot, Standing, View
from rpz_auth.whitelist import normalise

ISSUER = "https://auth.test"
APP_ID = "00000000-0000-4000-8000-000000000001"


class FakeAuthority:
    """An `Authority` whose Apps, credentials and time the test decides."""

    def __init__(self, *, issuer: str = ISSUER, clock: Callable[[], float] = time.time) -> None:
        """Know one signing key and no Apps.

        Args:
            issuer: The `iss` of its access tokens.
            clock: Seconds since the epoch; a test that lets time pass gives its own.
        """
        self.issuer = issuer
        self.resources: frozenset[str] | None = None
        self.view = View(clock)
        self._key = _new_key()
        self._api_tokens: dict[tuple[str, str], Verdict] = {}
        self._apps: dict[str, AppState] = {}
        self._token_ids: dict[Credential, str] = {}
        self._reachable = True
        self._locked = False
        self._started = False

    def start(self) -> None:
        """Know everything at once."""
        self._started = True
        self.view.replace(Snapshot(self._keys(), (), self._apps.values()))
        if self._reachable:
            self.restore()
        else:
            self.cut_off()

    def wait(self, timeout: float) -> None:
        """Return at once."""

    def close(self) -> None:
        """Let go of nothing."""

    def ask(self, question: Question) -> Answer:
        """Answer as the test has arranged.

        Raises:
            TokenInvalid: No such API token.
            BackendUnavailable: Before `start`, and after `cut_off`.
        """
        if not self._reachable or not self._started:
            raise BackendUnavailable
        if isinstance(question, StandingQuestion):
            return Standing(
                tuple(Revocation(name, math.inf) for name in question.ids if self.view.is_revoked(name)),
                tuple(map(self._app, question.app_ids)),
                self._keys(),
            )
        verdict = self._api_tokens.get((question.app_id, question.api_token))
        if verdict is None or self._locked:
            raise TokenInvalid
        return verdict

    async def ask_async(self, question: Question) -> Answer:
        """As `ask`."""
        return self.ask(question)

    def access_token(
        self,
        *,
        resource: str,
        scopes: Iterable[str] = (),
        app_id: str = APP_ID,
        subject: str = "user:1",
        expires_in: float = 7200,
        **claims: Any,
    ) -> AccessToken:
        """Make a valid access token; `expires_in` is in seconds, and may be negative.

        Further claims replace or add to what an authority writes.
        """
        return self._sign(
            self._key,
            {
                "iss": self.issuer,
                "sub": subject,
                "aud": resource,
                "client_id": app_id,
                "iat": int(self.view.now()),
                "exp": self.view.now() + expires_in,
                "jti": secrets.token_urlsafe(16),
                "scope": " ".join(scopes),
                "epoch": self._app(app_id).epoch,
                **claims,
            },
        )

    def foreign_token(self, *, resource: str, scopes: Iterable[str] = ()) -> AccessToken:
        """Make an access token as another issuer with other keys would."""
        stranger = FakeAuthority(issuer="https://stranger.test", clock=self.view.now)
        return stranger.access_token(resource=resource, scopes=scopes)

    def api_token(
        self,
        *,
        resource: str,
        scopes: Iterable[str] = (),
        app_id: str = APP_ID,
        expires_in: float = math.inf,
        query_token_allowed: bool = False,
    ) -> ApiToken:
        """Make a valid API token of an App; `expires_in` is in seconds.

        It travels in a URL only if it may, and `allow_query_token` was called for its App.

        Raises:
            ValueError: `app_id` is not a UUID in lower case, as the ID of every App is.
        """
        if str(uuid.UUID(app_id)) != app_id:
            raise ValueError("write the App ID in lower case, with hyphens")
        credential = ApiToken(app_id, "rpzt_" + secrets.token_urlsafe(48))
        token_id = secrets.token_urlsafe(16)
        self._token_ids[credential] = token_id
        self._api_tokens[app_id, credential.token] = Verdict(
            how=How.API_TOKEN,
            app_id=app_id,
            subject=APP_SUBJECT_PREFIX + app_id,
            scopes=frozenset(scopes),
            resources=frozenset({resource}),
            token_id=token_id,
            expires_at=self.view.now() + expires_in,
            query_token_allowed=query_token_allowed,
        )
        return credential

    def revoke(self, credential: Credential) -> None:
        """Revoke a credential that was made here; takes effect at once."""
        if isinstance(credential, ApiToken):
            self._api_tokens.pop((credential.app_id, credential.token), None)
        self.view.apply([Revocation(self._token_ids[credential], math.inf)])

    def whitelist(self, entries: Iterable[str], *, app_id: str = APP_ID) -> None:
        """Replace an App's whitelist.

        Raises:
            ValueError: An entry is not one that the authority would take.
        """
        self._change(replace(self._app(app_id), whitelist=tuple(map(normalise, entries))))

    def allow_query_token(self, *, app_id: str = APP_ID) -> None:
        """Let API tokens of an App travel in URLs (`?token=`), those that may."""
        self._change(replace(self._app(app_id), query_token_allowed=True))

    def lock(self, *, app_id: str = APP_ID) -> None:
        """Lock an App: its credentials stop."""
        app = self._app(app_id)
        self._change(replace(app, locked=True, epoch=app.epoch + 1))

    def unlock(self, *, app_id: str = APP_ID) -> None:
        """Unlock an App: its API tokens work again, access tokens from before do not."""
        self._change(replace(self._app(app_id), locked=False))

    def lock_issuer(self) -> None:
        """Lock the authority as a whole: every credential of every App stops."""
        self._locked = True
        self._key = _new_key()
        self.view.apply([self._keys()])

    def unlock_issuer(self) -> None:
        """Unlock it: API tokens work again, access tokens from before do not."""
        self._locked = False
        self.view.apply([self._keys()])

    def cut_off(self) -> None:
        """Be unreachable and, for the service, silent for too long."""
        self._reachable = False
        self.view.refresh(-math.inf, heard_at=self.view.now())

    def fall_silent(self) -> None:
        """Be silent for too long, though questions are answered."""
        self._reachable = True
        self.view.refresh(-math.inf, heard_at=self.view.now())

    def restore(self) -> None:
        """Be reachable again."""
        self._reachable = True
        self.view.refresh(math.inf, heard_at=self.view.now())

    def _keys(self) -> SigningKeys:
        return SigningKeys(json.dumps({"keys": [self._key.as_dict(private=False)]}), locked=self._locked)

    def _app(self, app_id: str) -> AppState:
        return self._apps.get(app_id) or AppState(app_id=app_id, version=0)

    def _change(self, state: AppState) -> None:
        state = replace(state, version=state.version + 1)
        self._apps[state.app_id] = state
        self.view.apply([state])

    def _sign(self, key: ECKey, claims: dict[str, Any]) -> AccessToken:
        header = {"alg": access_token.ALGORITHM, "typ": "at+jwt", "kid": key.kid}
        token = jws.serialize_compact(header, json.dumps(claims), key, algorithms=[access_token.ALGORITHM])
        credential = AccessToken(token)
        self._token_ids[credential] = str(claims.get("jti"))
        return credential


def _new_key() -> ECKey:
    return ECKey.generate_key(
        "P-256", {"kid": str(uuid.uuid4()), "alg": access_token.ALGORITHM, "use": "sig"}
    )
