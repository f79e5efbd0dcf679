"""The master keys, from which every other key is derived.

They live outside the database and never in its backup: the database alone yields no usable
credential, nor do the keys alone. The file, which is also the form of the environment variable::

    {"format": 1, "minting": 2, "keys": {"1": "<43 characters of base64url>", "2": "<...>"},
     "next": {"number": 3, "from": 1764038400}, "retired": []}

A key's number is permanent: it stands in every credential that was made with the key. One key mints,
the others only verify what they once minted. `next` mints from a time on, in seconds since the epoch: so
that every process can verify by a key before any of them mints with it. What names a `retired` key is
refused, while a number that the ring has never heard of may be another replica's. Both may be missing.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from rpz_auth.errors import BackendUnavailable, ConfigurationError

from rpz_auth_server import files

ENVIRONMENT_VARIABLE = "RPZ_AUTH_KEYRING"
"""Holds the ring itself, not a path; wins over the file."""
MAX_NUMBER = 2**24 - 1

_FORMAT = 1
_KEY_BYTES = 32
_NUMBER = re.compile(r"[1-9][0-9]{0,7}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Next:
    """The key that will mint, and from when on, in seconds since the epoch."""

    number: int
    start: float


class KeyRing:
    """Master keys by number. Whoever holds a ring sees what `take_over` brings into it."""

    __slots__ = ("_clock", "_keys", "_minting", "_next", "_retired")

    def __init__(
        self,
        keys: Mapping[int, bytes],
        *,
        minting: int,
        upcoming: Next | None = None,
        retired: Iterable[int] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take keys of 32 random bytes each.

        Args:
            keys: By number.
            minting: The number of the one that mints.
            upcoming: Which one will, and when.
            retired: Numbers of keys that were taken out.
            clock: This machine's, in seconds since the epoch.

        Raises:
            ConfigurationError: A number or a key is out of bounds, or the minting key is missing.
        """
        for number, key in keys.items():
            if not 1 <= number <= MAX_NUMBER:
                raise ConfigurationError(f"a master key's number must be from 1 to {MAX_NUMBER}")
            if len(key) != _KEY_BYTES:
                raise ConfigurationError(f"master key {number} must be {_KEY_BYTES} bytes long")
        for number in (minting, *([upcoming.number] if upcoming else ())):
            if number not in keys:
                raise ConfigurationError(f"the minting master key {number} is not in the key ring")
        self._keys = dict(keys)
        self._minting = minting
        self._next = upcoming
        self._retired = frozenset(retired)
        self._clock = clock
        if self._retired & self._keys.keys():
            raise ConfigurationError("a retired master key is still in the key ring")

    def __repr__(self) -> str:
        return f"KeyRing(numbers={sorted(self._keys)}, minting={self._minting})"

    @classmethod
    def open(cls, path: Path, environ: Mapping[str, str]) -> KeyRing:
        """Find the ring where this authority was told to keep it: in the environment, else in a file.

        Raises:
            ConfigurationError: It is in neither place, or cannot be used.
        """
        text = environ.get(ENVIRONMENT_VARIABLE)
        return cls.load(path) if text is None else _parse(text, ENVIRONMENT_VARIABLE)

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Read a ring from a file that nobody but its owner can open.

        Raises:
            ConfigurationError: It is missing, open to others, or not a key ring.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & _OPEN_TO_OTHERS:
                    raise ConfigurationError(
                        f"the key ring {path} has mode {mode:04o}, so that not only its owner can open it; "
                        f"run `chmod 600 {path}`, and change the keys if somebody may have read them"
                    )
                text = file.read().decode("utf-8")
        except FileNotFoundError:
            raise ConfigurationError(
                f"there is no key ring at {path}; put it back from where you keep it (it is in no backup of "
                f"the database), or set {ENVIRONMENT_VARIABLE}"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"key ring {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path} is not a key ring of rpz-auth") from None
        return _parse(text, str(path))

    @classmethod
    def create(cls, path: Path) -> KeyRing:
        """Make a ring of one new key and store it; on return it is durable.

        Raises:
            FileExistsError: There is a ring already, perhaps made by another process at this moment.
            ConfigurationError: It cannot be written.
        """
        ring = cls({1: secrets.token_bytes(_KEY_BYTES)}, minting=1)
        try:
            files.create(path, ring._format())
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigurationError(f"key ring {path}: {error.strerror}") from None
        return ring

    def save(self, path: Path) -> None:
        """Write the ring in the place of the one at `path`: whole, or not at all.

        Raises:
            ConfigurationError: It cannot be written.
        """
        try:
            files.replace(path, self._format())
        except OSError as error:
            raise ConfigurationError(f"key ring {path}: {error.strerror}") from None

    def take_over(self, other: KeyRing) -> None:
        """Hold what another ring holds.

        Raises:
            ConfigurationError: It has another key under a number that this one has: credentials made with
                ours would be called forged.
        """
        for number, key in self._keys.items():
            if other._keys.get(number, key) != key:
                raise ConfigurationError(f"the key ring has another master key {number} than before")
        # First what may be asked for, then who is asked for: a reader in between finds both.
        self._keys = {**self._keys, **other._keys}
        self._retired = other._retired
        self._next, self._minting = other._next, other._minting
        self._keys = other._keys

    def with_new_key(self, *, mints_from: float) -> KeyRing:
        """A ring with one more key, which mints from a time on, in seconds since the epoch.

        Raises:
            ConfigurationError: The one that was added last does not mint yet.
        """
        if self.upcoming is not None:
            raise ConfigurationError(
                f"master key {self.upcoming.number} was added before, and does not mint yet"
            )
        number = max((*self._keys, *self._retired)) + 1
        return KeyRing(
            {**self._keys, number: secrets.token_bytes(_KEY_BYTES)},
            minting=self.minting_number,
            upcoming=Next(number, mints_from),
            retired=self._retired,
            clock=self._clock,
        )

    def without_key(self, number: int) -> KeyRing:
        """A ring with a key less.

        Raises:
            ConfigurationError: It is not there, or needed for minting.
        """
        if number not in self._keys:
            raise ConfigurationError(f"there is no master key {number} in the key ring")
        if self.upcoming is not None or number == self.minting_number:
            raise ConfigurationError(
                f"master key {number} mints; add another one first, and wait until that one does"
            )
        keys = {kept: key for kept, key in self._keys.items() if kept != number}
        retired = self._retired | {number}
        return KeyRing(keys, minting=self.minting_number, retired=retired, clock=self._clock)

    @property
    def minting_number(self) -> int:
        """The key with which new credentials are made."""
        upcoming = self._next
        return self._minting if upcoming is None or self._clock() < upcoming.start else upcoming.number

    @property
    def upcoming(self) -> Next | None:
        """Which key will mint; None when it does already."""
        return None if self._next is None or self._clock() >= self._next.start else self._next

    @property
    def minting_since(self) -> float:
        """When the present key began to mint, as far as is known; 0 for always."""
        return self._next.start if self._next is not None and self.upcoming is None else 0.0

    @property
    def retired(self) -> frozenset[int]:
        """Keys that were taken out."""
        return self._retired

    def has(self, number: int) -> bool:
        """Tell whether a key is in the ring."""
        return number in self._keys

    @property
    def numbers(self) -> tuple[int, ...]:
        """All keys, in order."""
        return tuple(sorted(self._keys))

    def derive(self, number: int, purpose: bytes, *, issuer: str, instance: str) -> bytes:
        """Derive a key of 32 bytes that is good for one purpose of one issuer and database (RFC 5869).

        Raises:
            BackendUnavailable: The ring does not have the key. Another replica's may: what was made with
                it is not to be called bad.
        """
        key = self._keys.get(number)
        if key is None:
            raise BackendUnavailable
        info = join(b"rpz-auth", purpose, issuer.encode(), instance.encode())
        # The input is uniformly random, so that extraction needs no salt (RFC 5869 §3.1).
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(key)

    def _format(self) -> bytes:
        keys = {str(number): _encode(self._keys[number]) for number in self.numbers}
        content: dict[str, Any] = {"format": _FORMAT, "minting": self._minting, "keys": keys}
        if self._next is not None:
            content["next"] = {"number": self._next.number, "from": self._next.start}
        if self._retired:
            content["retired"] = sorted(self._retired)
        return json.dumps(content, indent=2).encode() + b"\n"


