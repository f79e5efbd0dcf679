"""What a first start makes: master keys, the issuer with its signing key, and the first administrator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import files
from rpz_auth_server.crypto.handles import HandleKind, new_id, new_salt
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.credential import ApiToken, is_live
from rpz_auth_server.domain.event import Audit, revocation_of
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.conflicts import retry_conflicts
from rpz_auth_server.flows.verify_api_token import verify_api_token
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.store import Commit, Store

_log = structlog.get_logger("rpz_auth_server")

FILE_NAME = "bootstrap.json"
CLIENT_PAIR = ("client_certificate", "client_certificate_pem", "client_key", "client_key_pem")
"""What an operator writes into the bootstrap file of an authority that demands client certificates."""

_ACTOR = "bootstrap"
_LIFETIME = 7 * 86400
_LOOPBACK = ("127.0.0.0/8", "::1")


def open_keyring(settings: Settings, environ: Mapping[str, str], *, is_new: bool) -> KeyRing:
    """Find the master keys, and make them where there is no database yet that could need others.

    Args:
        settings: Say where the file is.
        environ: May hold the keys instead.
        is_new: There is no such database.

    Raises:
        ConfigurationError: They are missing or cannot be used.
    """
    if is_new and ENVIRONMENT_VARIABLE not in environ and not settings.keyring_path.exists():
        try:
            return KeyRing.create(settings.keyring_path)
        except FileExistsError:
            pass  # another process was faster
    return KeyRing.open(settings.keyring_path, environ)


async def found(store: Store, signing: SigningKeyring, *, issuer: str) -> Issuer:
    """Take the signing keys of the database; give a new one its issuer and the first key, in one commit.

    Raises:
        ConfigurationError: It is another issuer's, or its keys do not decrypt.
    """
    held = await store.issuer()
    if held is not None and held.issuer != issuer:
        raise ConfigurationError(
            f"the database belongs to the issuer {held.issuer}, not {issuer}; all its keys and credentials "
            f"are bound to that name, so add --issuer {held.issuer}"
        )
    # Of a database without an issuer, made by an earlier version: they decrypt for theirs only.
    signing.replace(await store.signing_keys())
    if held is None:
        first = (signing.generate(now=store.now()),) if signing.is_empty else ()
        with contextlib.suppress(Conflict):  # another process founded it in this moment
            await store.commit(Commit(rows=(Issuer(issuer=issuer), *first)))
        return await found(store, signing, issuer=issuer)
    return held


async def ensure_administrator(
    authority: Authority, data_dir: Path, connection: Mapping[str, object]
) -> None:
    """Make the first administrator in a database without Apps, and warn for as long as its token works.

    Args:
        authority: The authority.
        data_dir: Where the file goes.
        connection: How clients connect; a file from an earlier start is brought up to date with it.

    Raises:
        ConfigurationError: The file cannot be read or written.
    """
    path = data_dir / FILE_NAME
    async with alone_with(path):
        if not await _is_founded(authority.store):
            try:
                await _create_administrator(authority, path, connection)
            except Conflict:  # on another machine, so that the file here is nobody's
                path.unlink()
                return
        elif path.exists():
            content = _read(path)
            if {**content, **connection} != content:
                files.replace(path, _write({**content, **connection}))
            app_id, token = content["app_id"], content["api_token"]
            if await verify_api_token(authority, app_id, token, for_authority=True) is None:
                return
        else:
            return
    _log.warning(
        "the bootstrap token works from this machine for 7 days: create an administrator of your own, then "
        "delete the file and the token",
        file=str(path),
    )


async def replace_administrator(authority: Authority, path: Path, connection: Mapping[str, object]) -> None:
    """Make a new bootstrap administrator, and revoke the token of the one before.

    Raises:
        ConfigurationError: The file cannot be written; nothing was made then.
    """
    async with alone_with(path):
        await retry_conflicts(lambda: _create_administrator(authority, path, connection))


async def _is_founded(store: Store) -> bool:
    issuer = await store.issuer()
    if issuer is not None and issuer.bootstrap_token_id is not None:
        return True
    return bool(await store.apps(owner=None, after="", limit=1))  # by an earlier version


@contextlib.asynccontextmanager
async def alone_with(path: Path) -> AsyncIterator[None]:
    """Keep other processes from the file: what is in it must fit what was committed last."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        with contextlib.ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, lock.held())
            yield
    finally:
        lock.close()


async def _create_administrator(authority: Authority, path: Path, connection: Mapping[str, object]) -> None:
    """Make an administrator App with an API token that works from loopback for 7 days.

    Raises:
        ConfigurationError: The file cannot be written; nothing was made then.
        Conflict: Another process made one in this moment.
    """
    now = authority.store.now()
    app_id = str(uuid.uuid4())
    subject = f"app:{app_id}"
    app = App(
        app_id=app_id,
        kind=AppKind.BACKEND,
        confidential=True,
        display_name="Bootstrap administrator",
        owner=subject,
        scopes=scope.OWN,
        resources=frozenset({authority.issuer}),
        whitelist=_LOOPBACK,
        created_at=now,
        updated_at=now,
    )
    token = ApiToken(
        api_token_id=new_id(),
        app_id=app_id,
        display_name="bootstrap",
        scopes=scope.OWN,
        resources=app.resources,
        salt=new_salt(),
        key_number=authority.keyring.minting_number,
        created_at=now,
        expires_at=now + _LIFETIME,
    )
    text = authority.handles.seal(
        HandleKind.API_TOKEN, token.api_token_id, 0, salt=token.salt, key_number=token.key_number
    )
    content = {"kind": "administrator", **connection, "app_id": app_id, "api_token": text}
    succession = await _succeed(authority, token, now)
    try:
        # The file first: a token without a row is worthless, a row without its token is lost.
        files.replace(path, _write(content))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    audit = Audit(actor=_ACTOR, action="app.create", app_id=app_id)
    await authority.store.commit(
        Commit(
            rows=(app, token, *succession.rows),
            events=(app.state, *succession.events),
            audit=(audit, *succession.audit),
        )
    )


async def _succeed(authority: Authority, token: ApiToken, now: float) -> Commit:
    """What is written so that a token takes the place of the bootstrap token before it."""
    issuer = await authority.store.issuer()
    if issuer is None:
        raise Conflict
    successor = replace(issuer, bootstrap_token_id=token.api_token_id, version=issuer.version + 1)
    older_id = issuer.bootstrap_token_id
    older = None if older_id is None else await authority.store.api_token(older_id)
    if older is None or not is_live(older, now):
        return Commit(rows=(successor,))
    revoked = replace(older, revoked_at=now, version=older.version + 1)
    audit = Audit(
        actor=_ACTOR,
        action="api_token.revoke",
        app_id=older.app_id,
        details={"api_token_id": older.api_token_id},
    )
    event = revocation_of(older.api_token_id, now)
    return Commit(rows=(successor, revoked), events=(event,), audit=(audit,))


def read_connection(path: Path) -> dict[str, Any]:
    """How clients connect, from the file that a start left; a file that is gone or damaged says nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {name: content[name] for name in ("grpc_address", "issuer", "ca_certificate", "insecure")}
        return known | {name: content[name] for name in CLIENT_PAIR if name in content}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["app_id"], str) or not isinstance(content["api_token"], str):
            raise TypeError  # noqa: TRY301 - one answer for all that is wrong
    except (OSError, ValueError, LookupError, TypeError):
        raise ConfigurationError(
            f"{path} is damaged; run `rpz-auth-server bootstrap` to make another"
        ) from None
    return dict(content)


def _write(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"
