"""Between messages and what the flows work with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import rpz_auth
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from rpz.auth.v1 import app_service_pb2, token_service_pb2, verification_service_pb2
from rpz_auth.view import AppState, Revocation, SigningKeys

from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.credential import ApiToken, ClientSecret
from rpz_auth_server.domain.grant import Grant
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows.credentials import CredentialFields, Replacement
from rpz_auth_server.flows.pipeline import ClientCredentials
from rpz_auth_server.transport.clients import read_client

_KINDS = {
    app_service_pb2.APP_KIND_BACKEND: AppKind.BACKEND,
    app_service_pb2.APP_KIND_DEVICE: AppKind.DEVICE,
    app_service_pb2.APP_KIND_FRONTEND: AppKind.FRONTEND,
}
_PAGE = 100
_MAX_PAGE = 1000
_KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}


def client_credentials(context: Any, request: Any) -> ClientCredentials:
    """Read an OAuth 2 client's credentials from the metadata or the message (RFC 6749 §2.3.1).

    Raises:
        CredentialsAmbiguous: Both have some, or they name different clients.
        ClientInvalid: The metadata has something else than `Basic`.
    """
    return read_client(
        context.invocation_metadata(),
        client_id=request.client_id,
        client_secret=request.client_secret,
        peer=rpz_auth.peer(),
    )


def read_kind(number: app_service_pb2.AppKind.ValueType) -> AppKind:
    """Read the kind of an App.

    Raises:
        RequestInvalid: It is none.
    """
    try:
        return _KINDS[number]
    except KeyError:
        raise RequestInvalid("the kind of an App is BACKEND, DEVICE or FRONTEND") from None


def read_time(message: Any, field: str) -> float | None:
    """Read a Timestamp in seconds since the epoch; None when it is not set.

    Raises:
        RequestInvalid: It is not a time.
    """
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    # The last second before the year 10000 is left out: its end, as a float, is beyond what can be written.
    if not 0 <= value.seconds < 253402300799 or not 0 <= value.nanos < 10**9:  # noqa: PLR2004 - see above
        raise RequestInvalid(f"{field} is not a time")
    return value.seconds + value.nanos / 1e9


def write_time(seconds: float | None) -> Timestamp | None:
    """Write seconds since the epoch; nothing for None."""
    return None if seconds is None else require_time(seconds)


def require_time(seconds: float) -> Timestamp:
    """Write seconds since the epoch."""
    time = Timestamp()
    time.FromMicroseconds(round(seconds * 1e6))
    return time


def read_duration(message: Any, field: str) -> float | None:
    """Read a Duration in seconds; None when it is not set.

    Raises:
        RequestInvalid: It is not longer than nothing.
    """
    if not message.HasField(field):
        return None
    value: Duration = getattr(message, field)
    seconds = value.seconds + value.nanos / 1e9
    if seconds <= 0:
        raise RequestInvalid(f"{field} is more than 0 seconds")
    return seconds


def read_replacement(request: Any) -> Replacement:
    """Read what is asked for when a credential is replaced."""
    overlap: Duration = request.overlap
    return Replacement(
        overlap=overlap.seconds + overlap.nanos / 1e9,
        display_name=request.display_name,
        expires_at=read_time(request, "expire_time"),
        request_id=request.request_id,
    )


def read_credential_fields(record: Any, mask: FieldMask) -> CredentialFields:
    """Read what a mask names of a credential's record.

    Raises:
        RequestInvalid: It names something else, or nothing.
    """
    paths = set(mask.paths)
    if not paths or not paths <= {"display_name", "expire_time"}:
        raise RequestInvalid("update_mask names display_name, expire_time or both")
    return CredentialFields(
        display_name=record.display_name if "display_name" in paths else None,
        sets_deadline="expire_time" in paths,
        expires_at=read_time(record, "expire_time") if "expire_time" in paths else None,
    )


def write_duration(seconds: float | None) -> Duration | None:
    """Write seconds; nothing for None."""
    if seconds is None:
        return None
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def read_page_size(size: int) -> int:
    """Read how many objects a page has: 100 unless the request says, 1000 at most (AIP-158).

    Raises:
        RequestInvalid: It is negative.
    """
    if size < 0:
        raise RequestInvalid("page_size is not negative")
    return min(size or _PAGE, _MAX_PAGE)


def write_app(app: App) -> app_service_pb2.App:
    """Write an App."""
    return app_service_pb2.App(
        app_id=app.app_id,
        kind=_KIND_NUMBERS[app.kind],
        display_name=app.display_name,
        owner=app.owner,
        redirect_uris=app.redirect_uris,
        scopes=sorted(app.scopes),
        resources=sorted(app.resources),
        whitelist=app.whitelist,
        resolved_addresses=app.resolved,
        private_names_allowed=app.private_names_allowed,
        locked=app.locked,
        epoch=app.epoch,
        confidential=app.confidential,
        locked_by=app.locked_by,
        locked_by_administrator=app.locked_by_administrator,
        pkce_exempt=app.pkce_exempt,
        query_token_allowed=app.query_token_allowed,
        require_pushed_authorization_requests=app.require_pushed_authorization_requests,
        access_token_lifetime=write_duration(app.access_token_lifetime),
        refresh_token_idle_lifetime=write_duration(app.refresh_idle_lifetime),
        refresh_token_lifetime=write_duration(app.refresh_absolute_lifetime),
        sign_in=app_service_pb2.SignIn(
            client_ids=sorted(app.sign_in.client_ids), subject_prefix=app.sign_in.subject_prefix
        )
        if app.sign_in
        else None,
        create_time=write_time(app.created_at),
        update_time=write_time(app.updated_at),
        etag=str(app.version),
    )


def write_client_secret(secret: ClientSecret) -> app_service_pb2.ClientSecret:
    """Write the record of an OAuth 2 secret."""
    return app_service_pb2.ClientSecret(
        secret_id=secret.secret_id,
        app_id=secret.app_id,
        display_name=secret.display_name,
        create_time=write_time(secret.created_at),
        expire_time=write_time(secret.expires_at),
        revoke_time=write_time(secret.revoked_at),
        last_use_time=write_time(secret.last_used_at),
        last_use_address=secret.last_used_from,
    )


def write_api_token(token: ApiToken) -> token_service_pb2.ApiToken:
    """Write the record of an API token."""
    return token_service_pb2.ApiToken(
        api_token_id=token.api_token_id,
        app_id=token.app_id,
        display_name=token.display_name,
        scopes=sorted(token.scopes),
        resources=sorted(token.resources),
        create_time=write_time(token.created_at),
        expire_time=write_time(token.expires_at),
        revoke_time=write_time(token.revoked_at),
        last_use_time=write_time(token.last_used_at),
        last_use_address=token.last_used_from,
    )


def write_grant(grant: Grant) -> token_service_pb2.Grant:
    """Write a grant."""
    return token_service_pb2.Grant(
        grant_id=grant.grant_id,
        client_id=grant.app_id,
        subject=grant.subject,
        scopes=sorted(grant.scopes),
        resources=sorted(grant.resources),
        create_time=write_time(grant.created_at),
        expire_time=write_time(grant.ends_at),
        # The first generation came with the code.
        last_refresh_time=write_time(grant.rotated_at if grant.generation > 1 else None),
        issued_by=grant.issued_by,
    )


def write_app_state(state: AppState) -> verification_service_pb2.AppState:
    """Write what verifiers must know of an App."""
    return verification_service_pb2.AppState(
        app_id=state.app_id,
        version=state.version,
        locked=state.locked,
        deleted=state.deleted,
        epoch=state.epoch,
        whitelist=state.whitelist,
        query_token_allowed=state.query_token_allowed,
        forget_time=write_time(state.forget_at),
    )


def write_keys(keys: SigningKeys) -> verification_service_pb2.SigningKeys:
    """Write the signing keys and the lock."""
    return verification_service_pb2.SigningKeys(jwks=keys.jwks, locked=keys.locked)


def write_revocation(revocation: Revocation) -> verification_service_pb2.Revocation:
    """Write a revocation."""
    return verification_service_pb2.Revocation(id=revocation.id, forget_time=write_time(revocation.forget_at))


def read_page_token(token: str, *filters: object) -> str:
    """Read a page token: the ID that the page begins after.

    Raises:
        RequestInvalid: It is none, or was given for other filters (AIP-158).
    """
    if not token:
        return ""
    digest, dot, after = token.partition(".")
    if not dot or digest != _digest(filters):
        raise RequestInvalid("page_token is the next_page_token of a list with the same filters")
    return after


def write_page_token(ids: Sequence[str], limit: int, *filters: object) -> str:
    """The page token behind a page of `limit` objects, for the same filters; empty on the last page."""
    after = next_page(ids, limit)
    return f"{_digest(filters)}.{after}" if after else ""


def _digest(filters: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(filters).encode()).hexdigest()[:16]


def next_page(ids: Sequence[str], limit: int) -> str:
    """The page token behind a page of `limit` objects: the last one's ID, empty on the last page."""
    return ids[-1] if len(ids) == limit else ""
