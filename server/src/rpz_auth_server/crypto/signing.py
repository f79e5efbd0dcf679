"""Signing keys, and the access tokens that they sign.

A private key is stored only encrypted under a master key, bound to its `kid`, the issuer and the
database. Published keys are derived from what decrypts: who can write to the database forges nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from rpz_auth.errors import BackendUnavailable, ConfigurationError

from rpz_auth_server.crypto.keyring import KeyRing, join
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.refusal import ScopeInvalid

_PURPOSE = b"signing-key"
_NONCE_BYTES = 12
_SCALAR_BYTES = 32
_MAX_PAYLOAD = 2900
"""Bytes of JSON; with header and signature less than 4,096 characters, which verifiers take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTokenClaims:
    """What an access token says (RFC 9068 §2.2). Times are whole seconds since the epoch."""

    iss: str
    sub: str
    aud: str
    """One resource (RFC 8707)."""
    client_id: str
    iat: int
    exp: int
    jti: str
    scope: str
    """Separated by spaces (RFC 9068 §2.2.3)."""
    epoch: int
    """Of the App; tokens of an earlier one are refused."""
    grant_id: str | None = None
    secret_id: str | None = None
    """The OAuth 2 secret or API token that a token without a grant was issued for, and ends with."""

    def to_json(self) -> bytes:
        """Write them as a JWT claims set. It may be called before a commit, to know that signing will work.

        Raises:
            ScopeInvalid: The token would not fit into metadata.
        """
        claims: dict[str, str | int] = {
            "iss": self.iss,
            "sub": self.sub,
            "aud": self.aud,
            "client_id": self.client_id,
            "iat": self.iat,
            "exp": self.exp,
            "jti": self.jti,
            "scope": self.scope,
            "epoch": self.epoch,
        }
        if self.grant_id is not None:
            claims["grant_id"] = self.grant_id
        if self.secret_id is not None:
            claims["secret_id"] = self.secret_id
        payload = json.dumps(claims, separators=(",", ":")).encode("ascii")
        if len(payload) > _MAX_PAYLOAD:
            raise ScopeInvalid("these scopes make the access token longer than 4 KiB; ask for fewer")
        return payload


class _SigningKey:
    """A decrypted private key, with what can be prepared for it."""

    __slots__ = ("_header", "_private", "kid", "public_jwk")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        numbers = private.public_key().public_numbers()
        x, y = (_b64(number.to_bytes(_SCALAR_BYTES, "big")) for number in (numbers.x, numbers.y))
        required = {"crv": "P-256", "kty": "EC", "x": x, "y": y}  # in this order: RFC 7638 §3.2, §3.3
        self.kid = _b64(hashlib.sha256(_json(required)).digest())
        self.public_jwk = {**required, "alg": "ES256", "use": "sig", "kid": self.kid}
        self._header = _b64(_json({"alg": "ES256", "typ": "at+jwt", "kid": self.kid}))
        self._private = private

    def sign(self, payload: bytes) -> str:
        """Write a JWS in compact form (RFC 7515 §3.1); ES256 as in RFC 7518 §3.4."""
        signed = f"{self._header}.{_b64(payload)}"
        r, s = decode_dss_signature(self._private.sign(signed.encode("ascii"), ec.ECDSA(SHA256())))
        return f"{signed}.{_b64(r.to_bytes(_SCALAR_BYTES, 'big') + s.to_bytes(_SCALAR_BYTES, 'big'))}"


class SigningKeyring:
    """The decrypted signing keys of one issuer and database."""

    def __init__(self, keyring: KeyRing, *, issuer: str, instance: str) -> None:
        """Hold no signing keys yet."""
        self._keyring = keyring
        self._issuer = issuer
        self._instance = instance
        self._keys: Sequence[_SigningKey] = ()
        self._signs: _SigningKey | None = None

    def generate(self, *, now: float) -> SealedKey:
        """Make a key for the database; it is not held before the record comes back by `replace`.

        Args:
            now: Database time in seconds since the epoch.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        kid = _SigningKey(private).kid
        key_number = self._keyring.minting_number
        nonce = secrets.token_bytes(_NONCE_BYTES)
        scalar = private.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")
        sealed = nonce + self._aead(key_number).encrypt(nonce, scalar, self._bound_to(kid))
        return SealedKey(kid=kid, key_number=key_number, sealed=sealed, created_at=now)

    def replace(self, records: Iterable[SealedKey]) -> None:
        """Hold these keys, and no others: all of them are published, the newest that is not retired signs.

        Raises:
            ConfigurationError: One does not decrypt; what was held before stays.
        """
        held = [(record, self._unseal(record)) for record in records]
        self._signs = _choose(held)
        self._keys = tuple(key for _, key in held)

    @property
    def is_ready(self) -> bool:
        """Whether there is a key that signs."""
        return self._signs is not None

    def jwks(self) -> str:
        """The public keys as a JWK Set (RFC 7517 §5)."""
        return _json({"keys": [key.public_jwk for key in self._keys]}).decode("ascii")

    def sign(self, claims: AccessTokenClaims) -> str:
        """Make an access token (RFC 9068 §2), of less than 4,096 characters.

        Raises:
            ScopeInvalid: It would be longer.
            BackendUnavailable: No key that is held may sign.
        """
        key = self._signs
        if key is None:
            raise BackendUnavailable
        return key.sign(claims.to_json())

    def _unseal(self, record: SealedKey) -> _SigningKey:
        try:
            aead = self._aead(record.key_number)
        except BackendUnavailable:
            raise ConfigurationError(
                f"signing key {record.kid} is encrypted under master key {record.key_number}, which is not "
                "in the key ring; the ring does not belong to this database, or lacks a key"
            ) from None
        nonce, encrypted = record.sealed[:_NONCE_BYTES], record.sealed[_NONCE_BYTES:]
        try:
            scalar = aead.decrypt(nonce, encrypted, self._bound_to(record.kid))
        except (InvalidTag, ValueError):  # ValueError: shorter than a nonce can be
            raise ConfigurationError(
                f"signing key {record.kid} does not decrypt: the master key ring does not belong to this "
                "database, or the issuer is not the one that it was made for"
            ) from None
        return _SigningKey(ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()))

    def _aead(self, key_number: int) -> AESGCM:
        return AESGCM(
            self._keyring.derive(key_number, _PURPOSE, issuer=self._issuer, instance=self._instance)
        )

    def _bound_to(self, kid: str) -> bytes:
        """The associated data: a record that was moved or renamed does not decrypt."""
        return join(kid.encode(), self._issuer.encode(), self._instance.encode())


def _choose(held: Iterable[tuple[SealedKey, _SigningKey]]) -> _SigningKey | None:
    """The key that signs: the newest that is not retired; by `kid` when two are equally new."""
    signing = [(record.created_at, record.kid, key) for record, key in held if record.retire_at is None]
    return max(signing, key=lambda entry: entry[:2])[2] if signing else None


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
