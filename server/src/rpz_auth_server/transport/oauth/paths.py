"""Where the endpoints are, below the issuer's own path."""

from __future__ import annotations

AUTHORIZE = "/oauth/authorize"
TOKEN = "/oauth/token"  # noqa: S105 - a path
REVOKE = "/oauth/revoke"
INTROSPECT = "/oauth/introspect"
PUSH = "/oauth/par"
JWKS = "/oauth/jwks.json"
METADATA = "/.well-known/oauth-authorization-server"

CALLED_BY_PAGES = frozenset({TOKEN, REVOKE, INTROSPECT, PUSH, JWKS, METADATA})
"""What pages of listed origins may call (RFC 9700 §2.6); never the authorization endpoint."""
