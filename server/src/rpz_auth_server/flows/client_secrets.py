"""OAuth 2 secrets of Apps: made, replaced, changed, listed, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.caller import Caller

from rpz_auth_server.crypto.handles import HandleKind, new_id, new_salt
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.credential import ClientSecret, deadline, is_live, retire
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import NotFound, RequestInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.creations import may_show_again, read_request
from rpz_auth_server.flows.credentials import (
    CredentialFields,
    Ends,
    Replacement,
    as_asked,
    change,
    deadline_of,
)
from rpz_auth_server.flows.rights import check_grantable, commit_change, find_app
from rpz_auth_server.storage.store import Commit, Row

_MAX_SECRETS = 10


@dataclass(frozen=True, slots=True)
class MadeSecret:
    """A new secret, and those that it replaces."""

    record: ClientSecret
    text: str = field(repr=False)
    """Empty in a repeated answer that comes too late."""
    replaced: tuple[ClientSecret, ...] = ()


async def create_client_secret(
    authority: Authority,
    caller: Caller,
    app_id: str,
    *,
    display_name: str,
    expires_at: Ends,
    request_id: str = "",
) -> MadeSecret:
    """Make an OAuth 2 secret; the text is returned this once.

    Raises:
        NotFound: The App is missing, or not the caller's.
        RightsInsufficient: The App has more than the caller may grant.
        RequestInvalid: A frontend App, too many secrets, or a deadline that has passed.
    """
    request = read_request(caller, "client_secret", request_id, [app_id, display_name, as_asked(expires_at)])

    async def attempt() -> MadeSecret:
        app = await find_app(authority, caller, app_id)
        await _check_secret_grantable(authority, caller, app)
        if earlier := await request.find(authority):
            return await _repeat(authority, earlier)
        now = authority.store.now()
        await _check_room(authority, app_id, now)
        secret = _new(authority, app, display_name, expires_at, now)
        rows: tuple[Row, ...] = (_with_secret(app), secret, *request.rows(secret.secret_id, now))
        await commit_change(
            authority, caller, Commit(rows=rows, audit=(_audit(caller, "client_secret.create", secret),))
        )
        return MadeSecret(secret, _text(authority, secret))

    return await retry_conflicts(attempt)


async def rotate_client_secret(
    authority: Authority, caller: Caller, app_id: str, secret_id: str, wanted: Replacement
) -> MadeSecret:
    """Make a successor and put a deadline on one secret, or on all that are live; all or nothing.

    Raises:
        NotFound: The App or the secret is missing, or not the caller's.
        RightsInsufficient: The App has more than the caller may grant.
        RequestInvalid: The secret has ended, or the successor cannot be made.
    """
    content = [app_id, secret_id, wanted.overlap, wanted.display_name, as_asked(wanted.expires_at)]
    request = read_request(caller, "client_secret.rotate", wanted.request_id, content)

    async def attempt() -> MadeSecret:
        app = await find_app(authority, caller, app_id)
        await _check_secret_grantable(authority, caller, app)
        if earlier := await request.find(authority):
            return await _repeat(authority, earlier)
        now = authority.store.now()
        old = await _to_replace(authority, app_id, secret_id, now)
        if wanted.overlap > 0:  # for its time there is one more
            await _check_room(authority, app_id, now)
        secret = _new(authority, app, wanted.display_name, wanted.expires_at, now)
        retired = tuple(retire(each, now + wanted.overlap) for each in old)
        ended = tuple(revocation_of(each.secret_id, now) for each in retired if not is_live(each, now))
        rows: tuple[Row, ...] = (_with_secret(app), secret, *retired, *request.rows(secret.secret_id, now))
        audit = (
            _audit(caller, "client_secret.create", secret),
            *(_audit(caller, "client_secret.retire", each) for each in retired),
        )
        await commit_change(authority, caller, Commit(rows=rows, events=ended, audit=audit))
        return MadeSecret(secret, _text(authority, secret), retired)

    return await retry_conflicts(attempt)


async def update_client_secret(
    authority: Authority, caller: Caller, app_id: str, secret_id: str, fields: CredentialFields
) -> ClientSecret:
    """Change the name or the deadline of a secret that has not ended.

    Raises:
        NotFound: The App or the secret is missing, or not the caller's.
        RequestInvalid: It has ended, or a field is not of its form.
        RightsInsufficient: It would live longer, and its App has more than the caller may grant.
    """

    async def attempt() -> ClientSecret:
        app, secret = await _find(authority, caller, app_id, secret_id)
        changed = change(secret, fields, authority.store.now())
        if deadline(changed) > deadline(secret):
            await _check_secret_grantable(authority, caller, app)
        await commit_change(
            authority,
            caller,
            Commit(rows=(changed,), audit=(_audit(caller, "client_secret.update", changed),)),
        )
        return changed

    return await retry_conflicts(attempt)


async def _check_secret_grantable(authority: Authority, caller: Caller, app: App) -> None:
    """Whoever has the secret may have access tokens for all that is the App's (RFC 6749 §4.4)."""
    await check_grantable(authority, caller, app.scopes, app.resources)


async def _find(
    authority: Authority, caller: Caller, app_id: str, secret_id: str
) -> tuple[App, ClientSecret]:
    app = await find_app(authority, caller, app_id)
    secret = await authority.store.client_secret(secret_id)
    if secret is None or secret.app_id != app_id:
        raise NotFound
    return app, secret


async def _to_replace(
    authority: Authority, app_id: str, secret_id: str, now: float
) -> Sequence[ClientSecret]:
    live = [each for each in await authority.store.client_secrets(app_id) if is_live(each, now)]
    if not secret_id:
        return live
    found = [each for each in live if each.secret_id == secret_id]
    if not found:
        ended = await authority.store.client_secret(secret_id)
        if ended is None or ended.app_id != app_id:
            raise NotFound
        raise RequestInvalid("this secret has ended; create another")
    return found


def _new(authority: Authority, app: App, display_name: str, expires_at: Ends, now: float) -> ClientSecret:
    if app.kind is AppKind.FRONTEND:
        raise RequestInvalid("a frontend App runs where nothing can be kept secret; it uses PKCE alone")
    return ClientSecret(
        secret_id=new_id(),
        app_id=app.app_id,
        display_name=check_name(display_name, "display_name", may_be_empty=True),
        salt=new_salt(),
        key_number=authority.keyring.minting_number,
        created_at=now,
        expires_at=deadline_of(expires_at, now),
    )


async def _repeat(authority: Authority, earlier: Creation) -> MadeSecret:
    """What a creation gave that is now repeated; its text too, if the first answer was probably lost."""
    secret, now = await authority.store.client_secret(earlier.object_id), authority.store.now()
    if secret is None:
        raise NotFound
    shown = may_show_again(earlier, now) and is_live(secret, now)
    return MadeSecret(secret, _text(authority, secret) if shown else "")


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
        _, secret = await _find(authority, caller, app_id, secret_id)
        if secret.revoked_at is not None:
            return
        now = authority.store.now()
        revoked = replace(secret, revoked_at=now, version=secret.version + 1)
        await authority.store.commit(
            Commit(
                rows=(revoked,),
                events=(revocation_of(secret_id, now),),
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
