"""The service `rpz.auth.v1.AppService`."""

from __future__ import annotations

import re
from typing import Any

import rpz_auth
from rpz.auth.v1 import app_service_pb2 as pb
from rpz.auth.v1 import app_service_pb2_grpc as pb_grpc

from rpz_auth_server.domain.app import SignIn
from rpz_auth_server.domain.limits import RefusalCount
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows import apps, client_secrets, refusals
from rpz_auth_server.flows.app_fields import DEFAULT_LIFETIME, NO_SIGN_IN, AppFields
from rpz_auth_server.flows.apps import AppQuery
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.credentials import expiry_warnings
from rpz_auth_server.transport.grpc import messages

_PLACE = re.compile(r"([0-9]{1,18})\.([0-9a-f-]*)\.([A-Z_]+)", re.ASCII)
_ETAG = re.compile(r"[0-9]{1,18}", re.ASCII)
_UPDATABLE = frozenset(AppFields.__dataclass_fields__)
_LIFETIMES = ("access_token_lifetime", "refresh_token_idle_lifetime", "refresh_token_lifetime")


class AppService(pb_grpc.AppServiceServicer):
    """Apps and their OAuth 2 secrets."""

    def __init__(self, authority: Authority) -> None:
        """Serve the flows of `authority`."""
        self._authority = authority

    async def CreateApp(self, request: pb.CreateAppRequest, _context: Any) -> pb.CreateAppResponse:
        """Register an App."""
        given = {field.name for field, _ in request.app.ListFields()}
        fields = _read_fields(request.app, [name for name in _UPDATABLE if name in given])
        app = await apps.create_app(
            self._authority,
            rpz_auth.caller(),
            messages.read_kind(request.app.kind),
            fields,
            request_id=request.request_id,
        )
        return pb.CreateAppResponse(app=messages.write_app(app), warnings=app.warnings)

    async def GetApp(self, request: pb.GetAppRequest, _context: Any) -> pb.GetAppResponse:
        """Show an App."""
        app = await apps.get_app(self._authority, rpz_auth.caller(), request.app_id)
        return pb.GetAppResponse(app=messages.write_app(app), warnings=app.warnings)

    async def ListApps(self, request: pb.ListAppsRequest, _context: Any) -> pb.ListAppsResponse:
        """Show the caller's Apps, a page at a time."""
        limit = messages.read_page_size(request.page_size)
        filters = request.query, request.kind, request.owner
        query = AppQuery(
            name_part=request.query,
            kind=messages.read_kind(request.kind) if request.kind else None,
            owner=request.owner or None,
        )
        after = messages.read_page_token(request.page_token, *filters)
        found = await apps.list_apps(
            self._authority, rpz_auth.caller(), query=query, after=after, limit=limit
        )
        return pb.ListAppsResponse(
            apps=map(messages.write_app, found),
            next_page_token=messages.write_page_token([app.app_id for app in found], limit, *filters),
        )

    async def UpdateApp(self, request: pb.UpdateAppRequest, _context: Any) -> pb.UpdateAppResponse:
        """Change the fields that the mask names."""
        paths = list(request.update_mask.paths)
        if not paths or not _UPDATABLE.issuperset(paths):
            raise RequestInvalid(f"update_mask names some of {', '.join(sorted(_UPDATABLE))}")
        app = await apps.update_app(
            self._authority,
            rpz_auth.caller(),
            request.app.app_id,
            _read_fields(request.app, paths),
            allow_any_peer=request.allow_any_peer,
            expected_version=_read_etag(request.app.etag),
        )
        return pb.UpdateAppResponse(app=messages.write_app(app), warnings=app.warnings)

    async def DeleteApp(self, request: pb.DeleteAppRequest, _context: Any) -> pb.DeleteAppResponse:
        """Delete an App."""
        await apps.delete_app(self._authority, rpz_auth.caller(), request.app_id)
        return pb.DeleteAppResponse()

    async def LockApp(self, request: pb.LockAppRequest, _context: Any) -> pb.LockAppResponse:
        """Stop every credential of an App."""
        app = await apps.lock_app(self._authority, rpz_auth.caller(), request.app_id)
        return pb.LockAppResponse(app=messages.write_app(app))

    async def UnlockApp(self, request: pb.UnlockAppRequest, _context: Any) -> pb.UnlockAppResponse:
        """Undo a lock, except for access tokens."""
        app = await apps.unlock_app(self._authority, rpz_auth.caller(), request.app_id)
        return pb.UnlockAppResponse(app=messages.write_app(app))

    async def EndAllTokens(self, request: pb.EndAllTokensRequest, _context: Any) -> pb.EndAllTokensResponse:
        """End all access tokens so far."""
        app = await apps.end_all_tokens(self._authority, rpz_auth.caller(), request.app_id)
        return pb.EndAllTokensResponse(app=messages.write_app(app))

    async def CreateClientSecret(
        self, request: pb.CreateClientSecretRequest, _context: Any
    ) -> pb.CreateClientSecretResponse:
        """The secret itself is in this answer and nowhere else."""
        made = await client_secrets.create_client_secret(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            display_name=request.display_name,
            expires_at=messages.read_time(request, "expire_time"),
            request_id=request.request_id,
        )
        return pb.CreateClientSecretResponse(
            record=messages.write_client_secret(made.record), client_secret=made.text
        )

    async def RotateClientSecret(
        self, request: pb.RotateClientSecretRequest, _context: Any
    ) -> pb.RotateClientSecretResponse:
        """A successor, and a deadline for those before it."""
        made = await client_secrets.rotate_client_secret(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            request.secret_id,
            messages.read_replacement(request),
        )
        return pb.RotateClientSecretResponse(
            record=messages.write_client_secret(made.record),
            client_secret=made.text,
            replaced=map(messages.write_client_secret, made.replaced),
        )

    async def UpdateClientSecret(
        self, request: pb.UpdateClientSecretRequest, _context: Any
    ) -> pb.UpdateClientSecretResponse:
        """Another name or deadline."""
        given = request.client_secret
        fields = messages.read_credential_fields(given, request.update_mask)
        record = await client_secrets.update_client_secret(
            self._authority, rpz_auth.caller(), given.app_id, given.secret_id, fields
        )
        return pb.UpdateClientSecretResponse(client_secret=messages.write_client_secret(record))

    async def ListClientSecrets(
        self, request: pb.ListClientSecretsRequest, _context: Any
    ) -> pb.ListClientSecretsResponse:
        """Records, never the secrets."""
        records = await client_secrets.list_client_secrets(self._authority, rpz_auth.caller(), request.app_id)
        return pb.ListClientSecretsResponse(
            client_secrets=map(messages.write_client_secret, records),
            warnings=expiry_warnings(records, self._authority.store.now(), self._authority.expiry_warning),
        )

    async def RevokeClientSecret(
        self, request: pb.RevokeClientSecretRequest, _context: Any
    ) -> pb.RevokeClientSecretResponse:
        """Refused at once."""
        await client_secrets.revoke_client_secret(
            self._authority, rpz_auth.caller(), request.app_id, request.secret_id
        )
        return pb.RevokeClientSecretResponse()

    async def ListRefusals(self, request: pb.ListRefusalsRequest, _context: Any) -> pb.ListRefusalsResponse:
        """How often calls were refused."""
        limit = messages.read_page_size(request.page_size)
        found = await refusals.list_refusals(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            before=_read_place(request.page_token),
            limit=limit,
        )
        places = [f"{item.minute}.{item.app_id}.{item.reason}" for item in found]
        return pb.ListRefusalsResponse(
            refusals=map(_write_refusals, found), next_page_token=messages.next_page(places, limit)
        )


