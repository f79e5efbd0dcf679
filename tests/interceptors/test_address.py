"""Peers as grpc spells them, networks as people type them, and clients behind proxies."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth.address import (
    UNKNOWN,
    Peer,
    TrustedProxies,
    certificate_names,
    parse_address,
    parse_network,
    parse_peer,
)
from rpz_auth.errors import ConfigurationError

IP = ipaddress.ip_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ipv4:1.2.3.4:5", "1.2.3.4"),
        ("ipv4:127.0.0.1:65535", "127.0.0.1"),
        ("ipv4:255.255.255.255:1", "255.255.255.255"),
        ("ipv6:%5B::1%5D:5", "::1"),
        ("ipv6:[::1]:5", "::1"),
        ("ipv6:%5b2001:db8::1%5d:443", "2001:db8::1"),
        ("ipv6:%5B2001:0DB8:0:0:0:0:0:1%5D:443", "2001:db8::1"),
        # R093, A75: the zone says something on one host only.
        ("ipv6:%5Bfe80::1%254%5D:5", "fe80::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1"),
        ("ipv6:[fe80::1%4]:5", "fe80::1"),
        # R093, A73: an IPv4 client on an IPv6 socket.
        ("ipv6:%5B::ffff:10.0.0.1%5D:5", "10.0.0.1"),
        ("ipv6:%5B::ffff:a00:1%5D:5", "10.0.0.1"),
        ("ipv6:%5B::ffff:10.0.0.1%254%5D:5", "10.0.0.1"),
        # A74: these carry an IPv4 address that is not who calls.
        ("ipv6:%5B64:ff9b::a00:1%5D:5", "64:ff9b::a00:1"),
        ("ipv6:%5B2002:a00:1::%5D:5", "2002:a00:1::"),
        ("ipv6:%5B2001:0:a00:1::%5D:5", "2001:0:a00:1::"),
        ("ipv6:%5B::10.0.0.1%5D:5", "::a00:1"),
        ("ipv6:%5B::ffff:0:10.0.0.1%5D:5", "::ffff:0:a00:1"),
    ],
)
def test_r093_a73_a74_a75_every_spelling_of_a_peer_is_read(text: str, address: str) -> None:
    assert parse_peer(text) == Peer(IP(address))


@pytest.mark.parametrize("text", ["unix:", "unix:/run/x.sock", "unix:a:b:1", "unix:\x00"])
def test_a76_a_unix_socket_is_a_peer_without_an_address(text: str) -> None:
    assert parse_peer(text) == Peer(None, unix=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "::",
        "unknown",
        "unix",
        "UNIX:/run/x",
        "unix-abstract:x",
        "vsock:1:2",
        "ipv4:",
        "ipv4:1.2.3.4",
        "ipv4:1.2.3.4:",
        "ipv4:1.2.3.4:0",
        "ipv4:1.2.3.4:65536",
        "ipv4:1.2.3.4:-5",
        "ipv4:1.2.3.4:+5",
        "ipv4:1.2.3.4:5 ",
        "ipv4:1.2.3.4:\u0665",
        "ipv4:1.2.3.4:" + "9" * 5000,
        "ipv4: 1.2.3.4:5",
        "ipv4:1.2.3.4%25x:5",
        "ipv4:1.2.3.4%x:5",
        "ipv4:1.2.3:5",
        "ipv4:16909060:5",
        "ipv4:0x01.2.3.4:5",
        "ipv4:01.2.3.4:5",
        "ipv4:1.2.3.4.5:5",
        "ipv4:1.2.3.256:5",
        "ipv4:0.0.0.0:5",
        "ipv4:%5B::1%5D:5",
        "ipv4:::1:5",
        "ipv4:::ffff:10.0.0.1:5",
        "ipv4:\u0661.2.3.4:5",
        "ipv4:localhost:5",
        "IPV4:1.2.3.4:5",
        "ipv6:",
        "ipv6:[::]",
        "ipv6:[::]:5",
        "ipv6:%5B::%5D:5",
        "ipv6:%5B::ffff:0.0.0.0%5D:5",
        "ipv6:%5B::1%5D",
        "ipv6:%5B::1%5D:0",
        "ipv6:::1:5",
        "ipv6:%5B%5D:5",
        "ipv6:%5B1.2.3.4%5D:5",
        "ipv6:%5B::1%25%5D:5",
        "ipv6:%5B::1%00%5D:5",
        "ipv6:%5B::1%0A%5D:5",
        "ipv6:%5B%5B::1%5D%5D:5",
        "ipv6:%255B::1%255D:5",
        "ipv6:%5B:::1%5D:5",
        "ipv6:%5B12345::%5D:5",
        "ipv6:%5B::g%5D:5",
    ],
)
def test_a77_what_cannot_be_read_is_unknown(text: str) -> None:
    assert parse_peer(text) is UNKNOWN
    assert parse_peer(text) is UNKNOWN  # also from the cache


def test_an_unknown_peer_has_neither_address_nor_name() -> None:
    assert Peer(None) == UNKNOWN
    assert (UNKNOWN.address, UNKNOWN.unix, UNKNOWN.names) == (None, False, frozenset())


@pytest.mark.parametrize(
    ("peer", "text"),
    [(Peer(IP("10.0.0.1")), "10.0.0.1"), (Peer(IP("::1")), "::1"), (Peer(None, unix=True), "unix")],
)
def test_a_peer_is_written_for_logs(peer: Peer, text: str) -> None:
    assert str(peer) == text
    assert str(UNKNOWN) == "unknown"


PEERISH = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            [
                "ipv4:",
                "ipv6:",
                "unix:",
                "%5B",
                "[",
                "]",
                "%5D",
                "::",
                ":",
                "1.2.3.4",
                "%25",
                "%",
                "ffff",
                "0",
                "5",
            ]
        ),
        max_size=9,
    ),
)


@given(st.text(st.characters(), max_size=60) | PEERISH)
def test_no_text_whatever_makes_reading_a_peer_fail(text: str) -> None:
    peer = parse_peer(text)
    assert isinstance(peer, Peer)
    if peer.address is not None:
        assert text.startswith(("ipv4:", "ipv6:"))
        assert getattr(peer.address, "ipv4_mapped", None) is None
        assert getattr(peer.address, "scope_id", None) is None


@given(st.ip_addresses(v=4).filter(lambda address: not address.is_unspecified), st.integers(1, 65_535))
def test_r093_one_ipv4_client_is_one_peer_on_either_socket(address: ipaddress.IPv4Address, port: int) -> None:
    assert parse_peer(f"ipv4:{address}:{port}") == Peer(address)
    assert parse_peer(f"ipv6:%5B::ffff:{address}%5D:{port}") == Peer(address)


@contextmanager
def _peers(bind: str) -> Iterator[tuple[int, Callable[[str], str]]]:
    """A server that answers with `context.peer()`: its port, and how to ask it over a target."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda _, context: context.peer().encode()
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", {"Get": handler}),))
    port = server.add_insecure_port(bind)
    server.start()

    def ask(target: str) -> str:
        with grpc.insecure_channel(target) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Peer/Get")
            return call(b"", timeout=10).decode()

    try:
        yield port, ask
    finally:
        server.stop(None).wait()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_real_ipv4_peer() -> None:
    with _peers("127.0.0.1:0") as (port, ask):
        assert parse_peer(ask(f"127.0.0.1:{port}")) == Peer(IP("127.0.0.1"))


