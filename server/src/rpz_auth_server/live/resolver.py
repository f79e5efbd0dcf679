"""Finds out in the background where the names in whitelists lead, and tells verifiers when that changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.domain.resolution import Answer, Resolution, accept, claim, fail, names_in
from rpz_auth_server.flows.names import with_names_resolved
from rpz_auth_server.live.dns import ResolutionError
from rpz_auth_server.storage.store import Commit, Store

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 3.0
_AT_A_TIME = 16
_PAGE = 100


class Lookup(Protocol):
    """What answers where a name leads."""

    async def ask(self, name: str) -> Answer:
        """Ask for all addresses of a name; raises `ResolutionError`."""
        ...


class Resolver:
    """Of several processes on one database each name is asked for by the one that claims it first.

    What came of it stands in the database, so that all processes tell the same, and a restart begins with the
    last good answers.
    """

    def __init__(
        self,
        store: Store,
        lookup: Lookup,
        *,
        at_a_time: int = _AT_A_TIME,
        luck: Callable[[], float] = random.random,
    ) -> None:
        """Ask for at most `at_a_time` names together; `luck` draws from 0 to 1."""
        self._store = store
        self._lookup = lookup
        self._luck = luck
        self._places = asyncio.Semaphore(at_a_time)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def keep_forever(self, *, interval: float = INTERVAL) -> None:
        """Look once every `interval` seconds what is due, and what has changed."""
        try:
            while True:
                try:
                    await self.look_up_due()
                    await self.settle()
                except BackendUnavailable:
                    _log.warning("names in whitelists could not be looked up; next try later")
                except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
                    _log.exception("names in whitelists could not be looked up; next try later")
                await asyncio.sleep(interval)
        finally:
            for task in self._asking.values():
                task.cancel()

    async def look_up_due(self) -> None:
        """Begin to ask for the names that are due; the longest due come first."""
        now = self._store.now()
        due: dict[str, Resolution | None] = {}
        async for apps in self._pages():
            names = {name for app in apps for name in names_in(app.whitelist)} - self._asking.keys()
            known = {found.name: found for found in await self._store.resolutions(sorted(names))}
            due |= {name: known.get(name) for name in names if name not in known or known[name].due_at <= now}
        for name, before in sorted(due.items(), key=lambda item: 0.0 if item[1] is None else item[1].due_at):
            task = self._asking[name] = asyncio.create_task(self._look_up(name, before))
            task.add_done_callback(lambda _, name=name: self._asking.pop(name))  # type: ignore[misc] # bound early

    async def settle(self) -> None:
        """Give each App what is known by now, and take from it what is too old; verifiers are told."""
        async for apps in self._pages():
            for app in apps:
                settled = await with_names_resolved(self._store, app)
                if settled.resolved == app.resolved:
                    continue
                settled = replace(settled, version=app.version + 1)
                try:
                    await self._store.commit(Commit(rows=(settled,), events=(settled.state,)))
                except Conflict:
                    continue  # whoever was faster has settled it, or the next round does
                _log.info("names lead elsewhere", app_id=app.app_id, addresses=len(settled.resolved))

    async def idle(self) -> None:
        """Wait until nothing is asked."""
        while self._asking:
            await asyncio.gather(*self._asking.values())

    async def _look_up(self, name: str, before: Resolution | None) -> None:
        async with self._places:
            try:
                claimed = claim(name, before, self._store.now())
                await self._store.commit(Commit(rows=(claimed,)))
                await self._store.commit(Commit(rows=(await self._ask(claimed),)))
            except Conflict:
                _log.debug("another process asks", name=name)
            except BackendUnavailable:
                _log.debug("where a name leads could not be stored; next try later", name=name)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("a name could not be looked up; next try later", name=name)

    async def _ask(self, claimed: Resolution) -> Resolution:
        asked_at = self._store.now()
        try:
            answer = await self._lookup.ask(claimed.name)
        except ResolutionError as error:
            _log.warning("a name does not resolve", name=claimed.name, fault=str(error))
            return fail(claimed, asked_at, self._luck())
        return accept(claimed, answer, asked_at, self._luck())

    async def _pages(self) -> AsyncIterator[Sequence[App]]:
        after = ""
        while apps := await self._store.apps_with_names(after=after, limit=_PAGE):
            yield apps
            after = apps[-1].app_id
