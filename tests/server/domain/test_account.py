from __future__ import annotations

from dataclasses import replace

import pytest
from rpz_auth_server.domain.account import (
    CONSENT_LIFETIME,
    Account,
    Consent,
    Session,
    check_password,
    consent_id,
    covers,
    extend,
    identity_id,
    is_signed_in,
    read_user_name,
)
from rpz_auth_server.domain.refusal import RequestInvalid

NOW = 1_700_000_000.25
SESSION = Session(
    session_id="s",
    account_id="a",
    peer="",
    agent="",
    created_at=NOW,
    seen_at=NOW,
    idle_expires_at=NOW + 10,
    expires_at=NOW + 20,
)
READ, WRITE = frozenset({"orders.read"}), frozenset({"orders.write"})
ORDERS = frozenset({"https://orders.example"})


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("bob", "bob"),
        (" Bob ", "bob"),
        ("bob@shop.example", "bob@shop.example"),
        ("a", "a"),
        ("x" * 64, "x" * 64),
    ],
)
def test_user_name_is_stored_in_one_way(written: str, stored: str) -> None:
    assert read_user_name(written) == stored


@pytest.mark.parametrize(
    "text", ["", " ", ".bob", "bob.", "x" * 65, "bób", "bob smith", "bob\n1", "b<i>", "K"]
)
def test_user_name_outside_its_grammar_is_refused(text: str) -> None:
    with pytest.raises(RequestInvalid):
        read_user_name(text if text != "K" else "\u212a\u017f")


@pytest.mark.parametrize(
    "password", ["correct horse battery", "x1y2z3x1y2z3", "бббвввгггддд", "bob-and-7gKm2xQ"]
)
def test_long_password_is_taken_whatever_it_is_made_of(password: str) -> None:
    check_password(password, user_name="bob")


@pytest.mark.parametrize(
    "password", ["", "x" * 11, "abcdefghijk", "x" * 257, "aaaaaaaaaaaaaaaa", "bob-the-bobby1"[:12]]
)
def test_weak_password_is_refused(password: str) -> None:
    with pytest.raises(RequestInvalid):
        check_password(password, user_name="bob-the-bob")


def test_session_ends_by_idleness_by_age_and_by_being_ended() -> None:
    assert is_signed_in(SESSION, NOW + 9.9)
    assert not is_signed_in(SESSION, NOW + 10)
    busy = replace(SESSION, idle_expires_at=NOW + 30)
    assert is_signed_in(busy, NOW + 19.9)
    assert not is_signed_in(busy, NOW + 20)
    assert not is_signed_in(replace(SESSION, ended_at=NOW), NOW + 1)


def consented(**changes: object) -> Consent:
    given = extend(None, subject="user:b", app_id="shop", scopes=READ, resources=ORDERS, now=NOW)
    return replace(given, **changes)  # type: ignore[arg-type] # fields by name


def test_consent_covers_what_was_allowed_and_no_more() -> None:
    consent = consented()
    assert covers(consent, READ, ORDERS, NOW)
    assert not covers(consent, READ | WRITE, ORDERS, NOW)
    assert not covers(consent, READ, frozenset({"https://stock.example"}), NOW)
    assert not covers(consent, READ, ORDERS, NOW + CONSENT_LIFETIME)
    assert not covers(None, READ, ORDERS, NOW)


def test_consent_grows_while_it_is_remembered_and_begins_anew_after() -> None:
    consent = consented()
    wider = extend(consent, subject="user:b", app_id="shop", scopes=WRITE, resources=ORDERS, now=NOW + 5)
    assert wider == replace(
        consent, scopes=READ | WRITE, expires_at=NOW + 5 + CONSENT_LIFETIME, version=consent.version + 1
    )
    late = NOW + CONSENT_LIFETIME
    anew = extend(consent, subject="user:b", app_id="shop", scopes=WRITE, resources=ORDERS, now=late)
    assert anew == replace(
        consent, scopes=WRITE, created_at=late, expires_at=late + CONSENT_LIFETIME, version=2
    )


def test_a150_two_consents_never_add_up_to_what_neither_of_them_said() -> None:
    stock = frozenset({"https://stock.example"})
    other = extend(consented(), subject="user:b", app_id="shop", scopes=WRITE, resources=stock, now=NOW)
    assert covers(other, WRITE, stock, NOW)
    assert not covers(other, WRITE, ORDERS, NOW)
    assert not covers(other, READ, stock, NOW)
    wide = extend(other, subject="user:b", app_id="shop", scopes=WRITE, resources=ORDERS, now=NOW)
    assert covers(wide, WRITE, ORDERS | stock, NOW)
    narrow = extend(wide, subject="user:b", app_id="shop", scopes=WRITE, resources=stock, now=NOW)
    assert covers(narrow, WRITE, ORDERS | stock, NOW)


def test_ids_are_one_for_each_pair() -> None:
    assert consent_id("user:b", "shop") == consented().consent_id
    assert len({consent_id("a", "bc"), consent_id("ab", "c"), consent_id('a","b', "c")}) == 3
    assert identity_id("https://op.example", "7") != identity_id("https://op.example/", "7")


def test_account_shows_no_hash() -> None:
    account = Account(
        account_id="a",
        user_name="b",
        display_name="b",
        key_number=1,
        password_hash="$argon2id$made-up",
        setup_hash="fedcba",
        created_at=NOW,
        updated_at=NOW,
    )
    assert account.subject == "user:a"
    assert "argon2" not in repr(account)
    assert "fedcba" not in repr(account)