@pytest.mark.parametrize("host", ["[::1]"] * _has_ipv6())
def test_a_real_ipv6_peer(host: str) -> None:
    with _peers(f"{host}:0") as (port, ask):
        assert parse_peer(ask(f"{host}:{port}")) == Peer(IP("::1"))


@pytest.mark.parametrize("host", ["[::]"] * _has_ipv6())
def test_r093_a_real_ipv4_peer_on_an_ipv6_socket(host: str) -> None:
    with _peers(f"{host}:0") as (port, ask):
        assert parse_peer(ask(f"127.0.0.1:{port}")) == Peer(IP("127.0.0.1"))
        assert parse_peer(ask(f"ipv6:[::ffff:127.0.0.1]:{port}")) == Peer(IP("127.0.0.1"))


def test_a76_a_real_unix_peer(tmp_path: Path) -> None:
    with _peers(f"unix:{tmp_path}/s") as (_, ask):
        assert parse_peer(ask(f"unix:{tmp_path}/s")) == Peer(None, unix=True)


def test_a76_grpc_reports_an_abstract_unix_socket_as_any_other(tmp_path: Path) -> None:
    target = f"unix-abstract:rpz-auth-{tmp_path}"
    with _peers(target) as (_, ask):
        assert parse_peer(ask(target)) == Peer(None, unix=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4\n",
        "1.2.3.4%x",
        "::1%",
        "::1%a%b",
        "010.0.0.1",
        "0x1.0.0.1",
        "[::1]",
        "1.2.3.4:5",
        "10.0.0.0/8",
        "example.com",
        "\u0661.2.3.4",
        "1.2.3.\uff14",
    ],
)
def test_a78_what_is_not_one_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        # A73: a rule may be mapped, too.
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:a00:0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        # A74: and nothing else is.
        ("64:ff9b::/96", "64:ff9b::/96"),
        ("2002:a00::/24", "2002:a00::/24"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_a73_a74_networks_are_read(text: str, network: str) -> None:
    assert parse_network(text) == ipaddress.ip_network(network)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/8", r"did you mean 10\.0\.0\.0/8\?"),
        ("2001:db8::1/32", r"did you mean 2001:db8::/32\?"),
        ("::ffff:10.0.0.1/104", "bits beyond its prefix"),
        ("10.0.0.0/255.0.0.0", "leading bits"),
        ("10.0.0.0/0.0.0.255", "leading bits"),
        ("10.0.0.0/", "leading bits"),
        ("10.0.0.0/-8", "leading bits"),
        ("10.0.0.0/+8", "leading bits"),
        ("10.0.0.0/8/8", "leading bits"),
        ("10.0.0.0/ 8", "leading bits"),
        ("10.0.0.0/\u0668", "leading bits"),
        ("10.0.0.0/33", "not an IP address or network"),
        ("::/129", "not an IP address or network"),
        ("10.0.0.0/" + "9" * 5000, "not an IP address or network"),
        ("010.0.0.1", "not an IP address or network"),
        ("10.0.0.1-10.0.0.9", "not an IP address or network"),
        ("10.0.0.*", "not an IP address or network"),
        ("167772161", "not an IP address or network"),
        ("host bits/8", "not an IP address or network"),
        ("", "not an IP address or network"),
        ("fe80::1%eth0", "zone"),
        ("fe80::%eth0/64", "zone"),
    ],
)
def test_r095_a78_what_is_no_network_is_refused_with_the_mend(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_network(text)


@given(st.text(st.characters(), max_size=40) | st.from_regex(r"[0-9a-f:.%/]{0,30}", fullmatch=True))
def test_no_text_whatever_makes_reading_a_network_fail_otherwise(text: str) -> None:
    try:
        network = parse_network(text)
    except ValueError as error:
        assert re.search(r"prefix|leading bits|zone|not an IP", str(error))  # noqa: PT017 - any text may be valid
    else:
        assert parse_network(str(network)) == network


def test_names_in_a_certificate_are_folded_and_lose_one_trailing_dot() -> None:
    names = certificate_names(
        {"peer_dns": [b"API.Example.com", b"b.example.", b"c.example..", b"*.d.example"]}
    )
    assert names == {"api.example.com", "b.example", "c.example.", "*.d.example"}


def test_only_dns_names_of_a_certificate_count() -> None:
    context = {
        "x509_common_name": [b"cn.example.com"],
        "x509_subject_alternative_name": [b"san.example.com"],
        "peer_uri": [b"spiffe://example.com/x"],
        "peer_email": [b"a@example.com"],
        "peer_ip": [b"10.0.0.1"],
        "peer_dns": [b"dns.example.com", "fa\u00df.de".encode(), "\u212aelvin.example".encode(), b"\xff"],
    }
    assert certificate_names(context) == {"dns.example.com"}
    assert certificate_names({}) == frozenset()


CLIENT, PROXY, EDGE = "198.51.100.7", "10.0.0.1", "10.0.0.2"
XFF = "x-forwarded-for"
PROXIES = TrustedProxies(["10.0.0.0/30", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    "peer",
    [
        Peer(IP(CLIENT)),
        Peer(IP("10.0.0.4")),
        Peer(IP("::a00:1")),
        Peer(None, unix=True),
        UNKNOWN,
        Peer(IP(CLIENT), names=frozenset({"a.example"})),
    ],
)
def test_a70_r094_from_a_direct_client_the_field_is_ignored(peer: Peer) -> None:
    for value in ("203.0.113.9", PROXY, "", "garbage"):
        assert PROXIES.resolve(peer, [(XFF, value)]) is peer


def test_a70_without_trusted_proxies_nobody_is_believed() -> None:
    peer = Peer(IP(PROXY), names=frozenset({"a.example"}))
    assert TrustedProxies(()).resolve(peer, [(XFF, CLIENT)]) is peer


def test_r094_other_fields_are_never_believed() -> None:
    fields = ["forwarded", "x-real-ip", "x-forwarded-for-bin", "true-client-ip", "x-client-ip", "via"]
    metadata = [(field, CLIENT) for field in fields]
    assert PROXIES.resolve(Peer(IP(PROXY)), metadata) == UNKNOWN
    assert PROXIES.resolve(Peer(IP(PROXY)), [*metadata, (XFF, "192.0.2.1")]) == Peer(IP("192.0.2.1"))


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (CLIENT, CLIENT),
        (f" {CLIENT} ", CLIENT),
        (f"{CLIENT}:443", CLIENT),
        (f"203.0.113.9, {CLIENT}", CLIENT),
        (f"203.0.113.9,{CLIENT}", CLIENT),
        (f"203.0.113.9, {CLIENT}, {EDGE}", CLIENT),
        (f"203.0.113.9, {CLIENT},{EDGE}, {PROXY}", CLIENT),
        # What the client wrote itself stands further left, and is never reached.
        (f"evil, {CLIENT}", CLIENT),
        (f"unknown,,_hidden, {CLIENT}", CLIENT),
        (f"{EDGE}, {CLIENT}", CLIENT),
        (f"127.0.0.1, {CLIENT}, {EDGE}", CLIENT),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"[::ffff:{CLIENT}]:443", CLIENT),
        (f"{CLIENT}, ::ffff:{EDGE}", CLIENT),
        (f"{CLIENT}, 2001:db8:ffff::1", CLIENT),
        (f"{CLIENT}, [2001:db8:ffff::1]:7, {EDGE}:8", CLIENT),
    ],
)
def test_a71_behind_trusted_proxies_the_rightmost_other_address_counts(forwarded: str, client: str) -> None:
    proxy = Peer(IP(PROXY), names=frozenset({"proxy.example"}))
    assert PROXIES.resolve(proxy, [("user-agent", "x"), (XFF, forwarded)]) == Peer(IP(client))


