"""How domain objects stand in rows."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from rpz_auth_server.domain.account import Account, Consent, ExternalIdentity, Role, Session
from rpz_auth_server.domain.app import App, AppKind, SignIn
from rpz_auth_server.domain.creation import Creation
from rpz_auth_server.domain.credential import ApiToken, ClientSecret
from rpz_auth_server.domain.grant import MARGIN, Grant, GrantState
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.pushed_request import PushedRequest
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.domain.resolution import Resolution, names_in
from rpz_auth_server.storage.steps import Statement, Steps
from rpz_auth_server.storage.store import Row

R = TypeVar("R", bound=Row)

_KEPT = 4096
"""So many of the things that were read lately are not made anew; only what cannot change is kept."""


@dataclass(frozen=True, slots=True)
class _Codec:
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def to_json(value: object) -> str:
    """Write JSON, the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _dump_sign_in(sign_in: SignIn | None) -> str | None:
    if sign_in is None:
        return None
    return to_json({"client_ids": sorted(sign_in.client_ids), "subject_prefix": sign_in.subject_prefix})


def _load_sign_in(text: str | None) -> SignIn | None:
    if text is None:
        return None
    value = json.loads(text)
    return SignIn(client_ids=frozenset(value["client_ids"]), subject_prefix=value["subject_prefix"])


@functools.lru_cache(maxsize=_KEPT)
def _dump_set(value: frozenset[str]) -> str:
    return to_json(sorted(value))


