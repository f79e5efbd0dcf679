"""What the authority knows of an outside OpenID Connect provider."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """How the authority is registered at the provider."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    name: str
    may_sign_up: bool
