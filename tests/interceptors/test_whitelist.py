"""Whitelists: what may be typed, and who may then call."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rpz_auth.address import UNKNOWN, Peer, parse_address, parse_network, parse_peer
from rpz_auth.errors import OriginNotAllowed
from rpz_auth.whitelist import MAX_ENTRIES, Whitelist, normalise


def _allows(entries: Iterable[str], peer: Peer) -> bool:
    try:
        Whitelist(entries).check(peer)
    except OriginNotAllowed:
        return False
    return True


def _at(address: str) -> Peer:
    return Peer(parse_address(address))


def _named(*names: str) -> Peer:
    return Peer(ipaddress.ip_address("192.0.2.1"), names=frozenset(names))


@pytest.mark.parametrize(
    "peer", [_at("192.0.2.1"), _at("2001:db8::1"), Peer(None, unix=True), UNKNOWN, _named("a.example")]
)
def test_r096_an_empty_whitelist_allows_every_peer(peer: Peer) -> None:
    assert _allows([], peer)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.0.0.1", ["10.0.0.1"], ["10.0.0.0", "10.0.0.2", "::a00:1"]),
        ("10.0.0.1/32", ["10.0.0.1"], ["10.0.0.0", "10.0.0.2"]),
        ("10.0.0.2/31", ["10.0.0.2", "10.0.0.3"], ["10.0.0.1", "10.0.0.4"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("0.0.0.0/0", ["0.0.0.1", "255.255.255.255"], ["::", "::1", "2001:db8::1", "64:ff9b::a00:1"]),
        ("::/0", ["::", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], ["0.0.0.1", "10.0.0.1"]),
        ("2001:db8::1/128", ["2001:db8::1"], ["2001:db8::", "2001:db8::2"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"], ["2001:db9::"]),
        ("fe80::/64", ["fe80::1%eth0", "fe80::1"], ["fe80:0:0:1::1"]),
        # A73: mapped rules.
        ("::ffff:10.0.0.1", ["10.0.0.1"], ["10.0.0.2", "::a00:1"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("::ffff:0:0/96", ["0.0.0.1", "255.255.255.255"], ["::1"]),
        # A74: nothing else is unwrapped, on neither side.
        ("64:ff9b::/96", ["64:ff9b::a00:1"], ["10.0.0.1"]),
        ("10.0.0.1", ["10.0.0.1"], ["64:ff9b::a00:1", "2002:a00:1::", "2001:0:a00:1::"]),
    ],
)
def test_a73_a74_a78_networks_hold_their_first_to_their_last_address(
    entry: str, inside: list[str], outside: list[str]
) -> None:
    whitelist = [normalise(entry, allow_any=True)]
    assert [address for address in inside if not _allows(whitelist, _at(address))] == []
    assert [address for address in outside if _allows(whitelist, _at(address))] == []
    # And the same as it was typed.
    assert [address for address in inside if not _allows([entry], _at(address))] == []
    assert [address for address in outside if _allows([entry], _at(address))] == []


@pytest.mark.parametrize(("rule", "peer"), [("::ffff:10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::ffff:10.0.0.1")])
def test_a73_mapped_addresses_are_equal_both_ways(rule: str, peer: str) -> None:
    spelled = f"ipv6:%5B{peer}%5D:5" if ":" in peer else f"ipv4:{peer}:5"
    assert _allows([rule], parse_peer(spelled))


EVERYTHING_BUT_UNIX = ["0.0.0.0/0", "::/0", "san:a.example"]


def test_a76_r093_a_unix_peer_needs_its_own_rule() -> None:
    unix = Peer(None, unix=True)
    assert not _allows(EVERYTHING_BUT_UNIX, unix)
    assert _allows(["unix"], unix)
    assert _allows([*EVERYTHING_BUT_UNIX, "unix"], unix)
    assert not _allows(["unix"], _at("127.0.0.1"))


@pytest.mark.parametrize("text", ["", "ipv6:[::]", "ipv4:10.0.0.1:0", "garbage", "unix-abstract:x"])
def test_a77_a_peer_that_cannot_be_read_matches_no_rule(text: str) -> None:
    assert not _allows([*EVERYTHING_BUT_UNIX, "unix"], parse_peer(text))


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/08", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("san:API.Example.COM.", "san:api.example.com"),
        ("san:localhost", "san:localhost"),
        ("san:xn--fa-hia.de", "san:xn--fa-hia.de"),
        ("san:" + "a" * 63 + ".example", "san:" + "a" * 63 + ".example"),
        ("unix", "unix"),
        ("dns:API.Example.COM.", "dns:api.example.com"),
        ("dns:xn--fa-hia.de", "dns:xn--fa-hia.de"),
        ("origin:https://Shop.Example", "origin:https://shop.example"),
        ("origin:HTTPS://shop.example.:443", "origin:https://shop.example"),
        ("origin:https://shop.example:08443", "origin:https://shop.example:8443"),
        ("origin:https://shop.example:80", "origin:https://shop.example:80"),
        ("origin:https://192.0.2.1:8443", "origin:https://192.0.2.1:8443"),
        ("origin:https://[2001:DB8:0::1]", "origin:https://[2001:db8::1]"),
        ("origin:http://localhost:3000", "origin:http://localhost:3000"),
        ("origin:http://127.0.0.1:80", "origin:http://127.0.0.1"),
        ("origin:http://[::1]:3000", "origin:http://[::1]:3000"),
    ],
)
def test_an_entry_is_stored_in_one_way(typed: str, stored: str) -> None:
    assert normalise(typed) == stored
    assert normalise(stored) == stored


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("10.0.0.1/8", r"did you mean 10\.0\.0\.0/8\?"),
        ("10.0.0.0/0.255.255.255", "leading bits"),
        ("10.0.0.0/255.0.0.0", "leading bits"),
        ("010.0.0.1", "not an IP address"),
        ("10.0.0.01", "not an IP address"),
        ("167772161", "not an IP address"),
        ("0x0a000001", "not an IP address"),
        ("fe80::1%eth0", "zone"),
        (" 10.0.0.1", "spaces"),
        ("10.0.0.1\n", "spaces"),
        ("\u00a010.0.0.1", "spaces"),
        ("10.0.0.1, 10.0.0.2", "not an IP address"),
        ("10.0.0.1 10.0.0.2", "not an IP address"),
        ("", r"san:name"),
        ("example.com", r"san:name"),
        ("*", r"192\.0\.2\.0/24"),
        ("localhost", r"san:name"),
        ("https://example.com", r"san:name"),
        ("null", r"san:name"),
        ("UNIX", r"san:name"),
        ("unix:/run/x", r"san:name"),
        ("SAN:example.com", r"san:name"),
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
        ("::ffff:0:0/96", "every address"),
        ("san:", "exact host name"),
        ("san:.", "exact host name"),
        ("san:*.example.com", "exact host name"),
        ("san:*", "exact host name"),
        ("san:.example.com", "exact host name"),
        ("san:example.com..", "exact host name"),
        ("san:a..example", "exact host name"),
        ("san: example.com", "exact host name"),
        ("san:example.com ", "exact host name"),
        ("san:example.com\n", "exact host name"),
        ("san:-a.example", "exact host name"),
        ("san:a-.example", "exact host name"),
        ("san:a_b.example", "exact host name"),
        ("san:" + "a" * 64 + ".example", "exact host name"),
        ("san:" + "a." * 127 + "example", "exact host name"),
        ("san:fa\u00df.de", "exact host name"),
        ("san:\u212aelvin.example", "exact host name"),
        ("san:\u017fan.example", "exact host name"),
        ("san:example\u3002com", "exact host name"),
        ("san:example.com\x00.evil", "exact host name"),
        ("san:example.com/x", "exact host name"),
        ("san:example.com:443", "exact host name"),
        ("san:san:example.com", "exact host name"),
        ("dns:*.example.com", "exact host name"),
        ("dns:192.0.2.1", "exact host name"),
        ("dns:0x7f.1", "exact host name"),
        ("dns:fa\u00df.de", "exact host name"),
        ("origin:shop.example", "origin:https://shop"),
        ("origin:null", "origin:https://shop"),
        ("origin:", "origin:https://shop"),
        ("origin:https://", "origin:https://shop"),
        ("origin:https://*.example", "origin:https://shop"),
        ("origin:https://shop.example/", "without a path"),
        ("origin:https://shop.example/cart", "without a path"),
        ("origin:https://shop.example?x", "without a path"),
        ("origin:https://a@shop.example", "origin:https://shop"),
        ("origin:ftp://shop.example", "origin:https://shop"),
        ("origin:https://shop.example:", "origin:https://shop"),
        ("origin:https://shop.example:0", "a port is"),
        ("origin:https://shop.example:65536", "a port is"),
        ("origin:https://shop.example:\u0661", "origin:https://shop"),
        ("origin:https://shop.example ", "origin:https://shop"),
        ("origin:https://shop.example\n", "origin:https://shop"),
        ("origin:https://fa\u00df.de", "origin:https://shop"),
        ("origin:https://a..example", "exact host name"),
        ("origin:https://127.1", "exact host name"),
        ("origin:https://2130706433", "exact host name"),
        ("origin:https://0x7f000001", "exact host name"),
        ("origin:https://010.0.0.1", "exact host name"),
        ("origin:https://[::1", "origin:https://shop"),
        ("origin:https://[fe80::1%eth0]", "origin:https://shop"),
        ("origin:https://[10.0.0.1.2]", "exact host name"),
        ("origin:http://shop.example", "write https"),
        ("origin:http://localhost.example", "write https"),
        ("origin:http://192.0.2.1", "write https"),
        ("origin:http://[2001:db8::1]", "write https"),
    ],
)
def test_r095_a78_a79_what_cannot_be_an_entry_is_refused_with_the_mend(typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(typed)


@pytest.mark.parametrize("typed", ["0.0.0.0/0", "::/0", "::ffff:0:0/96"])
def test_r095_every_address_is_taken_when_asked_for(typed: str) -> None:
    stored = normalise(typed, allow_any=True)
    assert stored == normalise(stored, allow_any=True)
    assert _allows([stored], _at("10.0.0.1" if "." in stored else "2001:db8::1"))


def test_a79_names_are_exact() -> None:
    others = [
        "example.com.evil",
        "evil-example.com",
        "sub.example.com",
        "evilexample.com",
        "example.co",
        "com",
        "*.example.com",
        "*.com",
        "",
    ]
    assert _allows(["san:example.com"], _named("example.com"))
    assert _allows(["san:example.com"], _named(*others, "example.com"))
    assert not _allows(["san:example.com"], _named(*others))
    assert not _allows(["san:example.com"], _named())


def test_a79_a_wildcard_in_a_certificate_is_a_name_like_any_other_and_cannot_be_listed() -> None:
    assert not _allows(["san:*.example.com", "san:"], _named("*.example.com", "a.example.com", ""))


def test_a79_names_are_folded_when_stored_entries_are_read() -> None:
    assert _allows(["san:API.Example.com."], _named("api.example.com"))


def test_a79_a_name_in_a_certificate_satisfies_no_network_and_reverse() -> None:
    assert _allows(["san:a.example", "10.0.0.0/8"], _at("10.0.0.1"))
    assert _allows(["san:a.example", "10.0.0.0/8"], _named("a.example"))
    assert not _allows(["san:a.example", "10.0.0.0/8"], _named("b.example"))
    assert not _allows(["192.0.2.2"], _named("192.0.2.2"))


def _shows(origin: str | None, address: str = "192.0.2.1") -> Peer:
    return Peer(parse_address(address), origin=origin)


SHOP = "origin:https://shop.example"


@pytest.mark.parametrize(
    "origin",
    ["https://shop.example", "https://SHOP.example", "https://shop.example.", "https://shop.example:443"],
)
def test_a79_an_origin_is_compared_by_scheme_host_and_port(origin: str) -> None:
    assert _allows([SHOP, "origin:https://other.example"], _shows(origin))
    Whitelist([SHOP]).check_origin(origin)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.evil",
        "https://evil-shop.example",
        "https://a.shop.example",
        "https://example",
        "https://shop.example/",
        "https://shop.example, https://evil.example",
        " https://shop.example",
        "https://shop.example\x00",
        "https://shop.example@evil.example",
        "shop.example",
        "*",
        "https://\u017fhop.example",
    ],
)
def test_a79_a84_any_other_origin_is_refused_and_none_too(origin: str | None) -> None:
    assert not _allows([SHOP], _shows(origin))
    with pytest.raises(OriginNotAllowed):
        Whitelist([SHOP]).check_origin(origin)


def test_a80_what_the_codec_of_python_takes_for_one_domain_are_two() -> None:
    assert "fa\u00df.de".encode("idna") == b"fass.de"  # what must not be used
    assert _allows(["origin:https://xn--fa-hia.de"], _shows("https://xn--fa-hia.de"))
    for origin in ("https://fass.de", "https://fa\u00df.de"):
        assert not _allows(["origin:https://xn--fa-hia.de"], _shows(origin))


def test_an_origin_never_stands_in_for_a_peer_nor_a_peer_for_an_origin() -> None:
    both = [SHOP, "198.51.100.0/24"]
    assert _allows(both, _shows("https://shop.example", "198.51.100.7"))
    assert not _allows(both, _shows("https://shop.example", "192.0.2.1"))
    assert not _allows(both, _shows("https://evil.example", "198.51.100.7"))
    assert not _allows(both, _shows(None, "198.51.100.7"))
    assert not _allows([SHOP], Peer(None, unix=True))


def test_a_list_without_origins_asks_for_none() -> None:
    for origin in (None, "null", "https://evil.example"):
        assert _allows(["192.0.2.1"], _shows(origin))
        assert _allows([], _shows(origin))
        Whitelist(["192.0.2.1"]).check_origin(origin)


@pytest.mark.parametrize("entry", ["origin:", "origin:null", "origin:https://shop.example/", "origin:x"])
def test_an_origin_entry_that_cannot_be_read_matches_no_page_and_still_restricts(entry: str) -> None:
    for origin in (None, "", "null", entry.removeprefix("origin:"), "https://shop.example"):
        assert not _allows([entry], _shows(origin))
    assert _allows([entry, SHOP], _shows("https://shop.example"))


def test_a_name_to_resolve_matches_nobody_by_itself_and_still_restricts() -> None:
    for peer in (_at("192.0.2.1"), _named("api.example.com"), Peer(None, unix=True), UNKNOWN):
        assert not _allows(["dns:api.example.com"], peer)
    assert _allows(["dns:api.example.com", "192.0.2.1"], _at("192.0.2.1"))


UNREADABLE = [
    "", " ", "dns:example.com", "https://example.com", "10.0.0.1/8", "10.0.0.0/0.0.0.255", "010.0.0.1", "*",
    " 10.0.0.1", "san:*.example.com", "san:", "UNIX", "fe80::1%eth0", "future:rule",
]  # fmt: skip


@pytest.mark.parametrize("entry", UNREADABLE)
def test_an_entry_that_cannot_be_read_matches_nobody_and_still_restricts(entry: str) -> None:
    for peer in (
        _at("10.0.0.1"),
        _at("fe80::1"),
        Peer(None, unix=True),
        UNKNOWN,
        _named("", "*.example.com"),
    ):
        assert not _allows([entry], peer)
    assert _allows([entry, "10.0.0.1"], _at("10.0.0.1"))


def test_a_refusal_says_nothing_of_the_list_or_the_peer() -> None:
    with pytest.raises(OriginNotAllowed) as raised:
        Whitelist(["10.0.0.0/8", "san:secret.example"]).check(_at("192.0.2.77"))
    assert raised.value.message == OriginNotAllowed.default_message
    assert raised.value.metadata == {}


@st.composite
def _networks(draw: st.DrawFn) -> str:
    # Close together, so that they overlap, touch and nest.
    if draw(st.booleans()):
        bits, base = 32, draw(st.sampled_from([0, 0x0A000000, 2**32 - 256]))
    else:
        bits, base = 128, draw(st.sampled_from([0, 0x20010DB8 << 96, 2**128 - 256, 0xFFFF << 32]))
    length = draw(st.one_of(st.integers(bits - 9, bits), st.integers(0, bits)))
    number = (base + draw(st.integers(0, 255))) >> (bits - length) << (bits - length)
    address = ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number)
    return f"{address}/{length}"


def _arithmetic(entries: list[str], number: int, bits: int) -> bool:
    """The same question, answered without ipaddress' or our idea of membership."""
    for entry in entries:
        network = parse_network(entry)
        if network.max_prefixlen == bits:
            shift = bits - network.prefixlen
            if number >> shift == int(network.network_address) >> shift:
                return True
    return False


