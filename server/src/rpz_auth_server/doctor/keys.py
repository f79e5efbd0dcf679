"""Master keys and signing keys: there, fitting, and in time; and credentials that end soon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rpz_auth.errors import ConfigurationError

from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.domain.credential import is_live
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import KeyUse, SealedKey, is_due
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.store import Store

_MASTER = Check("master keys")
_SIGNING = Check("signing keys")
_ISSUER = Check("issuer")
_CREDENTIALS = Check("credentials")
_PATIENCE = 900.0
"""Seconds that a running authority may take until it does what is due."""
_KINDS = {"secret": "OAuth 2 secrets", "api_token": "API tokens"}


def open_ring(settings: Settings, environ: Mapping[str, str]) -> KeyRing | Finding:
    """The ring, or why there is none."""
    try:
        return KeyRing.open(settings.keyring_path, environ)
    except ConfigurationError as error:
        return _MASTER.error(str(error), "without a ring that can be used no authority starts")


async def check_keys(settings: Settings, ring: KeyRing, store: Store) -> list[Finding]:
    """Hold what the database needs against what there is."""
    issuer = await store.issuer()
    if issuer is None:
        return [_ISSUER.warning("the database was never founded", "`rpz-auth-server serve` does so")]
    now, records = store.now(), await store.signing_keys()
    findings = [*_issuer(settings, issuer), *_master(ring, await store.key_usage())]
    signing = SigningKeyring(ring, issuer=issuer.issuer, instance=await store.instance())
    try:
        signing.replace(records)
    except ConfigurationError as error:
        findings.append(_SIGNING.error(str(error), "put the ring back that belongs to this database"))
    else:
        findings += _signing(settings, issuer, records, signing.signs_since(now), now)
    return [*findings, *await _credentials(settings, issuer, store)]


def _issuer(settings: Settings, issuer: Issuer) -> Iterator[Finding]:
    if issuer.issuer != settings.issuer:
        yield _ISSUER.error(
            f"the database belongs to {issuer.issuer}, and the settings say {settings.issuer}",
            f"add --issuer {issuer.issuer}",
        )
    elif issuer.locked:
        yield _ISSUER.warning("it is locked: no credential is good", "`rpz-auth issuer unlock` ends that")
    else:
        yield _ISSUER.ok(issuer.issuer)


def _master(ring: KeyRing, uses: Sequence[KeyUse]) -> Iterator[Finding]:
    lacking = {use.key_number for use in uses if use.key_number and not ring.has(use.key_number)}
    for number in sorted(lacking):
        rows = ", ".join(f"{use.rows} {use.kind}" for use in uses if use.key_number == number)
        yield _MASTER.error(
            f"key {number} is not in the ring, and {rows} need it", "put the ring back that has it"
        )
    if lacking:
        return
    count = len(ring.numbers)
    yield _MASTER.ok(f"{count} in the ring, {ring.minting_number} mints; nothing needs another")
    needed = {use.key_number for use in uses} | {ring.minting_number}
    upcoming = {ring.upcoming.number} if ring.upcoming else set()
    for number in sorted(set(ring.numbers) - needed - upcoming):
        yield _MASTER.ok(f"key {number} is needed by nothing", f"`rpz-auth-server keys retire {number}`")


def _signing(
    settings: Settings, issuer: Issuer, records: Sequence[SealedKey], since: float | None, now: float
) -> Iterator[Finding]:
    published = [key for key in records if key.published]
    if since is None and not issuer.locked:
        yield _SIGNING.error(
            "none signs, so that no access token can be made", "`rpz-auth signing-keys rotate`"
        )
        return
    overdue = is_due(published, settings.key_times, now - _PATIENCE) and not issuer.locked
    ended = [key for key in published if key.retire_at is not None and key.retire_at < now - _PATIENCE]
    if overdue or ended:
        what = "a successor is due" if overdue else f"{len(ended)} should have been taken back"
        yield _SIGNING.warning(what, "a running authority does so by itself; is one running?")
        return
    signs = (
        "" if since is None else f"; one signs since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC"
    )
    yield _SIGNING.ok(f"{len(published)} published{signs}")


async def _credentials(settings: Settings, issuer: Issuer, store: Store) -> list[Finding]:
    now, window = store.now(), settings.expiry_warning
    soon = dict(await store.count_expiring(now + window)) if window else {}
    findings = []
    token = None if issuer.bootstrap_token_id is None else await store.api_token(issuer.bootstrap_token_id)
    if token is not None and is_live(token, now):
        if token.expires_at is not None and token.expires_at <= now + window:
            soon["api_token"] -= 1  # it has a finding of its own
        findings.append(
            _CREDENTIALS.warning(
                "the token in bootstrap.json is alive, and may do everything",
                "create an administrator of your own (`rpz-auth api-tokens create … --as-credentials`), and "
                "revoke it: "
                f"`rpz-auth api-tokens revoke {token.app_id} {token.api_token_id}`",
            )
        )
    if any(soon.values()):
        what = ", ".join(f"{count} {_KINDS.get(kind, kind)}" for kind, count in soon.items() if count)
        mend = "`rpz-auth apps get APP_ID` names them; rotate them"
        findings.append(_CREDENTIALS.warning(f"{what} end within {window / 86400:g} days", mend))
    return findings or [_CREDENTIALS.ok("none ends soon, and the bootstrap token is not alive")]
