"""Searching what a run leaves behind for credentials."""

from __future__ import annotations

import re
from pathlib import Path

_FILES = re.compile(r".*(?:\.db|\.db-wal|\.db-shm|\.log)")
_CREDENTIALS = tuple(
    # One by one, so that each search runs from one fixed beginning to the next.
    re.compile(pattern)
    for pattern in (
        rb"rpz[crts]_[A-Za-z0-9_-]{64}",  # a sealed handle
        rb"eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{64,}",  # a JWT with its signature
        rb"Basic +[A-Za-z0-9+/]{100,}",  # an App ID with a handle
        rb"basic +[A-Za-z0-9+/]{100,}",
    )
)


def files_at_rest(folder: Path, *, every: bool = False) -> list[Path]:
    """Databases with their write-ahead logs, and log files, anywhere below a folder; or every file."""
    paths = [folder] if folder.is_file() else folder.rglob("*")
    return sorted(path for path in paths if path.is_file() and (every or _FILES.fullmatch(path.name)))


def credentials_in(folder: Path, *, every: bool = False) -> list[str]:
    """The files below a folder that hold something of the form of a credential."""
    return [
        str(path)
        for path in files_at_rest(folder, every=every)
        if any(credential.search(path.read_bytes()) for credential in _CREDENTIALS)
    ]
