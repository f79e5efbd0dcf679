"""Files that appear whole, readable by their owner only, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
PUBLIC = 0o644


def create(path: Path, content: bytes) -> None:
    """Write a private file that must not exist yet; on return it is durable.

    Raises:
        FileExistsError: There is one already, perhaps made by another process at this moment.
        OSError: It cannot be written.
    """
    with creating(path) as file:
        file.write(content)


@contextlib.contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """Write a private file that must not exist yet piece by piece; at the end it is there, and durable.

    What fails meanwhile leaves nothing behind.

    Raises:
        FileExistsError: There is one already, perhaps made by another process at this moment.
        OSError: It cannot be written.
    """
    draft = _name_draft(path)
    try:
        with _open_draft(draft, PRIVATE) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike rename, refuses to replace
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def replace(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file, in the place of one that may exist; on return it is durable.

    Raises:
        OSError: It cannot be written.
    """
    draft = _draft(path, content, mode)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise
    _sync_folder(path.parent)


def _draft(path: Path, content: bytes, mode: int) -> Path:
    """Write a file beside the one that is meant: what is linked or renamed must be on the same volume."""
    draft = _name_draft(path)
    try:
        with _open_draft(draft, mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _name_draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _open_draft(draft: Path, mode: int) -> BinaryIO:
    return os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
