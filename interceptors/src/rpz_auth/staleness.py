"""What becomes of calls while the authority is silent for longer than `max_staleness`."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rpz_auth.errors import ConfigurationError


class Mode(enum.Enum):
    """The three ways."""

    CHECK = "check"
    REFUSE = "refuse"
    SERVE = "serve"


@dataclass(frozen=True, slots=True)
class WhenStale:
    """What to do with a call when what is known may be out of date. Use `CHECK`, `REFUSE` or `serve`."""

    mode: Mode
    until: float = 0.0
    """Seconds of the authority's silence after which `serve` refuses."""

    def __str__(self) -> str:
        return f"{self.mode.value} {self.until:g} s" if self.mode is Mode.SERVE else self.mode.value


CHECK = WhenStale(Mode.CHECK)
"""Ask the authority about each credential, at most once a second; UNAVAILABLE where it does not answer."""

REFUSE = WhenStale(Mode.REFUSE)
"""Refuse with UNAVAILABLE."""


def serve(*, until: float) -> WhenStale:
    """Go on by what is known, until the authority was silent for so many seconds; then refuse.

    A credential that was revoked meanwhile passes for as long: choose it where that is the lesser harm.

    Raises:
        ConfigurationError: It would go on for ever.
    """
    if not 0 < until < math.inf:
        raise ConfigurationError("serve needs a bound: say after how many seconds of silence it ends")
    return WhenStale(Mode.SERVE, until)


class WhenStaleTable:
    """From a method's path to what becomes of its calls; a method's own entry replaces its service's."""

    def __init__(self, choice: WhenStale | Mapping[str, WhenStale], methods: Mapping[str, object]) -> None:
        """Take one choice for all, or choices by full name of a service or path of a method.

        Raises:
            ConfigurationError: One is for what is not among `methods`, which has their paths.
        """
        self._choices = {} if isinstance(choice, WhenStale) else dict(choice)
        self._default = choice if isinstance(choice, WhenStale) else CHECK
        known = {*methods, *(path.rpartition("/")[0].lstrip("/") for path in methods)}
        for name in self._choices:
            if name not in known:
                raise ConfigurationError(f"when_stale names {name}, which no policy of this server is for")

    @property
    def only_refuses(self) -> bool:
        """Whether nothing ever passes without the authority."""
        return all(choice.mode is Mode.REFUSE for choice in (self._default, *self._choices.values()))

    def of(self, path: str) -> WhenStale:
        """The choice for a method."""
        service = path.rpartition("/")[0].lstrip("/")
        return self._choices.get(path) or self._choices.get(service) or self._default
