from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.domain.uri import MAX_LENGTH, check_redirect_uri, check_resource, redirect_uri_is

GOOD = "https://good.example/cb"


@pytest.mark.parametrize(
    "uri",
    [
        GOOD,
        "https://good.example",
        "https://good.example:8443/cb?tenant=1&x=%2F",
        "https://[2001:db8::1]/cb",
        "http://127.0.0.1/cb",
        "http://127.0.0.1:8080",
        "http://[::1]:49152/cb?x=1",
        "https://good.example/" + "a" * (MAX_LENGTH - len("https://good.example/")),
    ],
)
def test_r042_https_or_a_loopback_ip_can_be_registered(uri: str) -> None:
    check_redirect_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://good.example/cb",
        "http://localhost/cb",
        "http://localhost:8080/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://127.0.0.1:80@evil.example/cb",
        "http://127.0.0.2/cb",
        "http://[::2]/cb",
        "http://2130706433/cb",
        "http://0x7f.1/cb",
        "HTTPS://GOOD.EXAMPLE/cb",
        "Https://good.example/cb",
        "//good.example/cb",
        "/cb",
        "good.example/cb",
        "javascript:alert(1)",
        "data:text/html,x",
        "myapp:/cb",
        "https:good.example",
        "https:/good.example",
        "https:///cb",
        "https://",
        "https://?x",
        "https://good.example@evil.example/",
        "https://good.example%2eevil.example/cb",
        "https://good.example!.evil.example/cb",
        "https://good.example;.evil.example/cb",
        "https://good.example'.evil.example/cb",
        "https://user:pass@good.example/cb",
        "https://good.example\\@evil.example/",
        "https://good.example/cb\\",
        "https://good.example/c\tb",
        "https://good.example/c\nb",
        "https://good.example/c\rb",
        "https://good.example/cb\n",
        "\thttps://good.example/cb",
        " https://good.example/cb",
        "https://good.example/cb ",
        "https://good.example/c b",
        "https://good.example/\x00",
        'https://good.example/"',
        "https://good.example/<svg>",
        "https://göod.example/cb",
        "https://good.example/ü",
        "https://good.example:99999/cb",
        "https://good.example:port/cb",
        "https://[::1/cb",
        "https://good.example/" + "a" * MAX_LENGTH,
    ],
)
def test_r042_a08_nothing_else_can_be_registered(uri: str) -> None:
    with pytest.raises(RequestInvalid):
        check_redirect_uri(uri)


@pytest.mark.parametrize("uri", [GOOD + "#", GOOD + "#x", "http://127.0.0.1/#", "https://good.example#@x"])
def test_r043_fragment_cannot_be_registered(uri: str) -> None:
    with pytest.raises(RequestInvalid, match="fragment"):
        check_redirect_uri(uri)


@pytest.mark.parametrize(
    "presented",
    [
        "https://good.example@evil",
        "https://good.example\\@evil",
        "https://good.example.evil",
        "https://good.example.evil/cb",
        "https://good.example/cb/../x",
        "https://good.example/x/../cb",
        "https://good.example/./cb",
        "https://good.example//cb",
        "https://good.example/cb/",
        "https://good.example/CB",
        "https://good.example/%63b",
        "https://good.example/cb%2e",
        "https://good.example/cb?",
        "https://good.example/cb?x",
        "https://good.example/cb?x=1",
        "https://good.example/cb#",
        "https://good.example/cb#x",
        "https://good.example:443/cb",
        "https://user@good.example/cb",
        "HTTPS://GOOD.EXAMPLE/cb",
        "https://GOOD.example/cb",
        "https://good.example./cb",
        "http://good.example/cb",
        "//good.example/cb",
        "/cb",
        "javascript:alert(1)//https://good.example/cb",
        "https://good.example/c\tb",
        "https://good.example/cb\n",
        "\nhttps://good.example/cb",
        " https://good.example/cb",
        "https://good.example/cb\x00",
        "https://good.example/",
        "https://good.example",
        "",
    ],
)
def test_r040_a08_only_the_registered_text_equals_itself(presented: str) -> None:
    assert not redirect_uri_is(GOOD, presented)
    assert redirect_uri_is(GOOD, GOOD)


