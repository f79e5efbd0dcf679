from __future__ import annotations

import base64
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rpz_auth.errors import BackendUnavailable
from rpz_auth_server.crypto.handles import (
    SALT_BYTES,
    HandleInvalid,
    HandleKind,
    Handles,
    OpenedHandle,
    _tag,
    check_key,
    new_id,
    new_salt,
)
from rpz_auth_server.crypto.keyring import MAX_NUMBER, KeyRing

ALPHABET = string.ascii_letters + string.digits + "-_"
KEYRING = KeyRing({1: b"1" * 32, 2: b"2" * 32, MAX_NUMBER: b"3" * 32}, minting=2)
ISSUER, INSTANCE = "https://auth.example", "instance"
HANDLES = Handles(KEYRING, issuer=ISSUER, instance=INSTANCE)
REFUSALS = (HandleInvalid, BackendUnavailable)

kinds = st.sampled_from(HandleKind)
ids = st.binary(min_size=16, max_size=16).map(
    lambda raw: base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")
)
generations = st.integers(0, 2**32 - 1)
salts = st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)
numbers = st.sampled_from(KEYRING.numbers)


def sealed(kind: HandleKind = HandleKind.REFRESH, salt: bytes = bytes(16), generation: int = 7) -> str:
    return HANDLES.seal(kind, "A" * 22, generation, salt=salt, key_number=1)


def accept(handles: Handles, kind: HandleKind, text: str, salt: bytes) -> OpenedHandle:
    opened = handles.open(kind, text)
    handles.verify(opened, salt)
    return opened


