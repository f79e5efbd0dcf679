from __future__ import annotations

import random

import pytest
from rpz_auth_server.domain.resolution import (
    LONGEST,
    MAX_ADDRESSES,
    SHORTEST,
    Answer,
    Resolution,
    accept,
    addresses_of,
    claim,
    fail,
    names_in,
)

NOW = 1_700_000_000.0


def _accepted(*addresses: str, ttl: float = 60, luck: float = 0.5) -> Resolution:
    return accept(claim("a.example", None, NOW), Answer(addresses=addresses, ttl=ttl), NOW, luck)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "fe80::1%1"),
        *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:169.254.169.254"),  # noqa: S104 - a name may not lead there
        "64:ff9b::7f00:1",
    ],
)
def test_a81_name_never_leads_to_loopback_link_local_or_no_host(address: str) -> None:
    found = _accepted(address, "8.8.8.8")
    assert found.addresses == ("8.8.8.8",)
    assert addresses_of([found], NOW, private_allowed=True) == ("8.8.8.8",)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "198.18.0.1"]
)
def test_a81_name_leads_to_private_addresses_by_leave_only(address: str) -> None:
    found = _accepted(address)
    assert addresses_of([found], NOW, private_allowed=False) == ()
    assert addresses_of([found], NOW, private_allowed=True) == (address,)


def test_a81_of_ten_thousand_addresses_the_same_sixty_four_count_in_any_order() -> None:
    many = [f"8.{number // 250}.{number % 250}.1" for number in range(10_000)]
    first = _accepted(*many).addresses
    random.shuffle(many)
    assert _accepted(*many).addresses == first
    assert len(first) == MAX_ADDRESSES


@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ttl", [0, 1, 30, 45, 600, 3600, 86400, 2**31])
def test_a81_answer_is_asked_for_again_within_its_clamped_time(ttl: float, luck: float) -> None:
    lifetime = min(max(ttl, SHORTEST), LONGEST)
    wait = _accepted("8.8.8.8", ttl=ttl, luck=luck).due_at - NOW
    assert SHORTEST <= wait <= lifetime
    assert wait < LONGEST  # so that a lost answer can be asked for again before the last one is too old


def test_a81_last_good_answer_counts_for_an_hour_and_no_longer() -> None:
    good = _accepted("8.8.8.8")
    later = fail(claim("a.example", good, NOW + 60), NOW + 60, 0.5)
    assert addresses_of([later], NOW + LONGEST - 1, private_allowed=False) == ("8.8.8.8",)
    assert addresses_of([later], NOW + LONGEST, private_allowed=False) == ()


def test_a81_failures_are_asked_for_ever_later() -> None:
    found, waits = claim("a.example", None, NOW), []
    for _ in range(8):
        found = fail(found, NOW, 0.0)
        waits.append(found.due_at - NOW)
    assert waits == [30, 60, 120, 240, 480, 600, 600, 600]


def test_a81_answer_without_a_usable_address_is_an_answer() -> None:
    good = _accepted("8.8.8.8")
    rebound = accept(
        claim("a.example", good, NOW + 60), Answer(addresses=("127.0.0.1",), ttl=30), NOW + 60, 0.5
    )
    assert addresses_of([rebound], NOW + 60, private_allowed=True) == ()


def test_names_are_read_from_entries_of_their_kind() -> None:
    assert names_in(["10.0.0.1", "dns:a.example", "san:b.example", "dns:c.example"]) == (
        "a.example",
        "c.example",
    )
