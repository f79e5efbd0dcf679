"""Somebody at a browser without scripts: follows links, sends the forms of pages, keeps cookies."""

from __future__ import annotations

import html
import re
from typing import Any

import argon2
import httpx
from rpz_auth_server.transport.console import cookies
from server.authority import TestAuthority
from server.people import signed_in

_CSRF = re.compile(r'name="csrf" value="([^"]*)"')
_SAME_SITE = {"sec-fetch-site": "same-origin", "origin": "null"}
"""What browsers send with a form of a page that hides its referrer."""


def hurry(authority: TestAuthority) -> None:
    """Make passwords cost next to nothing to hash, before there are any."""
    passwords = authority.authority.passwords
    passwords._hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    passwords._nobodys = passwords._hasher.hash(b"nobody")


class Visitor:
    """One browser."""

    def __init__(self, authority: TestAuthority, **options: Any) -> None:
        self.authority = authority
        self.client = authority.http_client(**options)
        self.csrf = ""
        self.page = ""

    @classmethod
    async def of(cls, authority: TestAuthority, user_name: str = "bob", **fields: Any) -> Visitor:
        """Somebody who is signed in already."""
        hurry(authority)
        visitor = cls(authority)
        entered = await signed_in(authority.authority, user_name, **fields)
        visitor.take_session(entered.token)
        visitor.person = entered.person
        return visitor

    person: Any = None

    def take_session(self, token: str) -> None:
        """Have the cookie of a session."""
        self.client.cookies.set(cookies.SESSION, token, domain="127.0.0.1", path="/")

    @property
    def session(self) -> str | None:
        """The session's cookie."""
        return self.client.cookies.get(cookies.SESSION)

    async def get(self, path: str) -> httpx.Response:
        """Open a page, and remember its form."""
        return self._keep(await self.client.get(path))

    async def send(self, path: str, *, headers: Any = None, **fields: Any) -> httpx.Response:
        """Send a form of the page that was opened last."""
        given = {"csrf": self.csrf, **fields}
        answer = await self.client.post(path, data=given, headers={**_SAME_SITE, **(headers or {})})
        return self._keep(answer)

    async def sign_in(self, user_name: str, password: str, back: str = "/console") -> httpx.Response:
        """Open the page and sign in."""
        await self.client.get("/sign-in")
        await self.get("/sign-in")
        return await self.send("/sign-in", user_name=user_name, password=password, next=back)

    def _keep(self, answer: httpx.Response) -> httpx.Response:
        found = _CSRF.search(answer.text)
        if found:
            self.csrf = html.unescape(found[1])
        self.page = html.unescape(re.sub(r"<[^>]*>", " ", answer.text))
        return answer
