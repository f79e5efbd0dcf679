"""How the texts that all databases share are written for PostgreSQL."""

from __future__ import annotations

import functools
import re

_TYPES = {
    # "C" orders by bytes, as SQLite does, and never changes with a C library: an index stays right when a
    # replica runs on another one.
    "TEXT": 'TEXT COLLATE "C"',
    "INTEGER": "BIGINT",
    "REAL": "DOUBLE PRECISION",
    "BLOB": "BYTEA",
}
_TYPE = re.compile(rf"\b(?:{'|'.join(_TYPES)})\b")
_SQLITE_ONLY = re.compile(r" AUTOINCREMENT\b|(?<=\)) *STRICT(?:, WITHOUT ROWID)?\s*$")
_DEFINITION = re.compile(r"\s*(?:CREATE|ALTER)\b")


@functools.cache
def translate(text: str) -> bytes:
    """Write a statement as psycopg takes it; of a definition, the types too."""
    if _DEFINITION.match(text):
        text = _TYPE.sub(lambda match: _TYPES[match[0]], _SQLITE_ONLY.sub("", text))
    return text.replace("%", "%%").replace("?", "%s").encode()
