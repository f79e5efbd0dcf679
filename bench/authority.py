"""What the authority's calls cost: CPU against the bare call and peers, latency against the disk."""

from __future__ import annotations

import base64
import itertools
import json
import os
import sqlite3
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue
from rpz.auth.v1 import token_service_pb2 as pb
from support.authority import (
    CODE_CHALLENGE,
    REDIRECT_URI,
    RESOURCE,
    AuthorityProcess,
    Client,
    exchange_request,
    refresh_request,
)
from support.postgres import programs, running_postgres

from bench.echo import METHOD as ECHO
from bench.echo import Echo
from bench.load import REFRESH, Load, Metadata, Outcome, drive
from bench.measure import Samples, Spread, in_turn, percentile, ratios
from bench.peers import authlib_flask
from bench.process import Subject
from bench.report import Report, Table

_SERVICE = "/rpz.auth.v1.TokenService/"
_NODE = Path("bench/peers/oidc-provider")
_BARE, _REFRESH, _OVER_HTTPS, _ON_POSTGRES, _NODE_REFRESH, _FLASK_REFRESH = (
    "bare call of the same sizes",
    "Refresh",
    "Refresh over HTTPS",
    "Refresh on PostgreSQL, without the database's own",
    "oidc-provider, in memory",
    "Authlib on Flask, SQLAlchemy and SQLite",
)
_PEER_GRANTS = 64  # oidc-provider's memory holds a thousand records and drops the oldest
_PLENTY = 1_000_000
"""What one verifier may ask for in a second and one grant in a minute, which is more than anybody may by
default; it is counted all the same."""
_API_TOKENS = 100
"""That an App may have by default."""
_KEYCLOAK = 120
"""Refreshes per second and vCPU that Keycloak's documentation plans with."""


@dataclass(slots=True)
class Grants:
    """Grants whose newest refresh token is known, so that each round goes on where the last one ended."""

    requests: list[bytes] = field(repr=False)
    renewed: int = 0


def run(*, quick: bool) -> Report:
    """Measure all calls in turn, then the latency of Refresh."""
    count, rounds, grants = (300, 2, 300) if quick else (3000, 5, 4000)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        authority = cleanup.enter_context(pinned_authority(folder / "authority"))
        client = authority.create_client()
        target = Target(authority, (authority.data_dir / "tls/ca.pem").read_bytes())
        kept = target.grants(client, grants)
        takes = {_BARE: _bare(cleanup, target, client, kept, count)}
        takes |= _own(target, client, kept, count)
        takes |= {_OVER_HTTPS: _over_https(target, client, kept, count)}
        on_postgres, check_postgres = _on_postgres(cleanup, folder, grants, count)
        takes |= on_postgres | _peers(cleanup, target, folder, count)
        samples = in_turn(takes, rounds)
        latency, latencies = _latency(target, kept, folder, quick=quick)
        with sqlite3.connect(f"file:{authority.data_dir / 'rpz-auth.db'}?mode=ro", uri=True) as database:
            _check_database(database, kept)
        check_postgres()
    return Report(
        summary=(
            "CPU time of the server's process for one call: TLS, SQLite with `synchronous=FULL`, the "
            "client's secret checked, 64 in flight, server and load on a processor each. Afterwards the "
            "database was opened and held every generation that was answered. Peers do the same work: a "
            "client's secret, a rotated refresh token, an ES256 JWT; Authlib's server without TLS, for which "
            "Flask has none."
        ),
        tables=[_table(samples), latencies],
        raw={"cpu": samples, "latency": latency},
    )


def wide_limits(data_dir: Path) -> str:
    """A flag by which an authority allows what one client of a measurement asks for, and counts it."""
    config = data_dir.with_suffix(".toml")
    config.write_text(f"verification_limit = {_PLENTY}\nrefresh_limit = {_PLENTY}\n")
    return f"--config={config}"


@contextmanager
def pinned_authority(data_dir: Path, *flags: str) -> Iterator[AuthorityProcess]:
    """An authority that stays on one processor."""
    prefix = ("taskset", "-c", str(min(os.sched_getaffinity(0)))) if (os.cpu_count() or 1) > 1 else ()
    authority = AuthorityProcess(data_dir, wide_limits(data_dir), *flags, prefix=prefix)
    try:
        yield authority
        assert authority.stop() == 0, authority.log.read_text()
    finally:
        if authority.process.poll() is None:
            authority.kill()


