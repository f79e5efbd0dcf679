"""Verification of access tokens: JWTs as in RFC 9068, signed with ES256, for one issuer."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from rpz_auth.caller import How, Verdict
from rpz_auth.errors import TokenExpired, TokenInvalid

ALGORITHM = "ES256"
LEEWAY = 30.0
"""Seconds that clocks may differ by, for `iat` and `nbf` (RFC 7519 §4.1.4: "no more than a few minutes")."""

_MAX_LENGTH = 4096
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_HEADER_MEMBERS = frozenset({"alg", "typ", "kid"})
_MAX_TIME = 2**53


class KeyUnknown(TokenInvalid):
    """Signed, it says, with a key that is not among the published ones."""


def verify(
    token: str, keys: Mapping[str, ECKey], *, issuer: str, resources: Collection[str] | None, now: float
) -> Verdict:
    """Verify an access token in full (RFC 9068 §4) and say what it allows.

    Args:
        token: As presented.
        keys: The issuer's published keys by `kid`.
        issuer: Compared with `iss`, character by character.
        resources: One of them must be a member of `aud`; None for whichever resource it is meant.
        now: Seconds since the epoch on the issuer's clock.

    Raises:
        TokenInvalid: Anything is wrong with it; `KeyUnknown` when that is all that can be said.
        TokenExpired: It is genuine, meant for one of these resources, and past its time.
    """
    match = check_form(token)
    kid = _read_header(match[1])
    key = keys.get(kid)
    if key is None:
        raise KeyUnknown
    try:
        payload = jws.deserialize_compact(token.encode("ascii"), key, algorithms=[ALGORITHM]).payload
    except (JoseError, ValueError):
        raise TokenInvalid from None
    if any(_decode(part) is None for part in match.groups()):
        raise TokenInvalid
    return _read_claims(_parse_object(payload), kid=kid, issuer=issuer, resources=resources, now=now)


def check_form(token: str) -> re.Match[str]:
    """Let pass, in its three parts, what has the form of a JWS (RFC 7515 §3.1) and the length of ours.

    Raises:
        TokenInvalid: It has not.
    """
    match = _COMPACT.fullmatch(token) if len(token) <= _MAX_LENGTH else None
    if match is None:
        raise TokenInvalid
    return match


def _read_header(segment: str) -> str:
    """The `kid` of a header that holds nothing but what our issuer writes (RFC 8725 §3.1, §3.11)."""
    header = _parse_object(_decode(segment) or b"")
    kid, typ = header.get("kid"), header.get("typ")
    if (
        header.keys() != _HEADER_MEMBERS
        or header["alg"] != ALGORITHM
        or not isinstance(typ, str)
        or typ.lower() not in _TYPES
        or not isinstance(kid, str)
    ):
        raise TokenInvalid
    return kid


def _read_claims(
    claims: dict[str, Any], *, kid: str, issuer: str, resources: Collection[str] | None, now: float
) -> Verdict:
    audience = claims.get("aud")
    if isinstance(audience, str):
        audience = [audience]
    if not isinstance(audience, list) or not all(isinstance(member, str) for member in audience):
        raise TokenInvalid
    meant_for = frozenset(audience) if resources is None else frozenset(audience).intersection(resources)
    if claims.get("iss") != issuer or not meant_for:
        raise TokenInvalid
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if issued_at > now + LEEWAY or ("nbf" in claims and _time(claims, "nbf") > now + LEEWAY):
        raise TokenInvalid
    epoch = claims.get("epoch")
    if type(epoch) is not int or epoch < 0:
        raise TokenInvalid
    # An empty text holds no scope; a doubled space would hold one that has no name (RFC 6749 §3.3).
    scope = claims.get("scope")
    scopes = frozenset(_text(claims, "scope").split(" ")) if scope != "" else frozenset()
    if "" in scopes:
        raise TokenInvalid
    verdict = Verdict(
        how=How.ACCESS_TOKEN,
        app_id=_text(claims, "client_id"),
        subject=_text(claims, "sub"),
        scopes=scopes,
        resources=meant_for,
        token_id=_text(claims, "jti"),
        grant_id=_text(claims, "grant_id") if "grant_id" in claims else None,
        secret_id=_text(claims, "secret_id") if "secret_id" in claims else None,
        epoch=epoch,
        kid=kid,
        issued_at=issued_at,
        expires_at=expires_at,
    )
    if now >= expires_at:
        raise TokenExpired
    return verdict


def _decode(segment: str) -> bytes | None:
    """Decode base64url in its one canonical spelling, else None."""
    try:
        raw = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") == segment else None


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        # As text: json.loads(bytes) would guess UTF-16 and skip byte order marks.
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise TokenInvalid from None
    if not isinstance(value, dict):
        raise TokenInvalid
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TokenInvalid
    return members


def _refuse(_constant: str) -> None:
    raise TokenInvalid


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # A bool is an int to isinstance, and NaN is outside every range.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME:
        raise TokenInvalid
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise TokenInvalid
    return value
