from __future__ import annotations

import pytest
from rpz_auth_server.domain.resolution import Answer
from rpz_auth_server.live.dns import Dns, ResolutionError
from support.dns_server import DnsServer, running_dns


def _asking(server: DnsServer) -> Dns:
    return Dns([("127.0.0.1", server.port)], timeout=0.2, lifetime=0.4)


async def test_a81_both_families_are_asked_for_by_the_exact_name() -> None:
    async with running_dns() as server:
        server.addresses["a.example"] = ["8.8.8.8", "2001:4860::8", "8.8.4.4"]
        found = await _asking(server).ask("a.example")
    assert (sorted(found.addresses), found.ttl) == (["2001:4860::8", "8.8.4.4", "8.8.8.8"], 30)
    assert sorted(server.asked) == [("a.example", "A"), ("a.example", "AAAA")]


async def test_a81_aliases_are_followed_and_the_shortest_time_on_the_way_counts() -> None:
    async with running_dns() as server:
        server.aliases |= {"a.example": "b.example", "b.example": "c.example"}
        server.addresses["c.example"] = ["8.8.8.8"]
        server.ttl = 7200
        assert await _asking(server).ask("a.example") == Answer(addresses=("8.8.8.8",), ttl=3600)


async def test_a81_hundreds_of_addresses_are_read() -> None:
    async with running_dns() as server:
        server.addresses["a.example"] = [f"8.8.{number // 250}.{number % 250}" for number in range(400)]
        assert len((await _asking(server).ask("a.example")).addresses) == 400


async def test_a81_name_that_does_not_lead_anywhere_fails() -> None:
    async with running_dns() as server:
        server.addresses["empty.example"] = []
        server.silent.add("silent.example")
        server.failing.add("failing.example")
        server.aliases |= {"round.example": "about.example", "about.example": "round.example"}
        dns = _asking(server)
        for name in (
            "missing.example",
            "empty.example",
            "silent.example",
            "failing.example",
            "round.example",
        ):
            with pytest.raises(ResolutionError):
                await dns.ask(name)
