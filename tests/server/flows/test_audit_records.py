from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import administration_service_pb2 as pb
from rpz_auth.errors import Reason
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.storage.store import Commit
from server.authority import START, TestAuthority, refusal


async def write(authority: TestAuthority, *records: Audit) -> None:
    await authority.store.inner.commit(Commit(audit=records))


async def page(authority: TestAuthority, **fields: object) -> pb.ListAuditRecordsResponse:
    request = pb.ListAuditRecordsRequest(**fields)  # type: ignore[arg-type] # each test names fields of it
    answer: pb.ListAuditRecordsResponse = await authority.admin.administration.ListAuditRecords(request)
    return answer


def actions(answer: pb.ListAuditRecordsResponse) -> list[str]:
    return [record.action for record in answer.records]


def at(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromMicroseconds(round((START + seconds) * 1e6))
    return time


async def test_record_is_shown_as_it_was_written(authority: TestAuthority) -> None:
    await write(authority, Audit(actor="a", action="x", app_id="p", peer="q", details={"k": "v"}))
    (record,) = (await page(authority, action="x")).records
    stored = (await authority.audit())[-1]
    assert record == pb.AuditRecord(
        sequence=stored.sequence,
        time=at(0),
        actor="a",
        action="x",
        app_id="p",
        peer="q",
        details={"k": "v"},
        hash=stored.digest,
        hashed_time=stored.recorded_at,
    )


async def test_every_filter_must_fit(authority: TestAuthority) -> None:
    for actor, action, app_id in (("eve", "app.lock", "1"), ("eve", "apps", "2"), ("bob", "app.lock", "2")):
        await write(authority, Audit(actor=actor, action=action, app_id=app_id))
    skipped = 1  # of the founding
    for fields, expected in (
        ({"actor": "eve"}, ["app.lock", "apps"]),
        ({"app_id": "2"}, ["apps", "app.lock"]),
        ({"action": "app.lock"}, ["app.lock", "app.lock"]),
        ({"action": "app."}, ["app.lock", "app.lock"]),
        ({"action": "app"}, []),
        ({"actor": "eve", "app_id": "2"}, ["apps"]),
        ({"actor": "nobody"}, []),
    ):
        answer = await page(authority, after_sequence=skipped, **fields)
        assert (actions(answer), answer.last_page) == (expected, True), fields


async def test_pages_follow_one_another(authority: TestAuthority) -> None:
    await write(authority, *(Audit(actor="eve", action=str(number)) for number in range(5)))
    found: list[str] = []
    after, last = 0, False
    while not last:
        answer = await page(authority, actor="eve", page_size=2, after_sequence=after)
        assert len(answer.records) <= 2
        found += actions(answer)
        after, last = answer.next_after_sequence, answer.last_page
    assert found == ["0", "1", "2", "3", "4"]
    await write(authority, Audit(actor="eve", action="new"))
    assert actions(await page(authority, actor="eve", after_sequence=after)) == ["new"]


async def test_time_bounds_are_the_first_moment_and_the_one_after_the_last(authority: TestAuthority) -> None:
    for number in range(1, 7):
        await authority.advance(10)
        await write(authority, Audit(actor="eve", action=str(number)))
    for start, end, expected in (
        (20, 40, ["2", "3"]),
        (20.001, 40.001, ["3", "4"]),
        (0, 1000, ["1", "2", "3", "4", "5", "6"]),
        (61, 1000, []),
    ):
        answer = await page(authority, actor="eve", start_time=at(start), end_time=at(end))
        assert (actions(answer), answer.last_page) == (expected, True)


async def test_search_in_vain_costs_a_bounded_part_per_call(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpz_auth_server.flows.audit_records._BATCH", 2)
    monkeypatch.setattr("rpz_auth_server.flows.audit_records._MAX_SEARCHED", 4)
    await write(authority, *(Audit(actor="bob", action=str(number)) for number in range(9)))
    answer = await page(authority, actor="eve")
    assert (list(answer.records), answer.next_after_sequence, answer.last_page) == ([], 4, False)


async def test_newest_first_goes_back_page_by_page_whatever_is_written_meanwhile(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpz_auth_server.flows.audit_records._BATCH", 3)
    await write(authority, *(Audit(actor=f"eve{number % 2}", action=str(number)) for number in range(9)))
    found: list[list[str]] = []
    before, last = 0, False
    while not last:
        answer = await page(authority, actor="eve0", page_size=2, newest_first=True, before_sequence=before)
        found.append(actions(answer))
        before, last = answer.next_before_sequence, answer.last_page
        await write(authority, Audit(actor="eve0", action="new"))
    assert found == [["8", "6"], ["4", "2"], ["0"]]


async def test_newest_first_begins_and_ends_where_it_is_told(authority: TestAuthority) -> None:
    for number in range(1, 7):
        await authority.advance(10)
        await write(authority, Audit(actor="eve", action=str(number)))
    for fields, expected in (
        ({"start_time": at(20), "end_time": at(40)}, ["3", "2"]),
        ({"start_time": at(20.001), "end_time": at(40.001)}, ["4", "3"]),
        ({"end_time": at(1000)}, ["6", "5", "4", "3", "2", "1"]),
        ({"start_time": at(61)}, []),
        ({"end_time": at(10)}, []),
    ):
        answer = await page(authority, actor="eve", newest_first=True, **fields)
        assert (actions(answer), answer.last_page) == (expected, True), fields
    exactly = await page(authority, actor="eve", newest_first=True, page_size=6)
    assert (len(exactly.records), exactly.last_page) == (6, True)
    third = (await authority.audit())[-4].sequence
    answer = await page(authority, actor="eve", newest_first=True, after_sequence=third)
    assert (actions(answer), answer.last_page) == (["6", "5", "4"], True)


async def test_newest_first_in_vain_costs_a_bounded_part_per_call(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpz_auth_server.flows.audit_records._BATCH", 2)
    monkeypatch.setattr("rpz_auth_server.flows.audit_records._MAX_SEARCHED", 4)
    await write(authority, *(Audit(actor="bob", action=str(number)) for number in range(9)))
    newest = (await authority.audit())[-1].sequence
    answer = await page(authority, actor="eve", newest_first=True)
    assert (list(answer.records), answer.next_before_sequence, answer.last_page) == ([], newest - 3, False)


async def test_place_that_is_none_is_refused(authority: TestAuthority) -> None:
    for fields in (
        {"after_sequence": -1},
        {"newest_first": True, "before_sequence": -1},
        {"before_sequence": 7},  # would look as if it meant something
    ):
        assert await refusal(page(authority, **fields)) == Reason.REQUEST_INVALID


async def test_records_are_for_auditors(authority: TestAuthority) -> None:
    _, auditor = await authority.app_with("rpz.audit")
    _, other = await authority.app_with("rpz.apps")
    request = pb.ListAuditRecordsRequest()
    assert (await auditor.administration.ListAuditRecords(request)).records
    assert await refusal(other.administration.ListAuditRecords(request)) == Reason.SCOPE_INSUFFICIENT
