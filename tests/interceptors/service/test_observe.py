"""What observe mode says in the log, while callers make up names."""

from __future__ import annotations

import pytest
from rpz_auth.errors import CredentialsMissing, Reason, TokenInvalid
from rpz_auth.service.observe import _EVERY, _MOST, Observer
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def observer(clock: Clock) -> Observer:
    return Observer(clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage().removeprefix("rpz-auth observes: ") for record in caplog.records]
    caplog.clear()
    return said


def test_one_method_and_reason_are_told_once_in_a_while(
    observer: Observer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        observer.note("/a.B/C", TokenInvalid())
        observer.note("/a.B/C", CredentialsMissing())
    assert [line.partition(" (")[0] for line in lines(caplog)] == [
        "/a.B/C would be refused: TOKEN_INVALID",
        "/a.B/C would be refused: CREDENTIALS_MISSING",
    ]
    clock.time += _EVERY
    observer.note("/a.B/C", TokenInvalid())
    assert len(lines(caplog)) == 1
    assert observer.counts == {Reason.TOKEN_INVALID: 4, Reason.CREDENTIALS_MISSING: 3}


def test_r127_a_name_stays_on_its_line(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    observer.note("/a\r\nb/\x1b[2J\u2028", TokenInvalid())
    (line,) = lines(caplog)
    assert line.startswith(r"/a\r\nb/\x1b[2J\u2028 would be refused")


def test_a111_names_that_callers_make_up_neither_fill_the_log_nor_silence_it(
    observer: Observer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        observer.note(f"/made.Up/{number}", TokenInvalid())
    assert len(lines(caplog)) == _MOST
    observer.note("/a.B/C", TokenInvalid())
    assert lines(caplog) == []
    clock.time += _EVERY
    observer.note("/a.B/C", TokenInvalid())
    more, told = lines(caplog)
    assert more == f"{10_001 - _MOST} more would have been refused, of other methods"
    assert told.startswith("/a.B/C would be refused")
    assert len(observer._told) == 1
    assert observer.counts == {Reason.TOKEN_INVALID: 10_002}
