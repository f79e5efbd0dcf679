"""Commands whose modules are imported when somebody calls them, so that none waits for what others need."""

from __future__ import annotations

import pkgutil
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand


class Deferred(TyperCommand):
    """Stands for a command, or a group of them, in the list of commands."""

    place: ClassVar[str]

    def load(self) -> Any:
        """Import the command that this one stands for."""
        found = pkgutil.resolve_name(self.place)
        holder = typer.Typer(rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=self.name)
        else:
            holder.command(self.name)(found)
        return typer.main.get_group(holder).commands[str(self.name)]

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Begin to run the command, to complete its words or to explain it."""
        return self.load().make_context(*args, **kwargs)


def defer(app: typer.Typer, name: str, place: str, summary: str) -> None:
    """Add a command to a program.

    Args:
        app: The program.
        name: What it is called by.
        place: `package.module:name` of its function, or of the `typer.Typer` of a group.
        summary: For the list of commands; the first sentence of the command's own help.
    """
    command = type("_Deferred", (Deferred,), {"place": place})
    app.command(name, cls=command, help=summary)(lambda: None)
