"""Decisions in the traces of OpenTelemetry: `pip install rpz-auth[opentelemetry]`.

::

    rpz_auth.opentelemetry.register(auth)  # an AuthInterceptor, behind the interceptor that makes the spans
"""

from __future__ import annotations

from rpz_auth.errors import ConfigurationError, Reason
from rpz_auth.grpc import AuthInterceptor

try:
    from opentelemetry.trace import get_current_span
except ImportError:
    raise ConfigurationError("traces need opentelemetry-api: pip install 'rpz-auth[opentelemetry]'") from None

__all__ = ["note", "register"]

ATTRIBUTE = "rpz_auth.decision"
_ADMITTED = "ADMITTED"


def register(auth: AuthInterceptor) -> None:
    """Write an interceptor's decisions on the spans of its calls from now on.

    Nothing else goes there: no credential, and nothing that a caller has sent.
    """
    auth.on_decision(note)


def note(reason: Reason | None) -> None:
    """Write a decision on the span of this call, if there is one: the reason of a refusal, or ADMITTED."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute(ATTRIBUTE, str(reason or _ADMITTED))
