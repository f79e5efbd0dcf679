"""The authority as a whole, for administrators: verifiers, signing keys, the emergency stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.flows.issuer import lock_issuer, unlock_issuer
from rpz_auth_server.flows.signing_keys import Author, list_signing_keys, read_issuer, rotate_signing_key
from rpz_auth_server.live.hub import Hub
from rpz_auth_server.live.verifiers import Verifiers
from rpz_auth_server.transport.console.desk import HOME, Desk, Endpoint, Handler, Visit


@dataclass(frozen=True, slots=True)
class Running:
    """What this process has beside the database."""

    hub: Hub
    verifiers: Verifiers


@dataclass(frozen=True, slots=True)
class RunningPages:
    """Verifiers, keys, lock."""

    desk: Desk
    running: Running

    def routes(self) -> list[BaseRoute]:
        """All of them."""

        def page(handler: Handler) -> Endpoint:
            return self.desk.page(handler, administrator=True)

        return [
            Route(HOME + "/verifiers", page(self.verifiers), methods=["GET"]),
            Route(HOME + "/keys", page(self.keys), methods=["GET"]),
            Route(HOME + "/keys/rotate", page(self.rotate), methods=["POST"]),
            Route(HOME + "/keys/lock", page(self.lock), methods=["POST"]),
            Route(HOME + "/keys/unlock", page(self.unlock), methods=["POST"]),
        ]

    async def verifiers(self, visit: Visit) -> Response:
        """Show which services are connected, and how fresh what they know is."""
        store = self.desk.authority.store
        found = self.running.verifiers.list()
        apps = await asyncio.gather(*(store.app(verifier.app_id) for verifier in found))
        newest = await store.cursor()
        rows = [
            (verifier, app.display_name if app else verifier.app_id, _behind(verifier.cursor, newest))
            for verifier, app in zip(found, apps, strict=True)
        ]
        return self.desk.show(visit, "verifiers.html", rows=rows)

    async def keys(self, visit: Visit) -> Response:
        """Show the signing keys and the lock."""
        keys = await list_signing_keys(self.desk.authority)
        issuer = await read_issuer(self.desk.authority)
        return self.desk.show(visit, "keys.html", keys=keys[::-1], issuer=issuer)

    async def rotate(self, visit: Visit) -> Response:
        """Publish a new signing key."""
        await rotate_signing_key(
            self.desk.authority, _author(visit), compromised=bool(visit.form.one("compromised"))
        )
        await self.running.hub.catch_up()
        return self.desk.go(HOME + "/keys", said="key-rotated")

    async def lock(self, visit: Visit) -> Response:
        """Stop everything."""
        await lock_issuer(self.desk.authority, _author(visit))
        await self.running.hub.catch_up()
        return self.desk.go(HOME + "/keys", said="issuer-locked")

    async def unlock(self, visit: Visit) -> Response:
        """Go on."""
        await unlock_issuer(self.desk.authority, _author(visit))
        await self.running.hub.catch_up()
        return self.desk.go(HOME + "/keys", said="issuer-unlocked")


def _author(visit: Visit) -> Author:
    return Author(visit.person.subject, str(visit.person.peer))


def _behind(told: Cursor | None, newest: Cursor) -> int:
    """How many events were committed that the verifier was not told yet."""
    return newest.sequence - (told.sequence if told is not None else 0)
