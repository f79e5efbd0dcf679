"""How the story is told: numbered steps, what was sent, what came back, whether that is as it should be."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import rpz_auth
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

TIMEOUT = 10.0
"""Seconds that each call may take."""

Metadata = Sequence[tuple[str, str]]

_BASIC = re.compile(r"\bBasic ([A-Za-z0-9+/=]+)")
# Whatever is long and has no spaces: handles, JWTs, PKCE verifiers. App IDs have 36 characters.
_CREDENTIAL = re.compile(r"(rpz[a-z]_|)([A-Za-z0-9._~+=-]{40,})")
_ENDING = 4


class NotAsItShould(Exception):  # noqa: N818 - what a step found, not a fault of the program
    """A step of the story went another way; the message says what was expected and what came."""


class StoryEnded(Exception):  # noqa: N818 - the steps that follow build upon the one that failed
    """The story cannot go on."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls go: a stub, and what it is called in the story."""

    name: str
    stub: Any


@dataclass(frozen=True, slots=True)
class Refused:
    """A call was refused."""

    code: grpc.StatusCode
    reason: str | None
    details: str

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason or '(without a reason)'}: {self.details}"


class Narrator:
    """Tells the steps, and remembers whether all were as they should be."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._shown: Metadata = ()
        self._remark = ""
        self.told = 0
        self.good = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Tell one step; what is raised inside makes it a bad one.

        Raises:
            StoryEnded: It was not as it should be.
        """
        self.told += 1
        self._shown, self._remark = (), "as it should be"
        self._console.print()
        self._line(f"{self.told:>2}", title, "bold")
        try:
            yield
        except Exception as error:
            problem = str(error) if isinstance(error, NotAsItShould) else f"{type(error).__name__}: {error}"
            self._line("   ✗", f"NOT AS IT SHOULD BE: {problem}", "bold red")
            raise StoryEnded from error
        self.good += 1
        self._line("   ✓", self._remark, "green")

    def sent(self, text: str) -> None:
        """Show what was sent."""
        self._line("   →", text, "cyan")

    def received(self, text: str) -> None:
        """Show what came back."""
        self._line("   ←", text)

    def remark(self, text: str) -> None:
        """Say with what the step ends, if it ends well."""
        self._remark = text

    def answered(self, endpoint: Endpoint, method: str, request: Any, metadata: Metadata = ()) -> Any:
        """Make a call that must be answered, and show it.

        Args:
            endpoint: Whom to call.
            method: As in the .proto.
            request: A message, or a list of them for a method that takes a stream.
            metadata: What to send with it.

        Returns:
            The answer, or a list of answers of a method that streams them.

        Raises:
            NotAsItShould: It was refused.
        """
        outcome = self._call(endpoint, method, request, metadata)
        if isinstance(outcome, Refused):
            raise NotAsItShould(f"expected an answer, got {outcome}")
        return outcome

    def refused(
        self,
        endpoint: Endpoint,
        method: str,
        request: Any,
        metadata: Metadata = (),
        *,
        code: grpc.StatusCode,
        reason: rpz_auth.Reason,
    ) -> None:
        """Make a call that must be refused, and show it; arguments as in `answered`.

        Raises:
            NotAsItShould: It was answered, or refused in another way.
        """
        outcome = self._call(endpoint, method, request, metadata)
        if not isinstance(outcome, Refused):
            raise NotAsItShould(f"expected {code.name} {reason}, got an answer")
        self.expect("the refusal", f"{outcome.code.name} {outcome.reason}", f"{code.name} {reason}")

    @staticmethod
    def expect(what: str, actual: object, expected: object) -> None:
        """Compare.

        Raises:
            NotAsItShould: They differ.
        """
        if actual != expected:
            raise NotAsItShould(f"expected {what} to be {expected!r}, got {actual!r}")

    def _call(self, endpoint: Endpoint, method: str, request: Any, metadata: Metadata) -> Any:
        requests = request if isinstance(request, list) else [request]
        if metadata != self._shown:
            for key, value in metadata:
                self.sent(f"{key}: {value}")
        self._shown = metadata
        self.sent(f"{endpoint.name}: {method}({_all_in_short(requests)})")
        outcome = call(endpoint, method, request, metadata)
        if isinstance(outcome, Refused):
            self.received(str(outcome))
        else:
            self.received(_all_in_short(outcome if isinstance(outcome, list) else [outcome]) or "(empty)")
        return outcome

    def _line(self, mark: str, text: str, style: str = "") -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style), Text(redact(text), style))
        self._console.print(Padding(grid, (0, 0, 0, 1)))


def call(endpoint: Endpoint, method: str, request: Any, metadata: Metadata = ()) -> Any:
    """Make a call; arguments and answer as in `Narrator.answered`, or a `Refused`."""
    try:
        answer = getattr(endpoint.stub, method)(
            iter(request) if isinstance(request, list) else request, metadata=metadata, timeout=TIMEOUT
        )
        return answer if isinstance(answer, Message) else list(answer)
    except grpc.RpcError as error:
        return Refused(error.code(), rpz_auth.reason_of(error), error.details() or "")


def in_short(message: Message) -> str:
    """A message on one line."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    return ", ".join(f"{name}: {_value_in_short(value)}" for name, value in fields.items())


def _all_in_short(messages: Sequence[Message]) -> str:
    return in_short(messages[0]) if len(messages) == 1 else "; ".join(map(in_short, messages))


def _value_in_short(value: Any) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{name}: {_value_in_short(inner)}' for name, inner in value.items())}}}"
        case list():
            return f"[{', '.join(map(_value_in_short, value))}]"
        case _:
            return str(value)


def redact(text: str) -> str:
    """Shorten every credential to its kind and its last four characters."""
    return _CREDENTIAL.sub(_shorten, _BASIC.sub(_open_basic, text))


def _shorten(match: re.Match[str]) -> str:
    kind, rest = match.groups()
    return f"{kind or rest[:_ENDING]}…{rest[-_ENDING:]}"


def _open_basic(match: re.Match[str]) -> str:
    try:
        user, _, password = base64.b64decode(match[1], validate=True).decode().partition(":")
    except ValueError:
        return "Basic …"
    return f"Basic({user}:{_shorten(found) if (found := _CREDENTIAL.fullmatch(password)) else '…'})"
