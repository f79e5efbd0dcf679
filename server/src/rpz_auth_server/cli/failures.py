"""What ends a command with exit code 1, told in one line without a traceback.

Mistakes in how a command was called are `typer.BadParameter` instead, and end it with 2.
"""

from __future__ import annotations


class Failure(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """A command was refused, or could not be carried out."""

    def __init__(self, reason: str, message: str, *, mend: str | None = None) -> None:
        """Take what is printed as `REASON: message`, and what the operator can do about it."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.mend = mend
