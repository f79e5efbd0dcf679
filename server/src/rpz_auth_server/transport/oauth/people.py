"""What the authorization endpoint needs to know of people, and who answers it.

The seam between OAuth 2 and the sign-in: the endpoint judges the request and answers the client; who is at
the browser, and what they allow, it asks here. `/oauth/authorize` comes to the same methods in this order:

1. `person`: who is signed in at this browser? Nobody: the answer of `sign_in` goes out, whatever else is
   wrong with the request (R052, A10). When the person has signed in, the browser comes back to the very same
   URL, query included, by a 303 (R048, A13).
2. Errors that the client may be told go to it by redirect; others end in `problem`.
3. On GET, if `has_allowed` what is asked, the client gets its code; else the answer of `ask` goes out: a page
   with who asks, for which scopes and resources, for how long. Its form POSTs to the very same URL, query
   included.
4. On POST, `answer` reads that form: True gives the client a code, False `access_denied`, None asks again. A
   form counts only for this session and for the request it was shown for (`AuthorizationRequest.digest`), so
   that neither another site nor a changed query can make use of it (A140, A150).

The client gets its code only while the person's account is enabled and a consent covers it, which
`answer` remembers by `flows.consents`, and `has_allowed` tells of.

The endpoint's answer to the client is a 303 to `redirect_uri`. Browsers apply the `form-action` of the page
with the form to that redirect, too: the page of `ask` names the origin of `redirect_uri` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.authorization import AuthorizationRequest
from rpz_auth_server.flows.person import Person


class People(Protocol):
    """Who is at the browser, and what they allow."""

    async def person(self, request: Request) -> Person | None:
        """Who is signed in; None for nobody, or a session that has ended."""
        ...

    async def sign_in(self, request: Request, app: App) -> Response:
        """A page to sign in with, from which the browser comes back to this URL; `app` sent it here."""
        ...

    async def has_allowed(self, person: Person, asked: AuthorizationRequest) -> bool:
        """Tell whether the person allowed all of this before, and it is remembered."""
        ...

    async def ask(self, request: Request, person: Person, asked: AuthorizationRequest) -> Response:
        """A page on which the person decides."""
        ...

    async def answer(
        self, request: Request, person: Person, asked: AuthorizationRequest, form: Mapping[str, str]
    ) -> bool | None:
        """What the person decided on that page, and remember it; None if the form is not of this request."""
        ...

    def problem(self, request: Request, message: str) -> Response:
        """A page, of status 400, that tells the person what is wrong; there is nowhere to return to."""
        ...
