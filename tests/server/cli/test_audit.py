from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import administration_service_pb2 as pb
from server.cli.command import Cli
from server.cli.conftest import FalseAuthority


def export(cli: Cli, path: Path) -> str:
    """Export everything, and return the head."""
    told = cli.json("audit", "export", str(path))
    assert told["output"] == str(path)
    return str(told["head"])


def test_newest_records_that_fit_are_listed(cli: Cli) -> None:
    app_id = cli.create_app()
    for command in ("lock", "unlock", "lock"):
        cli("apps", command, app_id)
    found = cli.json("audit", "list", "--app", app_id)["records"]
    assert [record["action"] for record in found] == ["app.create", "app.lock", "app.unlock", "app.lock"]
    newest = cli.json("audit", "list", "--app", app_id, "--action", "app.lock", "--limit", "1")["records"]
    assert newest == found[-1:]
    listed = cli("audit", "list", "--app", app_id, "--since", "1h")
    assert (listed.code, listed.out.count("app.lock")) == (0, 2)
    assert cli.json("audit", "list", "--app", app_id, "--until", "1h")["records"] == []


def test_newest_are_found_without_reading_all_that_is_older(false_authority: FalseAuthority) -> None:
    pages: list[tuple[int, int]] = []

    def list_records(request: pb.ListAuditRecordsRequest, _context: Any) -> pb.ListAuditRecordsResponse:
        assert request.newest_first
        newest = request.before_sequence or 5001
        pages.append((newest, request.page_size))
        numbers = range(newest - 1, newest - 1 - min(request.page_size, 1000), -1)
        records = [pb.AuditRecord(sequence=number, action="app.lock") for number in numbers]
        return pb.ListAuditRecordsResponse(records=records, next_before_sequence=numbers[-1])

    cli = false_authority(ListAuditRecords=list_records)
    found = cli.json("audit", "list", "--limit", "1500")["records"]
    assert [record["sequence"] for record in found] == list(range(3501, 5001))
    assert pages == [(5001, 1000), (4001, 1000)]
    assert len(cli.json("audit", "list")["records"]) == 100
    assert pages[2:] == [(5001, 100)]


@pytest.mark.parametrize("time", ["yesterday", "2030-01-31T00:00:00", "9999999d", "-1h"])
def test_time_that_cannot_be_read_is_a_mistake_of_usage(cli: Cli, time: str) -> None:
    assert cli("audit", "list", f"--since={time}").code == 2


def test_r213_chain_of_the_authority_is_whole(cli: Cli) -> None:
    cli.create_app()
    told = cli.json("audit", "verify")
    assert told["records"] > 1
    assert cli.json("audit", "verify", "--head", told["head"])["records"] >= told["records"]


def test_r213_export_is_private_and_proves_itself(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = export(cli, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cli.json("audit", "verify", str(path), "--head", head)["head"] == head
    assert cli("audit", "export", str(path)).code == 2  # it is not overwritten


def test_export_goes_to_other_programs_too(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = export(cli, path)
    piped = cli("audit", "export", "-")
    assert (piped.code, piped.err) == (0, "")
    (tmp_path / "piped").write_text(piped.out)
    assert cli.json("audit", "verify", str(tmp_path / "piped"), "--head", head)["records"] >= 1
    assert piped.out.startswith(path.read_text())


def test_r213_records_that_were_changed_removed_or_cut_off_are_found(cli: Cli, tmp_path: Path) -> None:
    for _ in range(3):
        cli.create_app()
    path = tmp_path / "audit.jsonl"
    head = export(cli, path)
    lines = path.read_text().splitlines(keepends=True)

    def verify(*kept: str, head: str = head) -> str:
        path.write_text("".join(kept))
        found = cli("audit", "verify", str(path), "--head", head)
        assert (found.code, found.out) == (1, "")
        return found.err

    changed = json.loads(lines[1])
    changed["actor"] = "somebody else"
    assert "AUDIT_BROKEN: record 2 " in verify(lines[0], json.dumps(changed) + "\n", *lines[2:])
    assert "AUDIT_BROKEN: record 3 " in verify(lines[0], *lines[2:])
    assert f"AUDIT_BROKEN: records up to {len(lines)} are missing" in verify(*lines[:-1])
    assert "is not the one of the head" in verify(*lines, head=f"2:{'0' * 64}")
    assert "line 2 is no record" in verify(lines[0], "{}\n")
    assert "HEAD_TOO_OLD" in verify(*lines[2:], head=f"1:{'0' * 64}")
    assert cli("audit", "verify", str(path), "--head", "x").code == 2
