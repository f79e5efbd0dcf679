"""The service `rpz.auth.v1.VerificationService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import rpz_auth
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2_grpc as pb_grpc
from rpz_auth.caller import APP_ID

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.event import Cursor, Event, StoredSnapshot
from rpz_auth_server.domain.refusal import RequestInvalid, RightsInsufficient
from rpz_auth_server.domain.use import read_place
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.rights import check_still_held
from rpz_auth_server.flows.verify_api_token import may_be_api_token, verify_api_token
from rpz_auth_server.live.hub import Beat, Hub, News
from rpz_auth_server.live.verifiers import Verifiers
from rpz_auth_server.transport.grpc import messages, watching

_MOST_APPS = 1_000
_MOST_IDS = 2_000


class VerificationService(pb_grpc.VerificationServiceServicer):
    """What services that verify tokens learn."""

    def __init__(self, authority: Authority, hub: Hub, verifiers: Verifiers) -> None:
        """Serve the flows of `authority`, and the news of `hub`; keep the list of who is connected."""
        self._authority = authority
        self._hub = hub
        self._verifiers = verifiers
        self._writing = asyncio.Lock()
        self._written: tuple[StoredSnapshot | None, Sequence[pb.WatchResponse]] = (None, ())
        self._last_events: tuple[object, Sequence[pb.WatchResponse]] = (None, ())

    async def VerifyApiToken(
        self, request: pb.VerifyApiTokenRequest, _context: Any
    ) -> pb.VerifyApiTokenResponse:
        """Check an API token for the caller's resources."""
        resources, cursor = _verifier_resources(self._authority), str(self._hub.cursor)
        # What cannot be good costs nothing, and must not use up what the others are asked with.
        if not may_be_api_token(self._authority, request.api_token, request.app_id):
            return pb.VerifyApiTokenResponse(active=False, cursor=cursor)
        self._authority.limiter.take_verification(rpz_auth.caller().app_id)
        token = await verify_api_token(self._authority, request.app_id, request.api_token)
        if token is None or not token.resources & resources:
            return pb.VerifyApiTokenResponse(active=False, cursor=cursor)
        place = read_place(request.peer)
        self._authority.uses.note(token.api_token_id, at=self._authority.store.now(), place=place)
        return pb.VerifyApiTokenResponse(
            active=True,
            app_id=token.app_id,
            api_token_id=token.api_token_id,
            scopes=sorted(token.scopes),
            resources=sorted(token.resources & resources),
            expire_time=messages.write_time(token.expires_at),
            cursor=cursor,
            query_token_allowed=self._authority.query_tokens.allows(token),
        )

    async def GetStanding(self, request: pb.GetStandingRequest, _context: Any) -> pb.GetStandingResponse:
        """What holds of many identifiers and Apps."""
        _verifier_resources(self._authority)
        self._authority.limiter.take_verification(rpz_auth.caller().app_id)
        if len(request.app_ids) > _MOST_APPS or len(request.ids) > _MOST_IDS:
            raise RequestInvalid(f"ask about at most {_MOST_APPS} Apps and {_MOST_IDS} identifiers at once")
        app_ids = [app_id for app_id in request.app_ids if APP_ID.fullmatch(app_id)]
        standing, cursor = await self._hub.standing(app_ids, request.ids)
        return pb.GetStandingResponse(
            revocations=map(messages.write_revocation, standing.revocations),
            apps=map(messages.write_app_state, standing.apps),
            keys=messages.write_keys(standing.keys),
            cursor=str(cursor),
            time=messages.require_time(self._authority.store.now()),
        )

    async def Watch(self, request: pb.WatchRequest, _context: Any) -> AsyncIterator[pb.WatchResponse]:
        """Tell everything, then everything that changes."""
        resources = _verifier_resources(self._authority)
        now, caller = self._authority.store.now, rpz_auth.caller()
        checked: tuple[int, int] | None = None
        with self._verifiers.connected(caller, resources, now()) as verifier:
            async for news in self._hub.news(Cursor.parse(request.cursor)):
                # The stream outlives the decision that let it begin, and its lease knows no resources.
                version = self._authority.view.version_of(caller.app_id)
                if version != checked:
                    await check_still_held(self._authority, caller.verdict)
                    checked = version
                for message in await self._write(news):
                    if not message.HasField("time"):
                        message.time.CopyFrom(messages.require_time(now()))
                    yield message
                verifier.tell(news.cursor, now())

    async def _write(self, news: News) -> Iterable[pb.WatchResponse]:
        """Write news as messages; those that many watchers are told are written once for all of them."""
        match news.content:
            case Beat(time):
                interval_ms = int(self._hub.heartbeat_interval * 1000)
                beat = pb.WatchResponse(
                    heartbeat=pb.Heartbeat(interval_ms=interval_ms), cursor=str(news.cursor)
                )
                beat.time.CopyFrom(messages.require_time(time))
                return [beat]
            case StoredSnapshot() as snapshot:
                async with self._writing:  # the others wait, and take what the first has written
                    if self._written[0] is not snapshot:
                        # A million revocations would hold up the event loop.
                        self._written = (snapshot, await asyncio.to_thread(watching.write_snapshot, snapshot))
                    written = self._written[1]
                return [*written, *watching.write_end(news, self._hub.keys())]
            case events:
                return self._write_events(events)

    def _write_events(self, events: Sequence[Event]) -> Sequence[pb.WatchResponse]:
        # All who follow closely are told the same events at the same time.
        key = (events[0].cursor, events[-1].cursor)
        if self._last_events[0] != key:
            self._last_events = (key, watching.write_events(events, self._authority.store.now()))
        return self._last_events[1]


def _verifier_resources(authority: Authority) -> frozenset[str]:
    """The resources that the caller protects.

    Raises:
        RightsInsufficient: The credential could do more than verify; it does not belong into a service.
    """
    verdict = rpz_auth.caller().verdict
    if not verdict.scopes <= scope.VERIFIER:
        raise RightsInsufficient("a service verifies with a credential that can do nothing else")
    return verdict.resources - {authority.issuer}
