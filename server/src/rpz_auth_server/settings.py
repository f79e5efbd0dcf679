"""What an administrator can set: by flag, environment, TOML file, or not at all."""

from __future__ import annotations

import difflib
import sys
import tomllib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE as KEYRING_VARIABLE
from rpz_auth_server.domain.bound import Bounds
from rpz_auth_server.domain.grant import (
    MAX_ACCESS_TOKEN_LIFETIME,
    MAX_REFRESH_LIFETIME,
    MIN_LIFETIME,
    Lifetimes,
)
from rpz_auth_server.domain.key import KeyTimes
from rpz_auth_server.domain.limits import Limits
from rpz_auth_server.domain.query_token import QueryTokenRule
from rpz_auth_server.setting_values import (
    OFF,
    SQLITE,
    check_address,
    check_console_address,
    check_database,
    check_dns_servers,
    check_issuer,
    check_metrics_address,
    check_networks,
    check_origins,
    check_provider,
    is_loopback,
    is_wildcard,
    split_address,
    split_list,
    split_words,
)

ENVIRONMENT_PREFIX = "RPZ_AUTH_"
FILE_NAME = "rpz-auth.toml"
"""Looked for in the data directory when no `--config` names another."""

_CONFIG = "config"
_COMMAND_VARIABLES = frozenset(
    ENVIRONMENT_PREFIX + name
    for name in ("CREDENTIALS", "CLIENT_SECRET", "CODE", "CODE_VERIFIER", "REFRESH_TOKEN", "TOKEN")
)
"""Of the `rpz-auth` command; whoever exports one in a shell may start a server there too."""
FLAGS = frozenset(
    (
        *("data_dir", "grpc_address", "http_address", "console_address", "trusted_proxies", "cors_origins"),
        *("issuer", "database", "dns_servers", "query_token_scopes", "query_token_lifetime"),
        *("expiry_warning", "tls_certificate", "tls_key", "tls_client_ca", "log_format", "log_level"),
        *("insecure", "reflection", "workers"),
    )
)
"""Settings that `rpz-auth-server serve` has a flag for."""
_DAY = 86400


def _next_port(address: str) -> str:
    """The address with the port behind its own; what the system chooses stays so."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1 if int(port) else 0}"


def _derive_http_address(data: dict[str, Any]) -> str:
    return _next_port(data["grpc_address"])


def _derive_console_address(data: dict[str, Any]) -> str:
    """Where nobody but this machine can listen, so that a newcomer's browser need not trust a certificate."""
    host, _ = split_address(data["http_address"])
    return _next_port(data["http_address"]) if is_loopback(host) and not data["insecure"] else OFF


def _derive_issuer(data: dict[str, Any]) -> str:
    """Where RFC 8414 §3 looks for its metadata."""
    host, port = split_address(data["http_address"])
    if is_wildcard(host):
        return ""
    if is_loopback(host):
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"https://{host}:{port}" if port else f"https://{host}"


def _derive_database(data: dict[str, Any]) -> str:
    return SQLITE + urllib.parse.quote(str(data["data_dir"] / "rpz-auth.db"))


AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]


