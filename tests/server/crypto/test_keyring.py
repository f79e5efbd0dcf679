from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth.errors import BackendUnavailable, ConfigurationError
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, MAX_NUMBER, KeyRing, Next, join

ONE = "A" * 43
TWO = "_" * 42 + "8"


def derive(
    ring: KeyRing, number: int = 1, purpose: bytes = b"p", issuer: str = "i", instance: str = "d"
) -> bytes:
    return ring.derive(number, purpose, issuer=issuer, instance=instance)


def ring_text(**changes: object) -> str:
    return json.dumps({"format": 1, "minting": 2, "keys": {"1": ONE, "2": TWO}, **changes})


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a123_created_ring_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    old_umask = os.umask(0)
    try:
        created = KeyRing.create(path)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keyring.json"]
    loaded = KeyRing.load(path)
    assert (loaded.minting_number, loaded.numbers) == (1, (1,))
    assert derive(loaded) == derive(created)


def test_two_rings_share_no_key(tmp_path: Path) -> None:
    assert derive(KeyRing.create(tmp_path / "a")) != derive(KeyRing.create(tmp_path / "b"))


def test_creating_never_replaces_a_ring(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    KeyRing.create(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        KeyRing.create(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["keyring.json"]


def test_creating_where_nothing_can_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        KeyRing.create(tmp_path / "missing" / "keyring.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a123_ring_that_others_can_open_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keyring.json"
    KeyRing.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        KeyRing.load(path)


def test_missing_ring_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=str(tmp_path / "keyring.json")):
        KeyRing.load(tmp_path / "keyring.json")


def test_ring_of_several_keys_names_the_one_that_mints(tmp_path: Path) -> None:
    ring = KeyRing.load(private_file(tmp_path / "keyring.json", ring_text()))
    assert (ring.minting_number, ring.numbers) == (2, (1, 2))
    assert derive(ring, 1) != derive(ring, 2)


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = private_file(tmp_path / "keyring.json", ring_text())
    assert KeyRing.open(path, {}).numbers == (1, 2)
    only_two = ring_text(keys={"2": TWO})
    assert KeyRing.open(path, {ENVIRONMENT_VARIABLE: only_two}).numbers == (2,)


def test_empty_environment_variable_is_an_error_that_does_not_fall_back(tmp_path: Path) -> None:
    path = private_file(tmp_path / "keyring.json", ring_text())
    with pytest.raises(ConfigurationError, match=ENVIRONMENT_VARIABLE):
        KeyRing.open(path, {ENVIRONMENT_VARIABLE: ""})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        ring_text(keys={"1": ONE}),
        ring_text(keys={}),
        ring_text(keys=[ONE]),
        ring_text(keys={"2": ONE[:-1]}),
        ring_text(keys={"2": ONE + "="}),
        ring_text(keys={"2": ONE[:-1] + "B"}),
        ring_text(keys={"2": 7}),
        ring_text(keys={"2": ONE, "0": ONE}),
        ring_text(keys={"2": ONE, "01": ONE}),
        ring_text(keys={"2": ONE, "-1": ONE}),
        ring_text(keys={"2": ONE, str(MAX_NUMBER + 1): ONE}),
        ring_text(minting="2"),
        ring_text(minting=True),
        ring_text(format=2),
        ring_text(more=1),
        '{"format": 1, "minting": 2, "keys": {"2": "' + ONE + '", "2": "' + TWO + '"}}',
    ],
)
def test_r126_what_is_no_ring_is_refused_without_a_quotation(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        KeyRing.load(private_file(tmp_path / "keyring.json", text))
    assert ONE[:8] not in str(raised.value)
    assert TWO[:8] not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    KeyRing.create(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not a key ring"):
        KeyRing.load(path)


def test_highest_number_is_a_number(tmp_path: Path) -> None:
    text = ring_text(keys={str(MAX_NUMBER): ONE}, minting=MAX_NUMBER)
    assert KeyRing.load(private_file(tmp_path / "k", text)).minting_number == MAX_NUMBER


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        KeyRing({1: b"short"}, minting=1)


def test_unknown_number_is_not_called_bad() -> None:
    with pytest.raises(BackendUnavailable):
        derive(KeyRing({1: bytes(32)}, minting=1), 2)


@pytest.mark.parametrize(
    "other",
    [
        lambda ring: derive(ring, 2),
        lambda ring: derive(ring, purpose=b"q"),
        lambda ring: derive(ring, issuer="j"),
        lambda ring: derive(ring, instance="e"),
        lambda ring: derive(ring, issuer="id", instance=""),
        lambda ring: derive(ring, purpose=b"pi", issuer=""),
    ],
)
def test_derived_keys_depend_on_everything_they_are_derived_from(other: Callable[[KeyRing], bytes]) -> None:
    ring = KeyRing({1: bytes(32), 2: bytes([1]) * 32}, minting=1)
    assert len(derive(ring)) == 32
    assert derive(ring) == derive(ring)
    assert other(ring) != derive(ring)


def test_r126_representation_shows_numbers_only() -> None:
    ring = KeyRing({1: b"k" * 32}, minting=1)
    assert repr(ring) == str(ring) == "KeyRing(numbers=[1], minting=1)"


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_joined_parts_are_equal_only_if_the_parts_are(one: list[bytes], other: list[bytes]) -> None:
    assert (join(*one) == join(*other)) == (one == other)


def test_new_key_verifies_at_once_and_mints_from_its_time_on(tmp_path: Path) -> None:
    path, now = tmp_path / "keyring.json", [100.0]
    KeyRing.create(path)
    ring = KeyRing({1: b"1" * 32}, minting=1, clock=lambda: now[0]).with_new_key(mints_from=160)
    assert (ring.numbers, ring.minting_number, ring.upcoming, ring.minting_since) == (
        (1, 2),
        1,
        Next(2, 160),
        0,
    )
    derive(ring, 2)
    ring.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert derive(KeyRing.load(path), 2) == derive(ring, 2)
    now[0] = 160.0
    assert (ring.minting_number, ring.upcoming, ring.minting_since) == (2, None, 160)


def test_one_key_is_added_at_a_time() -> None:
    ring = KeyRing({1: b"1" * 32}, minting=1, clock=lambda: 0.0).with_new_key(mints_from=10)
    with pytest.raises(ConfigurationError, match="does not mint yet"):
        ring.with_new_key(mints_from=20)


def test_number_of_a_retired_key_is_never_given_again(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    ring = KeyRing({1: b"1" * 32, 2: b"2" * 32}, minting=1, clock=lambda: 50.0)
    ring.without_key(2).save(private_file(path, ""))
    smaller = KeyRing.load(path)
    assert (smaller.numbers, smaller.retired) == ((1,), frozenset({2}))
    assert smaller.with_new_key(mints_from=0).numbers == (1, 3)


def test_key_that_mints_or_is_about_to_change_places_is_not_taken_out() -> None:
    ring = KeyRing({1: b"1" * 32, 2: b"2" * 32}, minting=1, clock=lambda: 0.0)
    with pytest.raises(ConfigurationError, match="mints"):
        ring.without_key(1)
    with pytest.raises(ConfigurationError, match="no master key 3"):
        ring.without_key(3)
    waiting = ring.with_new_key(mints_from=10)
    for number in (1, 2, 3):
        with pytest.raises(ConfigurationError, match="mints"):
            waiting.without_key(number)


def test_ring_takes_over_what_another_holds() -> None:
    ring = KeyRing({1: b"1" * 32, 2: b"2" * 32}, minting=1)
    ring.take_over(KeyRing({2: b"2" * 32, 3: b"3" * 32}, minting=3, retired=[1]))
    assert (ring.numbers, ring.minting_number, ring.retired) == ((2, 3), 3, frozenset({1}))
    with pytest.raises(BackendUnavailable):
        derive(ring, 1)
    derive(ring, 3)


def test_other_key_under_a_known_number_is_not_taken_over() -> None:
    ring = KeyRing({1: b"1" * 32}, minting=1)
    before = derive(ring)
    with pytest.raises(ConfigurationError, match="another master key 1"):
        ring.take_over(KeyRing({1: b"x" * 32, 2: b"2" * 32}, minting=2))
    assert (derive(ring), ring.numbers) == (before, (1,))


@pytest.mark.parametrize(
    "changes",
    [
        {"next": {"number": 2}},
        {"next": {"number": "2", "from": 1}},
        {"next": {"number": 2, "from": True}},
        {"next": {"number": 2, "from": "1"}},
        {"next": {"number": 2, "from": "now"}},
        {"next": {"number": 2, "from": 1, "to": 2}},
        {"next": {"number": 3, "from": 1}},
        {"next": 2},
        {"next": None},
        {"retired": ["3"]},
        {"retired": [2]},
        {"retired": 3},
        {"more": 1},
    ],
)
def test_ring_with_a_wrong_next_or_retired_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        KeyRing.load(private_file(tmp_path / "keyring.json", ring_text(**changes)))
