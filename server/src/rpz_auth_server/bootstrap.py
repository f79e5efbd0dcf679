"""What a first start makes: master keys, a signing key, and the first administrator."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import files
from rpz_auth_server.crypto.handles import HandleKind, new_id, new_salt
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.app import ApiToken, App, AppKind
from rpz_auth_server.domain.event import Audit
from rpz_auth_server.flows.api_tokens import verify_api_token
from rpz_auth_server.flows.pipeline import Authority
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.store import Commit, Store

_log = structlog.get_logger("rpz_auth_server")

FILE_NAME = "bootstrap.json"
_LIFETIME = 7 * 86400
_LOOPBACK = ("127.0.0.0/8", "::1")


def open_keyring(settings: Settings, environ: Mapping[str, str]) -> KeyRing:
    """Find the master keys, and make them where there is no database yet that could need others.

    Raises:
        ConfigurationError: They are missing or cannot be used.
    """
    if (
        ENVIRONMENT_VARIABLE not in environ
        and not settings.keyring_path.exists()
        and not settings.database_path.exists()
    ):
        try:
            return KeyRing.create(settings.keyring_path)
        except FileExistsError:
            pass  # another process was faster
    return KeyRing.open(settings.keyring_path, environ)


def check_issuer(settings: Settings) -> None:
    """Let pass the issuer that the data directory was made for, as far as its bootstrap file tells.

    Raises:
        ConfigurationError: It is another one.
    """
    path = settings.data_dir / FILE_NAME
    try:
        recorded = _read(path).get("issuer") if path.exists() else None
    except ConfigurationError:  # `ensure_administrator` says what to do about a damaged file
        return
    if recorded is not None and recorded != settings.issuer:
        raise ConfigurationError(
            f"{settings.data_dir} belongs to the issuer {recorded}, not {settings.issuer}; all its keys and "
            f"credentials are bound to that name, so add --issuer {recorded}"
        )


async def load_signing_keys(store: Store, signing: SigningKeyring) -> None:
    """Take the signing keys of the database, and make the first.

    Raises:
        ConfigurationError: They do not decrypt.
    """
    records = await store.signing_keys()
    if not records:
        await store.commit(Commit(rows=(signing.generate(now=store.now()),)))
        records = await store.signing_keys()
    signing.replace(records)


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
    if not await authority.store.apps(owner=None, after="", limit=1):
        await create_administrator(authority, path, connection)
    elif path.exists():
        content = _read(path)
        if {**content, **connection} != content:
            files.replace(path, _write({**content, **connection}))
        if await verify_api_token(authority, content["app_id"], content["api_token"]) is None:
            return
    else:
        return
    _log.warning(
        "the bootstrap token works from this machine for 7 days: create an administrator of your own, then "
        "delete the file and the token",
        file=str(path),
    )


async def create_administrator(authority: Authority, path: Path, connection: Mapping[str, object]) -> None:
    """Make an administrator App with an API token that works from loopback for 7 days.

    Raises:
        ConfigurationError: The file cannot be written; nothing was made then.
    """
    now = authority.store.now()
    app_id = str(uuid.uuid4())
    subject = f"app:{app_id}"
    app = App(
        app_id=app_id,
        kind=AppKind.BACKEND,
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
    try:
        # The file first: a token without a row is worthless, a row without its token is lost.
        files.replace(path, _write(content))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    audit = Audit(actor="bootstrap", action="app.create", app_id=app_id)
    await authority.store.commit(Commit(rows=(app, token), events=(app.state,), audit=(audit,)))


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
