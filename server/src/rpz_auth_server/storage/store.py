"""What the flows need of a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rpz_auth.view import Change

from rpz_auth_server.domain.account import Account, Consent, ExternalIdentity, Session
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.bound import Bound
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.credential import ApiToken, ClientSecret
from rpz_auth_server.domain.event import Audit, AuditRecord, Cursor, Event, StoredSnapshot
from rpz_auth_server.domain.grant import Grant
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import KeyUse, SealedKey
from rpz_auth_server.domain.limits import Charge, RefusalCount, SharedLevel
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.domain.resolution import Resolution
from rpz_auth_server.domain.use import Use

Row = (
    App
    | ClientSecret
    | ApiToken
    | Grant
    | SealedKey
    | Issuer
    | Account
    | Session
    | Consent
    | ExternalIdentity
    | PushedRequest
    | Creation
    | Resolution
)


AUDIT_KEPT = 90 * 86400.0
"""Seconds, unless a setting says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What is written in one transaction: all of it, or nothing.

    A row with version 1 must be new; one with version *n* replaces version *n - 1*.
    """

    rows: tuple[Row, ...] = ()
    unchanged: tuple[Row, ...] = ()
    """Rows that must still be in their versions, since what is written was decided by them."""
    events: tuple[Change, ...] = ()
    audit: tuple[Audit, ...] = ()
    bounds: tuple[Bound, ...] = ()
    """What must hold when all of it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLoad:
    """What one process has to write, and has written since it began."""

    waiting: int = 0
    operations: int = 0
    transactions: int = 0


