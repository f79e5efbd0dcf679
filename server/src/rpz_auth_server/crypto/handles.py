"""Opaque credentials: texts that only the authority can make, and recognises before it reads a row.

A prefix that names the kind, and 64 characters of base64url over 48 bytes::

    offset  0  version, 1
            1  number of the master key
            4  id of the row
           20  generation
           24  MAC over all before it and the row's random salt, 128 bits
           40  tag over all before it, 64 bits

Both are truncated HMAC-SHA256 (RFC 2104 §5) with keys of their own per kind. The tag needs no row: a
forged or mistyped credential is refused without a look into the database. The MAC needs the row's salt:
who has the master keys, but not the database, can make none.
"""

from __future__ import annotations

import base64
import enum
import hmac
import re
import secrets
from dataclasses import dataclass, field

from rpz_auth.errors import BackendUnavailable, RpzAuthError

from rpz_auth_server.crypto.keyring import KeyRing

SALT_BYTES = 16

_VERSION = 1
_ID = slice(4, 20)
_GENERATION = slice(20, 24)
_MAC = slice(24, 40)
_TAG = slice(40, 48)
_ID_BYTES = 16
_MAC_BYTES = 16
_TAG_BYTES = 8
_PREFIX_LENGTH = 5

_TEXT = re.compile(r"rpz[crts]_[A-Za-z0-9_-]{64}", re.ASCII)
# Two of the last character's six bits belong to the id: four characters are canonical.
_ID_TEXT = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]", re.ASCII)


class HandleKind(enum.Enum):
    """What a credential is, by its prefix."""

    CODE = "rpzc_"
    REFRESH = "rpzr_"
    API_TOKEN = "rpzt_"  # noqa: S105 - a prefix
    SECRET = "rpzs_"  # noqa: S105 - a prefix


class HandleInvalid(RpzAuthError):  # noqa: N818 - named like the refusals it turns into
    """A text that is no credential of the kind, or not the one of the row; it never says which."""


class KeyUnknown(BackendUnavailable):
    """A text that names a master key which is not in the key ring: newer than this process, or made up."""


@dataclass(frozen=True, slots=True)
class OpenedHandle:
    """A credential whose tag is right. Whether it is the row's own, `Handles.verify` tells."""

    kind: HandleKind
    key_number: int
    id: str
    generation: int
    sealed: bytes = field(repr=False)
    """The 24 bytes that the MAC covers."""
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Keys:
    """HMACs that have taken in their keys: copying one costs half of keying it anew."""

    mac: hmac.HMAC = field(repr=False)
    tag: hmac.HMAC = field(repr=False)


