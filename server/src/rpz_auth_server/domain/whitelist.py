"""Whitelist entries as people type them."""

from __future__ import annotations

import re

import idna
from rpz_auth.whitelist import DNS, ORIGIN, SAN, normalise

from rpz_auth_server.domain.app import AppKind

_ORIGIN = re.compile(
    r"(?P<before>https?://)(?P<host>[^/:?#@\[\]\\\s]+)(?P<after>.*)", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(r"[^/:?#@\[\]\\\s*]+\.[^/:?#@\[\]\\\s*]*[^\W\d_][^/:?#@\[\]\\\s*]*")
"""A host name and no address: something with a dot, and a letter behind the first."""


def read_entry(entry: str, kind: AppKind, *, allow_any: bool = False) -> str:
    """Check one entry and write it as it is stored.

    A bare host name means the page of a frontend, and for others what the name resolves to. International
    names become A-labels by IDNA 2008 with UTS 46, as browsers show them to servers. What Python's own codec
    makes of some is another domain.

    Raises:
        ValueError: With a message that tells the person what to type instead.
    """
    if _NAME.fullmatch(entry):
        entry = f"{ORIGIN}https://{entry}" if kind is AppKind.FRONTEND else DNS + entry
    elif entry.lower().startswith(("https://", "http://")):
        entry = ORIGIN + entry
    return normalise(_to_a_labels(entry), allow_any=allow_any)


def _to_a_labels(entry: str) -> str:
    if entry.isascii():
        return entry
    for prefix in (SAN, DNS):
        if entry.startswith(prefix):
            return prefix + _encode(entry.removeprefix(prefix))
    match = _ORIGIN.fullmatch(entry.removeprefix(ORIGIN)) if entry.startswith(ORIGIN) else None
    if match is None:
        return entry
    return ORIGIN + match["before"] + _encode(match["host"]) + match["after"]


def _encode(name: str) -> str:
    try:
        return idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"this is no international host name: {error}") from None