def with_bit_flipped(text: str, bit: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(text[5:]))
    raw[bit // 8] ^= 1 << bit % 8
    return text[:5] + base64.urlsafe_b64encode(raw).decode("ascii")


@given(kinds, ids, generations, salts, numbers)
def test_handle_opens_to_what_was_sealed(
    kind: HandleKind, row_id: str, generation: int, salt: bytes, number: int
) -> None:
    text = HANDLES.seal(kind, row_id, generation, salt=salt, key_number=number)
    assert text.startswith(kind.value)
    assert len(text) == 5 + 64
    assert set(text[5:]) <= set(ALPHABET)
    opened = accept(HANDLES, kind, text, salt)
    assert (opened.kind, opened.id, opened.generation, opened.key_number) == (
        kind,
        row_id,
        generation,
        number,
    )


@given(kinds, ids, generations, salts, numbers)
def test_sealing_again_gives_the_same_text(
    kind: HandleKind, row_id: str, generation: int, salt: bytes, number: int
) -> None:
    again = Handles(KEYRING, issuer=ISSUER, instance=INSTANCE)
    assert HANDLES.seal(kind, row_id, generation, salt=salt, key_number=number) == again.seal(
        kind, row_id, generation, salt=salt, key_number=number
    )


def test_layout_is_the_documented_one() -> None:
    text = HANDLES.seal(
        HandleKind.SECRET, "AQIDBAUGBwgJCgsMDQ4PEA", 258, salt=bytes(16), key_number=MAX_NUMBER
    )
    raw = base64.urlsafe_b64decode(text.removeprefix("rpzs_"))
    assert raw[:24] == bytes([1]) + b"\xff\xff\xff" + bytes(range(1, 17)) + b"\x00\x00\x01\x02"
    assert len(raw) == 48


@pytest.mark.parametrize("bit", range(48 * 8))
def test_every_flipped_bit_is_refused_before_a_row_is_read(bit: int) -> None:
    with pytest.raises(REFUSALS):
        HANDLES.open(HandleKind.REFRESH, with_bit_flipped(sealed(), bit))


@given(st.integers(0, 68), st.characters())
def test_every_other_character_is_refused_before_a_row_is_read(position: int, character: str) -> None:
    text = sealed()
    assume(text[position] != character)
    with pytest.raises(REFUSALS):
        HANDLES.open(HandleKind.REFRESH, text[:position] + character + text[position + 1 :])


@given(kinds, kinds)
def test_r065_handle_of_one_kind_is_not_one_of_another(made: HandleKind, read: HandleKind) -> None:
    assume(made is not read)
    text = sealed(made)
    with pytest.raises(HandleInvalid):
        HANDLES.open(read, text)
    with pytest.raises(HandleInvalid):
        HANDLES.open(read, read.value + text[5:])
    with pytest.raises(HandleInvalid):
        HANDLES.open(made, read.value + text[5:])


@given(st.integers(0, 68))
def test_truncated_handle_is_refused(length: int) -> None:
    with pytest.raises(HandleInvalid):
        HANDLES.open(HandleKind.REFRESH, sealed()[:length])


@pytest.mark.parametrize("extra", ["=", "==", "A", "AAAA", "\n", "\r\n", " ", "\x00", "\u00a0", "\u0661"])
def test_one_value_has_one_text(extra: str) -> None:
    for text in (sealed() + extra, extra + sealed(), sealed()[:20] + extra + sealed()[20:]):
        with pytest.raises(HandleInvalid):
            HANDLES.open(HandleKind.REFRESH, text)


@pytest.mark.parametrize("letter", ["+", "/"])
def test_letters_of_the_other_base64_are_refused(letter: str) -> None:
    with pytest.raises(HandleInvalid):
        HANDLES.open(HandleKind.REFRESH, sealed()[:-1] + letter)


@given(st.text())
def test_any_text_is_refused_in_the_documented_way(text: str) -> None:
    for kind in HandleKind:
        with pytest.raises(HandleInvalid):
            HANDLES.open(kind, text)


@given(kinds, st.text(alphabet=ALPHABET, min_size=64, max_size=64))
def test_any_well_formed_forgery_is_refused_in_the_documented_way(kind: HandleKind, body: str) -> None:
    with pytest.raises(REFUSALS):
        HANDLES.open(kind, kind.value + body)


@given(kinds, st.integers(1, MAX_NUMBER), st.binary(min_size=44, max_size=44))
def test_forgery_that_names_a_known_key_is_invalid_and_of_an_unknown_one_undecided(
    kind: HandleKind, number: int, rest: bytes
) -> None:
    raw = bytes([1]) + number.to_bytes(3, "big") + rest
    expected = HandleInvalid if number in KEYRING.numbers else BackendUnavailable
    with pytest.raises(expected):
        HANDLES.open(kind, kind.value + base64.urlsafe_b64encode(raw).decode("ascii"))


def test_number_that_no_key_can_have_is_no_unknown_key() -> None:
    raw = bytes([1, 0, 0, 0]) + base64.urlsafe_b64decode(sealed()[5:])[4:]
    with pytest.raises(HandleInvalid):
        HANDLES.open(HandleKind.REFRESH, "rpzr_" + base64.urlsafe_b64encode(raw).decode("ascii"))


@given(salts, salts)
def test_handle_of_another_rows_salt_is_refused(own: bytes, other: bytes) -> None:
    assume(own != other)
    opened = HANDLES.open(HandleKind.REFRESH, sealed(salt=own))
    HANDLES.verify(opened, own)
    with pytest.raises(HandleInvalid):
        HANDLES.verify(opened, other)


@given(kinds, st.text(), st.text())
def test_handle_of_another_issuer_or_instance_is_refused_before_a_row_is_read(
    kind: HandleKind, issuer: str, instance: str
) -> None:
    assume((issuer, instance) != (ISSUER, INSTANCE))
    foreign = Handles(KEYRING, issuer=issuer, instance=instance)
    with pytest.raises(HandleInvalid):
        foreign.open(kind, sealed(kind))


def test_unknown_key_is_unavailable_for_making_and_reading() -> None:
    smaller = Handles(KeyRing({2: b"2" * 32}, minting=2), issuer=ISSUER, instance=INSTANCE)
    with pytest.raises(BackendUnavailable):
        smaller.open(HandleKind.REFRESH, sealed())
    with pytest.raises(BackendUnavailable):
        smaller.verify(HANDLES.open(HandleKind.REFRESH, sealed()), bytes(16))
    with pytest.raises(BackendUnavailable):
        smaller.seal(HandleKind.REFRESH, "A" * 22, 1, salt=bytes(16), key_number=1)


def test_same_number_with_another_key_is_another_authority() -> None:
    foreign = Handles(KeyRing({1: b"x" * 32}, minting=1), issuer=ISSUER, instance=INSTANCE)
    with pytest.raises(HandleInvalid):
        foreign.open(HandleKind.REFRESH, sealed())


def test_genuine_handle_of_another_version_is_refused() -> None:
    keys = HANDLES._keys[HandleKind.REFRESH][1]
    body = bytes([2]) + base64.urlsafe_b64decode(sealed()[5:])[1:40]
    text = "rpzr_" + base64.urlsafe_b64encode(body + _tag(keys, body)).decode("ascii")
    with pytest.raises(HandleInvalid):
        HANDLES.open(HandleKind.REFRESH, text)


def test_tag_alone_does_not_make_a_credential() -> None:
    """Whoever has the keys, but not the row's salt, gets past the first check only."""
    guessed = sealed(salt=b"guessed guessed!")
    opened = HANDLES.open(HandleKind.REFRESH, guessed)
    with pytest.raises(HandleInvalid):
        HANDLES.verify(opened, new_salt())


def test_mac_of_another_generation_does_not_verify() -> None:
    one, other = (HANDLES.open(HandleKind.REFRESH, sealed(generation=g)) for g in (1, 2))
    assert one.mac != other.mac


@pytest.mark.parametrize("row_id", ["", "A" * 21, "A" * 23, "A" * 21 + "B", "A" * 21 + "=", "é" * 22])
def test_id_that_is_not_canonical_is_not_sealed(row_id: str) -> None:
    with pytest.raises(ValueError, match="22 characters"):
        HANDLES.seal(HandleKind.CODE, row_id, 0, salt=bytes(16), key_number=1)


@pytest.mark.parametrize("salt", [b"", bytes(15), bytes(17)])
def test_short_salt_is_never_used(salt: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        sealed(salt=salt)
    with pytest.raises(ValueError, match="16 bytes"):
        HANDLES.verify(HANDLES.open(HandleKind.REFRESH, sealed()), salt)


@pytest.mark.parametrize("generation", [-1, 2**32])
def test_generation_that_does_not_fit_is_not_sealed(generation: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        sealed(generation=generation)


def test_r031_ids_and_salts_are_drawn_anew_each_time() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len({new_salt() for _ in range(100)}) == 100
    row_id = new_id()
    assert len(row_id) == 22
    text = HANDLES.seal(HandleKind.CODE, row_id, 0, salt=new_salt(), key_number=1)
    assert HANDLES.open(HandleKind.CODE, text).id == row_id


def test_no_id_is_an_option_on_a_command_line() -> None:
    assert not any(new_id().startswith("-") for _ in range(2_000))


@pytest.mark.parametrize(
    ("generation", "made_with", "row_key", "key_since", "passes"),
    [
        (3, 2, 2, 3, True),
        (4, 2, 2, 3, True),
        (2, 1, 2, 3, True),
        (3, 1, 2, 3, False),
        (9, 1, 2, 3, False),
        (0, 1, 2, 0, False),
        (0, 2, 2, 0, True),
    ],
)
def test_row_takes_its_own_key_from_the_generation_on_that_it_had_it(
    *, generation: int, made_with: int, row_key: int, key_since: int, passes: bool
) -> None:
    text = HANDLES.seal(HandleKind.REFRESH, "A" * 22, generation, salt=bytes(16), key_number=made_with)
    opened = HANDLES.open(HandleKind.REFRESH, text)
    if passes:
        check_key(opened, key_number=row_key, key_since=key_since)
    else:
        with pytest.raises(HandleInvalid):
            check_key(opened, key_number=row_key, key_since=key_since)


def test_r126_representations_show_no_credential() -> None:
    text = sealed()
    opened = HANDLES.open(HandleKind.REFRESH, text)
    assert repr(opened) == (
        f"OpenedHandle(kind={HandleKind.REFRESH!r}, key_number=1, id='{'A' * 22}', generation=7)"
    )
    with pytest.raises(HandleInvalid) as raised:
        HANDLES.open(HandleKind.CODE, text)
    assert text[5:] not in repr(raised.value)


def test_keys_come_and_go_with_the_ring() -> None:
    ring = KeyRing({1: b"1" * 32}, minting=1)
    handles = Handles(ring, issuer=ISSUER, instance=INSTANCE)
    salt, row = new_salt(), new_id()
    by_one = handles.seal(HandleKind.SECRET, row, 0, salt=salt, key_number=1)
    with pytest.raises(BackendUnavailable):
        handles.seal(HandleKind.SECRET, row, 0, salt=salt, key_number=2)
    ring.take_over(KeyRing({1: b"1" * 32, 2: b"2" * 32}, minting=2))
    by_two = handles.seal(HandleKind.SECRET, row, 0, salt=salt, key_number=2)
    for text in (by_one, by_two):
        handles.verify(handles.open(HandleKind.SECRET, text), salt)
    opened = handles.open(HandleKind.SECRET, by_one)
    ring.take_over(KeyRing({2: b"2" * 32}, minting=2))  # another replica's ring may have it
    with pytest.raises(BackendUnavailable):
        handles.open(HandleKind.SECRET, by_one)
    with pytest.raises(BackendUnavailable):
        handles.verify(opened, salt)
    ring.take_over(KeyRing({2: b"2" * 32}, minting=2, retired=[1]))
    with pytest.raises(HandleInvalid):
        handles.open(HandleKind.SECRET, by_one)
    handles.verify(handles.open(HandleKind.SECRET, by_two), salt)
