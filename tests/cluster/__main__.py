"""Breaks a replicated database and its authorities under load; compares what was promised with what holds.

`scripts/test-cluster [FAULT...]`; as root on Debian, with patroni, etcd-server and postgresql installed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psycopg
import rpz_auth
from cluster.load import BOUND, Endpoint, Load, Session
from cluster.patroni import Cluster, Node, running_cluster
from support.authority import AuthorityProcess
from support.orders import orders_service
from support.postgres import free_port
from support.tcp_proxy import running_proxy

AUTHORITIES = 3
_BEFORE = 3.0
_AFTER = 5.0
_CONFIG = """
refresh_limit = 0
revocation_limit = 0
failure_limit = 0
peer_failure_limit = 0
app_failure_limit = 0
"""


class System:
    """The cluster, the authorities on it, and services that verify."""

    def __init__(self, cluster: Cluster, folder: Path, cleanup: contextlib.ExitStack) -> None:
        self.cluster = cluster
        self._folder = folder
        self._ports = [free_port() for _ in range(AUTHORITIES)]
        (folder / "config.toml").write_text(_CONFIG)
        self.links = [cleanup.enter_context(running_proxy(node.address)) for node in cluster.nodes]
        """Between the first authority and the database."""
        self.authorities: list[AuthorityProcess] = []
        cleanup.callback(self._stop)
        for number in range(AUTHORITIES):
            self.authorities.append(self.start(number))
        first = self.authorities[0]
        administrator = rpz_auth.ApiToken(first.bootstrap["app_id"], first.bootstrap["api_token"])
        self.endpoints = [Endpoint(f"127.0.0.1:{port}", first.tls, administrator) for port in self._ports]
        self.client = first.create_client()
        self.services = []
        for number, authority in enumerate(self.authorities):
            file = authority.create_verifier(folder / f"verifier{number}.json")
            self.services.append(cleanup.enter_context(orders_service(file, max_staleness=BOUND)))

    def start(self, number: int) -> AuthorityProcess:
        """Start an authority at its address, with the database that all share."""
        url = self.cluster.url(addresses=[link.address for link in self.links] if number == 0 else ())
        flags = ["--config", str(self._folder / "config.toml"), "--database", url]
        flags += ["--grpc-address", f"127.0.0.1:{self._ports[number]}", "--issuer", "https://auth.example"]
        return AuthorityProcess(self._folder / "data", *flags)

    def _stop(self) -> None:
        for authority in self.authorities:
            if authority.process.poll() is None:
                authority.kill()


# Faults. Each returns when the system should be whole again by itself.


def switchover(system: System) -> None:
    primary = _primary(system)
    primary.post("/switchover", {"leader": primary.name})


def primary_postgres_killed(system: System) -> None:
    os.kill(_primary(system).postmaster(), signal.SIGKILL)
    _until_it_shows(system)


def primary_node_killed(system: System) -> None:
    node = _primary(system)
    node.signal(signal.SIGKILL)
    _until_another_leads(system, node)
    node.start()


def primary_frozen(system: System) -> None:
    """Stopped, and woken when another has its place: it then believes for a moment that it still leads."""
    node = _primary(system)
    node.signal(signal.SIGSTOP)
    try:
        _until_another_leads(system, node)
        time.sleep(2)
    finally:
        node.signal(signal.SIGCONT)


def primary_cut_off(system: System) -> None:
    """Cut off from etcd, replicas and authorities, and back when another has its place."""
    node = _primary(system)
    node.cut()
    try:
        _until_another_leads(system, node)
        time.sleep(2)
    finally:
        node.heal()


def authority_cut_off(system: System) -> None:
    """One of them cannot reach the database, for longer than anything that it waits for."""
    for link in system.links:
        link.stall()
    time.sleep(20)
    for link in system.links:
        link.resume()


def authority_killed(system: System) -> None:
    system.authorities[0].kill()
    system.authorities[0] = system.start(0)


def authorities_restarted(system: System) -> None:
    for number in range(AUTHORITIES):
        assert system.authorities[number].stop() == 0
        system.authorities[number] = system.start(number)


def primary_disk_full(system: System) -> None:
    node = _primary(system)
    ballast = node.fill()
    try:
        _until_another_leads(system, node, or_seconds=25)
    finally:
        ballast.unlink()


FAULTS: Sequence[Callable[[System], None]] = (
    switchover,
    primary_postgres_killed,
    primary_node_killed,
    primary_frozen,
    primary_cut_off,
    primary_disk_full,
    authority_cut_off,
    authority_killed,
    authorities_restarted,
)


def _primary(system: System) -> Node:
    primary = system.cluster.primary()
    assert primary is not None
    return primary


def _until_it_shows(system: System) -> None:
    """Wait until Patroni has seen what happened; before, it says that all is well."""
    deadline = time.monotonic() + 10
    while system.cluster.is_whole() and time.monotonic() < deadline:
        time.sleep(0.05)


def _until_another_leads(system: System, node: Node, or_seconds: float = 60) -> None:
    deadline = time.monotonic() + or_seconds
    while time.monotonic() < deadline:
        for other in system.cluster.nodes:
            status = other.status() if other is not node else None
            if status and status.get("role") == "master" and status.get("state") == "running":
                return
        time.sleep(0.25)


# What is compared afterwards


@dataclass
class Findings:
    """Of one fault."""

    fault: str
    write_gap: float
    verification_gap: float
    revocation: float
    acknowledged: int
    refused: Counter[str]
    lost: list[str]
    violations: list[str]

    @property
    def row(self) -> str:
        doubled = sum("twice" in violation for violation in self.violations)
        others = len(self.violations) - doubled
        return (
            f"| {self.fault.replace('_', ' ')} | {self.write_gap:.1f} s | {self.verification_gap:.1f} s "
            f"| {self.revocation:.2f} s | {self.acknowledged:,} | {len(self.lost)} | {doubled} | {others} |"
        )


HEADER = (
    "| fault | gap in writes | gap in verification | slowest revocation "
    "| acknowledged | lost | doubled | other |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def lost(sessions: Sequence[Session], url: str) -> list[str]:
    """What was acknowledged and is not in the database."""
    found = []
    with psycopg.connect(url, connect_timeout=5) as connection:
        rows = connection.execute("SELECT subject, state, generation FROM grants").fetchall()
    held = {subject: (state, generation) for subject, state, generation in rows}
    for session in sessions:
        if session.generation == 0:
            continue
        if session.subject not in held:
            found.append(f"the grant of {session.subject} is gone")
            continue
        state, generation = held[session.subject]
        if generation < session.generation:
            found.append(f"generation {session.generation} of {session.subject} is gone")
        if session.revoked and state != "revoked":
            found.append(f"the revocation of {session.subject} is gone")
        if not session.revoked and not session.ended and state != "active":
            found.append(f"the grant of {session.subject} is {state}, and nobody has asked for that")
    return found


def examine(system: System, fault: Callable[[System], None]) -> Findings:
    """Break one thing under load, wait until all is whole, compare."""
    with Load(system.endpoints, system.client, system.services) as load:
        time.sleep(_BEFORE)
        load.writes.take()
        for gap in load.verified:
            gap.take()
        fault(system)
        system.cluster.wait_until_whole()
        load.wait_for_a_write()
        time.sleep(_AFTER)
        write_gap = load.writes.take()
        verification_gap = max(gap.take() for gap in load.verified)
    return Findings(
        fault=fault.__name__,
        write_gap=write_gap,
        verification_gap=verification_gap,
        revocation=load.slowest_revocation,
        acknowledged=sum(load.acknowledged.values()),
        refused=load.refused,
        lost=lost(load.sessions, system.cluster.url()),
        violations=load.violations,
    )


def _say(text: str, to: TextIO = sys.stdout) -> None:
    to.write(f"{text}\n")
    to.flush()


def main(names: Sequence[str]) -> int:
    """Run the faults that are named, or all; return how many broke a promise."""
    faults = [fault for fault in FAULTS if not names or fault.__name__ in names]
    broken = 0
    logging.getLogger("rpz_auth").setLevel(logging.ERROR)  # that authorities are away is what is tested
    _say(HEADER)
    with contextlib.ExitStack() as cleanup:
        cluster = cleanup.enter_context(running_cluster())
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="rpz-auth-authorities-")))
        system = System(cluster, folder, cleanup)
        for fault in faults:
            findings = examine(system, fault)
            _say(findings.row)
            _say(f"    refused: {dict(findings.refused)}", to=sys.stderr)
            for problem in [*findings.lost, *findings.violations][:10]:
                _say(f"    {problem}", to=sys.stderr)
            broken += bool(findings.lost or findings.violations)
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
