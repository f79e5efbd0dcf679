"""OAuth 2 secrets of Apps: made, listed, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rpz_auth.caller import Caller

from rpz_auth_server.crypto.handles import HandleKind, new_id, new_salt
from rpz_auth_server.domain.app import App, AppKind, ClientSecret, is_live
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import NotFound, RequestInvalid
from rpz_auth_server.flows.credentials import check_deadline
from rpz_auth_server.flows.pipeline import Authority, retry_conflicts, revocation_of
from rpz_auth_server.flows.rights import find_app
from rpz_auth_server.storage.store import Commit

_MAX_SECRETS = 10


async def create_client_secret(
    authority: Authority, caller: Caller, app_id: str, *, display_name: str, expires_at: float | None
) -> tuple[ClientSecret, str]:
    """Make an OAuth 2 secret; the text is returned this once.

    Raises:
        NotFound: The App is missing, or not the caller's.
        RequestInvalid: A frontend App, too many secrets, or a deadline that has passed.
    """

    async def attempt() -> ClientSecret:
        app = await find_app(authority, caller, app_id)
        if app.kind is AppKind.FRONTEND:
            raise RequestInvalid("a frontend App runs where nothing can be kept secret; it uses PKCE alone")
        now = authority.store.now()
        check_deadline(expires_at, now)
        await _check_room(authority, app_id, now)
        secret = ClientSecret(
            secret_id=new_id(),
            app_id=app_id,
            display_name=check_name(display_name, "display_name", may_be_empty=True),
            salt=new_salt(),
            key_number=authority.keyring.minting_number,
            created_at=now,
            expires_at=expires_at,
        )
        await authority.store.commit(
            Commit(rows=(_with_secret(app), secret), audit=(_audit(caller, "client_secret.create", secret),))
        )
        return secret

    secret = await retry_conflicts(attempt)
    return secret, _text(authority, secret)


async def _check_room(authority: Authority, app_id: str, now: float) -> None:
    kept = await authority.store.client_secrets(app_id)
    if sum(is_live(secret, now) for secret in kept) >= _MAX_SECRETS:
        raise RequestInvalid(f"an App has at most {_MAX_SECRETS} live secrets; revoke one that is not used")


def _with_secret(app: App) -> App:
    """The App's row as it is written with a new secret.

    Its version rises, so that of two secrets made at the same time one is decided again and the bound holds;
    and from now on the App must authenticate.
    """
    return replace(app, confidential=True, version=app.version + 1)


def _text(authority: Authority, secret: ClientSecret) -> str:
    return authority.handles.seal(
        HandleKind.SECRET, secret.secret_id, 0, salt=secret.salt, key_number=secret.key_number
    )


async def list_client_secrets(authority: Authority, caller: Caller, app_id: str) -> Sequence[ClientSecret]:
    """Show the records of an App's secrets.

    Raises:
        NotFound: The App is missing, or not the caller's.
    """
    await find_app(authority, caller, app_id)
    return await authority.store.client_secrets(app_id)


async def revoke_client_secret(authority: Authority, caller: Caller, app_id: str, secret_id: str) -> None:
    """Stop a secret at once; a second time does nothing.

    Raises:
        NotFound: The App or the secret is missing, or not the caller's.
    """

    async def attempt() -> None:
        await find_app(authority, caller, app_id)
        secret = await authority.store.client_secret(secret_id)
        if secret is None or secret.app_id != app_id:
            raise NotFound
        if secret.revoked_at is not None:
            return
        now = authority.store.now()
        revoked = replace(secret, revoked_at=now, version=secret.version + 1)
        await authority.store.commit(
            Commit(
                rows=(revoked,),
                events=(revocation_of(authority, secret_id, now),),
                audit=(_audit(caller, "client_secret.revoke", secret),),
            )
        )

    await retry_conflicts(attempt)


def _audit(caller: Caller, action: str, secret: ClientSecret) -> Audit:
    return Audit(
        actor=caller.subject,
        action=action,
        app_id=secret.app_id,
        peer=str(caller.peer),
        details={"secret_id": secret.secret_id},
    )