class Handles:
    """Makes and checks the credentials of one issuer and database."""

    def __init__(self, keyring: KeyRing, *, issuer: str, instance: str) -> None:
        """Derive keys from the master keys of a ring, whichever it holds by the time."""
        self._keyring = keyring
        self._issuer = issuer
        self._instance = instance
        self._keys: dict[HandleKind, dict[int, _Keys]] = {kind: {} for kind in HandleKind}

    def seal(self, kind: HandleKind, id: str, generation: int, *, salt: bytes, key_number: int) -> str:  # noqa: A002 - the word
        """Make a credential: the same one each time it is asked for with the same arguments.

        Args:
            kind: What it will be.
            id: Of the row, from `new_id`.
            generation: Of the grant, for refresh tokens; 0 for kinds without generations.
            salt: The row's, from `new_salt`.
            key_number: The master key's, as the row records it.

        Raises:
            BackendUnavailable: The key ring does not have the key.
            ValueError: An argument is not of the form that it has in rows.
        """
        if not 0 <= generation < 2**32:
            raise ValueError("a generation is a number of 32 bits")
        keys = self._keys_of(kind, key_number)
        sealed = (
            bytes((_VERSION,))
            + key_number.to_bytes(3, "big")
            + _decode_id(id)
            + generation.to_bytes(4, "big")
        )
        body = sealed + _mac(keys, sealed, salt)
        return kind.value + base64.urlsafe_b64encode(body + _tag(keys, body)).decode("ascii")

    def open(self, kind: HandleKind, text: str) -> OpenedHandle:
        """Read a credential of a kind as far as it can be judged without its row.

        Raises:
            HandleInvalid: This authority never made such a credential.
            BackendUnavailable: It names a master key that the key ring does not have.
        """
        if not _TEXT.fullmatch(text) or not text.startswith(kind.value):
            raise HandleInvalid
        raw = base64.urlsafe_b64decode(text[_PREFIX_LENGTH:])
        key_number = int.from_bytes(raw[1:4], "big")
        if raw[0] != _VERSION or key_number == 0:
            raise HandleInvalid
        if key_number in self._keyring.retired:
            raise HandleInvalid
        keys = self._keys_of(kind, key_number)
        if not hmac.compare_digest(_tag(keys, raw[: _TAG.start]), raw[_TAG]):
            raise HandleInvalid
        return OpenedHandle(
            kind=kind,
            key_number=key_number,
            id=_encode_id(raw[_ID]),
            generation=int.from_bytes(raw[_GENERATION], "big"),
            sealed=raw[: _MAC.start],
            mac=raw[_MAC],
        )

    def verify(self, opened: OpenedHandle, salt: bytes) -> None:
        """Let pass the credential that was made for the row with this salt; in constant time.

        Raises:
            HandleInvalid: It was not.
            ValueError: The salt is not of the form that it has in rows.
        """
        keys = self._keys_of(opened.kind, opened.key_number)
        if not hmac.compare_digest(_mac(keys, opened.sealed, salt), opened.mac):
            raise HandleInvalid

    def _keys_of(self, kind: HandleKind, key_number: int) -> _Keys:
        if not self._keyring.has(key_number):
            raise KeyUnknown
        prepared = self._keys[kind]
        keys = prepared.get(key_number)
        if keys is None:
            mac, tag = (
                self._prepare(key_number, purpose, kind) for purpose in (b"handle-mac", b"handle-tag")
            )
            keys = prepared[key_number] = _Keys(mac, tag)
        return keys

    def _prepare(self, number: int, purpose: bytes, kind: HandleKind) -> hmac.HMAC:
        full_purpose = purpose + b" " + kind.value.encode("ascii")
        key = self._keyring.derive(number, full_purpose, issuer=self._issuer, instance=self._instance)
        return hmac.new(key, digestmod="sha256")


def check_key(opened: OpenedHandle, *, key_number: int, key_since: int = 0) -> None:
    """Let pass what was made with the row's key, or is of a generation from before the row had it.

    So a master key that leaked can be retired: nobody makes with it what rows expect of another.

    Args:
        opened: The credential.
        key_number: The row's.
        key_since: The first generation that was made with it.

    Raises:
        HandleInvalid: Another key made it.
    """
    if opened.generation >= key_since and opened.key_number != key_number:
        raise HandleInvalid


def new_id() -> str:
    """Draw a row's id: 128 bits as 22 characters of base64url.

    None begins with a hyphen, which command lines would take for an option.
    """
    while (drawn := _encode_id(secrets.token_bytes(_ID_BYTES))).startswith("-"):
        pass
    return drawn


def new_salt() -> bytes:
    """Draw a row's salt."""
    return secrets.token_bytes(SALT_BYTES)


def _mac(keys: _Keys, sealed: bytes, salt: bytes) -> bytes:
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    mac = keys.mac.copy()
    mac.update(sealed + salt)
    return mac.digest()[:_MAC_BYTES]


def _tag(keys: _Keys, body: bytes) -> bytes:
    tag = keys.tag.copy()
    tag.update(body)
    return tag.digest()[:_TAG_BYTES]


def _encode_id(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode_id(text: str) -> bytes:
    if not _ID_TEXT.fullmatch(text):
        raise ValueError("an id has 22 characters of base64url, as `new_id` makes them")
    return base64.urlsafe_b64decode(text + "==")
