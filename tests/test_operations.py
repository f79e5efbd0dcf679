"""What docs/operations.md tells of settings is what they are."""

from __future__ import annotations

import json
from pathlib import Path

from annotated_types import Ge, Le, MaxLen
from pydantic.fields import FieldInfo
from rpz_auth_server.settings import Settings

_TEXT = Path(__file__).parent.with_name("docs").joinpath("operations.md").read_text(encoding="utf-8")
_DERIVED = "*"
"""What the cell of a default begins with that is worked out from other things."""


def _rows() -> list[tuple[str, str, str]]:
    """Name, default and bounds of each setting in the table."""
    section = _TEXT.partition("\n## Settings\n")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(row) for row in cells)
    return [(name.strip("`"), default, bounds) for name, default, bounds, _ in cells]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return _DERIVED
    if field.default in (None, "", (), frozenset()):
        return "none"
    return f"`{json.dumps(field.default, default=str)}`"


def _bounds(field: FieldInfo) -> str | None:
    found = {type(each): each for each in field.metadata}
    if Ge in found or Le in found:
        return f"{found[Ge].ge} to {found[Le].le}"
    return f"{found[MaxLen].max_length} characters" if MaxLen in found else None


def test_table_has_every_setting_and_no_other() -> None:
    assert [name for name, _, _ in _rows()] == list(Settings.model_fields)


def test_table_tells_defaults_and_bounds() -> None:
    fields = Settings.model_fields
    told = {
        name: (
            _DERIVED if default.startswith(_DERIVED) else default,
            bounds if _bounds(fields[name]) is not None else None,
        )
        for name, default, bounds in _rows()
    }
    assert told == {name: (_default(field), _bounds(field)) for name, field in fields.items()}
