from __future__ import annotations

import argon2
import pytest
from argon2.low_level import Type
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.passwords import PasswordInvalid, Passwords

ONE, TWO = b"1" * 32, b"2" * 32
PASSWORD = "correct horse battery"
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)


def passwords(keys: dict[int, bytes], *, minting: int = 1, issuer: str = "https://a.example") -> Passwords:
    return Passwords(KeyRing(keys, minting=minting), issuer=issuer, instance="db", hasher=QUICK)


async def test_password_passes_and_no_other() -> None:
    known = passwords({1: ONE})
    hashed, _ = await known.hash(PASSWORD)
    assert hashed.startswith("$argon2id$")
    await known.verify(PASSWORD, hashed, key_number=1)
    for other in ("", PASSWORD + " ", PASSWORD.upper(), hashed, "\ud800"):
        with pytest.raises(PasswordInvalid):
            await known.verify(other, hashed, key_number=1)


async def test_password_is_the_same_however_a_keyboard_composes_it() -> None:
    known = passwords({1: ONE})
    hashed, number = await known.hash("Gru\u0308\u00dfe vom Gipfel")
    await known.verify("Gr\u00fc\u00dfe vom Gipfel", hashed, key_number=number)


async def test_a122_hash_is_good_for_nothing_without_its_master_key() -> None:
    hashed, _ = await passwords({1: ONE}).hash(PASSWORD)
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        QUICK.verify(hashed, PASSWORD)
    for others in (
        passwords({1: TWO}),
        passwords({1: ONE}, issuer="https://b.example"),
        passwords({2: ONE}, minting=2),
    ):
        with pytest.raises(PasswordInvalid):
            await others.verify(PASSWORD, hashed, key_number=1)


async def test_r145_nobodys_password_takes_the_same_work_and_never_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = passwords({1: ONE})
    worked: list[bytes] = []
    verify = known._verify

    def noted(text: bytes, hashed: str) -> None:
        worked.append(text)
        verify(text, hashed)

    monkeypatch.setattr(known, "_verify", noted)
    for password in (PASSWORD, "nobody's password"):
        with pytest.raises(PasswordInvalid):
            await known.verify(password, None, key_number=1)
    assert len(worked) == 2


async def test_r145_nobodys_hash_costs_what_a_persons_does() -> None:
    known = Passwords(KeyRing({1: ONE}, minting=1), issuer="https://a.example", instance="db")
    hashed, _ = await known.hash(PASSWORD)
    assert argon2.extract_parameters(known._nobodys) == argon2.extract_parameters(hashed)
    with pytest.raises(argon2.exceptions.VerifyMismatchError):  # which says that all the work was done
        known._hasher.verify(known._nobodys, PASSWORD)


async def test_hash_of_an_older_key_or_with_other_costs_is_outdated() -> None:
    old = passwords({1: ONE})
    hashed, _ = await old.hash(PASSWORD)
    assert not old.is_outdated(hashed, key_number=1)
    rotated = passwords({1: ONE, 2: TWO}, minting=2)
    await rotated.verify(PASSWORD, hashed, key_number=1)
    assert rotated.is_outdated(hashed, key_number=1)
    assert Passwords(KeyRing({1: ONE}, minting=1), issuer="i", instance="d").is_outdated(hashed, key_number=1)


async def test_damaged_hash_is_no_password() -> None:
    with pytest.raises(PasswordInvalid):
        await passwords({1: ONE}).verify(PASSWORD, "damaged", key_number=1)
