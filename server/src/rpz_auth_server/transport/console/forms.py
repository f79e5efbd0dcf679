"""Forms that a page of ours sent, and the proof that it was a page of ours (ASVS 3.5)."""

from __future__ import annotations

import base64
import hmac
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.requests import Request

from rpz_auth_server.domain.refusal import RequestInvalid

TOKEN = "csrf"  # noqa: S105 - a field's name
_MAX_FIELDS = 1200
_TYPE = "application/x-www-form-urlencoded"


class Forged(Exception):  # noqa: N818 - an answer, not a fault
    """A request that no page of ours sent."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, each any number of times; without values in its representation."""

    fields: tuple[tuple[str, str], ...] = field(repr=False)

    def one(self, name: str) -> str:
        """A field that is there once; empty if it is not.

        Raises:
            RequestInvalid: It is there twice, which no page of ours sends.
        """
        values = self.all(name)
        if len(values) > 1:
            raise RequestInvalid("the form has a field twice; go back and send it again")
        return values[0] if values else ""

    def all(self, name: str) -> list[str]:
        """Each value of a field, in order."""
        return [value for key, value in self.fields if key == name]

    def lines(self, name: str) -> list[str]:
        """What stands on the lines of a field, or between spaces, without the empty ones."""
        return self.one(name).split()


NOTHING = Form(())


def token_of(secret: str) -> str:
    """What a form carries: nobody can make it who does not have the cookie."""
    digest = hmac.digest(secret.encode("ascii"), b"rpz-auth console form", "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


async def read_form(request: Request) -> Form:
    """Read a form as it came.

    Raises:
        RequestInvalid: It is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
        raise RequestInvalid("send the form of the page")
    try:
        text = (await request.body()).decode("ascii")
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise RequestInvalid("send the form of the page") from None
    if any("\0" in name or "\0" in value for name, value in pairs):  # which some databases cannot store
        raise RequestInvalid("send the form of the page")
    return Form(tuple(pairs))


def check_site(request: Request, *, origins: Iterable[str]) -> None:
    """Let pass what a browser says that a page of ours sent.

    Raises:
        Forged: It says otherwise.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        raise Forged
    own = (f"{request.url.scheme}://{request.headers.get('host', '')}", *origins)
    # `Referrer-Policy: no-referrer` has browsers send "null" (Fetch §3.2): then the other header must speak.
    hidden = origin == "null" and site is not None
    if origin is not None and origin not in own and not hidden:
        raise Forged


def check_genuine(request: Request, form: Form, secret: str | None, *, origins: Iterable[str]) -> None:
    """Let pass what a page of ours sent, from the browser that it was given to.

    Raises:
        Forged: It is not certain.
    """
    check_site(request, origins=origins)
    if not secret or not secret.isascii():
        raise Forged
    sent = form.all(TOKEN)
    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode(), token_of(secret).encode()):
        raise Forged
