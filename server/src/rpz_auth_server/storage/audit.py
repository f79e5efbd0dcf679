"""The table of audit records."""

from __future__ import annotations

import json
from typing import Any

from rpz_auth_server.audit_chain import GENESIS, Link
from rpz_auth_server.domain.event import Audit, AuditRecord
from rpz_auth_server.storage.rows import to_json
from rpz_auth_server.storage.steps import Steps, sql


def digest(before: bytes, sequence: int, recorded_at: float, audit: Audit) -> bytes:
    """The digest of a record that is about to be written."""
    return _link(sequence, recorded_at, audit, b"").follow(before)


def link_of(record: AuditRecord) -> Link:
    """A record as the chain sees it."""
    return _link(record.sequence, record.recorded_at, record.audit, record.digest)


def _link(sequence: int, recorded_at: float, audit: Audit, claimed: bytes) -> Link:
    return Link(
        sequence=sequence,
        recorded_at=recorded_at,
        actor=audit.actor,
        action=audit.action,
        app_id=audit.app_id,
        peer=audit.peer,
        details=audit.details,
        digest=claimed,
    )


def append(audit: Audit, now: float) -> Steps[None]:
    """Add a record; within the transaction that writes, since other processes append too."""
    found = yield sql("SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1")
    last, before = found.row or (0, GENESIS)
    yield sql(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        last + 1,
        now,
        audit.actor,
        audit.action,
        audit.app_id,
        audit.peer,
        to_json(dict(audit.details)),
        digest(before, last + 1, now, audit),
    )


_SELECT = "SELECT sequence, recorded_at, actor, action, app_id, peer, details, digest FROM audit"


def after(sequence: int, limit: int) -> Steps[list[AuditRecord]]:
    """Read records in order."""
    found = yield sql(f"{_SELECT} WHERE sequence > ? ORDER BY sequence LIMIT ?", sequence, limit)
    return [_load(row) for row in found.rows]


def before(sequence: int, limit: int) -> Steps[list[AuditRecord]]:
    """Read records, the newest first."""
    found = yield sql(f"{_SELECT} WHERE sequence < ? ORDER BY sequence DESC LIMIT ?", sequence, limit)
    return [_load(row) for row in found.rows]


def newest() -> Steps[AuditRecord | None]:
    """Read the last record."""
    found = yield sql(f"{_SELECT} ORDER BY sequence DESC LIMIT 1")
    return _load(found.rows[0]) if found.rows else None


def _load(row: tuple[Any, ...]) -> AuditRecord:
    number, recorded_at, actor, action, app_id, peer, details, chained = row
    return AuditRecord(
        sequence=number,
        recorded_at=recorded_at,
        audit=Audit(actor=actor, action=action, app_id=app_id, peer=peer, details=json.loads(details)),
        digest=chained,
    )
