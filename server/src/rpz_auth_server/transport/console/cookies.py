"""The cookies of the console. All are the browser's own: `__Host-` binds them to this host and to TLS."""

from __future__ import annotations

import re
import secrets

from starlette.requests import Request
from starlette.responses import Response

SESSION = "__Host-rpz-session"
BROWSER = "__Host-rpz-browser"
"""What ties a form to the browser that asked for it while nobody is signed in."""
THEME = "__Host-rpz-theme"
JOURNEY = "__Host-rpz-journey"
"""What somebody who is away at an outside provider comes back with."""

THEMES = ("light", "dark")
_YEAR = 365 * 86400
_PART = 3500
"""Characters; browsers keep 4096 bytes of a cookie, its name included (RFC 6265 §6.1)."""
_PARTS = 4
LONGEST = _PART * _PARTS
"""Characters that `put_long` keeps."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def session_of(request: Request) -> str:
    """The value of the session cookie, unverified; empty without one."""
    return request.cookies.get(SESSION, "")


def browser_of(request: Request) -> str | None:
    """The browser's random value; None for a browser that has none yet."""
    value = request.cookies.get(BROWSER, "")
    return value if _TOKEN.fullmatch(value) else None


def new_browser() -> str:
    """Draw a browser's value."""
    return secrets.token_urlsafe(32)


def theme_of(request: Request) -> str | None:
    """The theme that a person chose; None for the system's."""
    value = request.cookies.get(THEME, "")
    return value if value in THEMES else None


def put(response: Response, name: str, value: str, *, lasting: bool = False) -> None:
    """Set a cookie, until the browser closes or for a year.

    Lax and not Strict: people come to the authorization page by links of other sites, signed in.
    """
    response.set_cookie(
        name, value, max_age=_YEAR if lasting else None, path="/", secure=True, httponly=True, samesite="lax"
    )


def put_long(response: Response, name: str, value: str, *, lifetime: int) -> None:
    """Set as many cookies as a value of up to `LONGEST` characters takes, for some seconds."""
    for number in range(_PARTS):
        part = value[number * _PART : (number + 1) * _PART]
        if part:
            response.set_cookie(
                f"{name}-{number}",
                part,
                max_age=lifetime,
                path="/",
                secure=True,
                httponly=True,
                samesite="lax",
            )
        else:  # left from a longer one
            drop(response, f"{name}-{number}")


def long_of(request: Request, name: str) -> str:
    """What `put_long` has set, unverified; empty without."""
    return "".join(request.cookies.get(f"{name}-{number}", "") for number in range(_PARTS))


def drop_long(response: Response, name: str) -> None:
    """Remove what `put_long` has set."""
    for number in range(_PARTS):
        drop(response, f"{name}-{number}")


def drop(response: Response, name: str) -> None:
    """Remove a cookie."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")
