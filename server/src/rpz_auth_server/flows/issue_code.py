"""Issuing an authorization code (RFC 6749 §4.1.2) for a user who has signed in and consented."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rpz_auth.caller import APP_ID, APP_SUBJECT_PREFIX, Caller

from rpz_auth_server.crypto.handles import HandleKind, new_id, new_salt
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.account import consent_id, covers
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.grant import Grant, check_code_challenge
from rpz_auth_server.domain.pushed_request import PushedRequest, use
from rpz_auth_server.domain.refusal import (
    Conflict,
    RequestInvalid,
    RightsInsufficient,
    ScopeInvalid,
    TargetInvalid,
)
from rpz_auth_server.domain.uri import redirect_uri_is
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.rights import is_administrator, take_change
from rpz_auth_server.storage.store import Commit, Row

_MAX_SUBJECT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueCode:
    """One request, as parsed."""

    client_id: str
    redirect_uri: str
    scopes: frozenset[str]
    subject: str
    code_challenge: str = ""
    code_challenge_method: str = ""
    resources: frozenset[str] = frozenset()
    pushed: PushedRequest | None = None
    """Where the request was sent ahead (RFC 9126): its record, which is used up by the code."""


async def issue_code(authority: Authority, caller: Caller, request: IssueCode) -> tuple[str, int]:
    """Issue a code: for whom a sign-in service names, or for the person who has signed in here.

    Returns:
        The code, and in how many seconds it expires.

    Raises:
        RightsInsufficient: The caller may not issue codes for this App or subject; a person has not allowed
            this, or not any more.
        RequestInvalid: The redirect URI is not registered, or PKCE is missing or wrong.
        ScopeInvalid: More than is registered for the App.
        TargetInvalid: Resources that are not registered for the App, or none among several.
        Conflict: The request that was sent ahead was used meanwhile.
        RateLimited: The caller asked too often for what it may not, or a person allowed too much.
    """
    with authority.limiter.guarded_against_misuse(caller.app_id, request.client_id):
        await check_subject(authority, caller, request.subject)
        app = await _find_client(authority, caller, request.client_id)
    if not any(redirect_uri_is(registered, request.redirect_uri) for registered in app.redirect_uris):
        raise RequestInvalid("this redirect_uri is not registered for the App, character by character")
    _check_pkce(app, request)
    if not request.scopes or not request.scopes <= app.scopes:
        raise ScopeInvalid
    if any(name.startswith(scope.RESERVED_PREFIX) for name in request.scopes):
        raise ScopeInvalid("users cannot grant the authority's own scopes")
    resources = request.resources or (app.resources if len(app.resources) == 1 else frozenset())
    if not resources or not resources <= app.resources:
        raise TargetInvalid("name resources that are registered for the App")

    now = authority.store.now()
    deadline = now + authority.lifetimes.code
    grant = Grant(
        grant_id=new_id(),
        app_id=app.app_id,
        subject=request.subject,
        issued_by=caller.subject,
        scopes=request.scopes,
        resources=resources,
        redirect_uri=request.redirect_uri,
        code_challenge=request.code_challenge or None,
        salt=new_salt(),
        key_number=authority.keyring.minting_number,
        created_at=now,
        rotated_at=now,
        access_expires_at=now,
        idle_expires_at=deadline,
        expires_at=deadline,
    )
    code = authority.handles.seal(
        HandleKind.CODE, grant.grant_id, 0, salt=grant.salt, key_number=grant.key_number
    )
    # No audit record: the grant's row says who allowed what to whom, and codes are traffic.
    used = () if request.pushed is None else (use(request.pushed, now),)
    if isinstance(caller, Person):  # and no sign-in service, which speaks for many
        take_change(authority, caller)
    await _commit(authority, caller, grant, used)
    return code, int(authority.lifetimes.code)


async def _commit(authority: Authority, caller: Caller, grant: Grant, used: tuple[Row, ...]) -> None:
    """Write what a code stands for.

    Raises:
        RightsInsufficient: The person who is the caller does not allow it, or not any more.
        Conflict: The request that was sent ahead was used meanwhile.
    """
    allowing = await _allowing(authority, caller, grant)
    while True:
        try:
            await authority.store.commit(Commit(rows=(grant, *used), unchanged=allowing))
        except Conflict:
            before, allowing = allowing, await _allowing(authority, caller, grant)
            if allowing == before:
                raise
        else:
            return


async def _allowing(authority: Authority, caller: Caller, grant: Grant) -> tuple[Row, ...]:
    """The rows by which a person allows a grant; none for the word of a sign-in service.

    They must be as they are when the grant is written: who disables the account or withdraws the consent
    revokes the grants that are there, and no later one may come from before.

    Raises:
        RightsInsufficient: The account is disabled, or its consent does not cover the grant.
    """
    if not isinstance(caller, Person):
        return ()
    account = await authority.store.account(caller.account.account_id)
    consent = await authority.store.consent(consent_id(grant.subject, grant.app_id))
    now = authority.store.now()
    if (
        account is None
        or account.disabled
        or consent is None
        or not covers(consent, grant.scopes, grant.resources, now)
    ):
        raise RightsInsufficient("the person does not allow this any more")
    return account, consent


async def check_subject(authority: Authority, caller: Caller, subject: str) -> None:
    """Let pass the subjects that an administrator listed for the calling sign-in service.

    Raises:
        RightsInsufficient: The caller may not speak of this user.
        RequestInvalid: No user can have this name.
    """
    if not is_administrator(caller) and not _is_oneself(caller, subject):
        own = await authority.store.app(caller.app_id)
        if own is None or own.sign_in is None or not subject.startswith(own.sign_in.subject_prefix):
            raise RightsInsufficient("an administrator must list the subjects that this service may name")
    # As it will stand in access tokens, where a character outside ASCII takes six or twelve.
    if not subject or not subject.isprintable() or len(json.dumps(subject)) > _MAX_SUBJECT + len('""'):
        raise RequestInvalid(f"a subject has 1 to {_MAX_SUBJECT} printable characters, fewer outside ASCII")
    if subject.startswith(APP_SUBJECT_PREFIX):
        raise RequestInvalid(f"subjects that begin with {APP_SUBJECT_PREFIX!r} are Apps, never users")


def _is_oneself(caller: Caller, subject: str) -> bool:
    return isinstance(caller, Person) and caller.subject == subject


async def _find_client(authority: Authority, caller: Caller, client_id: str) -> App:
    """An App that the caller may issue codes for; one answer for missing, locked and deleted."""
    if not is_administrator(caller) and not isinstance(caller, Person):  # who signs in may use every App
        own = await authority.store.app(caller.app_id)
        if own is None or own.sign_in is None or client_id not in own.sign_in.client_ids:
            raise RightsInsufficient("an administrator must list the Apps that this service issues codes for")
    app = await authority.store.app(client_id) if APP_ID.fullmatch(client_id) else None
    if app is None or app.locked or app.deleted or authority.view.locked:
        raise RightsInsufficient("there is no such App that codes can be issued for")
    return app


def _check_pkce(app: App, request: IssueCode) -> None:
    exempt = app.pkce_exempt and app.kind is AppKind.BACKEND
    if exempt and not request.code_challenge and not request.code_challenge_method:
        return
    check_code_challenge(request.code_challenge, request.code_challenge_method)
