"""Structured logs: one line per record, on which no credential stands.

Credentials are kept out of records where these are made. What the last step here strikes out is what
slipped through: in a third party's message, an exception's text, an object's representation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_TOKEN68 = r"[A-Za-z0-9._~+/-]"
# No word boundaries: in JSON a token may stand directly behind the n of an escaped line feed.
_CREDENTIAL = re.compile(
    r"(?P<handle>rpz[crts]_)[A-Za-z0-9_-]+"
    r"|(?P<scheme>(?:bearer|basic)(?:\s|\\+[nrt]|%20)+)" + _TOKEN68 + r"{8,}=*"
    r"|(?P<jwt>eyJ)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)+"
    r"|(?P<query>[?&](?:access_)?token=)[^&#\s\"'\\]+",
    re.ASCII | re.IGNORECASE,
)
# In lower case; a line with none of these needs no regular expression.
_HINTS = ("rpzc_", "rpzr_", "rpzt_", "rpzs_", "bearer", "basic", "eyj", "token=")
_REDACTED = "[redacted]"

# Line breaks of all kinds, other control characters, what turns the direction of text, halves of pairs.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_WORD = re.compile(r"[^\s\"'=]+")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def configure(
    *, log_format: Literal["console", "json"], log_level: str, stream: TextIO | None = None
) -> None:
    """Send all logs of this process, structlog's and the standard library's, to one stream.

    Args:
        log_format: Lines for eyes, or JSON.
        log_level: The least level that is logged, as in `Settings`.
        stream: Where to; standard error if None.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # plain tracebacks: the rich kind shows local variables
    ]
    render = _to_console if log_format == "console" else _to_json
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Renderer(render)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(log_level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(text: str) -> str:
    """Strike out what looks like one of our credentials, an access token, or an authorization field."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    return _CREDENTIAL.sub(_strike, text)


def escape(text: str) -> str:
    """Make one line of a text, which shows nothing that it is not."""
    return _UNSAFE.sub(lambda match: _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


class _Renderer:
    """The last step: whatever object a value is, what is written went through here."""

    def __init__(self, render: Callable[[EventDict], str]) -> None:
        self._render = render

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
        return escape(redact(self._render(event_dict)))


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a record was lost; the standard library would print its arguments."""
        kind = sys.exc_info()[0]
        name = kind.__name__ if kind else "unknown"
        with contextlib.suppress(OSError, ValueError):  # full or closed: no call must fail of that
            self.stream.write(f"a log record of {escape(record.name)} could not be written: {name}\n")


def _strike(match: re.Match[str]) -> str:
    kept = match["handle"] or match["scheme"] or match["query"] or ""
    return kept + _REDACTED


def _to_json(event_dict: EventDict) -> str:
    return json.dumps(event_dict, default=repr)


def _to_console(event_dict: EventDict) -> str:
    head = (str(event_dict.pop(name, "")) for name in ("timestamp", "level", "event"))
    return " ".join([*head, *(f"{name}={_show(value)}" for name, value in event_dict.items())])


def _show(value: Any) -> str:
    """A word as it is, everything else in quotes, so that one value cannot pass for several."""
    text = value if isinstance(value, str) else repr(value)
    return text if _WORD.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
