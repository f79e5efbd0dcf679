"""Searching what a run leaves behind for credentials."""

from __future__ import annotations

import re
from pathlib import Path

_FILES = re.compile(r".*(?:\.db|\.db-wal|\.db-shm|\.log)")
_CREDENTIAL = re.compile(
    rb"rpz[crts]_[A-Za-z0-9_-]{64}"  # a sealed handle
    rb"|eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{64,}"  # a JWT with its signature
    rb"|(?i:basic) +[A-Za-z0-9+/]{100,}"  # an App ID with a handle
)


def files_at_rest(folder: Path) -> list[Path]:
    """Databases with their write-ahead logs, and log files, anywhere below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and _FILES.fullmatch(path.name))


def credentials_in(folder: Path) -> list[str]:
    """The files below a folder that hold something of the form of a credential."""
    return [str(path) for path in files_at_rest(folder) if _CREDENTIAL.search(path.read_bytes())]
