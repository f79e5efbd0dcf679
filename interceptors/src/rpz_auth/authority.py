"""The authority as a verifying service sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rpz_auth.address import TrustedProxies
from rpz_auth.decide import Decider
from rpz_auth.errors import ConfigurationError
from rpz_auth.question import Answer, Question
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
    def resources(self) -> frozenset[str] | None:
        """What this service may protect; None for anything."""
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


def decider_for(authority: Authority, *, resource: str, trusted_proxies: Iterable[str]) -> Decider:
    """Make what decides for one resource, by what an authority says.

    Raises:
        ConfigurationError: The authority would tell this service nothing about it, so that genuine
            credentials would be refused; or a network has a typing error.
    """
    if authority.resources is not None and resource not in authority.resources:
        raise ConfigurationError(
            f"resource={resource!r} is not among those of the verifier file: "
            f"{', '.join(sorted(authority.resources)) or 'none'}; correct a typing error, or make another "
            f"file by `rpz-auth apps create --verifier FILE --resource {resource}`"
        )
    return Decider(
        authority.view,
        issuer=authority.issuer,
        resource=resource,
        trusted_proxies=TrustedProxies(trusted_proxies),
    )
