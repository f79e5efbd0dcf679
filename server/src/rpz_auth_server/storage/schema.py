"""The schema, as the migrations that lead to it: the same for every database, numbered once."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from rpz_auth_server.storage.rows import searchable
from rpz_auth_server.storage.steps import Steps, sql

MIGRATIONS: dict[str, Callable[[], Steps[None]]] = {}
"""By name, in the order in which they are applied."""


def _migration(steps: Callable[[], Steps[None]]) -> Callable[[], Steps[None]]:
    MIGRATIONS[steps.__name__] = steps
    return steps


# Sets, tuples and `sign_in` are JSON. Times are seconds since the epoch on the database's clock. Tables of
# short rows under random ids are WITHOUT ROWID: a read descends one tree instead of two, an insert dirties
# one page instead of two. Apps are not, because a whitelist can be longer than a page.
_FIRST = (
    """
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        instance TEXT NOT NULL,
        now REAL NOT NULL,
        collected_event INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE apps (
        app_id TEXT PRIMARY KEY NOT NULL,
        kind TEXT NOT NULL,
        display_name TEXT NOT NULL,
        owner TEXT NOT NULL,
        redirect_uris TEXT NOT NULL,
        scopes TEXT NOT NULL,
        resources TEXT NOT NULL,
        whitelist TEXT NOT NULL,
        locked INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        pkce_exempt INTEGER NOT NULL,
        sign_in TEXT,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        version INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX apps_owner ON apps (owner, app_id)",
    """
    CREATE INDEX apps_special ON apps (app_id)
        WHERE locked = 1 OR deleted = 1 OR epoch > 0 OR whitelist <> '[]'
    """,
    "CREATE INDEX apps_deleted ON apps (updated_at) WHERE deleted = 1",
    """
    CREATE TABLE client_secrets (
        secret_id TEXT PRIMARY KEY NOT NULL,
        app_id TEXT NOT NULL REFERENCES apps,
        display_name TEXT NOT NULL,
        salt BLOB NOT NULL,
        key_number INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX client_secrets_app ON client_secrets (app_id)",
    "CREATE INDEX client_secrets_dead ON client_secrets (coalesce(revoked_at, expires_at))",
    """
    CREATE TABLE api_tokens (
        api_token_id TEXT PRIMARY KEY NOT NULL,
        app_id TEXT NOT NULL REFERENCES apps,
        display_name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        resources TEXT NOT NULL,
        salt BLOB NOT NULL,
        key_number INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX api_tokens_app ON api_tokens (app_id)",
    "CREATE INDEX api_tokens_dead ON api_tokens (coalesce(revoked_at, expires_at))",
    # `collect_at` is when to look whether the grant is dead. A refresh moves the deadline, not this: so it
    # dirties the page of its row and no page of an index.
    """
    CREATE TABLE grants (
        grant_id TEXT PRIMARY KEY NOT NULL,
        app_id TEXT NOT NULL REFERENCES apps,
        subject TEXT NOT NULL,
        scopes TEXT NOT NULL,
        resources TEXT NOT NULL,
        redirect_uri TEXT NOT NULL,
        code_challenge TEXT,
        state TEXT NOT NULL,
        generation INTEGER NOT NULL,
        salt BLOB NOT NULL,
        key_number INTEGER NOT NULL,
        key_since INTEGER NOT NULL,
        created_at REAL NOT NULL,
        rotated_at REAL NOT NULL,
        peer TEXT NOT NULL,
        repeats INTEGER NOT NULL,
        access_expires_at REAL NOT NULL,
        idle_expires_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        version INTEGER NOT NULL,
        collect_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX grants_app ON grants (app_id)",
    "CREATE INDEX grants_subject ON grants (subject)",
    "CREATE INDEX grants_collect ON grants (collect_at)",
    """
    CREATE TABLE signing_keys (
        kid TEXT PRIMARY KEY NOT NULL,
        key_number INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        created_at REAL NOT NULL,
        retire_at REAL,
        version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    # AUTOINCREMENT: a place in the stream is never given twice, even after its event was collected.
    """
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        nonce BLOB NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('revocation', 'app', 'keys')),
        body TEXT NOT NULL,
        created_at REAL NOT NULL,
        forget_at REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX events_forgotten ON events (forget_at)",
    """
    CREATE TABLE audit (
        sequence INTEGER PRIMARY KEY,
        recorded_at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        app_id TEXT NOT NULL,
        peer TEXT NOT NULL,
        details TEXT NOT NULL,
        digest BLOB NOT NULL
    ) STRICT
    """,
)

_LIMITS = (
    # `ends_at` is when all of it has leaked away.
    """
    CREATE TABLE limits (
        key TEXT PRIMARY KEY NOT NULL,
        charged REAL NOT NULL,
        at REAL NOT NULL,
        ends_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX limits_at ON limits (at)",
    "CREATE INDEX limits_ends_at ON limits (ends_at)",
    # Without a reference to `apps`: counts outlive a deleted App.
    """
    CREATE TABLE refusals (
        minute INTEGER NOT NULL,
        app_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (minute, app_id, reason)
    ) STRICT, WITHOUT ROWID
    """,
)


_ACCOUNTS = (
    """
    CREATE TABLE accounts (
        account_id TEXT PRIMARY KEY NOT NULL,
        user_name TEXT NOT NULL UNIQUE,
        display_name TEXT NOT NULL,
        role TEXT NOT NULL,
        scopes TEXT NOT NULL,
        resources TEXT NOT NULL,
        password_hash TEXT,
        key_number INTEGER NOT NULL,
        setup_hash TEXT,
        setup_expires_at REAL,
        setup_local INTEGER NOT NULL,
        disabled INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        signed_in_at REAL,
        version INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY NOT NULL,
        account_id TEXT NOT NULL REFERENCES accounts,
        peer TEXT NOT NULL,
        agent TEXT NOT NULL,
        created_at REAL NOT NULL,
        seen_at REAL NOT NULL,
        idle_expires_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        ended_at REAL,
        version INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX sessions_account ON sessions (account_id)",
    """
    CREATE TABLE consents (
        consent_id TEXT PRIMARY KEY NOT NULL,
        subject TEXT NOT NULL,
        app_id TEXT NOT NULL REFERENCES apps,
        scopes TEXT NOT NULL,
        resources TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        version INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX consents_subject ON consents (subject)",
    "CREATE INDEX consents_app ON consents (app_id)",
    "CREATE INDEX consents_expired ON consents (expires_at)",
    """
    CREATE TABLE external_identities (
        identity_id TEXT PRIMARY KEY NOT NULL,
        account_id TEXT REFERENCES accounts,
        issuer TEXT NOT NULL,
        subject TEXT NOT NULL,
        created_at REAL NOT NULL,
        version INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX external_identities_account ON external_identities (account_id)",
)


_APPS_AND_USE = (
    "ALTER TABLE apps ADD COLUMN search_name TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE apps ADD COLUMN locked_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE apps ADD COLUMN locked_by_administrator INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE apps ADD COLUMN confidential INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE apps ADD COLUMN query_token_allowed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE apps ADD COLUMN access_token_lifetime REAL",
    "ALTER TABLE apps ADD COLUMN refresh_idle_lifetime REAL",
    "ALTER TABLE apps ADD COLUMN refresh_absolute_lifetime REAL",
    # Who locked what is locked already, nobody knows; so it takes an administrator to unlock it.
    "UPDATE apps SET locked_by_administrator = 1 WHERE locked = 1",
    """
    UPDATE apps SET confidential = 1 WHERE kind = 'backend'
        OR app_id IN (SELECT app_id FROM client_secrets)
    """,
    "DROP INDEX apps_special",
    """
    CREATE INDEX apps_special ON apps (app_id)
        WHERE locked = 1 OR deleted = 1 OR epoch > 0 OR whitelist <> '[]' OR query_token_allowed = 1
    """,
    "ALTER TABLE grants ADD COLUMN issued_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE client_secrets ADD COLUMN last_used_at REAL",
    "ALTER TABLE client_secrets ADD COLUMN last_used_from TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE api_tokens ADD COLUMN last_used_at REAL",
    "ALTER TABLE api_tokens ADD COLUMN last_used_from TEXT NOT NULL DEFAULT ''",
)


@_migration
def m0001_first() -> Steps[None]:
    """Make the first tables."""
    for statement in _FIRST:
        yield sql(statement)
    yield sql("INSERT INTO meta VALUES (1, ?, 0, 0)", secrets.token_hex(16))


@_migration
def m0002_issuer() -> Steps[None]:
    """Make the one row of the issuer, which the founding fills: a second one conflicts."""
    yield sql(
        """
        CREATE TABLE issuer (
            issuer TEXT PRIMARY KEY NOT NULL,
            bootstrap_token_id TEXT,
            version INTEGER NOT NULL,
            one INTEGER NOT NULL DEFAULT 1 UNIQUE CHECK (one = 1)
        ) STRICT
        """
    )


@_migration
def m0003_accounts() -> Steps[None]:
    """Make the tables of people."""
    for statement in _ACCOUNTS:
        yield sql(statement)


@_migration
def m0004_lock_and_rotation() -> Steps[None]:
    """Keep whether the issuer is locked, and when each key signs and is published."""
    yield sql("ALTER TABLE issuer ADD COLUMN locked INTEGER NOT NULL DEFAULT 0")
    yield sql("ALTER TABLE signing_keys ADD COLUMN sign_at REAL NOT NULL DEFAULT 0")
    yield sql("ALTER TABLE signing_keys ADD COLUMN published INTEGER NOT NULL DEFAULT 1")
    yield sql("UPDATE signing_keys SET sign_at = created_at")


@_migration
def m0005_pushed_requests() -> Steps[None]:
    """Make the table of authorization requests that wait for their browser."""
    # No reference to the App: its own row outlives these by far.
    yield sql(
        """
        CREATE TABLE pushed_requests (
            request_id TEXT PRIMARY KEY NOT NULL,
            app_id TEXT NOT NULL,
            parameters TEXT NOT NULL,
            created_at REAL NOT NULL,
            expires_at REAL NOT NULL,
            used_at REAL,
            version INTEGER NOT NULL
        ) STRICT
        """
    )
    yield sql("CREATE INDEX pushed_requests_app ON pushed_requests (app_id, expires_at)")
    yield sql("CREATE INDEX pushed_requests_expired ON pushed_requests (expires_at)")


@_migration
def m0006_limits() -> Steps[None]:
    """Make the tables that processes share their counts in."""
    for statement in _LIMITS:
        yield sql(statement)


@_migration
def m0007_apps_and_use() -> Steps[None]:
    """Let Apps be searched, be confidential, have lifetimes; note who locks, who signs in, what is used."""
    for statement in _APPS_AND_USE:
        yield sql(statement)
    names = yield sql("SELECT app_id, display_name FROM apps")
    for app_id, name in names.rows:
        yield sql("UPDATE apps SET search_name = ? WHERE app_id = ?", searchable(name), app_id)


@_migration
def m0008_restore() -> Steps[None]:
    """Keep when a backup was restored."""
    yield sql("ALTER TABLE issuer ADD COLUMN restored_at REAL")


@_migration
def m0009_creations() -> Steps[None]:
    """Make the table of creations that can be repeated."""
    yield sql(
        """
        CREATE TABLE creations (
            request_key TEXT PRIMARY KEY NOT NULL,
            content TEXT NOT NULL,
            object_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            version INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """
    )
    yield sql("CREATE INDEX creations_age ON creations (created_at)")


@_migration
def m0010_required_pushed_requests() -> Steps[None]:
    """Keep which Apps must send their authorization requests ahead."""
    yield sql("ALTER TABLE apps ADD COLUMN require_pushed_authorization_requests INTEGER NOT NULL DEFAULT 0")


@_migration
def m0011_moved() -> Steps[None]:
    """Keep where the database was moved to: from then on it takes no writes, and nobody opens it."""
    yield sql("ALTER TABLE meta ADD COLUMN moved_to TEXT")


@_migration
def m0012_names() -> Steps[None]:
    """Let whitelists hold names, and keep where these lead."""
    yield sql("ALTER TABLE apps ADD COLUMN resolved TEXT NOT NULL DEFAULT '[]'")
    yield sql("ALTER TABLE apps ADD COLUMN private_names_allowed INTEGER NOT NULL DEFAULT 0")
    yield sql("ALTER TABLE apps ADD COLUMN has_names INTEGER NOT NULL DEFAULT 0")
    yield sql("CREATE INDEX apps_with_names ON apps (app_id) WHERE has_names = 1")
    yield sql(
        """
        CREATE TABLE resolutions (
            name TEXT PRIMARY KEY NOT NULL,
            addresses TEXT NOT NULL,
            resolved_at REAL,
            due_at REAL NOT NULL,
            failures INTEGER NOT NULL,
            version INTEGER NOT NULL
        ) STRICT
        """
    )
    yield sql("CREATE INDEX resolutions_due ON resolutions (due_at)")


@_migration
def m0013_bounds() -> Steps[None]:
    """Let live Apps of an owner and live API tokens of an App be counted without the dead ones."""
    yield sql("DROP INDEX apps_owner")
    yield sql("CREATE INDEX apps_owner ON apps (owner, app_id) WHERE deleted = 0")
    yield sql("CREATE INDEX api_tokens_live ON api_tokens (app_id, expires_at) WHERE revoked_at IS NULL")
