"""What each path of an HTTP service demands of its caller."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rpz_auth.errors import ConfigurationError
from rpz_auth.policy import CLIENT, Policy

WEBSOCKET = "WEBSOCKET"
"""Stands where the method of a request would."""

_KEY = re.compile(r"(?:(?P<method>[A-Z]+) )?(?P<path>/\S*)", re.ASCII)
_SEGMENT = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
_REST = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*:path\}", re.ASCII)
# Routers take a line feed at the end for no character at all (Starlette's `$`), or stop before one:
# the handler of one path would run under the policy of another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class _Template:
    method: str | None
    """None for all of them."""
    segments: tuple[str | None, ...]
    """None for one that may be anything but empty."""
    has_rest: bool
    """Whether anything may follow."""

    def matches(self, method: str, path: str) -> bool:
        if self.method not in (None, method, "GET" if method == "HEAD" else None):
            return False
        before, *given = path.split("/")
        if before or (len(given) > len(self.segments)) != self.has_rest or len(given) < len(self.segments):
            return False
        return all(
            part == own if own is not None else bool(part)
            for own, part in zip(self.segments, given, strict=False)
        )

    def covers(self, other: _Template) -> bool:
        """Tell whether everything that the other matches is matched here."""
        if self.method not in (None, other.method):
            return False
        if len(other.segments) < len(self.segments) or (other.has_rest and not self.has_rest):
            return False
        if len(other.segments) > len(self.segments) and not self.has_rest:
            return False
        return all(own in (None, theirs) for own, theirs in zip(self.segments, other.segments, strict=False))


class PathTable:
    """From method and path to a policy: the first key that matches. What none matches is refused.

    Keys are paths as Starlette and FastAPI write them, in the order of the routes: `/orders/{order_id}` for
    one segment, `/files/{rest:path}` for all that follows, with a method before where it matters
    (`GET /orders`, `WEBSOCKET /feed`). `GET` includes `HEAD`. A key without a method is for all of them.
    """

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        """Take policies by key.

        Raises:
            ConfigurationError: There are none; a key is not of this form, or would change nothing because one
                before it matches all that it does; a policy is for the authority alone.
        """
        self._rows: list[tuple[_Template, Policy]] = []
        self._policies = dict(policies)
        for key, policy in policies.items():
            template = _read(key)
            if policy == CLIENT:
                raise ConfigurationError("the policy `client` is for the authority alone; demand scopes")
            if any(before.covers(template) for before, _ in self._rows):
                raise ConfigurationError(
                    f"{key!r} counts for nothing: a key before it matches all that it does"
                )
            self._rows.append((template, policy))
        if not self._rows:
            raise ConfigurationError(
                "name the paths to serve, as in policies={'/orders': scopes('orders.read')}"
            )

    def find(self, method: str, path: str) -> Policy | None:
        """The policy of a request, None if there is none."""
        if _CONTROL.search(path):
            return None
        for template, policy in self._rows:
            if template.matches(method, path):
                return policy
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __str__(self) -> str:
        """A line for each key, as printed at start-up."""
        width = max(map(len, self._policies))
        return "\n".join(f"{key:<{width}}  {policy}" for key, policy in self._policies.items())


def _read(key: str) -> _Template:
    match = _KEY.fullmatch(key)
    if match is None or "//" in key:
        raise ConfigurationError(f"{key!r} is not a path: write '/orders/{{order_id}}' or 'GET /orders'")
    parts = match["path"].split("/")[1:]
    has_rest = _REST.fullmatch(parts[-1]) is not None
    if has_rest:
        parts.pop()
    segments: list[str | None] = []
    for part in parts:
        if _SEGMENT.fullmatch(part):
            segments.append(None)
        elif re.search(r"[{}?#%*]", part):
            raise ConfigurationError(
                f"{key!r}: a segment is a word or {{name}}, the last perhaps {{name:path}}"
            )
        else:
            segments.append(part)
    return _Template(match["method"], tuple(segments), has_rest)
