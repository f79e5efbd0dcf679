from __future__ import annotations

import pytest
from rpz.auth.v1 import app_service_pb2, token_service_pb2
from rpz_auth.errors import Reason
from rpz_auth_server.domain.limits import RefusalCount
from rpz_auth_server.flows import refusal_counts
from rpz_auth_server.flows.refusal_counts import RefusalCounts
from rpz_auth_server.live.limiter import Sharing
from server.authority import START, Client, TestAuthority, basic, refusal

FORGED = "A" * 64
MINUTE = int(START // 60)


async def counted(authority: TestAuthority, app_id: str = "") -> list[tuple[str, str, int]]:
    """What an administrator is told, without the minutes."""
    await Sharing(authority.authority.store, authority.authority.limiter).share()
    request = app_service_pb2.ListRefusalsRequest(app_id=app_id)
    answer = await authority.admin.apps.ListRefusals(request)
    assert all(item.minute.seconds == MINUTE * 60 for item in answer.refusals)
    return sorted((item.app_id, item.reason, item.count) for item in answer.refusals)


async def test_r213_refusals_are_counted_by_app_and_reason_once_each(authority: TestAuthority) -> None:
    client = await authority.create_client()
    app_id, stubs = await authority.app_with("rpz.apps")
    wrong = Client(client.app_id, "rpzs_" + FORGED)
    for _ in range(3):
        await refusal(authority.refresh(wrong, "rpzr_" + FORGED))
    await refusal(authority.refresh(client, "rpzr_" + FORGED))
    await refusal(
        authority.exchange(client, await authority.issue_code(client), resource="https://x.example")
    )
    request = token_service_pb2.ListApiTokensRequest(app_id=app_id)
    forged = basic(app_id, "rpzt_" + FORGED)
    await refusal(authority.anonymous.tokens.ListApiTokens(request, metadata=forged))
    await refusal(authority.anonymous.tokens.ListApiTokens(request))
    foreign = token_service_pb2.ListApiTokensRequest(app_id=client.app_id)
    await refusal(stubs.tokens.ListApiTokens(foreign))
    await refusal(stubs.tokens.IssueCode(token_service_pb2.IssueCodeRequest()))  # of another scope
    assert await counted(authority) == sorted(
        [
            (client.app_id, "GRANT_INVALID", 4),
            (client.app_id, "TARGET_INVALID", 1),
            (app_id, "TOKEN_INVALID", 1),
            ("", "CREDENTIALS_MISSING", 1),
            (app_id, "NOT_FOUND", 1),
            (app_id, "SCOPE_INSUFFICIENT", 1),
        ]
    )


async def test_owner_sees_the_refusals_of_its_apps_and_of_no_other(authority: TestAuthority) -> None:
    _, owner = await authority.app_with("rpz.apps", "orders.read")
    app = await authority.create_app(owner, scopes=["orders.read"], resources=[authority.settings.issuer])
    other = await authority.create_client()
    request = token_service_pb2.RevokeTokenRequest(token="x", client_id=app.app_id, client_secret="wrong")
    await refusal(authority.anonymous.tokens.RevokeToken(request))
    assert await counted(authority, app.app_id) == [(app.app_id, "CLIENT_INVALID", 1)]
    own = await owner.apps.ListRefusals(app_service_pb2.ListRefusalsRequest(app_id=app.app_id))
    assert [item.count for item in own.refusals] == [1]
    foreign = app_service_pb2.ListRefusalsRequest(app_id=other.app_id)
    assert await refusal(owner.apps.ListRefusals(foreign)) == Reason.NOT_FOUND
    everything = owner.apps.ListRefusals(app_service_pb2.ListRefusalsRequest())
    assert await refusal(everything) == Reason.RIGHTS_INSUFFICIENT


async def test_refusals_come_in_pages(authority: TestAuthority) -> None:
    counts = [RefusalCount("", f"REASON_{letter}", MINUTE, 1) for letter in "ABCDE"]
    await authority.authority.store.count_refusals(counts)
    seen, token = [], ""
    for _ in range(3):
        request = app_service_pb2.ListRefusalsRequest(page_size=2, page_token=token)
        page = await authority.admin.apps.ListRefusals(request)
        seen += [item.reason for item in page.refusals]
        token = page.next_page_token
    assert (seen, token) == ([f"REASON_{letter}" for letter in "EDCBA"], "")
    bad = app_service_pb2.ListRefusalsRequest(page_token="1.x.y; DROP")
    assert await refusal(authority.admin.apps.ListRefusals(bad)) == Reason.REQUEST_INVALID


def test_a110_any_number_of_made_up_names_takes_a_bounded_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_counts, "_MOST", 10)
    counts = RefusalCounts(lambda: START)
    for number in range(1000):
        counts.record(Reason.CLIENT_INVALID, f"00000000-0000-4000-8000-{number:012}")
        counts.record(Reason.CLIENT_INVALID, "no App ID")
    taken = counts.take()
    assert sum(item.count for item in taken) == 2000
    assert len(taken) == 10
    assert counts.take() == []
    counts.give_back(taken)
    assert counts.take() == taken


def test_a110_database_that_is_down_for_days_takes_a_bounded_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_counts, "_MOST", 10)
    now = START
    counts = RefusalCounts(lambda: now)
    for minute in range(2000):
        now = START + 60 * minute
        for reason in (Reason.CLIENT_INVALID, Reason.GRANT_INVALID):
            counts.record(reason, f"00000000-0000-4000-8000-{minute:012}")
    taken = counts.take()
    assert len(taken) == 12
    assert sum(item.count for item in taken) == 4000
    assert {item.minute for item in taken if item.app_id == ""} == {MINUTE + 5}
    counts.record(Reason.CLIENT_INVALID)
    assert counts.take() == [RefusalCount("", "CLIENT_INVALID", MINUTE + 1999, 1)]


async def test_a111_flood_of_refused_calls_is_a_few_lines_of_the_log(authority: TestAuthority) -> None:
    sharing = Sharing(authority.authority.store, authority.authority.limiter)
    limiter = authority.authority.limiter
    for number in range(100):
        for _ in range(10):
            limiter.refusals.record(Reason.CLIENT_INVALID, f"00000000-0000-4000-8000-{number:012}")
    await sharing.share()
    before = authority.logged.getvalue().count("\n")
    await authority.advance(60)
    limiter.refusals.record(Reason.CLIENT_INVALID)
    await sharing.share()
    lines = authority.logged.getvalue().splitlines()[before:]
    refused = [line for line in lines if "calls were refused" in line]
    assert len(refused) == 21
    assert '"count": 800' in refused[-1]