@given(st.lists(_networks(), min_size=1, max_size=12))
@example(["0.0.0.0/0", "::/0"])
@example(["0.0.0.0/1", "128.0.0.0/1"])
@example(["10.0.0.0/31", "10.0.0.2/31", "10.0.0.5/32"])
@example(["10.0.0.0/24", "10.0.0.0/25", "10.0.0.7/32"])
def test_a78_membership_is_integer_arithmetic(entries: list[str]) -> None:
    whitelist = Whitelist(entries)
    for entry in entries:
        network = parse_network(entry)
        bits = network.max_prefixlen
        first, last = int(network.network_address), int(network.broadcast_address)
        kind = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
        for number in {first - 1, first, first + 1, (first + last) // 2, last - 1, last, last + 1}:
            if not 0 <= number < 2**bits:
                continue
            try:
                whitelist.check(Peer(kind(number)))
                allowed = True
            except OriginNotAllowed:
                allowed = False
            assert allowed == _arithmetic(entries, number, bits)


@given(_networks())
def test_a78_normalising_twice_is_normalising_once(entry: str) -> None:
    stored = normalise(entry, allow_any=True)
    assert normalise(stored, allow_any=True) == stored
    assert parse_network(stored) == parse_network(entry)


@given(
    st.text(st.characters(), max_size=30)
    | st.builds("san:{}".format, st.text(st.sampled_from("aA1-._*K\u212a\u017f\u00df "), max_size=12))
    | st.builds("origin:https://{}".format, st.text(st.sampled_from("aA1-.:[]*\u212a\u00df "), max_size=12))
    | st.from_regex(r"[0-9a-f:.%/]{0,30}", fullmatch=True)
)
def test_no_text_whatever_makes_an_entry_fail_otherwise(entry: str) -> None:
    try:
        stored = normalise(entry, allow_any=True)
    except ValueError:
        pass
    else:
        assert normalise(stored, allow_any=True) == stored
        assert stored.isascii()
    if entry.startswith("origin:"):
        return
    assert not _allows([entry], UNKNOWN)


def test_a78_a_thousand_entries_are_searched_whole() -> None:
    assert MAX_ENTRIES == 1000
    entries = [f"10.{i // 250}.{i % 250}.8/29" for i in range(500)]
    entries += [f"2001:db8:{i:x}::/64" for i in range(498)]
    whitelist = Whitelist([*reversed(entries), "san:a.example", "unix"])
    for i in range(500):
        for last, inside in ((7, False), (8, True), (15, True), (16, False)):
            peer = _at(f"10.{i // 250}.{i % 250}.{last}")
            if inside:
                whitelist.check(peer)
            else:
                with pytest.raises(OriginNotAllowed):
                    whitelist.check(peer)
    whitelist.check(_at("2001:db8:1f1:0:ffff:ffff:ffff:ffff"))
    with pytest.raises(OriginNotAllowed):
        whitelist.check(_at("2001:db8:1f1:1::"))
