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
from dataclasses import dataclass, replace

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
_ES256 = ec.ECDSA(SHA256())
_COMPACT = json.JSONEncoder(separators=(",", ":"))
"""Made once; `json.dumps` makes one for each text."""
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
        payload = _json(claims)
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
        r, s = decode_dss_signature(self._private.sign(signed.encode("ascii"), _ES256))
        return f"{signed}.{_b64(r.to_bytes(_SCALAR_BYTES, 'big') + s.to_bytes(_SCALAR_BYTES, 'big'))}"


class SigningKeyring:
    """The decrypted signing keys of one issuer and database."""

    def __init__(self, keyring: KeyRing, *, issuer: str, instance: str) -> None:
        """Hold no signing keys yet."""
        self._keyring = keyring
        self._issuer = issuer
        self._instance = instance
        self._keys: Sequence[tuple[float, _SigningKey]] = ()

    def generate(self, *, now: float, sign_at: float | None = None) -> SealedKey:
        """Make a key for the database; it is not held before the record comes back by `replace`.

        Args:
            now: Database time in seconds since the epoch.
            sign_at: When it begins to sign; now if None.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        kid = _SigningKey(private).kid
        key_number, sealed = self._seal(private, kid)
        return SealedKey(
            kid=kid,
            key_number=key_number,
            sealed=sealed,
            created_at=now,
            sign_at=now if sign_at is None else sign_at,
        )

    def reseal(self, record: SealedKey) -> SealedKey:
        """Encrypt a key anew, under the master key that mints now.

        Raises:
            ConfigurationError: It does not decrypt.
        """
        key_number, sealed = self._seal(self._open(record), record.kid)
        return replace(record, key_number=key_number, sealed=sealed, version=record.version + 1)

    def replace(self, records: Iterable[SealedKey]) -> None:
        """Hold the published ones of these keys, and no others.

        Raises:
            ConfigurationError: One does not decrypt; what was held before stays.
        """
        published = sorted(
            (record for record in records if record.published),
            key=lambda record: (record.sign_at, record.created_at, record.kid),
        )
        self._keys = tuple((record.sign_at, _SigningKey(self._open(record))) for record in published)

    @property
    def master_key_number(self) -> int:
        """The master key that keys are encrypted under now."""
        return self._keyring.minting_number

    @property
    def is_empty(self) -> bool:
        """Whether no key is held."""
        return not self._keys

    def signs_since(self, now: float) -> float | None:
        """Since when the key that signs now does; None while there is none."""
        return next((sign_at for sign_at, _ in reversed(self._keys) if sign_at <= now), None)

    def jwks(self) -> str:
        """The public keys as a JWK Set (RFC 7517 §5)."""
        return _json({"keys": [key.public_jwk for _, key in self._keys]}).decode("ascii")

    def sign(self, claims: AccessTokenClaims) -> str:
        """Make an access token (RFC 9068 §2), of less than 4,096 characters.

        Raises:
            ScopeInvalid: It would be longer.
            BackendUnavailable: No key that is held may sign.
        """
        # The newest that signs by then; `iat` is a whole second, and so is the beginning compared.
        for sign_at, key in reversed(self._keys):
            if sign_at < claims.iat + 1:
                return key.sign(claims.to_json())
        raise BackendUnavailable

    def _seal(self, private: ec.EllipticCurvePrivateKey, kid: str) -> tuple[int, bytes]:
        key_number = self._keyring.minting_number
        nonce = secrets.token_bytes(_NONCE_BYTES)
        scalar = private.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")
        return key_number, nonce + self._aead(key_number).encrypt(nonce, scalar, self._bound_to(kid))

    def _open(self, record: SealedKey) -> ec.EllipticCurvePrivateKey:
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
        return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())

    def _aead(self, key_number: int) -> AESGCM:
        return AESGCM(
            self._keyring.derive(key_number, _PURPOSE, issuer=self._issuer, instance=self._instance)
        )

    def _bound_to(self, kid: str) -> bytes:
        """The associated data: a record that was moved or renamed does not decrypt."""
        return join(kid.encode(), self._issuer.encode(), self._instance.encode())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _json(value: object) -> bytes:
    return _COMPACT.encode(value).encode("ascii")
