from __future__ import annotations

from dataclasses import replace

import pytest
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.domain.key import (
    NEVER,
    KeyTimes,
    SealedKey,
    drop,
    drop_ended,
    is_due,
    start_signing,
    succeed,
)

TIMES = KeyTimes(period=1000, publish_ahead=100)


def a_key(kid: str, **fields: float | None) -> SealedKey:
    key = SealedKey(kid=kid, key_number=1, sealed=b"s", created_at=0, sign_at=0)
    return replace(key, **fields)  # type: ignore[arg-type] # each test names fields of the class


@pytest.mark.parametrize(("now", "due"), [(899.9, False), (900, True), (5000, True)])
def test_successor_is_due_early_enough_to_be_known_when_the_period_ends(now: float, due: bool) -> None:  # noqa: FBT001
    assert is_due([a_key("old", sign_at=-500), a_key("new")], TIMES, now) is due
    assert not is_due([a_key("old"), a_key("waits", sign_at=now + 1)], TIMES, now)


def test_successor_is_due_when_there_is_no_key() -> None:
    assert is_due([], TIMES, 0)
    assert is_due([replace(a_key("dropped", sign_at=50), published=False)], TIMES, 0)


def test_key_stays_published_until_the_last_token_that_it_can_sign_has_expired() -> None:
    old, older = a_key("old"), a_key("older", retire_at=7)
    assert succeed([older, old], a_key("new", sign_at=100)) == [
        replace(old, retire_at=100 + MARGIN, version=2)
    ]


def test_dropped_key_is_erased() -> None:
    key, gone = a_key("key", retire_at=50), replace(a_key("gone"), published=False)
    dropped = replace(key, sealed=b"", retire_at=9, published=False, version=2)
    assert drop([key, gone], 9) == [dropped]


def test_only_keys_whose_time_has_come_end() -> None:
    ended, signing, waits = a_key("ended", retire_at=10), a_key("signing"), a_key("waits", retire_at=10.1)
    assert [key.kid for key in drop_ended([ended, signing, waits], 10)] == ["ended"]


def test_keys_that_waited_for_the_unlocking_sign_from_then_on() -> None:
    waits, dropped = a_key("waits", sign_at=NEVER), replace(a_key("gone", sign_at=NEVER), published=False)
    assert start_signing([waits, dropped, a_key("other")], 5) == [replace(waits, sign_at=5, version=2)]