def _read_fields(app: pb.App, names: list[str]) -> AppFields:
    values: dict[str, Any] = {name: getattr(app, name) for name in names}
    for name in ("redirect_uris", "scopes", "resources", "whitelist"):
        if name in values:
            values[name] = tuple(values[name])
    for name in _LIFETIMES:
        if name in values:
            values[name] = messages.read_duration(app, name) or DEFAULT_LIFETIME
    if "sign_in" in values:
        values["sign_in"] = (
            SignIn(client_ids=frozenset(app.sign_in.client_ids), subject_prefix=app.sign_in.subject_prefix)
            if app.HasField("sign_in")
            else NO_SIGN_IN
        )
    return AppFields(**values)


def _read_etag(etag: str) -> int | None:
    if not etag:
        return None
    if not _ETAG.fullmatch(etag):
        raise RequestInvalid("etag is what the App was read with")
    return int(etag)


def _read_place(page_token: str) -> tuple[int, str, str]:
    if not page_token:
        return refusals.NEWEST
    match = _PLACE.fullmatch(page_token)
    if match is None:
        raise RequestInvalid("page_token is one that ListRefusals answered")
    return int(match[1]), match[2], match[3]


def _write_refusals(counted: RefusalCount) -> pb.RefusalCount:
    return pb.RefusalCount(
        app_id=counted.app_id,
        reason=counted.reason,
        minute=messages.write_time(counted.minute * 60),
        count=counted.count,
    )