def identity(path: Path) -> Metadata:
    """What the App of a bootstrap or verifier file sends with a call."""
    content = json.loads(path.read_text(encoding="utf-8"))
    text = f"{content['app_id']}:{content['api_token']}"
    return (("authorization", "Basic " + base64.b64encode(text.encode()).decode()),)


def _issue_requests(client: Client, count: int) -> Sequence[pb.IssueCodeRequest]:
    return [
        pb.IssueCodeRequest(
            client_id=client.app_id,
            redirect_uri=REDIRECT_URI,
            scopes=["orders.read"],
            subject=f"user:{number}",
            code_challenge=CODE_CHALLENGE,
            code_challenge_method="S256",
        )
        for number in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Target:
    """The authority, as its load sees it."""

    authority: AuthorityProcess
    ca: bytes

    def call(self, method: str, calls: Sequence[tuple[Metadata, Message]], *, keep: bool = False) -> Outcome:
        """Make each of the calls once; all must succeed."""
        load = Load(
            target=self.authority.address,
            server=self.authority.process.pid,
            ca=self.ca,
            method=_SERVICE + method,
            calls=[(metadata, message.SerializeToString()) for metadata, message in calls],
            count=len(calls),
            keep_answers=keep,
        )
        return _good(drive(load), method)

    def codes(self, client: Client, count: int) -> Sequence[str]:
        """Issue codes."""
        who = identity(self.authority.data_dir / "bootstrap.json")
        calls = [(who, request) for request in _issue_requests(client, count)]
        answers = self.call("IssueCode", calls, keep=True).answers.values()
        return [pb.IssueCodeResponse.FromString(answer).code for answer in answers]

    def grants(self, client: Client, count: int) -> Grants:
        """Take grants as far as their first refresh token."""
        calls = [((), exchange_request(client, code)) for code in self.codes(client, count)]
        answers = self.call("ExchangeToken", calls, keep=True).answers.values()
        tokens = [pb.ExchangeTokenResponse.FromString(answer).refresh_token for answer in answers]
        return Grants([refresh_request(client, token).SerializeToString() for token in tokens])

    def renew(self, grants: Grants, count: int, *, rate: float | None = None) -> Outcome:
        """Renew, each time the grant that was renewed longest ago."""
        load = Load(
            target=self.authority.address,
            server=self.authority.process.pid,
            ca=self.ca,
            method=REFRESH,
            calls=[((), request) for request in grants.requests],
            count=count,
            rate=rate,
            chained=True,
        )
        outcome = _good(drive(load), "Refresh")
        grants.requests = [
            *outcome.last[count % len(outcome.last) :],
            *outcome.last[: count % len(outcome.last)],
        ]
        grants.renewed += count
        return outcome


def _good(outcome: Outcome, what: str) -> Outcome:
    assert set(outcome.codes) <= {"OK", "200"}, f"{what}: {outcome.codes} {outcome.complaints}"
    return outcome


def cost(outcome: Outcome) -> float:
    """CPU time of the server in µs for each call."""
    return outcome.cpu / outcome.codes.total() * 1e6


def _own(target: Target, client: Client, grants: Grants, count: int) -> dict[str, Callable[[], float]]:
    authority = target.authority
    who = identity(authority.data_dir / "bootstrap.json")
    asks = identity(authority.create_verifier(authority.data_dir / "verifier.json"))
    token = authority.exchange(client, authority.issue_code(client)).access_token

    def issue_code() -> float:
        calls = [(who, request) for request in _issue_requests(client, count)]
        return cost(target.call("IssueCode", calls))

    def exchange_token() -> float:
        calls = [((), exchange_request(client, code)) for code in target.codes(client, count)]
        return cost(target.call("ExchangeToken", calls))

    def create_api_token() -> float:
        apps = [authority.create_client().app_id for _ in range(-(-count // _API_TOKENS))]
        requests = [
            pb.CreateApiTokenRequest(app_id=app_id, scopes=["orders.read"], resources=[RESOURCE])
            for app_id in itertools.islice(itertools.cycle(apps), count)
        ]
        return cost(target.call("CreateApiToken", [(who, request) for request in requests]))

    def introspect() -> float:
        request = pb.IntrospectTokenRequest(token=token)
        return cost(target.call("IntrospectToken", [(asks, request)] * count))

    return {
        _REFRESH: lambda: cost(target.renew(grants, count)),
        "IssueCode": issue_code,
        "ExchangeToken": exchange_token,
        "CreateApiToken": create_api_token,
        "IntrospectToken": introspect,
    }


def _bare(
    cleanup: ExitStack, target: Target, client: Client, grants: Grants, count: int
) -> Callable[[], float]:
    """A server of the same stack that answers at once, with messages as long as those of Refresh."""
    tls = target.authority.data_dir / "tls"
    answer = target.authority.exchange(client, target.authority.issue_code(client))
    echo = Echo(
        stack="asyncio",
        uvloop=True,
        certificate=(tls / "server.pem").read_bytes(),
        key=(tls / "server.key").read_bytes(),
        answer_bytes=answer.ByteSize(),
    )
    subject = cleanup.enter_context(Subject("bench.echo", echo))
    load = Load(
        target=f"localhost:{subject.ready.port}",
        server=subject.pid,
        ca=target.ca,
        method=ECHO,
        calls=[((), BytesValue(value=bytes(len(grants.requests[0]))).SerializeToString())],
        count=count,
    )
    return lambda: cost(_good(drive(load), _BARE))


def _over_https(target: Target, client: Client, grants: Grants, count: int) -> Callable[[], float]:
    """Grants of its own; what is renewed is counted with the others."""
    tokens = [target.authority.exchange(client, code).refresh_token for code in target.codes(client, 64)]
    port = urllib.parse.urlsplit(target.authority.url).port or 443
    pid = target.authority.process.pid
    form = {"client_id": client.app_id, "client_secret": client.secret}
    take = _form_renewals(pid, port, target.ca, "/oauth/token", form, tokens, count)

    def renew() -> float:
        grants.renewed += count
        return take()

    return renew


def _on_postgres(
    cleanup: ExitStack, folder: Path, grants: int, count: int
) -> tuple[dict[str, Callable[[], float]], Callable[[], None]]:
    """The authority's part on a server of its own, which stays where the system puts it; and its check."""
    if programs() is None:
        return {}, lambda: None
    server = cleanup.enter_context(running_postgres())
    url = server.create_database()
    authority = cleanup.enter_context(pinned_authority(folder / "on-postgres", f"--database={url}"))
    target = Target(authority, (authority.data_dir / "tls/ca.pem").read_bytes())
    kept = target.grants(authority.create_client(), grants)

    def check() -> None:
        with psycopg.connect(url) as database:
            _check_database(database, kept)

    return {_ON_POSTGRES: lambda: cost(target.renew(kept, count))}, check


def _peers(cleanup: ExitStack, target: Target, folder: Path, count: int) -> dict[str, Callable[[], float]]:
    tls = target.authority.data_dir / "tls"
    node = cleanup.enter_context(
        _node((tls / "server.pem").read_text(), (tls / "server.key").read_text(), _PEER_GRANTS)
    )
    spec = authlib_flask.Spec(str(folder / "authlib.db"), _PEER_GRANTS)
    flask = cleanup.enter_context(Subject("bench.peers.authlib_flask", spec))
    few = max(100, count // 5)  # it is slow enough
    return {
        _NODE_REFRESH: _form_renewals(
            node.pid, node.port, target.ca, "/token", _peer(node.secret), node.tokens, count
        ),
        _FLASK_REFRESH: _form_renewals(
            flask.pid, flask.ready.port, None, "/token", _peer(flask.ready.secret), flask.ready.tokens, few
        ),
    }


def _peer(secret: str) -> Mapping[str, str]:
    return {"client_id": "peer", "client_secret": secret}


@dataclass(frozen=True, slots=True)
class _Node:
    pid: int
    port: int
    secret: str = field(repr=False)
    tokens: Sequence[str] = field(repr=False)


@contextmanager
def _node(certificate: str, key: str, grants: int) -> Iterator[_Node]:
    if not (_NODE / "node_modules").exists():
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=_NODE, check=True)  # noqa: S607
    prefix = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*prefix, "node", "server.mjs"], cwd=_NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump({"certificate": certificate, "key": key, "grants": grants}, process.stdin)
        process.stdin.close()
        # Its warnings go to standard output too.
        told = next(line for line in process.stdout if line.startswith("{"))
        yield _Node(process.pid, **json.loads(told))
    finally:
        process.terminate()
        process.wait(10)


def _form_renewals(
    pid: int,
    port: int,
    ca: bytes | None,
    path: str,
    client: Mapping[str, str],
    tokens: Sequence[str],
    count: int,
) -> Callable[[], float]:
    form = {"grant_type": "refresh_token", **client}
    requests = [urllib.parse.urlencode({**form, "refresh_token": token}).encode() for token in tokens]

    def renew() -> float:
        load = Load(
            target=f"{'localhost' if ca else '127.0.0.1'}:{port}",
            server=pid,
            ca=ca,
            method=path,
            calls=[((), request) for request in requests],
            count=count,
            chained=True,
            http=True,
        )
        outcome = _good(drive(load), path)
        requests[:] = outcome.last
        return cost(outcome)

    return renew


def _table(samples: Samples) -> Table:
    rows = [
        (name, Spread.of(figures).text(), ratios(samples, name, _BARE).text(2))
        for name, figures in samples.items()
    ]
    per_core = 1e6 / Spread.of(samples[_REFRESH]).median
    node, flask = (ratios(samples, _REFRESH, peer).median for peer in (_NODE_REFRESH, _FLASK_REFRESH))
    note = (
        f"Refresh costs {node:.2f} of oidc-provider's in-memory refresh and {flask:.3f} of Authlib's; "
        f"{per_core:,.0f} per second and core are {per_core / _KEYCLOAK:.0f} × what Keycloak's documentation "
        f"plans with ({_KEYCLOAK})."
    )
    return Table("CPU µs per call", ("", "µs", "of the bare call"), rows, note=note)


def _latency(
    target: Target, grants: Grants, folder: Path, *, quick: bool
) -> tuple[Mapping[str, object], Table]:
    """Latency at parts of the highest rate, beside one fsync of the same disk."""
    count = 300 if quick else 3000
    highest = count / target.renew(grants, count).seconds
    synced = _fsync_seconds(folder)
    rows = [("one fdatasync of 4 KiB", "", *_milliseconds(synced))]
    raw: dict[str, object] = {"highest rate": highest, "fdatasync": synced}
    ratio = 0.0
    for part in (0.1, 0.5, 0.8):
        outcome = target.renew(grants, count, rate=part * highest)
        raw[f"at {part}"] = list(outcome.latencies)
        rows.append(
            (f"{part:.0%} of the highest rate", f"{part * highest:,.0f}", *_milliseconds(outcome.latencies))
        )
        if part == 0.5:  # noqa: PLR2004 - the rate that the bound is about
            ratio = percentile(outcome.latencies, 0.99) / percentile(synced, 0.5)
    note = (
        f"Highest rate: {highest:,.0f} per second, by a load that takes a whole processor itself. At half of "
        f"it the 99th percentile is {ratio:.0f} × one fdatasync. Latency counts from when a call was due."
    )
    return raw, Table(
        "Refresh at a fixed rate, in ms", ("", "per second", "p50", "p99", "p99.9", "max"), rows, note
    )


def _milliseconds(figures: Sequence[float]) -> Sequence[str]:
    parts = (0.5, 0.99, 0.999, 1.0)
    return [f"{percentile(figures, part) * 1e3:.1f}" for part in parts]


def _fsync_seconds(folder: Path) -> Sequence[float]:
    figures = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            figures.append(time.perf_counter() - begun)
    return figures


def _check_database(database: sqlite3.Connection | psycopg.Connection[Any], grants: Grants) -> None:
    """What was answered must be there: each grant's first generation, and one for each renewal."""
    ((renewed,),) = database.execute(
        "SELECT sum(generation) - count(*) FROM grants WHERE generation > 1 AND state = 'active'"
    ).fetchall()
    assert renewed == grants.renewed, f"{renewed} renewals in the database, and {grants.renewed} answers"