@pytest.mark.parametrize(
    ("registered", "presented"),
    [
        ("http://127.0.0.1/cb", "http://127.0.0.1:51004/cb"),
        ("http://127.0.0.1:1234/cb", "http://127.0.0.1:5/cb"),
        ("http://127.0.0.1:1234/cb", "http://127.0.0.1/cb"),
        ("http://[::1]:1/cb?x=1", "http://[::1]:2/cb?x=1"),
        ("http://127.0.0.1", "http://127.0.0.1:8080"),
        ("http://127.0.0.1?x", "http://127.0.0.1:8080?x"),
    ],
)
def test_r041_loopback_ip_may_differ_in_its_port(registered: str, presented: str) -> None:
    assert redirect_uri_is(registered, presented)


@pytest.mark.parametrize(
    "presented",
    [
        "http://127.0.0.1:1/cb/",
        "http://127.0.0.1:1/cb?x",
        "http://127.0.0.1:1/cb#",
        "http://127.0.0.1:1",
        "http://127.0.0.2:1/cb",
        "http://[::1]:1/cb",
        "https://127.0.0.1:1/cb",
        "http://localhost:1/cb",
        "http://127.0.0.1:/cb",
        "http://127.0.0.1:+1/cb",
        "http://127.0.0.1:\u0661/cb",
        "http://127.0.0.1:123456/cb",
        "http://127.0.0.1:1@evil.example/cb",
        "http://127.0.0.1:1:2/cb",
        "http://127.0.0.1.evil.example:1/cb",
        "http://127.0.0.1:1/cb\n",
    ],
)
def test_r041_loopback_ip_differs_in_nothing_else(presented: str) -> None:
    assert not redirect_uri_is("http://127.0.0.1/cb", presented)


def test_r041_port_of_a_host_name_is_part_of_the_text() -> None:
    assert not redirect_uri_is("https://good.example:1/cb", "https://good.example:2/cb")


@given(st.text())
def test_a120_any_text_is_taken_or_refused(text: str) -> None:
    for check in (check_redirect_uri, check_resource):
        try:
            check(text)
        except RequestInvalid:
            continue
        assert text.isascii()
        assert text.isprintable()
        assert "#" not in text
    assert redirect_uri_is(GOOD, text) == (text == GOOD)


@given(st.text(alphabet="htps:/127.0[]1@\\#?%a\t\n", min_size=8))
def test_r042_what_can_be_registered_is_https_or_loopback(text: str) -> None:
    for uri in (text, "https://" + text, "http://127.0.0.1" + text):
        try:
            check_redirect_uri(uri)
        except RequestInvalid:
            continue
        assert uri.startswith(
            ("https://", "http://127.0.0.1/", "http://127.0.0.1:", "http://127.0.0.1?")
        ) or (uri in ("http://127.0.0.1", "http://[::1]") or uri.startswith("http://[::1]"))
        assert not set(uri) & set("#\\\t\n ")
        assert "@" not in uri.replace("?", "/").split("/")[2]


@pytest.mark.parametrize("uri", ["https://orders", "urn:orders:v1", "https://orders.example:8443/v1?x=1"])
def test_r209_resource_is_an_absolute_uri(uri: str) -> None:
    check_resource(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("", "orders", "//orders", "https://orders#x", "https://or ders", "urn:", "é:x"),
        "https://orders.example/" + "a" * MAX_LENGTH,
    ],
)
def test_r209_anything_else_is_no_resource(uri: str) -> None:
    with pytest.raises(RequestInvalid):
        check_resource(uri)


@pytest.mark.parametrize(
    ("uri", "mend"),
    [
        ("shop", "an absolute URI"),
        (GOOD + "#x", "no fragment"),
        ("https://user@good.example/cb", "no user name"),
        ("https://good%2eexample/cb", "a host of letters, digits and hyphens"),
        ("http://good.example/cb", "register an https:// redirect_uri"),
    ],
)
def test_redirect_uri_is_refused_with_what_to_mend(uri: str, mend: str) -> None:
    with pytest.raises(RequestInvalid, match=mend):
        check_redirect_uri(uri)