@pytest.mark.parametrize(
    "forwarded",
    [
        "",
        " ",
        ",",
        "unknown",
        "_hidden",
        "evil",
        f"{CLIENT}, evil",
        f"{CLIENT}, unknown",
        f"{CLIENT}, _hidden",
        f"{CLIENT},",
        f"{CLIENT}, ,{EDGE}",
        f"{CLIENT}, evil, {EDGE}",
        f"{CLIENT}:",
        f"{CLIENT}:port",
        f"{CLIENT}:123456",
        f"{CLIENT}%eth0",
        f"[{CLIENT}]",
        f"[{CLIENT}]:443",
        f"{CLIENT};",
        f"\t{CLIENT}",
        f"{CLIENT}\n",
        f"\xa0{CLIENT}",
        f'"{CLIENT}"',
        f"for={CLIENT}",
        f"{CLIENT} {CLIENT}",
        f"{CLIENT}/32",
        "0198.51.100.7",
        "[2001:db8::7",
        "2001:db8::7]",
        "[2001:db8::7]443",
        "[]",
        "[:]",
        "3325256711",
    ],
)
def test_a71_a_list_that_cannot_be_read_gives_an_unknown_client(forwarded: str) -> None:
    assert PROXIES.resolve(Peer(IP(PROXY)), [(XFF, forwarded)]) == UNKNOWN


