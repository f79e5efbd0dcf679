"""How many live objects there may be of a kind that every verifier, or the database, has to bear."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth_server.domain.refusal import RequestInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many of what."""

    apps_per_owner: int = 100
    """Of owners who are no administrators."""
    api_tokens_per_app: int = 100


@dataclass(frozen=True, slots=True)
class AppsOfOwner:
    """That an owner has at most so many Apps that are not deleted."""

    owner: str
    most: int

    @property
    def refusal(self) -> RequestInvalid:
        """What whoever would have one more is told."""
        return RequestInvalid(
            f"an owner has at most {self.most} Apps (the setting apps_per_owner); delete one that is not "
            "used, or ask an administrator"
        )


@dataclass(frozen=True, slots=True)
class ApiTokensOfApp:
    """That an App has at most so many API tokens that are neither revoked nor expired."""

    app_id: str
    most: int

    @property
    def refusal(self) -> RequestInvalid:
        """What whoever would have one more is told."""
        return RequestInvalid(
            f"an App has at most {self.most} live API tokens (the setting api_tokens_per_app); "
            "revoke one that is not used"
        )


Bound = AppsOfOwner | ApiTokensOfApp
