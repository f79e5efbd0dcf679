"""What every flow works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth.view import View

from rpz_auth_server.crypto.handles import Handles
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.passwords import Passwords
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.bound import Bounds
from rpz_auth_server.domain.grant import Lifetimes
from rpz_auth_server.domain.key import KeyTimes
from rpz_auth_server.domain.query_token import QueryTokenRule
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.flows.owners import Owners
from rpz_auth_server.flows.uses import Uses
from rpz_auth_server.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """What every flow works with; made once, at start-up."""

    store: Store
    keyring: KeyRing
    handles: Handles
    signing: SigningKeyring
    passwords: Passwords
    view: View
    """The authority's own, kept up to date like any verifier's."""
    issuer: str
    lifetimes: Lifetimes
    limiter: Limiter
    bounds: Bounds = field(default_factory=Bounds)
    key_times: KeyTimes = field(default_factory=KeyTimes)
    restored_at: float | None = None
    """As in `Issuer`; a restore needs a start, so it stays as it was read."""
    query_tokens: QueryTokenRule = field(default_factory=QueryTokenRule)
    uses: Uses = field(default_factory=Uses)
    owners: Owners = field(default_factory=Owners)
    expiry_warning: float = 14 * 86400
    """In seconds; from when on before its deadline a credential is warned of."""
