from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from rpz_auth import access_token
from rpz_auth.errors import BackendUnavailable, ConfigurationError
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.signing import AccessTokenClaims, SigningKeyring
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.refusal import ScopeInvalid

ISSUER, RESOURCE = "https://auth.example", "https://orders"
MASTER = KeyRing({1: b"1" * 32}, minting=1)
CLAIMS = AccessTokenClaims(
    iss=ISSUER,
    sub="alice",
    aud=RESOURCE,
    client_id="app",
    iat=1000,
    exp=8200,
    jti="j",
    scope="a b",
    epoch=3,
    grant_id="g",
)


def keyring(master: KeyRing = MASTER, issuer: str = ISSUER, instance: str = "db") -> SigningKeyring:
    return SigningKeyring(master, issuer=issuer, instance=instance)


@pytest.fixture(name="record")
def make_record() -> SealedKey:
    return keyring().generate(now=5.0)


@pytest.fixture(name="ready")
def make_ready(record: SealedKey) -> SigningKeyring:
    ready = keyring()
    ready.replace([record])
    return ready


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def test_r070_access_token_has_exactly_the_header_and_claims_that_it_should(
    ready: SigningKeyring, record: SealedKey
) -> None:
    header, payload, _ = ready.sign(CLAIMS).split(".")
    assert json.loads(decode(header)) == {"alg": "ES256", "typ": "at+jwt", "kid": record.kid}
    assert json.loads(decode(payload)) == {
        "iss": ISSUER,
        "sub": "alice",
        "aud": RESOURCE,
        "client_id": "app",
        "iat": 1000,
        "exp": 8200,
        "jti": "j",
        "scope": "a b",
        "epoch": 3,
        "grant_id": "g",
    }


def test_private_claims_are_absent_when_there_is_nothing_to_say() -> None:
    claims = json.loads(dataclasses.replace(CLAIMS, grant_id=None, secret_id="s").to_json())
    assert "grant_id" not in claims
    assert claims["secret_id"] == "s"


def test_token_verifies_with_joserfc_by_the_published_keys(ready: SigningKeyring) -> None:
    keys = KeySet.import_key_set(json.loads(ready.jwks()))
    token = jwt.decode(ready.sign(CLAIMS), keys, algorithms=["ES256"])
    assert token.claims["sub"] == "alice"


def test_token_verifies_by_the_rules_of_rfc_7515_alone(ready: SigningKeyring) -> None:
    (jwk,) = json.loads(ready.jwks())["keys"]
    x, y = (int.from_bytes(decode(jwk[name]), "big") for name in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    signed, _, signature = ready.sign(CLAIMS).rpartition(".")
    raw = decode(signature)
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, signed.encode("ascii"), ec.ECDSA(SHA256()))


def test_every_signature_has_its_full_length(ready: SigningKeyring) -> None:
    """One in 128 has a number with a leading zero byte."""
    assert {len(decode(ready.sign(CLAIMS).rpartition(".")[2])) for _ in range(600)} == {64}


def test_token_passes_our_own_verifier(ready: SigningKeyring, record: SealedKey) -> None:
    keys = {str(key.kid): key for key in KeySet.import_key_set(json.loads(ready.jwks())).keys}
    assert isinstance(keys[record.kid], ECKey)
    verdict = access_token.verify(
        ready.sign(CLAIMS),
        {kid: key for kid, key in keys.items() if isinstance(key, ECKey)},
        issuer=ISSUER,
        resources=frozenset({RESOURCE}),
        now=1001,
    )
    assert (
        verdict.app_id,
        verdict.subject,
        verdict.scopes,
        verdict.epoch,
        verdict.grant_id,
        verdict.kid,
    ) == (
        "app",
        "alice",
        frozenset({"a", "b"}),
        3,
        "g",
        record.kid,
    )


def test_r108_published_keys_are_public_and_named_by_their_thumbprint(
    ready: SigningKeyring, record: SealedKey
) -> None:
    (jwk,) = json.loads(ready.jwks())["keys"]
    assert jwk.keys() == {"kty", "crv", "x", "y", "alg", "use", "kid"}
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).decode().rstrip("=")
    assert jwk["kid"] == record.kid == thumbprint
    assert ECKey.import_key(jwk).thumbprint() == record.kid


def test_a_second_unsealing_signs_for_the_same_published_key(
    ready: SigningKeyring, record: SealedKey
) -> None:
    again = keyring()
    again.replace([record])
    assert again.jwks() == ready.jwks()