def join(*parts: bytes) -> bytes:
    """Join byte strings so that no two lists of them give the same: each behind its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _encode(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def _decode(text: object) -> bytes:
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        raise ValueError
    key = base64.urlsafe_b64decode(text + "=")
    if _encode(key) != text:
        raise ValueError
    return key


def _parse(text: str, source: str) -> KeyRing:
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        missing = {"format", "minting", "keys"} - content.keys()
        unknown = content.keys() - {"format", "minting", "keys", "next", "retired"}
        if missing or unknown or type(content["minting"]) is not int:
            raise ValueError  # noqa: TRY301 - one answer for all that is wrong
        if content["format"] != _FORMAT:
            raise ConfigurationError(f"{source} holds a key ring of a format that this version cannot read")
        keys = {_number(number): _decode(key) for number, key in content["keys"].items()}
        upcoming = _parse_next(content["next"]) if "next" in content else None
        retired = [_whole(number) for number in content.get("retired", [])]
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError, binascii.Error):
        # Without the reason: a parser's message may quote what it read.
        raise ConfigurationError(f"{source} does not hold a key ring of rpz-auth") from None
    return KeyRing(keys, minting=content["minting"], upcoming=upcoming, retired=retired)


def _parse_next(content: dict[str, Any]) -> Next:
    start = content["from"]
    if content.keys() != {"number", "from"} or isinstance(start, bool) or not isinstance(start, int | float):
        raise ValueError
    return Next(_whole(content["number"]), float(start))


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError  # the later of two keys of one number would win silently
    return members
