"""Whitelist entries as people type them."""

from __future__ import annotations

import pytest
from rpz_auth.whitelist import Whitelist
from rpz_auth_server.domain.app import AppKind
from rpz_auth_server.domain.whitelist import read_entry


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("shop.example", "origin:https://shop.example"),
        ("Shop.Example.", "origin:https://shop.example"),
        ("fa\u00df.de", "origin:https://xn--fa-hia.de"),
        ("https://fa\u00df.de:8443", "origin:https://xn--fa-hia.de:8443"),
        ("origin:https://B\u00fccher.example", "origin:https://xn--bcher-kva.example"),
        ("HTTPS://shop.example", "origin:https://shop.example"),
        ("http://localhost:3000", "origin:http://localhost:3000"),
        ("san:b\u00fccher.example", "san:xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_a80_entry_of_a_frontend_is_stored_as_its_browsers_will_say_it(typed: str, stored: str) -> None:
    assert read_entry(typed, AppKind.FRONTEND) == stored
    assert read_entry(stored, AppKind.FRONTEND) == stored


def test_a80_a_homograph_and_what_pythons_codec_makes_of_it_are_other_domains() -> None:
    whitelist = Whitelist([read_entry("fa\u00df.de", AppKind.FRONTEND)])
    whitelist.check_origin("https://xn--fa-hia.de")
    assert read_entry("fass.de", AppKind.FRONTEND) == "origin:https://fass.de"
    cyrillic = read_entry("sh\u043ep.example", AppKind.FRONTEND)
    assert cyrillic.startswith("origin:https://xn--")


@pytest.mark.parametrize("kind", [AppKind.BACKEND, AppKind.DEVICE])
@pytest.mark.parametrize(
    ("typed", "entry"),
    [
        ("api.example", "dns:api.example"),
        ("dns:API.example.", "dns:api.example"),
        ("b\u00fccher.example", "dns:xn--bcher-kva.example"),
        ("dns:b\u00fccher.example", "dns:xn--bcher-kva.example"),
    ],
)
def test_a80_bare_name_means_what_it_resolves_to(kind: AppKind, typed: str, entry: str) -> None:
    assert read_entry(typed, kind) == entry


@pytest.mark.parametrize(
    "typed",
    [
        *("", "*", "*.example.com", "10.0.0.1/8", "010.0.0.1", "1.2.3", "a b.example", "shop.example/cart"),
        *("https://shop.example/", "http://shop.example", "san:\u2603..example", "b\u00fc_cher.example"),
        *("origin:https://\u202eshop.example", "https://a@fa\u00df.de", "null", "\x00"),
    ],
)
def test_a79_what_is_no_entry_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match=r"write|leave out|not an IP|international|exact host"):
        read_entry(typed, AppKind.FRONTEND)
