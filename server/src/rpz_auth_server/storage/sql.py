"""What every SQL database does alike: each look-up and each write, as statements."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rpz_auth.errors import ConfigurationError

from rpz_auth_server.domain.account import Account, Consent, ExternalIdentity, Session
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.credential import ApiToken, ClientSecret, deadline, id_of
from rpz_auth_server.domain.event import AuditRecord, Cursor, Event, StoredSnapshot
from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import KeyUse, SealedKey
from rpz_auth_server.domain.limits import Charge, RefusalCount, SharedLevel
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.domain.resolution import Resolution
from rpz_auth_server.domain.use import Use
from rpz_auth_server.storage import audit, bounds, events, limits, usage
from rpz_auth_server.storage.collect import collect
from rpz_auth_server.storage.rows import (
    ACCOUNTS,
    API_TOKENS,
    APPS,
    CLIENT_SECRETS,
    CONSENTS,
    CREATIONS,
    EXTERNAL_IDENTITIES,
    GRANTS,
    ISSUER,
    PUSHED_REQUESTS,
    RESOLUTIONS,
    SESSIONS,
    SIGNING_KEYS,
    R,
    Table,
    app_conditions,
    check,
    write,
)
from rpz_auth_server.storage.steps import Steps, T, Work, sql
from rpz_auth_server.storage.store import AUDIT_KEPT, Commit, Row

_MOST_VALUES = 500

_END = "coalesce(revoked_at, expires_at)"
"""Of a secret or API token, as its index has it: a condition must say it so, also where none is revoked."""
_NOT_REVOKED = "revoked_at IS NULL"

TICK = "UPDATE meta SET now = CASE WHEN now < ? THEN ? ELSE now END WHERE moved_to IS NULL RETURNING now"
"""The first statement of every transaction that writes; both values are the time on the writer's clock.