class Settings(BaseModel):
    """All settings. Durations are in seconds; relative paths start in the working directory."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    data_dir: AbsolutePath = Path("rpz-auth-data")
    """Where the authority keeps what it needs."""
    grpc_address: Annotated[str, AfterValidator(check_address)] = "127.0.0.1:8470"
    insecure: bool = False
    """Serve without TLS, on a loopback address only."""
    http_address: Annotated[str, AfterValidator(check_address)] = Field(default_factory=_derive_http_address)
    """Of OAuth 2 over HTTPS and the console; the port behind that of gRPC."""
    console_address: Annotated[str, AfterValidator(check_console_address)] = Field(
        default_factory=_derive_console_address
    )
    """Plain HTTP for the console, on a loopback address only; `off` for none."""
    trusted_proxies: Annotated[
        tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_networks)
    ] = ()
    """Addresses and networks whose `x-forwarded-for` is believed."""
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_origins)] = ()
    """Whose pages may call the OAuth 2 endpoints from a browser, without cookies."""
    issuer: Annotated[str, AfterValidator(check_issuer)] = Field(default_factory=_derive_issuer)
    """The authority's name in access tokens (RFC 8414 §2), compared character by character."""
    oidc_issuer: Annotated[str, AfterValidator(check_provider)] | None = None
    """An outside OpenID Connect provider that people may sign in to the console by."""
    oidc_client_id: str = Field("", max_length=255)
    oidc_client_secret: str = Field("", max_length=1024, repr=False)
    oidc_name: str = Field("your organisation", max_length=64)
    """What people know it by."""
    oidc_sign_up: bool = False
    """Whether whoever the provider knows gets an account; else they must have linked one."""
    database: Annotated[str, AfterValidator(check_database)] = Field(
        default_factory=_derive_database, repr=False
    )
    tls_certificate: AbsolutePath | None = None
    """PEM, the chain after the certificate; without one a development certificate is made."""
    tls_key: AbsolutePath | None = None
    tls_client_ca: AbsolutePath | None = None
    """PEM; if set, every client must show a certificate of these authorities."""
    dns_servers: Annotated[
        tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_dns_servers)
    ] = ()
    """Who is asked for the names in whitelists: IP addresses, or IP:port; the system's servers if empty."""
    code_lifetime: float = Field(60, ge=1, le=600)  # RFC 6749 §4.1.2: ten minutes at most
    access_token_lifetime: float = Field(7200, ge=MIN_LIFETIME, le=MAX_ACCESS_TOKEN_LIFETIME)
    refresh_idle_lifetime: float = Field(30 * _DAY, ge=MIN_LIFETIME, le=MAX_REFRESH_LIFETIME)
    """Until a refresh token that is not used expires."""
    refresh_absolute_lifetime: float = Field(180 * _DAY, ge=MIN_LIFETIME, le=MAX_REFRESH_LIFETIME)
    """Until a grant expires however often it is renewed."""
    refresh_grace: float = Field(60, ge=0, le=600)
    """How long a lost answer to a refresh may be asked for again; 0 for never."""
    signing_key_period: float = Field(90 * _DAY, ge=3600, le=3650 * _DAY)
    """For which a signing key signs before the next one does."""
    signing_key_publish_ahead: float = Field(3600, ge=10, le=30 * _DAY)
    """For which a signing key is published before it signs."""
    query_token_scopes: Annotated[frozenset[str], BeforeValidator(split_words)] = frozenset()
    """Scopes that are safe in a URL: an API token with any other is never taken from `?token=`."""
    query_token_lifetime: float = Field(_DAY, ge=60, le=30 * _DAY)
    """How long an API token may live that is taken from a URL."""
    audit_retention: float = Field(90 * _DAY, ge=_DAY, le=3650 * _DAY)
    """For which audit records are kept; export those that must be kept for longer."""
    expiry_warning: float = Field(14 * _DAY, ge=0, le=365 * _DAY)
    """From when on before its deadline a secret or API token is warned of; 0 for never."""
    heartbeat_interval: float = Field(1, ge=0.1, le=5)
    streams_per_verifier: int = Field(1_000, ge=1, le=100_000)
    """How many processes may follow changes with the credential of one verifier."""
    apps_per_owner: int = Field(100, ge=1, le=100_000)
    """Apps that one owner registers who is no administrator; every verifier learns of each."""
    api_tokens_per_app: int = Field(100, ge=1, le=100_000)
    """Live API tokens of one App."""
    log_format: Literal["console", "json"] = Field(
        default_factory=lambda: "console" if sys.stderr.isatty() else "json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    failure_limit: int = Field(5, ge=0, le=1000)
    """Failed authentications of one peer for one App before each has to wait longer; 0 for any number.

    A peer is an IPv4 address or the first 64 bits of an IPv6 address. No limit on failures holds up a
    genuine credential."""
    failure_longest_delay: float = Field(300, ge=1, le=86400)
    """How long that wait can become."""
    peer_failure_limit: int = Field(60, ge=0, le=1_000_000)
    """Failed authentications of one peer each minute; 0 for any number."""
    app_failure_limit: int = Field(600, ge=0, le=1_000_000)
    """Failed authentications for one App each minute, from peers that were not right lately; 0 for any
    number."""
    refresh_limit: int = Field(30, ge=0, le=1_000_000)
    """Uses of one grant each minute; 0 for any number."""
    verification_limit: int = Field(1000, ge=0, le=1_000_000)
    """Introspections and API token checks of one verifier each second; 0 for any number."""
    revocation_limit: int = Field(60, ge=0, le=1_000_000)
    """Access tokens that one App revokes itself (RFC 7009) each minute, ten minutes' worth at once; 0 for
    any number."""
    change_limit: int = Field(120, ge=0, le=1_000_000)
    """What one caller who is no administrator makes and changes each minute; 0 for any number."""
    workers: int = Field(1, ge=1, le=64)
    """Processes that share the ports and the database."""
    connection_age: float = Field(60, ge=1, le=86400)
    """With several workers: after which a gRPC connection is asked to be made anew, which spreads clients
    over the workers. A worker that is replaced takes as long to leave."""
    metrics_address: Annotated[str, AfterValidator(check_metrics_address)] = OFF
    """Where Prometheus may ask, over plain HTTP without a credential; `off` for nowhere."""
    traces: bool = False
    """Send OpenTelemetry traces to where the variables OTEL_EXPORTER_OTLP_… say."""
    reflection: bool = False
    """Offer gRPC server reflection to authenticated callers."""

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
        *,
        left_in: Callable[[Path], Mapping[str, Any]] = lambda _: {},
    ) -> Settings:
        """Take each setting from the first place that has it: flags, environment, TOML file, default.

        Args:
            flags: By setting, and `config`, the TOML file's path; None for a flag that was not given.
            environ: The process's environment; names without our prefix are passed over.
            left_in: Settings that a data directory remembers of an earlier start; they stand before defaults.

        Raises:
            ConfigurationError: With a line for each thing that is wrong, and its mend.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        variables = {
            name: value
            for name, value in environ.items()
            if name.startswith(ENVIRONMENT_PREFIX) and name not in _COMMAND_VARIABLES
        }
        exported = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
            for name, value in variables.items()
            if name != KEYRING_VARIABLE
        }
        path, configured = _read_file({**exported, **given})
        known = (*cls.model_fields, _CONFIG)
        problems = [
            *_unknown("flag", map(_flag, given), map(_flag, known)),
            *_unknown("environment variable", variables, (*map(_variable, known), KEYRING_VARIABLE)),
            *_unknown(f"setting in {path}:", configured, cls.model_fields),
        ]
        if problems:
            raise _error(problems)
        merged = {**configured, **exported, **given}
        merged.pop(_CONFIG, None)
        merged = {**left_in(Path(merged.get("data_dir") or _default_data_dir())), **merged}
        empty = [
            f"{_spellings(name)}: is empty; leave it out" for name, value in merged.items() if value == ""
        ]
        if empty:
            raise _error(empty)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise _error(_explain(error)) from None

    @property
    def listens_on(self) -> dict[str, str]:
        """The addresses that an authority must have to itself, by the flags that name them."""
        addresses = {"--grpc-address": self.grpc_address, "--http-address": self.http_address}
        if self.console_address != OFF:
            addresses["--console-address"] = self.console_address
        return addresses

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a file on this machine."""
        return self.database.startswith(SQLITE)

    @property
    def database_path(self) -> Path:
        """The SQLite file, if it is embedded."""
        return Path(urllib.parse.unquote(self.database.removeprefix(SQLITE))).absolute()

    @property
    def keyring_path(self) -> Path:
        """The file of the master keys."""
        return self.data_dir / "keyring.json"

    @property
    def lifetimes(self) -> Lifetimes:
        """How long things live, in the words of the rules."""
        return Lifetimes(
            code=self.code_lifetime,
            access_token=self.access_token_lifetime,
            refresh_idle=self.refresh_idle_lifetime,
            refresh_absolute=self.refresh_absolute_lifetime,
            refresh_grace=self.refresh_grace,
        )

    @property
    def key_times(self) -> KeyTimes:
        """When signing keys follow one another, in the words of the rules."""
        return KeyTimes(period=self.signing_key_period, publish_ahead=self.signing_key_publish_ahead)

    @property
    def limits(self) -> Limits:
        """What may be done how often, in the words of the rules."""
        return Limits(
            failures=self.failure_limit,
            longest_delay=self.failure_longest_delay,
            peer_failures=self.peer_failure_limit,
            app_failures=self.app_failure_limit,
            uses=self.refresh_limit,
            verifications=self.verification_limit,
            revocations=self.revocation_limit,
            changes=self.change_limit,
        )

    @property
    def bounds(self) -> Bounds:
        """How many there may be of what, in the words of the rules."""
        return Bounds(apps_per_owner=self.apps_per_owner, api_tokens_per_app=self.api_tokens_per_app)

    @property
    def query_tokens(self) -> QueryTokenRule:
        """Which API tokens may travel in URLs."""
        return QueryTokenRule(safe_scopes=self.query_token_scopes, longest_lifetime=self.query_token_lifetime)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(
                f"{_spellings('tls_certificate')} and {_spellings('tls_key')}: set both or neither"
            )
        for name, example in (("grpc_address", "127.0.0.1:8470"), ("http_address", "127.0.0.1:8471")):
            host, _ = split_address(getattr(self, name))
            if self.insecure and not is_loopback(host):
                raise ValueError(
                    f"{_spellings('insecure')}: without TLS the network could read credentials; leave it "
                    f"out, or set {_spellings(name)} to a loopback IP address such as {example}"
                )
        if self.metrics_address != OFF and self.workers > 1:
            raise ValueError(
                f"{_spellings('metrics_address')}: one address cannot speak for several workers; leave "
                "it out, or run one worker"
            )
        if self.oidc_issuer is not None and not (self.oidc_client_id and self.oidc_client_secret):
            raise ValueError(
                f"{_spellings('oidc_issuer')}: register this authority there, and set oidc_client_id and "
                "oidc_client_secret"
            )
        if self.insecure and (self.tls_certificate or self.tls_client_ca):
            raise ValueError(f"{_spellings('insecure')}: leave it out, or leave out the tls_ settings")
        if self.refresh_idle_lifetime > self.refresh_absolute_lifetime:
            raise ValueError(
                f"{_spellings('refresh_idle_lifetime')}: must not be longer than refresh_absolute_lifetime"
            )
        if self.signing_key_publish_ahead > self.signing_key_period:
            raise ValueError(
                f"{_spellings('signing_key_publish_ahead')}: must not be longer than signing_key_period"
            )
        return self


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _spellings(name: str) -> str:
    if name == _CONFIG:
        return f"{_flag(name)} ({_variable(name)})"
    flag = f"{_flag(name)}, " if name in FLAGS else ""
    return f"{name} ({flag}{_variable(name)}, or {name} in a TOML file)"


