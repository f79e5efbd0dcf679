"""`rpz-auth-server doctor`: the command."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rpz_auth.errors import BackendUnavailable, ConfigurationError, Refusal

from rpz_auth_server.cli import output
from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    GrpcAddressOption,
    HttpAddressOption,
    IssuerOption,
    JsonOption,
    check_founded,
    load_as_started,
    opened_store,
)
from rpz_auth_server.doctor.certificates import check_certificates
from rpz_auth_server.doctor.configuration import check_settings
from rpz_auth_server.doctor.database import check_store, inspect
from rpz_auth_server.doctor.files import check_files, is_own
from rpz_auth_server.doctor.finding import Check, Finding, State
from rpz_auth_server.doctor.keys import check_keys, open_ring
from rpz_auth_server.doctor.reach import check_reachability
from rpz_auth_server.settings import Settings

_SETTINGS = Check("settings")
_DATABASE = Check("database")
_BAD = (State.ERROR, State.WARNING)


def doctor(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    grpc_address: GrpcAddressOption = None,
    http_address: HttpAddressOption = None,
    issuer: IssuerOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Look an authority over, and say what is wrong.

    It looks at settings, files, clock, certificates, keys and database, and whether the authority answers,
    which need not run. Nothing is changed, but for one write that shows that the database takes it. Run it as
    the authority's own user, with the flags of `serve`; address and issuer of the last start are known.

    Exit codes: 0 nothing is wrong, though there may be warnings; 1 there is an error.
    """
    given = {name: value for name, value in locals().items() if name != "as_json" and value is not None}
    with Console(stderr=True).status("looking"):
        findings = asyncio.run(examine(given, os.environ))
    _show(findings, as_json=as_json)
    if any(finding.state is State.ERROR for finding in findings):
        raise typer.Exit(1)


async def examine(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, user: int | None = None, now: float | None = None
) -> list[Finding]:
    """Look at everything.

    Args:
        flags: Settings by name, and `config`.
        environ: The environment.
        user: Whose files they must be; this process's if None.
        now: The machine's time, in seconds since the epoch; its clock's if None.
    """
    user = os.geteuid() if user is None else user
    now = time.time() if now is None else now
    try:
        settings = load_as_started(flags, environ)
        check_founded(settings)
    except ConfigurationError as error:
        return [
            _SETTINGS.error(
                str(error), "--data-dir names the authority's directory, --config its file of settings"
            )
        ]
    config = Path(flags["config"]) if "config" in flags else None
    findings = [
        *check_settings(settings, config),
        *check_files(settings, config, user),
        *check_certificates(settings, datetime.fromtimestamp(now, UTC)),
    ]
    if is_own(settings, user):
        findings += await _examine_database(settings, environ, now)
    return [*findings, *await check_reachability(settings)]


async def _examine_database(settings: Settings, environ: Mapping[str, str], now: float) -> list[Finding]:
    findings, can_open = await inspect(settings, now)
    ring = open_ring(settings, environ)
    if isinstance(ring, Finding):
        findings.append(ring)
    if not can_open:
        return findings
    try:
        async with opened_store(settings) as store:
            findings += await check_store(store)
            if not isinstance(ring, Finding):
                findings += await check_keys(settings, ring, store)
    except ConfigurationError as error:
        findings.append(_DATABASE.error(str(error), "name another by --database"))
    except (BackendUnavailable, Refusal):
        findings.append(
            _DATABASE.error("it cannot be read or written", "is its disk full, or its server busy?")
        )
    return findings


def _show(findings: list[Finding], *, as_json: bool) -> None:
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    if as_json:
        found = [asdict(finding) for finding in findings]
        output.print_json(
            {"findings": found, "errors": counts[State.ERROR], "warnings": counts[State.WARNING]}
        )
        return
    output.print_steps(
        (
            finding.state,
            finding.check,
            [finding.found, *([f"→ {finding.mend}"] if finding.mend else [])],
        )
        for finding in findings
    )
    output.print_line(", ".join(f"{counts[each]} {each}{'s' * (counts[each] != 1)}" for each in _BAD))
