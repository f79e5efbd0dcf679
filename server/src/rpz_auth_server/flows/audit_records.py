"""Audit records, searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpz_auth_server.domain.event import AuditRecord
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.storage.store import Store

NEWEST = 2**62
"""A sequence that no record reaches."""
_BATCH = 1000
_MAX_SEARCHED = 5 * _BATCH
"""Records that one call looks at, so that a filter which fits nothing holds up nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which records are wanted; what is empty or None fits all."""

    app_id: str = ""
    action: str = ""
    """With a dot at its end, all that begin like it."""
    actor: str = ""
    start: float | None = None
    end: float | None = None
    """The moment after the last, in seconds since the epoch like `start`."""

    def fits(self, record: AuditRecord) -> bool:
        """Tell whether a record is wanted."""
        audit = record.audit
        return (
            self.app_id in ("", audit.app_id)
            and self.actor in ("", audit.actor)
            and (self.action in ("", audit.action) or self._is_of_family(audit.action))
            and (self.start is None or record.recorded_at >= self.start)
            and (self.end is None or record.recorded_at < self.end)
        )

    def _is_of_family(self, action: str) -> bool:
        return self.action.endswith(".") and action.startswith(self.action)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some of the records that fit."""

    records: Sequence[AuditRecord]
    place: int
    """The sequence beyond which the next page goes on."""
    is_last: bool


async def list_audit_records(
    authority: Authority, wanted: AuditFilter, *, after: int, limit: int
) -> AuditPage:
    """Search beyond the sequence `after`; possibly in vain, although there are more to come."""
    store = authority.store
    if wanted.start is not None:
        after = max(after, await _last_before(store, wanted.start))
    found: list[AuditRecord] = []
    for _ in range(_MAX_SEARCHED // _BATCH):
        records = await store.audit_records(after=after, limit=_BATCH)
        for record in records:
            if wanted.end is not None and record.recorded_at >= wanted.end:
                return AuditPage(found, after, is_last=True)
            after = record.sequence
            if wanted.fits(record):
                found.append(record)
                if len(found) == limit:
                    return AuditPage(found, after, is_last=False)
        if len(records) < _BATCH:
            return AuditPage(found, after, is_last=True)
    return AuditPage(found, after, is_last=False)


async def list_newest_audit_records(
    authority: Authority, wanted: AuditFilter, *, before: int, after: int = 0, limit: int
) -> AuditPage:
    """Search from the sequence `before` back to `after`; possibly in vain, although there are more."""
    store = authority.store
    if wanted.end is not None:
        before = min(before, await _last_before(store, wanted.end) + 1)
    found: list[AuditRecord] = []
    for _ in range(_MAX_SEARCHED // _BATCH):
        records = await store.audit_records_before(before, limit=_BATCH)
        for record in records:
            if record.sequence <= after or (wanted.start is not None and record.recorded_at < wanted.start):
                return AuditPage(found, before, is_last=True)
            if wanted.fits(record):
                if len(found) == limit:
                    return AuditPage(found, before, is_last=False)
                found.append(record)
            before = record.sequence
        if len(records) < _BATCH:
            return AuditPage(found, before, is_last=True)
    return AuditPage(found, before, is_last=False)


async def _last_before(store: Store, time: float) -> int:
    """The sequence of the last record before a time; times rise with sequences, so halves are enough."""
    newest = await store.newest_audit_record()
    low, high = 0, newest.sequence if newest else 0
    while low < high:
        middle = (low + high) // 2
        following = await store.audit_records(after=middle, limit=1)
        if following and following[0].recorded_at < time:
            low = following[0].sequence
        else:
            high = middle
    return low
