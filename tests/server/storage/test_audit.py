from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from rpz_auth_server.domain.event import Audit, AuditRecord
from rpz_auth_server.storage import audit, file
from server.storage.build import NOW, find_break


@pytest.fixture
def records() -> list[AuditRecord]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    file.migrate(connection)
    for number in range(4):
        record = Audit(actor="a", action=str(number), details={"k": "v"})
        file.run(connection, audit.append(record, NOW + number))
    records = file.run(connection, audit.after(0, 10))
    connection.close()
    return records


def test_untouched_chain_holds(records: list[AuditRecord]) -> None:
    assert find_break(records) is None
    assert find_break(records[2:]) is None
    assert find_break([]) is None


@pytest.mark.parametrize("place", range(4))
def test_record_that_was_changed_is_found(records: list[AuditRecord], place: int) -> None:
    old = records[place]
    for changed in (
        replace(old, audit=replace(old.audit, actor="b")),
        replace(old, audit=replace(old.audit, action="x")),
        replace(old, audit=replace(old.audit, app_id="x")),
        replace(old, audit=replace(old.audit, peer="x")),
        replace(old, audit=replace(old.audit, details={"k": "w"})),
        replace(old, recorded_at=NOW - 1),
        replace(old, digest=bytes(32)),
    ):
        assert find_break([*records[:place], changed, *records[place + 1 :]]) == old.sequence


def test_record_that_was_taken_out_is_found(records: list[AuditRecord]) -> None:
    assert find_break([records[0], *records[2:]]) == 3
