from __future__ import annotations

from server.cli.command import Cli
from support.authority import AuthorityProcess


def test_lock_and_unlock_are_undone_by_one_another(cli: Cli, authority: AuthorityProcess) -> None:
    client = authority.create_client()
    try:
        refused = cli("issuer", "lock", stdin="n\n")
        assert (refused.code, refused.out.strip()) == (1, "")
        locked = cli("issuer", "lock", "--yes")
        assert (locked.code, locked.err) == (0, "")
        assert "issuer unlock" in locked.out
        assert "when unlocked" in cli("signing-keys", "list").out
        assert cli("tokens", "refresh", "--client-id", client.app_id, "--public", stdin="x\n").code == 1
    finally:
        assert cli.json("issuer", "unlock") == {}
    assert "when unlocked" not in cli("signing-keys", "list").out


def test_rotated_key_is_listed(cli: Cli) -> None:
    new = cli.json("signing-keys", "rotate")["signing_key"]["kid"]
    listed = cli("signing-keys", "list").out
    assert new in listed
    assert "has no successor yet" in listed
    assert cli("signing-keys", "rotate", "--compromised", stdin="n\n").code == 1
    only = cli.json("signing-keys", "rotate", "--compromised", "--yes")["signing_key"]["kid"]
    keys = cli.json("signing-keys", "list")["signing_keys"]
    assert [key["kid"] for key in keys] == [only]


def test_verifiers_that_are_connected_are_listed(cli: Cli) -> None:
    assert cli.json("verifiers", "list") == {"verifiers": []}
    listed = cli("verifiers", "list").out
    assert listed.startswith("APP ID")
    assert "each worker and replica has its own" in listed
