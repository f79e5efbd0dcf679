"""What the interceptor costs a service: CPU per call, against the bare call and what is done today."""

from __future__ import annotations

import itertools
import json
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue
from support.authority import AuthorityProcess, running_authority

from bench.authority import wide_limits
from bench.echo import METHOD, Echo, Ready, Stack
from bench.load import Load, Metadata, drive
from bench.machine import cpu_seconds
from bench.measure import Samples, Spread, added, in_turn, ratios
from bench.process import Subject
from bench.report import Report, Table

_REQUEST = BytesValue(value=bytes(100)).SerializeToString()
_IN_FLIGHT = 16
_STACKS: Sequence[Stack] = ("sync", "asyncio")
_BARE, _WARM, _PYJWT, _INTROSPECTION = (
    "bare call",
    "access token, warm",
    "PyJWT on every call",
    "introspection on every call",
)
_AUTHORITY_SIDE = "introspection, at the authority"


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    echo: Echo
    metadata: Callable[[Ready, int], Sequence[Metadata]]
    """What calls of a round carry."""
    code: str = "OK"


def run(*, quick: bool) -> Report:
    """Measure all cases on both stacks, in turn."""
    count, rounds = (400, 2) if quick else (3000, 5)
    tables: list[Table] = []
    raw: dict[str, Samples] = {}
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        data_dir = folder / "authority"
        authority = cleanup.enter_context(running_authority(data_dir, wide_limits(data_dir)))
        for stack in _STACKS:
            samples = _measure(stack, authority, count, rounds, revoked=10_000 if quick else 1_000_000)
            raw[stack] = samples
            tables.append(_table(stack, samples))
    return Report(
        summary=(
            "CPU time of the service's process for one unary call over TLS (100 bytes each way, "
            "16 in flight, service and load on a processor each): median and range of the rounds. *Added* is "
            "the difference to the bare call of the same round. Every answer was checked, refusals too."
        ),
        tables=tables,
        raw=raw,
    )


def _cases(echo: Echo, count: int, rounds: int, revoked: int) -> Sequence[_Case]:
    def warm(ready: Ready, _round: int) -> Sequence[Metadata]:
        return ready.access_tokens[:1]

    def fresh(ready: Ready, number: int) -> Sequence[Metadata]:
        return ready.access_tokens[number * count : (number + 1) * count]

    def random(_ready: Ready, _round: int) -> Sequence[Metadata]:
        return [(("authorization", f"Bearer {secrets.token_urlsafe(300)}"),) for _ in range(count)]

    guarded = replace(echo, guard="rpz")
    refused = "UNAUTHENTICATED"
    return (
        _Case(_BARE, echo, warm),
        _Case("interceptor that does nothing", replace(echo, guard="pass"), warm),
        _Case("interceptor that wraps the handler", replace(echo, guard="wrap"), warm),
        _Case(_WARM, guarded, warm),
        _Case("API token, warm", guarded, lambda ready, _: [ready.api_token]),
        _Case("access token, cold", replace(guarded, tokens=count * (rounds + 1)), fresh),
        _Case("warm, whitelist of 1", replace(guarded, whitelist=1), warm),
        _Case("warm, whitelist of 100", replace(guarded, whitelist=100), warm),
        _Case("warm, whitelist of 1,000", replace(guarded, whitelist=1000), warm),
        _Case("warm, 1 revoked", replace(guarded, revoked=1), warm),
        _Case(f"warm, {revoked:,} revoked", replace(guarded, revoked=revoked), warm),
        _Case("refused: no credential", guarded, lambda *_: [()], refused),
        _Case("refused: random token", guarded, random, refused),
        _Case("refused: forged signature", guarded, lambda ready, _: [ready.forged], refused),
        _Case(_PYJWT, replace(echo, guard="pyjwt"), warm),
    )


def _measure(stack: Stack, authority: AuthorityProcess, count: int, rounds: int, *, revoked: int) -> Samples:
    tls = authority.data_dir / "tls"
    ca = (tls / "ca.pem").read_bytes()
    echo = Echo(
        stack=stack, certificate=(tls / "server.pem").read_bytes(), key=(tls / "server.key").read_bytes()
    )
    asked: list[float] = []
    with ExitStack() as cleanup:
        takes: dict[str, Callable[[], float]] = {}
        for case in _cases(echo, count, rounds, revoked):
            subject = cleanup.enter_context(Subject("bench.echo", case.echo))
            takes[case.name] = _taker(case, subject, ca, count)
        case, token = _introspection(echo, authority, ca)
        subject = cleanup.enter_context(Subject("bench.echo", case.echo))
        take = _taker(replace(case, metadata=lambda *_: [token]), subject, ca, count)

        def introspect() -> float:
            before = cpu_seconds(authority.process.pid)
            figure = take()
            asked.append((cpu_seconds(authority.process.pid) - before) / count * 1e6)
            return figure

        takes[_INTROSPECTION] = introspect
        samples = in_turn(takes, rounds)
    return {**samples, _AUTHORITY_SIDE: asked[1:]}


def _taker(case: _Case, subject: Subject, ca: bytes, count: int) -> Callable[[], float]:
    numbers = itertools.count()

    def take() -> float:
        load = Load(
            target=f"localhost:{subject.ready.port}",
            ca=ca,
            method=METHOD,
            calls=[(metadata, _REQUEST) for metadata in case.metadata(subject.ready, next(numbers))],
            count=count,
            in_flight=_IN_FLIGHT,
        )
        before = subject.cpu_seconds()
        outcome = drive(load)
        assert outcome.codes == {case.code: count}, f"{case.name}: {outcome.codes}"
        return (subject.cpu_seconds() - before) / count * 1e6

    return take


def _introspection(echo: Echo, authority: AuthorityProcess, ca: bytes) -> tuple[_Case, Metadata]:
    """The service that asks the authority itself, and a token of that authority."""
    client = authority.create_client()
    tokens = authority.exchange(client, authority.issue_code(client))
    path = authority.create_verifier(authority.data_dir / f"verifier-{echo.stack}.json")
    verifier = json.loads(path.read_text(encoding="utf-8"))
    introspector = (authority.address, ca, verifier["app_id"], verifier["api_token"])
    case = _Case(_INTROSPECTION, replace(echo, guard="introspect", introspector=introspector), lambda *_: [])
    return case, (("authorization", f"Bearer {tokens.access_token}"),)


def _table(stack: Stack, samples: Samples) -> Table:
    rows = []
    for name, figures in samples.items():
        if name == _AUTHORITY_SIDE:
            rows.append((name, Spread.of(figures).text(), "", ""))
        else:
            more = added(samples, name, _BARE)
            rows.append((name, Spread.of(figures).text(), more.text(), ratios(samples, name, _BARE).text(2)))
    warm = added(samples, _WARM, _BARE).median
    others = ", ".join(
        f"{added(samples, name, _BARE).median / warm:.0f} × what a warm token adds: {name}"
        for name in (_PYJWT, _INTROSPECTION)
        if warm > 0
    )
    return Table(f"{stack}: CPU µs per call", ("", "µs", "added", "of the bare call"), rows, note=others)
