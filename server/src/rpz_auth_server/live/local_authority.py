"""The authority as its own verifier: the same interceptor, without a network in between."""

from __future__ import annotations

import asyncio
import math

from rpz_auth.caller import APP_SUBJECT_PREFIX, How, Verdict
from rpz_auth.errors import BackendUnavailable
from rpz_auth.question import Answer, Question, StandingQuestion
from rpz_auth.view import SigningKeys, Standing, View

from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.verify_api_token import authenticate_api_token


class LocalAuthority:
    """An `rpz_auth.Authority` that asks the flows; its view is the hub's, which others start and stop."""

    def __init__(self, authority: Authority) -> None:
        """Answer from `authority`, in whose event loop this is made."""
        self._authority = authority
        self._loop = asyncio.get_running_loop()

    @property
    def issuer(self) -> str:
        """The `iss` of access tokens."""
        return self._authority.issuer

    @property
    def resources(self) -> frozenset[str]:
        """The authority itself."""
        return frozenset({self._authority.issuer})

    @property
    def view(self) -> View:
        """The authority's own."""
        return self._authority.view

    def start(self) -> None:
        """Nothing to start."""

    def wait(self, timeout: float) -> None:
        """Return at once."""

    def close(self) -> None:
        """Nothing to close."""

    def ask(self, question: Question) -> Answer:
        """Answer in a thread that is not the loop's.

        Raises:
            TokenInvalid: The API token is good for nothing here.
            BackendUnavailable: The authority cannot vouch for what it knows.
        """
        asking = self.ask_async(question)
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # the loop is closed: the authority has stopped
            asking.close()
            raise BackendUnavailable from None
        return answer.result()

    async def ask_async(self, question: Question) -> Answer:
        """Answer from the database.

        Raises:
            TokenInvalid: The API token is good for nothing here.
            BackendUnavailable: The authority cannot vouch for what it knows.
            RateLimited: The peer failed too often.
        """
        if isinstance(question, StandingQuestion):
            if question.app_ids or question.ids:
                raise BackendUnavailable  # nobody else could tell it what it does not learn itself
            return Standing((), (), SigningKeys(self._authority.signing.jwks(), locked=self.view.locked))
        token = await authenticate_api_token(
            self._authority, question.app_id, question.api_token, question.peer, for_authority=True
        )
        return Verdict(
            how=How.API_TOKEN,
            app_id=token.app_id,
            subject=APP_SUBJECT_PREFIX + token.app_id,
            scopes=token.scopes,
            resources=token.resources,
            token_id=token.api_token_id,
            issued_at=token.created_at,
            expires_at=token.expires_at if token.expires_at is not None else math.inf,
            query_token_allowed=self._authority.query_tokens.allows(token),
        )
