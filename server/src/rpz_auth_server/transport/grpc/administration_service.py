"""The service `rpz.auth.v1.AdministrationService`."""

from __future__ import annotations

import math
from typing import Any

import rpz_auth
from rpz.auth.v1 import administration_service_pb2 as pb
from rpz.auth.v1 import administration_service_pb2_grpc as pb_grpc

from rpz_auth_server.domain.event import AuditRecord
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows.audit_records import (
    NEWEST,
    AuditFilter,
    list_audit_records,
    list_newest_audit_records,
)
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.issuer import lock_issuer, unlock_issuer
from rpz_auth_server.flows.signing_keys import Author, list_signing_keys, rotate_signing_key
from rpz_auth_server.live.hub import Hub
from rpz_auth_server.live.verifiers import Verifier, Verifiers
from rpz_auth_server.transport.grpc import messages


class AdministrationService(pb_grpc.AdministrationServiceServicer):
    """The authority as a whole."""

    def __init__(self, authority: Authority, hub: Hub, verifiers: Verifiers) -> None:
        """Serve the flows of `authority`; `hub` and `verifiers` are this process's."""
        self._authority = authority
        self._hub = hub
        self._verifiers = verifiers

    async def LockIssuer(self, _request: pb.LockIssuerRequest, _context: Any) -> pb.LockIssuerResponse:
        """Stop everything. When it answers, this process refuses already."""
        await lock_issuer(self._authority, _author())
        await self._hub.catch_up()
        return pb.LockIssuerResponse()

    async def UnlockIssuer(self, _request: pb.UnlockIssuerRequest, _context: Any) -> pb.UnlockIssuerResponse:
        """Go on."""
        await unlock_issuer(self._authority, _author())
        await self._hub.catch_up()
        return pb.UnlockIssuerResponse()

    async def ListSigningKeys(
        self, _request: pb.ListSigningKeysRequest, _context: Any
    ) -> pb.ListSigningKeysResponse:
        """The published ones."""
        keys = await list_signing_keys(self._authority)
        return pb.ListSigningKeysResponse(signing_keys=map(_write_key, keys))

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, _context: Any
    ) -> pb.RotateSigningKeyResponse:
        """Publish a new one."""
        new = await rotate_signing_key(self._authority, _author(), compromised=request.compromised)
        await self._hub.catch_up()
        return pb.RotateSigningKeyResponse(signing_key=_write_key(new))

    async def ListVerifiers(
        self, _request: pb.ListVerifiersRequest, _context: Any
    ) -> pb.ListVerifiersResponse:
        """Those of this process."""
        return pb.ListVerifiersResponse(verifiers=map(_write_verifier, self._verifiers.list()))

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, _context: Any
    ) -> pb.ListAuditRecordsResponse:
        """A page of records."""
        if request.after_sequence < 0 or request.before_sequence < 0:
            raise RequestInvalid("after_sequence and before_sequence are not negative")
        if request.before_sequence and not request.newest_first:
            raise RequestInvalid("before_sequence goes together with newest_first")
        wanted = AuditFilter(
            app_id=request.app_id,
            action=request.action,
            actor=request.actor,
            start=messages.read_time(request, "start_time"),
            end=messages.read_time(request, "end_time"),
        )
        after, limit = request.after_sequence, messages.read_page_size(request.page_size)
        if request.newest_first:
            before = request.before_sequence or NEWEST
            newest = await list_newest_audit_records(
                self._authority, wanted, before=before, after=after, limit=limit
            )
            return pb.ListAuditRecordsResponse(
                records=map(_write_record, newest.records),
                next_before_sequence=newest.place,
                last_page=newest.is_last,
            )
        page = await list_audit_records(self._authority, wanted, after=after, limit=limit)
        return pb.ListAuditRecordsResponse(
            records=map(_write_record, page.records),
            next_after_sequence=page.place,
            last_page=page.is_last,
        )


def _author() -> Author:
    caller = rpz_auth.caller()
    return Author(caller.subject, str(caller.peer))


def _write_key(key: SealedKey) -> pb.SigningKey:
    return pb.SigningKey(
        kid=key.kid,
        publish_time=messages.write_time(key.created_at),
        sign_time=None if math.isinf(key.sign_at) else messages.write_time(key.sign_at),
        retire_time=messages.write_time(key.retire_at),
    )


def _write_verifier(verifier: Verifier) -> pb.Verifier:
    return pb.Verifier(
        app_id=verifier.app_id,
        resources=sorted(verifier.resources),
        peer=verifier.peer,
        cursor="" if verifier.cursor is None else str(verifier.cursor),
        connect_time=messages.write_time(verifier.connected_at),
        told_time=messages.write_time(verifier.told_at),
    )


def _write_record(record: AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(
        sequence=record.sequence,
        time=messages.write_time(record.recorded_at),
        actor=record.audit.actor,
        action=record.audit.action,
        app_id=record.audit.app_id,
        peer=record.audit.peer,
        details=record.audit.details,
        hash=record.digest,
        hashed_time=record.recorded_at,
    )
