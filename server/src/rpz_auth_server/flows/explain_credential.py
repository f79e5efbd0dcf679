"""Telling an App's owner why a service refuses one of its credentials."""

from __future__ import annotations

import base64
import enum
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rpz_auth import access_token, credentials
from rpz_auth.address import UNKNOWN, Peer
from rpz_auth.caller import APP_SUBJECT_PREFIX, Caller, How, Verdict
from rpz_auth.errors import OriginNotAllowed, Reason, Refusal, TokenExpired, TokenInvalid
from rpz_auth.whitelist import ORIGIN, SAN

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.credential import ApiToken
from rpz_auth_server.domain.refusal import NotFound, RequestInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import compiled
from rpz_auth_server.flows.rights import is_administrator
from rpz_auth_server.flows.verify_api_token import find_api_token

_MAX_LENGTH = credentials.MAX_LENGTH
_SHOWN = 5
_DOTS = 2  # RFC 7515 §7.1
_ELSEWHERE = {
    HandleKind.SECRET: "an OAuth 2 secret, which only the token endpoint takes",
    HandleKind.REFRESH: "a refresh token, which only the token endpoint takes: renew with it",
    HandleKind.CODE: "an authorization code, which only the token endpoint takes: redeem it",
}


class Outcome(enum.Enum):
    """What a step comes to."""

    PASSED = enum.auto()
    REFUSED = enum.auto()
    NOT_LOOKED_AT = enum.auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a service looks at."""

    name: str
    outcome: Outcome
    text: str
    reason: Reason | None = None
    """Of a step that refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The call that was refused, as far as it is known."""

    credential: str = field(repr=False)
    """A header's value, or the token alone."""
    resource: str = ""
    """Of the service; empty for whichever."""
    scopes: frozenset[str] = frozenset()
    """Which its method demands."""
    peer: Peer = UNKNOWN
    """As the service sees it, behind its trusted proxies."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The steps in the order in which a service decides; those behind a refusal are told all the same."""

    steps: tuple[Step, ...]
    app_id: str = ""

    @property
    def reason(self) -> Reason | None:
        """What the service answers; None if nothing that was looked at refuses."""
        return next((step.reason for step in self.steps if step.outcome is Outcome.REFUSED), None)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A genuine credential, and whose it is."""

    verdict: Verdict
    app: App
    token: ApiToken | None = None
    presented_as: str = ""
    """The App ID beside an API token; empty when the token came alone."""


async def explain_credential(authority: Authority, caller: Caller, call: Call) -> Explanation:
    """Tell step by step what a service makes of a credential. Nothing is counted as a failure of its App.

    Raises:
        NotFound: It is not genuine, or its App is not the caller's: nobody learns of others' credentials more
            than that. Only an administrator is told which.
        RateLimited: The caller asks too much.
    """
    authority.limiter.take_verification(caller.app_id)
    if not call.credential or len(call.credential) > _MAX_LENGTH:
        raise RequestInvalid(f"credential has from 1 to {_MAX_LENGTH} characters")
    try:
        user, token = _read(call.credential)
    except _Unreadable as unreadable:
        return Explanation((_refused("credential", unreadable.text, unreadable.reason),))
    kind = "access token" if user is None else "API token"
    read = _passed("credential", f"read as an {kind}")
    found = await _find(authority, token, user)
    if isinstance(found, str):
        if not is_administrator(caller):
            raise NotFound
        return Explanation((read, _refused("genuine", found)))
    app = found.app
    if not is_administrator(caller) and (app.deleted or app.owner != caller.subject):
        raise NotFound
    return Explanation((read, *_steps(authority, found, call)), app.app_id)


class _Unreadable(Exception):  # noqa: N818 - it is an answer
    def __init__(self, text: str, reason: Reason = Reason.TOKEN_INVALID) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason


def _read(value: str) -> tuple[str | None, str]:
    """The token, behind the App ID that it is sent with: empty if alone, None for an access token."""
    if " " not in value:
        _check_kind(value)
        return ("" if value.startswith(HandleKind.API_TOKEN.value) else None), value
    try:
        credential = credentials.parse(value)
    except Refusal as refusal:
        raise _Unreadable(refusal.message, refusal.reason) from None
    match credential:
        case credentials.Basic(user, token):
            if token.count(".") == _DOTS:
                raise _Unreadable("an access token is sent as Bearer, and not as Basic")
            _check_kind(token)
            return user, token
        case credentials.Bearer(token):
            _check_kind(token)
            if token.startswith(HandleKind.API_TOKEN.value):
                raise _Unreadable(
                    "an API token is sent as Basic, with the App ID before it, and not as Bearer"
                )
            return None, token


def _check_kind(token: str) -> None:
    for kind, text in _ELSEWHERE.items():
        if token.startswith(kind.value):
            raise _Unreadable(f"this is {text}")
    if not token.startswith(HandleKind.API_TOKEN.value) and token.count(".") != _DOTS:
        raise _Unreadable("neither an access token (three parts with dots between) nor an API token (rpzt_…)")


async def _find(authority: Authority, token: str, user: str | None) -> _Subject | str:
    """The credential, or what is wrong with it."""
    if user is None:
        try:
            verdict = _verify(authority, token)
        except access_token.KeyUnknown:
            return (
                "the key that signed it is not published: it was dropped with all that it signed, or was "
                "never this authority's"
            )
        except TokenInvalid:
            return "it is no access token, its signature is wrong, or it is of another issuer"
        app = await authority.store.app(verdict.app_id)
        return "its App was never here" if app is None else _Subject(verdict, app)
    record = await find_api_token(authority, token)
    if record is None:
        return "this authority never made it, or its database has lost it"
    app = await authority.store.app(record.app_id)
    if app is None:
        return "its App was never here"
    verdict = Verdict(
        how=How.API_TOKEN,
        app_id=record.app_id,
        subject=APP_SUBJECT_PREFIX + record.app_id,
        scopes=record.scopes,
        resources=record.resources,
        token_id=record.api_token_id,
        issued_at=record.created_at,
        expires_at=math.inf if record.expires_at is None else record.expires_at,
    )
    return _Subject(verdict, app, record, user)


def _verify(authority: Authority, token: str) -> Verdict:
    """Verify an access token, also one that has expired."""

    def verify(now: float) -> Verdict:
        keys = authority.view.keys
        return access_token.verify(token, keys, issuer=authority.issuer, resources=None, now=now)

    try:
        return verify(authority.store.now())
    except TokenExpired:  # so its signature is good, and its claims can be read
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return verify(math.nextafter(claims["exp"], 0))


def _steps(authority: Authority, subject: _Subject, call: Call) -> Iterator[Step]:
    yield _genuine(subject)
    yield _resource(subject, call)
    yield _expiry(subject, authority.store.now())
    yield _revocation(authority, subject)
    yield _app(subject)
    yield _whitelist(subject.app, call.peer)
    yield _scopes(subject, call)


def _genuine(subject: _Subject) -> Step:
    verdict, app = subject.verdict, subject.app
    if subject.presented_as not in ("", app.app_id):
        return _refused("genuine", f"it is of App {app.app_id}, and was sent with another App ID")
    for_whom = "" if verdict.subject == APP_SUBJECT_PREFIX + app.app_id else f" for {verdict.subject}"
    name = f" ({app.display_name})" if app.display_name else ""
    return _passed("genuine", f"of App {app.app_id}{name}{for_whom}, issued {_time(verdict.issued_at)}")


def _resource(subject: _Subject, call: Call) -> Step:
    meant = subject.verdict.resources
    text = f"meant for {_list(meant)}"
    if not call.resource:
        return Step("resource", Outcome.NOT_LOOKED_AT, text)
    if call.resource not in meant:
        return _refused("resource", f"{text}, not for {call.resource}")
    if subject.token is not None and call.resource not in subject.app.resources:
        return _refused("resource", f"{call.resource} was taken from the App since")
    return _passed("resource", text)


def _expiry(subject: _Subject, now: float) -> Step:
    ends = subject.verdict.expires_at
    if now >= ends:
        # Of an API token that is not live the authority says nothing more.
        reason = Reason.TOKEN_EXPIRED if subject.token is None else Reason.TOKEN_INVALID
        return _refused("expiry", f"it has expired on {_time(ends)}", reason)
    return _passed("expiry", "never" if math.isinf(ends) else f"good until {_time(ends)}")


def _revocation(authority: Authority, subject: _Subject) -> Step:
    view, verdict = authority.view, subject.verdict
    if subject.token is not None and subject.token.revoked_at is not None:
        return _refused("revocation", f"it was revoked on {_time(subject.token.revoked_at)}")
    for what, identifier in (
        ("it", verdict.token_id),
        (f"its grant {verdict.grant_id}", verdict.grant_id),
        (f"the credential that it was issued for ({verdict.secret_id})", verdict.secret_id),
    ):
        if identifier is not None and view.is_revoked(identifier):
            return _refused("revocation", f"{what} was revoked")
    if view.locked:
        return _refused("revocation", "the whole issuer is locked")
    return _passed("revocation", "not revoked, and the issuer is not locked")


def _app(subject: _Subject) -> Step:
    app, epoch = subject.app, subject.verdict.epoch
    if app.deleted:
        return _refused("app", "the App was deleted")
    if app.locked:
        return _refused("app", "the App is locked")
    if epoch is not None and epoch < app.epoch:
        return _refused("app", "all tokens of the App from before were ended; get a new one")
    return _passed("app", "neither locked nor deleted")


def _whitelist(app: App, peer: Peer) -> Step:
    """Entries about peers and entries about origins are judged apart, each as far as the call is known."""
    entries = app.effective_whitelist
    if not entries:
        return _passed("whitelist", "empty: the App may call from anywhere")
    origins = tuple(entry for entry in entries if entry.startswith(ORIGIN))
    peers = tuple(entry for entry in entries if entry not in origins)
    missing, unknown = [], []
    if peers and not _matches(peers, peer):
        if _is_told(peer) or (peer.names and all(entry.startswith(SAN) for entry in peers)):
            missing.append(_describe(peer))
        else:
            unknown.append("from which peer")
    if origins and not _matches(origins, peer):
        # A call whose peer is told, and that names no origin, comes from no page.
        if _is_told(peer) or peer.origin is not None:
            missing.append(f"the origin {peer.origin or '(none was sent)'}")
        else:
            unknown.append("from which page")
    if missing:
        text = " and ".join(f"no entry has {what}" for what in missing)
        return _refused("whitelist", f"{text}; {_entries(app)}", Reason.ORIGIN_NOT_ALLOWED)
    if unknown:
        text = f"{_entries(app)}; say {' and '.join(unknown)} the call comes"
        return Step("whitelist", Outcome.NOT_LOOKED_AT, text)
    matching = [_entry(app, entry) for entry in entries if _matches((entry,), peer)]
    return _passed("whitelist", f"matched by {', '.join(dict.fromkeys(matching))}")


def _is_told(peer: Peer) -> bool:
    return peer.address is not None or peer.unix


def _describe(peer: Peer) -> str:
    address = f" {peer}" if _is_told(peer) else ""
    names = f" ({', '.join(sorted(peer.names))})" if peer.names else ""
    return f"the peer{address}{names}"


def _matches(entries: tuple[str, ...], peer: Peer) -> bool:
    try:
        compiled(entries).check(peer)
    except OriginNotAllowed:
        return False
    return True


def _entry(app: App, entry: str) -> str:
    return entry if entry in app.whitelist else f"{entry}, where a dns: entry leads"


def _entries(app: App) -> str:
    more = len(app.whitelist) - _SHOWN
    shown = ", ".join(app.whitelist[:_SHOWN])
    return f"the list has {shown}" + (f" and {more} more" if more > 0 else "")


def _scopes(subject: _Subject, call: Call) -> Step:
    held = subject.verdict.scopes
    taken = held - subject.app.scopes if subject.token is not None else frozenset()
    left = held - taken
    if missing := call.scopes - left:
        lost = f"; {_list(taken & missing)} was taken from the App since" if taken & missing else ""
        text = f"{_list(missing)} is missing; it has {_list(left)}{lost}"
        return _refused("scopes", text, Reason.SCOPE_INSUFFICIENT)
    outcome = Outcome.PASSED if call.scopes else Outcome.NOT_LOOKED_AT
    return Step("scopes", outcome, f"it has {_list(left)}")


def _passed(name: str, text: str) -> Step:
    return Step(name, Outcome.PASSED, text)


def _refused(name: str, text: str, reason: Reason = Reason.TOKEN_INVALID) -> Step:
    return Step(name, Outcome.REFUSED, text, reason)


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
