"""The master keys, from which every other key is derived.

They live outside the database and never in its backup: the database alone yields no usable
credential, nor do the keys alone. The file, which is also the form of the environment variable::

    {"format": 1, "minting": 2, "keys": {"1": "<43 characters of base64url>", "2": "<...>"}}

A key's number is permanent: it stands in every credential that was made with the key. One key mints,
the others only verify what they once minted.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
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


class KeyRing:
    """Master keys by number."""

    __slots__ = ("_keys", "_minting")

    def __init__(self, keys: Mapping[int, bytes], *, minting: int) -> None:
        """Take keys of 32 random bytes each, and the number of the one that mints.

        Raises:
            ConfigurationError: A number or a key is out of bounds, or the minting key is missing.
        """
        for number, key in keys.items():
            if not 1 <= number <= MAX_NUMBER:
                raise ConfigurationError(f"a master key's number must be from 1 to {MAX_NUMBER}")
            if len(key) != _KEY_BYTES:
                raise ConfigurationError(f"master key {number} must be {_KEY_BYTES} bytes long")
        if minting not in keys:
            raise ConfigurationError(f"the minting master key {minting} is not in the key ring")
        self._keys = dict(keys)
        self._minting = minting

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

    @property
    def minting_number(self) -> int:
        """The key with which new credentials are made."""
        return self._minting

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
        content = {"format": _FORMAT, "minting": self._minting, "keys": keys}
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
        if content.keys() != {"format", "minting", "keys"} or type(content["minting"]) is not int:
            raise ValueError  # noqa: TRY301 - one answer for all that is wrong
        if content["format"] != _FORMAT:
            raise ConfigurationError(f"{source} holds a key ring of a format that this version cannot read")
        keys = {_number(number): _decode(key) for number, key in content["keys"].items()}
    except (ValueError, AttributeError, RecursionError, binascii.Error):
        # Without the reason: a parser's message may quote what it read.
        raise ConfigurationError(f"{source} does not hold a key ring of rpz-auth") from None
    return KeyRing(keys, minting=content["minting"])


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError  # the later of two keys of one number would win silently
    return members