It gives no row when the database has been moved: what would be written here would be lost.
"""


INCOMING = "moved here, not finished"
"""The mark of a database that another is being moved to; nobody opens it yet."""


def check_not_moved(moved_to: str | None) -> None:
    """Let pass a database that was not moved to another.

    Raises:
        ConfigurationError: It was, or the move to it is not finished; two that are written to would tell two
            stories.
    """
    if moved_to == INCOMING:
        raise ConfigurationError("an authority is being moved to this database, and that is not finished")
    if moved_to is not None:
        raise ConfigurationError(
            f"this database was moved ({moved_to}) and is not used any more; name the other by --database"
        )


class SqlStore(abc.ABC):
    """`Store` on SQL. A backend says how statements get to its database; what they are is said here."""

    @abc.abstractmethod
    def now(self) -> float:
        """See `Store.now`."""

    @abc.abstractmethod
    async def _look_up(self, table: Table[R], key: str) -> R | None:
        """Read the row of a key."""

    @abc.abstractmethod
    async def _select(self, table: Table[R], condition: str, *values: object) -> list[R]:
        """Read rows."""

    @abc.abstractmethod
    async def _read(self, steps: Callable[[], Steps[T]], *, long: bool = False) -> T:
        """Run statements that see one state of the database; `long` if they read without a bound."""

    @abc.abstractmethod
    async def _write(
        self, work: Work[T], *, single: bool = False, announce: bool = False, vital: bool = False
    ) -> T:
        """Write durably, and to the end also when the caller is cancelled.

        Args:
            work: The steps.
            single: They are one statement, which writes one row or none.
            announce: They write an event.
            vital: They are not refused for want of room before all others are.
        """

    async def issuer(self) -> Issuer | None:
        """See `Store.issuer`."""
        found = await self._select(ISSUER, "")
        return found[0] if found else None

    async def app(self, app_id: str) -> App | None:
        """See `Store.app`."""
        return await self._look_up(APPS, app_id)

    async def apps(
        self,
        *,
        owner: str | None,
        kind: AppKind | None = None,
        name_part: str = "",
        after: str,
        limit: int,
    ) -> Sequence[App]:
        """See `Store.apps`."""
        conditions, values = app_conditions(owner, kind, name_part)
        condition = f"WHERE {conditions}app_id > ? AND deleted = 0 ORDER BY app_id LIMIT ?"
        return await self._select(APPS, condition, *values, after, limit)

    async def apps_with_names(self, *, after: str, limit: int) -> Sequence[App]:
        """See `Store.apps_with_names`."""
        condition = "WHERE has_names = 1 AND deleted = 0 AND app_id > ? ORDER BY app_id LIMIT ?"
        return await self._select(APPS, condition, after, limit)

    async def resolutions(self, names: Sequence[str]) -> Sequence[Resolution]:
        """See `Store.resolutions`."""
        found: list[Resolution] = []
        wanted = sorted(set(names))
        for start in range(0, len(wanted), _MOST_VALUES):
            part = wanted[start : start + _MOST_VALUES]
            condition = f"WHERE name IN ({', '.join('?' * len(part))}) ORDER BY name"
            found += await self._select(RESOLUTIONS, condition, *part)
        return found

    async def client_secret(self, secret_id: str) -> ClientSecret | None:
        """See `Store.client_secret`."""
        return await self._look_up(CLIENT_SECRETS, secret_id)

    async def client_secrets(self, app_id: str) -> Sequence[ClientSecret]:
        """See `Store.client_secrets`."""
        return await self._select(CLIENT_SECRETS, "WHERE app_id = ? ORDER BY created_at, secret_id", app_id)

    async def api_token(self, api_token_id: str) -> ApiToken | None:
        """See `Store.api_token`."""
        return await self._look_up(API_TOKENS, api_token_id)

    async def api_tokens(self, app_id: str, *, after: str, limit: int) -> Sequence[ApiToken]:
        """See `Store.api_tokens`."""
        condition = "WHERE app_id = ? AND api_token_id > ? ORDER BY api_token_id LIMIT ?"
        return await self._select(API_TOKENS, condition, app_id, after, limit)

    async def expiring(self, before: float, *, limit: int) -> Sequence[ClientSecret | ApiToken]:
        """See `Store.expiring`."""
        condition = f"WHERE {_END} > ? AND {_END} < ? AND {_NOT_REVOKED} ORDER BY {_END} LIMIT ?"
        values = (self.now(), before, limit)
        secrets = await self._select(CLIENT_SECRETS, condition, *values)
        return [*secrets, *await self._select(API_TOKENS, condition, *values)]

    async def ended(
        self, after: tuple[float, str], until: float, *, limit: int
    ) -> Sequence[ClientSecret | ApiToken]:
        """See `Store.ended`."""

        async def of(table: Table[R]) -> Sequence[R]:
            place = f"({_END} > ? OR ({_END} = ? AND {table.key} > ?)) AND {_END} <= ?"
            condition = f"WHERE {place} AND {_NOT_REVOKED} ORDER BY {_END}, {table.key} LIMIT ?"
            return await self._select(table, condition, after[0], *after, until, limit)

        both: list[ClientSecret | ApiToken] = [*await of(CLIENT_SECRETS), *await of(API_TOKENS)]
        return sorted(both, key=lambda credential: (deadline(credential), id_of(credential)))[:limit]

    async def record_uses(self, uses: Sequence[Use]) -> None:
        """See `Store.record_uses`."""
        await self._write(lambda _: _record_uses(uses))

    async def last_uses(self, app_ids: Sequence[str]) -> Mapping[str, float]:
        """See `Store.last_uses`."""
        return await self._read(partial(usage.last_uses, app_ids))

    async def creation(self, request_key: str) -> Creation | None:
        """See `Store.creation`."""
        return await self._look_up(CREATIONS, request_key)

    async def grant(self, grant_id: str) -> Grant | None:
        """See `Store.grant`."""
        return await self._look_up(GRANTS, grant_id)

    async def grants_of_subject(
        self, subject: str, *, app_id: str | None = None, limit: int
    ) -> Sequence[Grant]:
        """See `Store.grants_of_subject`."""
        alive = "state <> ? AND idle_expires_at > ? AND expires_at > ? LIMIT ?"
        now = self.now()
        values = (str(GrantState.REVOKED), now, now, limit)
        if app_id is None:
            return await self._select(GRANTS, f"WHERE subject = ? AND {alive}", subject, *values)
        condition = f"WHERE subject = ? AND app_id = ? AND {alive}"
        return await self._select(GRANTS, condition, subject, app_id, *values)

    async def grants_of_app(self, app_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """See `Store.grants_of_app`."""
        condition = "WHERE app_id = ? AND grant_id > ? ORDER BY grant_id LIMIT ?"
        return await self._select(GRANTS, condition, app_id, after, limit)

    async def grants_by_subject(self, subject: str, *, after: str, limit: int) -> Sequence[Grant]:
        """See `Store.grants_by_subject`."""
        condition = "WHERE subject = ? AND grant_id > ? ORDER BY grant_id LIMIT ?"
        return await self._select(GRANTS, condition, subject, after, limit)

    async def signing_keys(self) -> Sequence[SealedKey]:
        """See `Store.signing_keys`."""
        return await self._select(SIGNING_KEYS, "ORDER BY created_at, sign_at, kid")

    async def account(self, account_id: str) -> Account | None:
        """See `Store.account`."""
        return await self._look_up(ACCOUNTS, account_id)

    async def account_of_user(self, user_name: str) -> Account | None:
        """See `Store.account_of_user`."""
        found = await self._select(ACCOUNTS, "WHERE user_name = ?", user_name)
        return found[0] if found else None

    async def accounts(self, *, after: str, limit: int) -> Sequence[Account]:
        """See `Store.accounts`."""
        return await self._select(ACCOUNTS, "WHERE user_name > ? ORDER BY user_name LIMIT ?", after, limit)

    async def session(self, session_id: str) -> Session | None:
        """See `Store.session`."""
        return await self._look_up(SESSIONS, session_id)

    async def sessions(self, account_id: str) -> Sequence[Session]:
        """See `Store.sessions`."""
        condition = (
            "WHERE account_id = ? AND ended_at IS NULL AND idle_expires_at > ? AND expires_at > ?"
            " ORDER BY created_at, session_id"
        )
        now = self.now()
        return await self._select(SESSIONS, condition, account_id, now, now)

    async def consent(self, consent_id: str) -> Consent | None:
        """See `Store.consent`."""
        return await self._look_up(CONSENTS, consent_id)

    async def consents(self, subject: str, *, after: str, limit: int) -> Sequence[Consent]:
        """See `Store.consents`."""
        condition = "WHERE subject = ? AND consent_id > ? AND expires_at > ? ORDER BY consent_id LIMIT ?"
        return await self._select(CONSENTS, condition, subject, after, self.now(), limit)

    async def external_identity(self, identity_id: str) -> ExternalIdentity | None:
        """See `Store.external_identity`."""
        return await self._look_up(EXTERNAL_IDENTITIES, identity_id)

    async def external_identities(self, account_id: str) -> Sequence[ExternalIdentity]:
        """See `Store.external_identities`."""
        condition = "WHERE account_id = ? ORDER BY created_at, identity_id"
        return await self._select(EXTERNAL_IDENTITIES, condition, account_id)

    async def pushed_request(self, request_id: str) -> PushedRequest | None:
        """See `Store.pushed_request`."""
        return await self._look_up(PUSHED_REQUESTS, request_id)

    async def count_pushed_requests(self, app_id: str) -> int:
        """See `Store.count_pushed_requests`."""
        return await self._read(partial(_count_pushed_requests, app_id, self.now()))

    async def audit_records(self, *, after: int, limit: int) -> Sequence[AuditRecord]:
        """See `Store.audit_records`."""
        return await self._read(partial(audit.after, after, limit), long=limit > 1)

    async def audit_records_before(self, before: int, *, limit: int) -> Sequence[AuditRecord]:
        """See `Store.audit_records_before`."""
        return await self._read(partial(audit.before, before, limit), long=limit > 1)

    async def newest_audit_record(self) -> AuditRecord | None:
        """See `Store.newest_audit_record`."""
        return await self._read(audit.newest)

    async def key_usage(self) -> Sequence[KeyUse]:
        """See `Store.key_usage`."""
        return await self._read(partial(usage.count, self.now()), long=True)

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        if len(commit.rows) == 1 and not (commit.unchanged or commit.events or commit.audit or commit.bounds):
            # All that is frequent.
            await self._write(partial(_write_row, commit.rows[0]), single=True)
        else:
            await self._write(partial(_write, commit), announce=bool(commit.events))

    async def snapshot(self) -> StoredSnapshot:
        """See `Store.snapshot`."""
        return await self._read(partial(events.snapshot, self.now()), long=True)

    async def cursor(self) -> Cursor:
        """See `Store.cursor`."""
        return await self._read(events.newest)

    async def events_after(self, cursor: Cursor, *, limit: int) -> tuple[Event, ...] | None:
        """See `Store.events_after`."""
        return await self._read(partial(events.after, cursor, limit))

    async def count_expiring(self, before: float) -> Mapping[str, int]:
        """See `Store.count_expiring`."""
        return await self._read(partial(limits.expiring, self.now(), before))

    async def share_levels(self, charges: Sequence[Charge], *, since: float) -> Sequence[SharedLevel]:
        """See `Store.share_levels`."""
        if charges:
            await self._write(partial(limits.charge, charges))
        return await self._read(partial(limits.levels_since, since))

    async def count_refusals(self, counts: Sequence[RefusalCount]) -> None:
        """See `Store.count_refusals`."""
        await self._write(lambda _: limits.count_refusals(counts))

    async def refusals(
        self, app_id: str | None, *, before: tuple[int, str, str], limit: int
    ) -> Sequence[RefusalCount]:
        """See `Store.refusals`."""
        return await self._read(partial(limits.refusals, app_id, before, limit))

    async def heartbeat(self) -> float:
        """See `Store.heartbeat`."""
        return await self._write(_nothing, vital=True)  # else overload would stop verification, too

    async def collect(self, *, limit: int, audit_kept: float = AUDIT_KEPT) -> int:
        """See `Store.collect`."""
        return await self._write(partial(collect, limit=limit, audit_kept=audit_kept))


def _write_row(row: Row, _now: float) -> Steps[None]:
    return write(row)


def _write(commit: Commit, now: float) -> Steps[None]:
    for row in commit.unchanged:
        yield from check(row)
    # Apps and accounts first: the other rows refer to them.
    for row in sorted(commit.rows, key=lambda row: not isinstance(row, App | Account)):
        yield from write(row)
    for bound in commit.bounds:
        yield from bounds.check(bound, now)
    for change in commit.events:
        yield from events.write(change, now)
    for record in commit.audit:
        yield from audit.append(record, now)


def _count_pushed_requests(app_id: str, now: float) -> Steps[int]:
    counted = yield sql(
        "SELECT count(*) FROM pushed_requests WHERE app_id = ? AND expires_at > ?", app_id, now
    )
    return int(counted.rows[0][0])


def _record_uses(uses: Sequence[Use]) -> Steps[None]:
    # No version rises: this is beside what the row says, and must not make anybody decide again.
    for use in uses:
        for table in (CLIENT_SECRETS, API_TOKENS):
            found = yield table.observe(
                use.credential_id,
                "last_used_at = ?, last_used_from = ?",
                "(last_used_at IS NULL OR last_used_at < ?)",
                (use.used_at, use.used_from, use.used_at),
            )
            if found.count:
                break


def _nothing(now: float) -> Steps[float]:
    # Every transaction stores its time, so there is nothing to do in it.
    yield from ()
    return now
