"""Which pages of other origins may call the endpoints from a browser (RFC 9700 §2.6)."""

from __future__ import annotations

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Cors:
    """Answers the origins that an administrator listed, on some paths, without cookies; nobody else."""

    def __init__(self, app: ASGIApp, *, origins: Collection[str], paths: Collection[str]) -> None:
        """Stand before `app`.

        Args:
            app: Serves the requests.
            origins: As browsers send them.
            paths: On which they count.
        """
        self._app = app
        self._origins = frozenset(origins)
        self._paths = frozenset(paths)
        self._cors = CORSMiddleware(
            app,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Rpz-Auth"],
            allow_credentials=False,
            expose_headers=["WWW-Authenticate", "Retry-After"],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        origins = [value.decode("latin-1") for key, value in scope["headers"] if key == b"origin"]
        if scope["path"] not in self._paths:
            await self._app(scope, receive, send)
        elif len(origins) == 1 and origins[0] in self._origins:
            await self._cors(scope, receive, send)
        else:  # a cache must not give this answer to a page of a listed origin
            await self._app(scope, receive, _varying(send))


def _varying(send: Send) -> Send:
    async def varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"vary", b"Origin")]}
        await send(message)

    return varying
