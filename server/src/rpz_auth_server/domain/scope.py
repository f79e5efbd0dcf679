"""Scopes, and those of the authority itself."""

from __future__ import annotations

from collections.abc import Iterable

from rpz_auth.policy import SCOPE

from rpz_auth_server.domain.refusal import ScopeInvalid

RESERVED_PREFIX = "rpz."
"""Begins the authority's own scopes, which only an administrator grants."""

ADMIN = "rpz.admin"
APPS = "rpz.apps"
CODES_ISSUE = "rpz.codes.issue"
VERIFY = "rpz.verify"
INTROSPECT = "rpz.introspect"
AUDIT = "rpz.audit"

OWN = frozenset({ADMIN, APPS, CODES_ISSUE, VERIFY, INTROSPECT, AUDIT})
VERIFIER = frozenset({VERIFY, INTROSPECT})
"""All that a service which verifies tokens may hold."""

_EMERGENCY = frozenset({ADMIN, APPS, AUDIT})


def left_while_locked(scopes: frozenset[str]) -> frozenset[str]:
    """What an API token still allows at the authority while the issuer is locked.

    An administrator can find out what happened and undo the lock; a verifier can learn of that, and is told
    that no token is good.
    """
    return scopes & (_EMERGENCY if ADMIN in scopes else VERIFIER)


_MAX_TEXT = 1500


def split(text: str) -> frozenset[str]:
    """Read a list of scopes between spaces (RFC 6749 §3.3)."""
    return frozenset(text.split(" ")) - {""}


def unreserved(scopes: frozenset[str]) -> frozenset[str]:
    """Those that are not the authority's own."""
    return frozenset(name for name in scopes if not name.startswith(RESERVED_PREFIX))


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Take scopes that are well formed, known if they are the authority's own, and fit into a token.

    Raises:
        ScopeInvalid: Otherwise.
    """
    taken = frozenset(scopes)
    if not all(SCOPE.fullmatch(scope) for scope in taken):
        raise ScopeInvalid("a scope is 1 to 128 visible ASCII characters without quotes and backslashes")
    if any(scope.startswith(RESERVED_PREFIX) and scope not in OWN for scope in taken):
        raise ScopeInvalid(
            f"scopes that begin with {RESERVED_PREFIX} are the authority's: {', '.join(sorted(OWN))}"
        )
    if len(" ".join(taken)) > _MAX_TEXT:
        raise ScopeInvalid(f"all scopes together have at most {_MAX_TEXT} characters")
    return taken
