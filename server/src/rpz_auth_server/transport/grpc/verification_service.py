"""The service `rpz.auth.v1.VerificationService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import rpz_auth
from google.protobuf.message import Message
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2_grpc as pb_grpc
from rpz_auth.caller import APP_ID
from rpz_auth.view import AppState, Change, Revocation, SigningKeys

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.event import Cursor, StoredSnapshot
from rpz_auth_server.domain.refusal import NotFound, RequestInvalid, RightsInsufficient
from rpz_auth_server.flows.api_tokens import verify_api_token
from rpz_auth_server.flows.pipeline import Authority, try_open
from rpz_auth_server.flows.rights import check_still_held
from rpz_auth_server.live.hub import Beat, Hub, News
from rpz_auth_server.live.verifiers import Verifiers
from rpz_auth_server.transport.grpc import messages

_PART = 256 * 1024
"""Bytes after which a message is full; with the largest App on top far below what any gRPC client takes."""
_MOST_APPS = 1_000
_MOST_IDS = 2_000
M = TypeVar("M", bound=Message)
T = TypeVar("T")


class VerificationService(pb_grpc.VerificationServiceServicer):
    """What services that verify tokens learn."""

    def __init__(self, authority: Authority, hub: Hub, verifiers: Verifiers) -> None:
        """Serve the flows of `authority`, and the news of `hub`; keep the list of who is connected."""
        self._authority = authority
        self._hub = hub
        self._verifiers = verifiers

    async def VerifyApiToken(
        self, request: pb.VerifyApiTokenRequest, _context: Any
    ) -> pb.VerifyApiTokenResponse:
        """Check an API token for the caller's resources."""
        resources = _verifier_resources(self._authority)
        # What the authority never made costs nothing, and must not use up what the others are asked with.
        if try_open(self._authority, HandleKind.API_TOKEN, request.api_token) is not None:
            self._authority.limiter.take_verification(rpz_auth.caller().app_id)
        cursor = str(await self._authority.store.cursor())
        token = await verify_api_token(self._authority, request.app_id, request.api_token)
        if token is None or not token.resources & resources:
            return pb.VerifyApiTokenResponse(active=False, cursor=cursor)
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

    async def GetAppState(self, request: pb.GetAppStateRequest, _context: Any) -> pb.GetAppStateResponse:
        """One App's state."""
        _verifier_resources(self._authority)
        self._authority.limiter.take_verification(rpz_auth.caller().app_id)
        cursor = str(await self._authority.store.cursor())
        app = await self._authority.store.app(request.app_id) if APP_ID.fullmatch(request.app_id) else None
        if app is None:
            raise NotFound
        return pb.GetAppStateResponse(app=messages.write_app_state(app.state), cursor=cursor)

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
            keys=pb.SigningKeys(jwks=standing.keys.jwks, locked=standing.keys.locked),
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
                # The stream outlives the decision that let it begin, and its lease knows no scopes.
                version = self._authority.view.version_of(caller.app_id)
                if version != checked:
                    await check_still_held(self._authority, caller.verdict)
                    checked = version
                for message in self._write(news):
                    if not message.HasField("time"):
                        message.time.CopyFrom(messages.require_time(now()))
                    yield message
                verifier.tell(news.cursor, now())

    def _write(self, news: News) -> Iterator[pb.WatchResponse]:
        match news.content:
            case Beat(time):
                interval_ms = int(self._hub.heartbeat_interval * 1000)
                beat = pb.WatchResponse(
                    heartbeat=pb.Heartbeat(interval_ms=interval_ms), cursor=str(news.cursor)
                )
                beat.time.CopyFrom(messages.require_time(time))
                yield beat
            case StoredSnapshot() as snapshot:
                yield from _write_snapshot(snapshot, self._hub.keys())
            case events:
                for part in _parts((_write_change(event.change), event.cursor) for event in events):
                    changes = pb.Events(events=[change for change, _ in part])
                    yield pb.WatchResponse(events=changes, cursor=str(part[-1][1]))


def _verifier_resources(authority: Authority) -> frozenset[str]:
    """The resources that the caller protects.

    Raises:
        RightsInsufficient: The credential could do more than verify; it does not belong into a service.
    """
    verdict = rpz_auth.caller().verdict
    if not verdict.scopes <= scope.VERIFIER:
        raise RightsInsufficient("a service verifies with a credential that can do nothing else")
    return verdict.resources - {authority.issuer}


def _write_snapshot(snapshot: StoredSnapshot, keys: SigningKeys) -> Iterator[pb.WatchResponse]:
    for revocations in _parts((messages.write_revocation(item), None) for item in snapshot.revocations):
        yield pb.WatchResponse(snapshot=pb.Snapshot(revocations=[item for item, _ in revocations]))
    for apps in _parts((messages.write_app_state(item), None) for item in snapshot.apps):
        yield pb.WatchResponse(snapshot=pb.Snapshot(apps=[item for item, _ in apps]))
    last = pb.Snapshot(keys=messages.write_keys(keys), last=True)
    yield pb.WatchResponse(snapshot=last, cursor=str(snapshot.cursor))


def _write_change(change: Change) -> pb.Event:
    match change:
        case Revocation():
            return pb.Event(revoked=messages.write_revocation(change))
        case AppState():
            return pb.Event(app=messages.write_app_state(change))
        case SigningKeys():
            return pb.Event(keys=messages.write_keys(change))


def _parts(items: Iterable[tuple[M, T]]) -> Iterator[Sequence[tuple[M, T]]]:
    """Split by size, not by number: the whitelist of one App may be longer than a thousand revocations."""
    part: list[tuple[M, T]] = []
    size = 0
    for item in items:
        part.append(item)
        size += item[0].ByteSize()
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part
