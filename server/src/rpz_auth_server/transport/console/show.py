"""How things are written on pages: times, kinds, peers, sentences."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

SAID: Mapping[str, str] = {
    "created": "The App is registered. Its locks are under API Authorizations.",
    "saved": "Saved. Verifiers know it already.",
    "locked": "The App is locked. Nothing that it holds is accepted anywhere.",
    "unlocked": "The App is unlocked. Refresh and API tokens work again; access tokens from before do not.",
    "ended": "All access tokens of this App are refused from now on.",
    "deleted": "The App is deleted, with all its credentials.",
    "revoked": "Revoked. It is refused everywhere from now on.",
    "withdrawn": "Withdrawn. The App must ask again, and what it had is refused.",
    "signed-out": "You are signed out.",
    "session-ended": "That browser is signed out.",
    "sessions-ended": "All other browsers are signed out.",
    "password": "The password is changed, and all other browsers are signed out.",
    "account-saved": "The account is saved.",
    "disabled": "The account is disabled: signed out everywhere, and all its grants revoked.",
    "enabled": "The account is enabled.",
    "linked": "The identity is linked. It signs you in from now on.",
    "unlinked": "The identity is not linked any more.",
    "issuer-locked": "The authority is locked. No credential of any App is accepted.",
    "issuer-unlocked": "The authority is unlocked.",
    "key-rotated": "A new signing key is published, and signs as soon as verifiers know it.",
}
"""What a page says after a form; the address has the short name only, so that it can say nothing else."""

_SHORT = 12
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ((_DAY * 365, "year"), (_DAY * 30, "month"), (_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"))


def sentence(text: str) -> str:
    """Begin a message of a refusal like a sentence, and end it like one."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def moment(seconds: float | None) -> Markup:
    """Write a time as people read it; machines get it exactly."""
    if seconds is None or math.isinf(seconds):
        return Markup("never")
    time = dt.datetime.fromtimestamp(seconds, dt.UTC)
    shown = f"{time.day} {time:%b %Y, %H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(time.isoformat(timespec="seconds"), shown)


def ago(seconds: float | None, now: float) -> Markup:
    """Write how long ago something was; the exact time is its title."""
    if seconds is None:
        return Markup("never")
    time = dt.datetime.fromtimestamp(seconds, dt.UTC)
    shown = "just now" if now - seconds < _MINUTE else f"{_span(now - seconds)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        time.isoformat(timespec="seconds"), f"{time.day} {time:%b %Y, %H:%M} UTC", shown
    )


def until(seconds: float | None, now: float) -> Markup:
    """Write when something ends."""
    if seconds is None or math.isinf(seconds):
        return Markup("no end")
    time = dt.datetime.fromtimestamp(seconds, dt.UTC)
    shown = "ended" if seconds <= now else f"in {_span(seconds - now)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        time.isoformat(timespec="seconds"), f"{time.day} {time:%b %Y, %H:%M} UTC", shown
    )


def span(seconds: float) -> str:
    """Write a length of time."""
    return _span(seconds)


def _span(seconds: float) -> str:
    almost = seconds + _MINUTE / 2  # 90 days are 90 days when a second of them has passed
    for size, unit in _UNITS:
        if almost >= size:
            count = int(almost // size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def short(identifier: str) -> str:
    """The beginning of an identifier, where there is no room for it."""
    return identifier if len(identifier) <= _SHORT else f"{identifier[:8]}\u2026"


def agent(text: str) -> str:
    """Which browser somebody uses, as far as it tells."""
    systems = ("iPhone", "iPad", "Android", "Windows", "Mac OS X", "CrOS", "Linux")
    browsers = (("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
    browser = next((name for mark, name in browsers if mark in text), "A browser")
    system = next((name for name in systems if name in text), "")
    return f"{browser} on {system}" if system else browser


FILTERS: Mapping[str, Callable[..., Any]] = {
    "moment": moment,
    "ago": ago,
    "until": until,
    "span": span,
    "short": short,
    "agent": agent,
    "sentence": sentence,
}
