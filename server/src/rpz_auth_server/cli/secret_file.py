"""Secrets that are written to a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from rpz_auth_server import files
from rpz_auth_server.cli.failures import Failure


def check_free(path: Path, *, option: str) -> None:
    """Make sure, before anything is created, that a file can probably be written.

    Raises:
        typer.BadParameter: There is one already, or no folder for it.
    """
    if path.is_symlink() or path.exists():
        raise typer.BadParameter(f"{path} exists; it is not overwritten", param_hint=option)
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint=option)


def write(path: Path, content: str, *, undo: Callable[[], object], created: str) -> None:
    """Write a file that appears whole with mode 0600, and take back what was created if that fails.

    Args:
        path: Its path, at which there is none.
        content: Its text.
        undo: Revokes or deletes what was created: nobody will ever know the secret.
        created: What that is, with its ID, for whoever has to do it by hand.

    Raises:
        Failure: It could not be written.
    """
    try:
        files.create(path, content.encode())
    except OSError as error:
        try:
            undo()
        except Failure as failure:
            outcome = f"{created} is left over and could not be removed: {failure.message}"
        else:
            outcome = f"{created} was removed again"
        raise Failure("FILE_NOT_WRITTEN", f"{path}: {error.strerror}; {outcome}") from None
