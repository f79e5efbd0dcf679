"""How an App is shown."""

from __future__ import annotations

import enum
from typing import Literal

from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import output


class Kind(enum.StrEnum):
    """Where an App runs."""

    BACKEND = "backend"
    DEVICE = "device"
    FRONTEND = "frontend"


KIND_NUMBERS = {
    Kind.BACKEND: pb.APP_KIND_BACKEND,
    Kind.DEVICE: pb.APP_KIND_DEVICE,
    Kind.FRONTEND: pb.APP_KIND_FRONTEND,
}
_KIND_NAMES = {number: str(kind) for kind, number in KIND_NUMBERS.items()}

_Lifetime = Literal["access_token_lifetime", "refresh_token_idle_lifetime", "refresh_token_lifetime"]
_AppAnswer = (
    pb.CreateAppResponse
    | pb.GetAppResponse
    | pb.UpdateAppResponse
    | pb.LockAppResponse
    | pb.UnlockAppResponse
    | pb.EndAllTokensResponse
)


def show(answer: _AppAnswer, *, as_json: bool) -> None:
    """Print an answer that holds one App, and its warnings."""
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    print_app(answer.app)
    if isinstance(answer, pb.CreateAppResponse | pb.GetAppResponse | pb.UpdateAppResponse):
        output.print_warnings(answer.warnings)


def print_app(shown: pb.App) -> None:
    """Print one App for eyes."""
    sign_in = shown.HasField("sign_in")
    output.print_record(
        {
            "App ID": shown.app_id,
            "Name": shown.display_name,
            "Kind": kind_name(shown),
            "State": _state(shown),
            "Owner": shown.owner,
            "Redirect URIs": shown.redirect_uris,
            "Scopes": shown.scopes,
            "Resources": shown.resources,
            "Whitelist": shown.whitelist or "calls from anywhere",
            "Names lead to": shown.resolved_addresses,
            "Private addresses": "allowed behind names" if shown.private_names_allowed else "",
            "Authenticates": "with a secret" if shown.confidential else "not; it is public",
            "PKCE": "exempt" if shown.pkce_exempt else "required",
            "Requests": "must be pushed (RFC 9126)" if shown.require_pushed_authorization_requests else "",
            "Tokens in URLs": "allowed (?token=)" if shown.query_token_allowed else "",
            "Access tokens": _lifetime(shown, "access_token_lifetime", "live {}"),
            "Refresh tokens": _lifetime(shown, "refresh_token_idle_lifetime", "expire after {} without use"),
            "Sign-ins": _lifetime(shown, "refresh_token_lifetime", "last {}"),
            "Signs in for": shown.sign_in.client_ids if sign_in else (),
            "Subjects": f"that begin with {shown.sign_in.subject_prefix}" if sign_in else "",
            "Epoch": str(shown.epoch),
            "ETag": shown.etag,
            "Created (UTC)": output.format_time(shown.create_time),
            "Changed (UTC)": output.format_time(shown.update_time),
        }
    )


def _state(shown: pb.App) -> str:
    if not shown.locked:
        return "open"
    who = f"{shown.locked_by or 'somebody'}{', an administrator' if shown.locked_by_administrator else ''}"
    return f"locked by {who}"


def _lifetime(shown: pb.App, field: _Lifetime, text: str) -> str:
    """What an App's own lifetime means; nothing for the authority's."""
    return text.format(output.format_duration(getattr(shown, field))) if shown.HasField(field) else ""


def kind_name(shown: pb.App) -> str:
    """Where it runs."""
    return _KIND_NAMES.get(shown.kind, "unknown")
