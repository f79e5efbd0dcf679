"""Rows to test with, whole and different from one another."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rpz_auth_server.audit_chain import Chain
from rpz_auth_server.domain.account import (
    Account,
    Consent,
    ExternalIdentity,
    Role,
    Session,
    consent_id,
    identity_id,
)
from rpz_auth_server.domain.app import App, AppKind, SignIn
from rpz_auth_server.domain.credential import ApiToken, ClientSecret
from rpz_auth_server.domain.event import AuditRecord
from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.storage.audit import link_of
from rpz_auth_server.storage.steps import Steps, Work, sql

NOW = 1_700_000_000.25
ACCOUNT_ID = "0123456789abcdefghijkw"
APP_ID = "0f9f3a52-8d0c-4d0e-9c39-6cf1f9b7a001"


def new_id() -> str:
    return secrets.token_hex(16)


def an_issuer() -> Issuer:
    return Issuer(issuer="https://auth.example")


def an_app(**changes: Any) -> App:
    app = App(
        app_id=APP_ID,
        kind=AppKind.BACKEND,
        display_name="Orders; DROP TABLE apps -- 'ß'",
        owner="alice",
        redirect_uris=("https://orders.example/cb", "https://a.example/?q=1"),
        scopes=frozenset({"orders.write", "orders.read"}),
        resources=frozenset({"https://orders"}),
        whitelist=(),
        locked_by="root",
        locked_by_administrator=True,
        confidential=True,
        pkce_exempt=True,
        query_token_allowed=False,
        access_token_lifetime=61.5,
        refresh_idle_lifetime=None,
        refresh_absolute_lifetime=86400.0,
        sign_in=SignIn(client_ids=frozenset({"b", "a"}), subject_prefix="acme:"),
        created_at=NOW,
        updated_at=NOW + 1,
    )
    return replace(app, **changes)


def a_secret(**changes: Any) -> ClientSecret:
    secret = ClientSecret(
        secret_id=new_id(),
        app_id=APP_ID,
        display_name="first",
        salt=b"\x00salt",
        key_number=3,
        created_at=NOW,
        expires_at=NOW + 90,
    )
    return replace(secret, **changes)


def an_api_token(**changes: Any) -> ApiToken:
    token = ApiToken(
        api_token_id=new_id(),
        app_id=APP_ID,
        display_name="deploy",
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders", "https://stock"}),
        salt=b"\xffsalt",
        key_number=2,
        created_at=NOW,
        expires_at=None,
    )
    return replace(token, **changes)


def a_grant(**changes: Any) -> Grant:
    grant = Grant(
        grant_id=new_id(),
        app_id=APP_ID,
        subject="acme:bob",
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders"}),
        redirect_uri="https://orders.example/cb",
        code_challenge="c" * 43,
        state=GrantState.PENDING,
        salt=b"salt\x00",
        key_number=1,
        created_at=NOW,
        rotated_at=NOW,
        peer="ipv4:10.0.0.1:5",
        issued_by="app:sign-in",
        access_expires_at=NOW + 7200,
        idle_expires_at=NOW + 60,
        expires_at=NOW + 60,
    )
    return replace(grant, **changes)


def a_key(**changes: Any) -> SealedKey:
    key = SealedKey(kid=new_id(), key_number=1, sealed=b"sealed\x00", created_at=NOW, sign_at=NOW + 1)
    return replace(key, **changes)


def an_account(**changes: Any) -> Account:
    account = Account(
        account_id=ACCOUNT_ID,
        user_name="bob",
        display_name="Bob 'ß'; --",
        role=Role.MEMBER,
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders"}),
        password_hash="$argon2id$made up",
        key_number=2,
        setup_hash="f" * 64,
        setup_expires_at=NOW + 5,
        setup_local=True,
        created_at=NOW,
        updated_at=NOW + 1,
        signed_in_at=NOW + 2,
    )
    return replace(account, **changes)


def a_session(**changes: Any) -> Session:
    session = Session(
        session_id=new_id(),
        account_id=ACCOUNT_ID,
        peer="127.0.0.1",
        agent="Mozilla/5.0",
        created_at=NOW,
        seen_at=NOW + 1,
        idle_expires_at=NOW + 60,
        expires_at=NOW + 600,
    )
    return replace(session, **changes)


def a_consent(**changes: Any) -> Consent:
    consent = Consent(
        consent_id=consent_id("user:bob", APP_ID),
        subject="user:bob",
        app_id=APP_ID,
        scopes=frozenset({"orders.write", "orders.read"}),
        resources=frozenset({"https://orders"}),
        created_at=NOW,
        expires_at=NOW + 60,
    )
    return replace(consent, **changes)


def an_identity(**changes: Any) -> ExternalIdentity:
    identity = ExternalIdentity(
        identity_id=identity_id("https://op.example", "7"),
        account_id=ACCOUNT_ID,
        issuer="https://op.example",
        subject="7",
        created_at=NOW,
    )
    return replace(identity, **changes)


def a_pushed_request(**changes: Any) -> PushedRequest:
    pushed = PushedRequest(
        request_id=new_id(),
        app_id=APP_ID,
        parameters=(
            ("state", "\udcff ß \"'"),
            ("resource", "https://a"),
            ("resource", "https://b"),
            ("x", ""),
        ),
        created_at=NOW,
        expires_at=NOW + 90,
    )
    return replace(pushed, **changes)


def statement(text: str, *values: Any) -> Work[int]:
    """Work behind the store's back; gives the number of rows."""

    def work(_now: float) -> Steps[int]:
        result = yield sql(text, *values)
        return result.count

    return work


def find_break(records: Iterable[AuditRecord]) -> int | None:
    """The sequence of the first record that does not follow from the one before; None if all do."""
    chain = Chain()
    return next((record.sequence for record in records if not chain.follows(link_of(record))), None)
