"""Passwords: made slow to guess, and impossible to guess for who has the database alone."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import unicodedata

import argon2
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, Type
from rpz_auth.errors import RpzAuthError

from rpz_auth_server.crypto.keyring import KeyRing

_AT_ONCE = 2
"""Each takes 64 MiB and a core; those who wait hold nothing."""


class PasswordInvalid(RpzAuthError):  # noqa: N818 - named like the refusals it turns into
    """Not the password, or there is none."""


class Passwords:
    """Hashes and checks passwords with Argon2id (RFC 9106), outside the event loop.

    What is hashed is an HMAC of the password under a master key: without the key ring a hash cannot even be
    tried against a list of passwords.
    """

    def __init__(
        self, keyring: KeyRing, *, issuer: str, instance: str, hasher: argon2.PasswordHasher | None = None
    ) -> None:
        """Derive keys from the master keys of a ring, whichever it holds by the time.

        Args:
            keyring: The master keys.
            issuer: Of the authority.
            instance: Of its database.
            hasher: What hashes; None for the second recommended option of RFC 9106 §4.
        """
        self._keyring = keyring
        self._issuer = issuer
        self._instance = instance
        self._hasher = hasher or argon2.PasswordHasher(
            time_cost=3, memory_cost=65536, parallelism=4, type=Type.ID
        )
        self._running = asyncio.Semaphore(_AT_ONCE)
        self._nobodys = _draw(self._hasher)

    @property
    def key_number(self) -> int:
        """The master key that new hashes are made with."""
        return self._keyring.minting_number

    async def hash(self, password: str) -> tuple[str, int]:
        """Make the hash of a password; return it and the number of the key without which it is nothing."""
        number = self.key_number  # another one may mint by the time that it is made
        peppered = self._pepper(password, number)
        async with self._running:
            return await asyncio.to_thread(self._hasher.hash, peppered), number

    async def verify(self, password: str, password_hash: str | None, *, key_number: int) -> None:
        """Let pass the password of a hash; takes as long where there is no hash.

        Raises:
            PasswordInvalid: It is another, or there is none.
        """
        known = self._keyring.has(key_number)
        peppered = self._pepper(password, key_number if known else self.key_number)
        async with self._running:
            await asyncio.to_thread(self._verify, peppered, password_hash or self._nobodys)
        if password_hash is None or not known:
            raise PasswordInvalid

    def is_outdated(self, password_hash: str, *, key_number: int) -> bool:
        """Tell whether a hash should be made anew, now that its password is at hand."""
        return key_number != self.key_number or self._hasher.check_needs_rehash(password_hash)

    def _verify(self, peppered: bytes, password_hash: str) -> None:
        try:
            self._hasher.verify(password_hash, peppered)
        except (VerifyMismatchError, InvalidHashError):
            raise PasswordInvalid from None

    def _pepper(self, password: str, key_number: int) -> bytes:
        # One person's keyboard composes an umlaut, the next one's does not (RFC 8265 §4).
        text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        key = self._keyring.derive(key_number, b"password", issuer=self._issuer, instance=self._instance)
        return base64.b64encode(hmac.digest(key, text, "sha256"))


def _draw(hasher: argon2.PasswordHasher) -> str:
    """Draw a hash that no password is known for, and that takes a hasher as long to check as its own.

    To make one of a password would hold up every start for as long as a sign-in takes.
    """
    salt, digest = (
        base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")
        for length in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"