def _unknown(what: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    """A line for each name that is not known; a typing error must not become a silent default."""
    known = list(known)
    problems = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"remove it, or use one of {', '.join(known)}"
            problems.append(f"unknown {what} {name}; {mend}")
    return problems


def _default_data_dir() -> Path:
    return Path(Settings.model_fields["data_dir"].default)


def _read_file(outer: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Read the TOML file that flags and environment lead to; one that nobody named may be missing."""
    named = outer.get(_CONFIG)
    folder = outer.get("data_dir") or _default_data_dir()
    path = Path(named) if named is not None else Path(folder) / FILE_NAME
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if named is None and isinstance(error, FileNotFoundError):
            return path, {}
        raise _error([f"{_spellings(_CONFIG)}: {path}: {error.strerror}"]) from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError; neither quotes the file
        raise _error([f"{path} is not a TOML file: {error}"]) from None
    if named is None and "data_dir" in content:
        raise _error([f"{path} was found in the data directory and cannot name another; remove data_dir"])
    return path, content


def _explain(error: ValidationError) -> list[str]:
    """A line for each thing that is wrong. Never the value: a database URL may hold a password."""
    problems = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        if detail["type"] == "default_factory_not_called":
            continue  # what it is derived from has a line of its own
        message = detail["msg"].removeprefix("Value error, ")
        problems.append(f"{_spellings(str(detail['loc'][0]))}: {message}" if detail["loc"] else message)
    return problems


def _error(problems: Iterable[str]) -> ConfigurationError:
    return ConfigurationError("\n  - ".join(["the settings cannot be used:", *problems]))
