"""The authority as a verifying service sees it."""

from __future__ import annotations

from typing import Protocol

from rpz_auth.decide import Answer, Question
from rpz_auth.view import View


class Authority(Protocol):
    """Keeps a `View` up to date and answers what the view cannot.

    `connect` gives one over the network; `rpz_auth.testing` has one for tests.
    """

    @property
    def issuer(self) -> str:
        """The `iss` of its access tokens."""
        ...

    @property
    def view(self) -> View:
        """What is known by now."""
        ...

    def start(self) -> None:
        """Begin to learn. Returns at once; a second call does nothing."""
        ...

    def wait(self, timeout: float) -> None:
        """Return once the first snapshot is there.

        Args:
            timeout: In seconds.

        Raises:
            ConfigurationError: The authority refuses this verifier.
            BackendUnavailable: The time has passed.
        """
        ...

    def close(self) -> None:
        """Stop learning, and let go of the network."""
        ...

    def ask(self, question: Question) -> Answer:
        """Answer in this thread: an `ApiTokenQuestion` by a `Verdict`, a `StandingQuestion` by a `Standing`.

        Raises:
            TokenInvalid: The API token is good for nothing here.
            BackendUnavailable: The authority gave no answer.
        """
        ...

    async def ask_async(self, question: Question) -> Answer:
        """Answer in this task, with the same errors as `ask`."""
        ...
