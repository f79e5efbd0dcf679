"""Which API tokens may travel in a URL (`?token=`)."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth_server.domain.credential import ApiToken


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTokenRule:
    """What an API token must be for it; whether its App may is a question of its own.

    A URL stands in logs, histories and Referer headers. Whoever reads it there later should find a token
    that has ended, and could not do much before.
    """

    safe_scopes: frozenset[str] = frozenset()
    longest_lifetime: float = 86400
    """In seconds, from its creation to its deadline."""

    def allows(self, token: ApiToken) -> bool:
        """Tell whether a token is short-lived and allows only what is listed as safe."""
        lives = None if token.expires_at is None else token.expires_at - token.created_at
        return token.scopes <= self.safe_scopes and lives is not None and lives <= self.longest_lifetime