@functools.lru_cache(maxsize=_KEPT)
def _load_set(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


_SET = _Codec(_dump_set, _load_set)
_TUPLE = _Codec(to_json, lambda text: tuple(json.loads(text)))
_PAIRS = _Codec(to_json, lambda text: tuple((name, value) for name, value in json.loads(text)))
_BOOL = _Codec(int, bool)
_SIGN_IN = _Codec(_dump_sign_in, _load_sign_in)


class Table(Generic[R]):
    """The table of one kind of object: a column for each of its fields, the first of which is the key."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        row_type: Callable[..., R],
        name: str,
        columns: Iterable[str],
        *,
        fixed: tuple[str, ...] = (),
        codecs: Mapping[str, _Codec] | None = None,
        derived: Mapping[str, Callable[[R], float]] | None = None,
        computed: Mapping[str, Callable[[R], str | int]] | None = None,
        observed: tuple[str, ...] = (),
        rarely_changes: bool = False,
    ) -> None:
        """Describe a table.

        Args:
            row_type: Makes an object from its fields.
            name: Of the table.
            columns: The fields, in the order of the class.
            fixed: Columns that stay as they were inserted. They are part of an update's condition instead of
                its changes: SQLite rewrites the index of a column that is set, changed or not.
            codecs: For the fields that the databases do not know.
            derived: Columns that no field has; computed at the insert, and the store's own from then on.
            computed: Columns that no field has; computed with every write, to be searched by.
            observed: Fields that the store alone writes, beside the versions of the row.
            rarely_changes: Rows are read again and again as they were: the same values then give the same
                object. They are read from the database all the same.
        """
        self.columns = tuple(columns)
        self._row_type = row_type
        self._codecs = dict(codecs or {})
        self._derived = dict(derived or {})
        self._name = name
        self.key = key = self.columns[0]
        self._computed = dict(computed or {})
        same = (key, *fixed)
        self._same = same
        self._changing = tuple(column for column in self.columns if column not in (*same, *observed))
        inserted = (*self.columns, *self._derived, *self._computed)
        updated = (*self._changing, *self._computed)
        listed = ", ".join(self.columns)
        # S608: nothing of these texts comes from outside this module.
        self.select = f"SELECT {listed} FROM {name} "  # noqa: S608 - see above
        self.select_one = f"{self.select}WHERE {key} = ?"
        self._select_version = f"SELECT version FROM {name} WHERE {key} = ?"  # noqa: S608 - see above
        self.load: Callable[[tuple[Any, ...]], R] = (
            functools.lru_cache(_KEPT)(self._load) if rarely_changes else self._load
        )
        """Make an object of what `select` returned."""
        self._insert = (
            f"INSERT INTO {name} ({', '.join(inserted)}) "  # noqa: S608 - see above
            f"VALUES ({', '.join('?' * len(inserted))}) ON CONFLICT DO NOTHING"
        )
        self._update = (
            f"UPDATE {name} SET {', '.join(f'{column} = ?' for column in updated)} "  # noqa: S608 - see above
            f"WHERE {' AND '.join(f'{column} = ?' for column in same)} AND version = ?"
        )

    def _load(self, values: tuple[Any, ...]) -> R:
        loaded = dict(zip(self.columns, values, strict=True))
        for column, codec in self._codecs.items():
            loaded[column] = codec.load(loaded[column])
        return self._row_type(**loaded)

    def write(self, row: R) -> Steps[None]:
        """Insert version 1, or replace the version before by a later one.

        Raises:
            Conflict: The table does not hold what this version follows.
        """
        computed = [compute(row) for compute in self._computed.values()]
        if row.version == 1:
            derived = [derive(row) for derive in self._derived.values()]
            values = [*self._dump(row, self.columns), *derived, *computed]
            result = yield self._insert, values
        else:
            changing = [*self._dump(row, self._changing), *computed]
            values = [*changing, *self._dump(row, self._same), row.version - 1]
            result = yield self._update, values
        if result.count != 1:
            raise Conflict

    def check(self, row: R) -> Steps[None]:
        """Go on if a row is still in its version; all that write take turns, so it stays there to the end.

        Raises:
            Conflict: It is not.
        """
        found = yield self._select_version, [getattr(row, self.key)]
        if found.row != (row.version,):
            raise Conflict

    def observe(self, key: str, change: str, condition: str, values: tuple[Any, ...]) -> Statement:
        """A statement that changes observed fields of a row, and not its version."""
        setting, given = len(re.findall(r"\?", change)), list(values)
        text = f"UPDATE {self._name} SET {change} WHERE {self.key} = ? AND {condition}"  # noqa: S608 - as above
        return text, [*given[:setting], key, *given[setting:]]

    def _dump(self, row: R, columns: Iterable[str]) -> list[Any]:
        codecs = self._codecs
        return [
            codecs[column].dump(getattr(row, column)) if column in codecs else getattr(row, column)
            for column in columns
        ]


def _columns(row_type: type[Row]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(row_type))


def dead_at(grant: Grant) -> float:
    """When nothing of a grant can be alive, neither its code or refresh token nor an access token.

    A revoked one stays as long: until then its refresh token is recognised as reused.
    """
    return max(grant.ends_at, grant.access_expires_at) + MARGIN


def searchable(text: str) -> str:
    """A name as it is compared when somebody looks for it: in any case, in any spelling of its characters."""
    return unicodedata.normalize("NFKC", text).casefold()


def app_conditions(owner: str | None, kind: AppKind | None, name_part: str) -> tuple[str, list[str]]:
    """The beginning of an SQL condition for the Apps that `Store.apps` is asked for, and its values."""
    pattern = re.sub(r"([\\%_])", r"\\\1", searchable(name_part))
    conditions = {
        "owner = ?": owner,
        "kind = ?": None if kind is None else str(kind),
        "search_name LIKE ? ESCAPE '\\'": f"%{pattern}%" if pattern else None,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return "".join(f"{condition} AND " for condition in given), list(given.values())


_CREDENTIAL = {"scopes": _SET, "resources": _SET}
_USE = ("last_used_at", "last_used_from")

APPS: Table[App] = Table(
    App,
    "apps",
    _columns(App),
    codecs={
        "kind": _Codec(str, AppKind),
        "redirect_uris": _TUPLE,
        "scopes": _SET,
        "resources": _SET,
        "whitelist": _TUPLE,
        "resolved": _TUPLE,
        "private_names_allowed": _BOOL,
        "locked": _BOOL,
        "locked_by_administrator": _BOOL,
        "confidential": _BOOL,
        "query_token_allowed": _BOOL,
        "deleted": _BOOL,
        "pkce_exempt": _BOOL,
        "require_pushed_authorization_requests": _BOOL,
        "sign_in": _SIGN_IN,
    },
    computed={
        "search_name": lambda app: searchable(app.display_name),
        "has_names": lambda app: int(bool(names_in(app.whitelist))),
    },
    rarely_changes=True,
)
CLIENT_SECRETS: Table[ClientSecret] = Table(
    ClientSecret,
    "client_secrets",
    _columns(ClientSecret),
    fixed=("app_id",),
    observed=_USE,
    rarely_changes=True,
)
API_TOKENS: Table[ApiToken] = Table(
    ApiToken, "api_tokens", _columns(ApiToken), fixed=("app_id",), codecs=_CREDENTIAL, observed=_USE
)
GRANTS: Table[Grant] = Table(
    Grant,
    "grants",
    _columns(Grant),
    fixed=("app_id", "subject", "issued_by"),
    codecs={**_CREDENTIAL, "state": _Codec(str, GrantState)},
    derived={"collect_at": dead_at},
)
SIGNING_KEYS: Table[SealedKey] = Table(
    SealedKey, "signing_keys", _columns(SealedKey), codecs={"published": _BOOL}
)
ISSUER: Table[Issuer] = Table(Issuer, "issuer", _columns(Issuer), codecs={"locked": _BOOL})

ACCOUNTS: Table[Account] = Table(
    Account,
    "accounts",
    _columns(Account),
    fixed=("user_name",),
    codecs={**_CREDENTIAL, "role": _Codec(str, Role), "setup_local": _BOOL, "disabled": _BOOL},
)
SESSIONS: Table[Session] = Table(Session, "sessions", _columns(Session), fixed=("account_id",))
CONSENTS: Table[Consent] = Table(
    Consent, "consents", _columns(Consent), fixed=("subject", "app_id"), codecs=_CREDENTIAL
)
EXTERNAL_IDENTITIES: Table[ExternalIdentity] = Table(
    ExternalIdentity, "external_identities", _columns(ExternalIdentity), fixed=("issuer", "subject")
)

CREATIONS: Table[Creation] = Table(Creation, "creations", _columns(Creation))

RESOLUTIONS: Table[Resolution] = Table(
    Resolution, "resolutions", _columns(Resolution), codecs={"addresses": _TUPLE}
)

PUSHED_REQUESTS: Table[PushedRequest] = Table(
    PushedRequest,
    "pushed_requests",
    _columns(PushedRequest),
    fixed=("app_id", "expires_at"),
    codecs={"parameters": _PAIRS},
)

TABLES: Mapping[type[Row], Table[Any]] = {
    App: APPS,
    Account: ACCOUNTS,
    ClientSecret: CLIENT_SECRETS,
    ApiToken: API_TOKENS,
    Grant: GRANTS,
    SealedKey: SIGNING_KEYS,
    Issuer: ISSUER,
    Session: SESSIONS,
    Consent: CONSENTS,
    ExternalIdentity: EXTERNAL_IDENTITIES,
    PushedRequest: PUSHED_REQUESTS,
    Creation: CREATIONS,
    Resolution: RESOLUTIONS,
}
"""Those that others refer to come first."""


def write(row: Row) -> Steps[None]:
    """Write a row to the table of its kind.

    Raises:
        Conflict: The table does not hold what this version follows.
    """
    return TABLES[type(row)].write(row)


def check(row: Row) -> Steps[None]:
    """Go on if a row is still in its version.

    Raises:
        Conflict: It is not.
    """
    return TABLES[type(row)].check(row)
