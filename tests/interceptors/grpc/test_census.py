from __future__ import annotations

import pytest
from rpz_auth.address import UNKNOWN, Peer, parse_peer
from rpz_auth.grpc.census import Census

PROXY, OTHER = (parse_peer(f"ipv4:10.0.0.{host}:1") for host in (7, 8))


def note(*calls: Peer, apps: int = 1, keys: tuple[str, ...] = ()) -> int:
    """Have calls counted for as long as that is asked for; gives how many were."""
    census, noted = Census(), 0
    for peer in calls:
        if census.counting:
            census.note(peer, f"app-{noted % apps}", [(key, "") for key in keys])
            noted += 1
    return noted


@pytest.mark.parametrize(("apps", "keys"), [(2, ()), (1, ("user-agent", "x-forwarded-for"))])
def test_one_address_for_many_calls_of_several_apps_or_with_others_in_it_is_taken_for_a_proxy(
    apps: int, keys: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert note(*[PROXY] * 999, apps=apps, keys=keys) == 999
    assert caplog.messages == []
    assert note(*[PROXY] * 2_000, apps=apps, keys=keys) == 1_000
    (message,) = caplog.messages
    assert "all of 1000 calls came from 10.0.0.7" in message
    assert "trusted_proxies" in message


@pytest.mark.parametrize(
    ("calls", "noted"),
    [
        ([PROXY, OTHER, PROXY], 2),
        ([PROXY] * 999 + [OTHER], 1_000),
        ([UNKNOWN] * 2_000, 1),
        ([Peer(None, unix=True)] * 2_000, 1),
        ([PROXY, UNKNOWN, PROXY], 2),
    ],
)
def test_two_addresses_or_none_at_all_are_no_proxy(
    calls: list[Peer], noted: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert note(*calls, apps=2) == noted
    assert caplog.messages == []


def test_one_address_of_one_app_that_forwards_for_nobody_is_the_app(caplog: pytest.LogCaptureFixture) -> None:
    assert note(*[PROXY] * 2_000) == 1_000
    assert caplog.messages == []