class Store(Protocol):
    """A database. Everything that is read was durable when it was read.

    Any method may raise `rpz_auth.errors.BackendUnavailable`; after a commit that did, the outcome is
    unknown.
    """

    def now(self) -> float:
        """The database's time in seconds since the epoch; it never goes back."""
        ...

    def write_load(self) -> WriteLoad:
        """How busy this process is with writing."""
        ...

    async def count_expiring(self, before: float) -> Mapping[str, int]:
        """How many live OAuth 2 secrets and API tokens will have ended by a time: `secret`, `api_token`."""
        ...

    async def instance(self) -> str:
        """The random name that this database was given when it was made."""
        ...

    async def issuer(self) -> Issuer | None:
        """Whose database this is; None before its founding."""
        ...

    async def app(self, app_id: str) -> App | None:
        """The App of an ID, also a deleted one; None if there is none, here and below."""
        ...

    async def apps(
        self,
        *,
        owner: str | None,
        kind: AppKind | None = None,
        name_part: str = "",
        after: str,
        limit: int,
    ) -> Sequence[App]:
        """Apps that are not deleted, in order of App ID, beyond the ID `after`; of one owner, or of all.

        Of one kind, if that is given; with a part of their names, in any case.
        """
        ...

    async def apps_with_names(self, *, after: str, limit: int) -> Sequence[App]:
        """Apps whose whitelists hold names, in order of App ID, beyond the ID `after`."""
        ...

    async def resolutions(self, names: Sequence[str]) -> Sequence[Resolution]:
        """What is known of those among these names that were looked up, in order of name."""
        ...

    async def client_secret(self, secret_id: str) -> ClientSecret | None:
        """The secret of an ID, whether live or not."""
        ...

    async def client_secrets(self, app_id: str) -> Sequence[ClientSecret]:
        """All secrets of an App, the ended ones too, the oldest first."""
        ...

    async def api_token(self, api_token_id: str) -> ApiToken | None:
        """The API token of an ID, whether live or not."""
        ...

    async def api_tokens(self, app_id: str, *, after: str, limit: int) -> Sequence[ApiToken]:
        """API tokens of an App, the ended ones too, in order of ID, beyond the ID `after`."""
        ...

    async def expiring(self, before: float, *, limit: int) -> Sequence[ClientSecret | ApiToken]:
        """Up to `limit` secrets and as many API tokens that are live and end before a time."""
        ...

    async def ended(
        self, after: tuple[float, str], until: float, *, limit: int
    ) -> Sequence[ClientSecret | ApiToken]:
        """Up to `limit` secrets or API tokens that have reached their deadline, not after `until`.

        Those that were not revoked, in the order of deadline and ID, behind these two of `after`.
        """
        ...

    async def record_uses(self, uses: Sequence[Use]) -> None:
        """Note when secrets and API tokens were used last; an earlier use never replaces a later one."""
        ...

    async def last_uses(self, app_ids: Sequence[str]) -> Mapping[str, float]:
        """When a secret or API token of each of these Apps was used last; without those that never were."""
        ...

    async def creation(self, request_key: str) -> Creation | None:
        """What was created under a request ID."""
        ...

    async def grant(self, grant_id: str) -> Grant | None:
        """The grant of an ID, in whatever state."""
        ...

    async def grants_of_subject(
        self, subject: str, *, app_id: str | None = None, limit: int
    ) -> Sequence[Grant]:
        """Grants of a user that are neither revoked nor expired, to one App or to all."""
        ...

    async def grants_of_app(self, app_id: str, *, after: str, limit: int) -> Sequence[Grant]:
        """Grants of an App, in whatever state, in order of ID, beyond the ID `after`."""
        ...

    async def grants_by_subject(self, subject: str, *, after: str, limit: int) -> Sequence[Grant]:
        """Grants of a user, in whatever state, in order of ID, beyond the ID `after`."""
        ...

    async def signing_keys(self) -> Sequence[SealedKey]:
        """All signing keys, the oldest first."""
        ...

    async def account(self, account_id: str) -> Account | None:
        """The account of an ID."""
        ...

    async def account_of_user(self, user_name: str) -> Account | None:
        """The account of a user name."""
        ...

    async def accounts(self, *, after: str, limit: int) -> Sequence[Account]:
        """Accounts in order of user name, beyond the name `after`."""
        ...

    async def session(self, session_id: str) -> Session | None:
        """The session of an ID, whether signed in or not."""
        ...

    async def sessions(self, account_id: str) -> Sequence[Session]:
        """The sessions of an account in which somebody is signed in, the oldest first."""
        ...

    async def consent(self, consent_id: str) -> Consent | None:
        """The consent of an ID, whether remembered still or not."""
        ...

    async def consents(self, subject: str, *, after: str, limit: int) -> Sequence[Consent]:
        """Consents of a user that are remembered, in order of ID, beyond the ID `after`."""
        ...

    async def external_identity(self, identity_id: str) -> ExternalIdentity | None:
        """The link of an outside identity to an account."""
        ...

    async def external_identities(self, account_id: str) -> Sequence[ExternalIdentity]:
        """The outside identities of an account, the oldest first."""
        ...

    async def pushed_request(self, request_id: str) -> PushedRequest | None:
        """The authorization request of an ID, whether usable or not."""
        ...

    async def count_pushed_requests(self, app_id: str) -> int:
        """How many requests of an App have not expired."""
        ...

    async def audit_records(self, *, after: int, limit: int) -> Sequence[AuditRecord]:
        """Audit records in order, beyond the sequence `after`."""
        ...

    async def audit_records_before(self, before: int, *, limit: int) -> Sequence[AuditRecord]:
        """Audit records before a sequence, the newest first."""
        ...

    async def newest_audit_record(self) -> AuditRecord | None:
        """The end of the hash chain; None before the first record."""
        ...

    async def key_usage(self) -> Sequence[KeyUse]:
        """How many rows that are alive need which master key; reads whole tables."""
        ...

    async def commit(self, commit: Commit) -> None:
        """Write durably. Runs to its end also when the caller is cancelled.

        Raises:
            Conflict: A row was not in the version that the commit replaces or counts on; nothing was written.
            RequestInvalid: A bound would not hold any more; nothing was written.
        """
        ...

    async def snapshot(self) -> StoredSnapshot:
        """What verifiers must know, and the place in the stream at which it was so."""
        ...

    async def cursor(self) -> Cursor:
        """The place of the newest event, `BEGINNING` without one."""
        ...

    async def events_after(self, cursor: Cursor, *, limit: int) -> tuple[Event, ...] | None:
        """The events behind a cursor, in order; None when the cursor is not of this database any more."""
        ...

    async def wait_for_events(self, cursor: Cursor) -> None:
        """Return once there is an event behind the cursor, from whichever process."""
        ...

    async def share_levels(self, charges: Sequence[Charge], *, since: float) -> Sequence[SharedLevel]:
        """Add charges to the levels that all processes share; return those charged since a time.

        Without charges nothing is written. Levels that have leaked away are forgotten, and of too many those
        that end first.
        """
        ...

    async def count_refusals(self, counts: Sequence[RefusalCount]) -> None:
        """Add to the counts of refusals; those that name no App of this database count for none (`""`)."""
        ...

    async def refusals(
        self, app_id: str | None, *, before: tuple[int, str, str], limit: int
    ) -> Sequence[RefusalCount]:
        """Counts of refusals of one App, or of all, in falling order of (minute, App ID, reason)."""
        ...

    async def heartbeat(self) -> float:
        """Write something durably and return the database's time of it."""
        ...

    async def collect(self, *, limit: int, audit_kept: float = AUDIT_KEPT) -> int:
        """Delete up to `limit` rows of each kind that nothing can ask for any more.

        Return how many rows were dealt with; 0 says that nothing is left to do for now.
        """
        ...

    async def close(self) -> None:
        """Finish the commits that were accepted, then refuse whatever comes."""
        ...