@pytest.mark.parametrize(
    "metadata", [[], [(XFF, EDGE)], [(XFF, f"{EDGE}, {PROXY}")], [(XFF, b"198.51.100.7")]]
)
def test_a72_a_proxy_does_not_pass_for_its_client(metadata: list[tuple[str, str | bytes]]) -> None:
    # Of several lines grpc shows the last only, where a second proxy stands alone.
    assert PROXIES.resolve(Peer(IP(PROXY), names=frozenset({"proxy.example"})), metadata) == UNKNOWN


def test_a72_several_lines_count_in_their_order() -> None:
    lines = [(XFF, "203.0.113.9"), (XFF, CLIENT), (XFF, EDGE)]
    assert PROXIES.resolve(Peer(IP(PROXY)), lines) == Peer(IP(CLIENT))


@given(st.lists(st.text(st.characters(), max_size=20), max_size=4), st.ip_addresses())
def test_a71_nothing_to_the_left_of_the_client_matters(
    junk: list[str], client: ipaddress.IPv4Address
) -> None:
    expected = parse_address(str(client))
    found = PROXIES.resolve(Peer(IP(PROXY)), [(XFF, ",".join([*junk, str(client), EDGE]))])
    trusted = expected in ipaddress.ip_network("10.0.0.0/30") or expected in ipaddress.ip_network(
        "2001:db8:ffff::/48"
    )
    assert trusted or found == Peer(expected)


@given(st.lists(st.tuples(st.sampled_from([XFF, "x"]), st.text(st.characters(), max_size=30) | st.binary())))
def test_no_metadata_whatever_makes_finding_the_client_fail(metadata: list[tuple[str, str | bytes]]) -> None:
    found = PROXIES.resolve(Peer(IP(PROXY), names=frozenset({"proxy.example"})), metadata)
    assert found.names == frozenset()
    assert found.address != IP(PROXY)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example", "", "10.0.0.0/0.0.0.255", "*", "unix"])
def test_r094_a_typo_in_a_trusted_proxy_is_an_error_at_start_up(network: str) -> None:
    with pytest.raises(ConfigurationError, match="trusted proxy"):
        TrustedProxies(["10.0.0.0/8", network])


def test_r094_a_trusted_proxy_that_was_written_mapped_is_the_ipv4_one() -> None:
    proxies = TrustedProxies(["::ffff:10.0.0.0/126"])
    assert proxies.resolve(Peer(IP(PROXY)), [(XFF, CLIENT)]) == Peer(IP(CLIENT))