def test_a123_record_does_not_hold_the_private_key_in_the_clear() -> None:
    one, other = keyring().generate(now=1), keyring().generate(now=1)
    assert one.kid != other.kid
    assert (one.key_number, one.created_at, one.retire_at, one.version) == (1, 1, None, 1)
    assert len(one.sealed) == 12 + 32 + 16


@pytest.mark.parametrize(
    "foreign",
    [
        keyring(KeyRing({1: b"x" * 32}, minting=1)),
        keyring(issuer="https://other.example"),
        keyring(instance="other"),
        keyring(KeyRing({2: b"1" * 32}, minting=2)),
    ],
)
def test_record_of_another_key_ring_issuer_or_database_is_a_clear_error(
    foreign: SigningKeyring, record: SealedKey
) -> None:
    with pytest.raises(ConfigurationError, match="does not belong to this database"):
        foreign.replace([record])


@pytest.mark.parametrize(
    "change",
    [
        lambda record: dataclasses.replace(record, kid="other"),
        lambda record: dataclasses.replace(record, sealed=b""),
        lambda record: dataclasses.replace(record, sealed=record.sealed[:20]),
        lambda record: dataclasses.replace(record, sealed=bytes([record.sealed[0] ^ 1]) + record.sealed[1:]),
        lambda record: dataclasses.replace(
            record, sealed=record.sealed[:-1] + bytes([record.sealed[-1] ^ 1])
        ),
        lambda record: dataclasses.replace(record, sealed=keyring().generate(now=1).sealed),
    ],
)
def test_changed_record_does_not_decrypt_and_what_was_held_stays(
    ready: SigningKeyring, record: SealedKey, change: object
) -> None:
    assert callable(change)
    before = ready.jwks()
    with pytest.raises(ConfigurationError, match="does not decrypt"):
        ready.replace([change(record)])
    assert ready.jwks() == before


def kid_of(token: str) -> str:
    return str(json.loads(decode(token.split(".", maxsplit=1)[0]))["kid"])


def test_key_is_published_from_its_making_and_signs_from_its_time_on() -> None:
    ring = keyring()
    old = dataclasses.replace(ring.generate(now=1), retire_at=9000.0)
    new = ring.generate(now=2, sign_at=1000.9)
    dropped = dataclasses.replace(ring.generate(now=3), published=False, sealed=b"")
    ring.replace([new, dropped, old])
    assert {key["kid"] for key in json.loads(ring.jwks())["keys"]} == {old.kid, new.kid}
    assert kid_of(ring.sign(dataclasses.replace(CLAIMS, iat=999))) == old.kid
    assert kid_of(ring.sign(CLAIMS)) == new.kid


def test_key_is_encrypted_anew_under_the_master_key_that_mints() -> None:
    both = KeyRing({1: b"1" * 32, 2: b"2" * 32}, minting=2)
    record = keyring().generate(now=1)
    resealed = keyring(both).reseal(record)
    assert resealed == dataclasses.replace(record, key_number=2, sealed=resealed.sealed, version=2)
    ring = keyring(KeyRing({2: b"2" * 32}, minting=2))
    ring.replace([resealed])
    assert kid_of(ring.sign(CLAIMS)) == record.kid
    with pytest.raises(ConfigurationError, match="master key 1, which is not"):
        ring.reseal(record)


def test_generated_key_signs_only_once_its_record_came_back(ready: SigningKeyring, record: SealedKey) -> None:
    ready.generate(now=99)
    assert json.loads(decode(ready.sign(CLAIMS).split(".")[0]))["kid"] == record.kid


def test_without_a_key_that_signs_nothing_is_signed(record: SealedKey) -> None:
    ring = keyring()
    with pytest.raises(BackendUnavailable):
        ring.sign(CLAIMS)
    assert ring.is_empty
    ring.replace([dataclasses.replace(record, sign_at=math.inf)])
    with pytest.raises(BackendUnavailable):
        ring.sign(CLAIMS)
    assert len(json.loads(ring.jwks())["keys"]) == 1


def test_a54_token_fits_into_metadata_or_is_refused(ready: SigningKeyring) -> None:
    room = 2900 - len(CLAIMS.to_json())
    longest = dataclasses.replace(CLAIMS, scope=CLAIMS.scope + "c" * room)
    assert len(ready.sign(longest)) < 4096
    with pytest.raises(ScopeInvalid):
        dataclasses.replace(longest, scope=longest.scope + "c").to_json()
