from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.commands.serve import serve
from rpz_auth_server.domain.bound import Bounds
from rpz_auth_server.domain.grant import Lifetimes
from rpz_auth_server.domain.limits import Limits
from rpz_auth_server.setting_values import split_dns_server
from rpz_auth_server.settings import FLAGS, Settings


def load(tmp_path: Path, environ: Any = None, **flags: Any) -> Settings:
    return Settings.load({"data_dir": tmp_path, **flags}, environ or {})


def problems(tmp_path: Path, environ: Any = None, **flags: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, environ, **flags)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


def test_defaults_serve_on_loopback_with_tls(tmp_path: Path) -> None:
    settings = load(tmp_path, log_format="json")
    assert settings.model_dump() == {
        "data_dir": tmp_path,
        "grpc_address": "127.0.0.1:8470",
        "http_address": "127.0.0.1:8471",
        "console_address": "127.0.0.1:8472",
        "trusted_proxies": (),
        "dns_servers": (),
        "cors_origins": (),
        "issuer": "https://localhost:8471",
        "database": f"sqlite:///{tmp_path}/rpz-auth.db",
        "insecure": False,
        "oidc_issuer": None,
        "oidc_client_id": "",
        "oidc_client_secret": "",
        "oidc_name": "your organisation",
        "oidc_sign_up": False,
        "tls_certificate": None,
        "tls_key": None,
        "tls_client_ca": None,
        "code_lifetime": 60,
        "access_token_lifetime": 7200,
        "refresh_idle_lifetime": 30 * 86400,
        "refresh_absolute_lifetime": 180 * 86400,
        "refresh_grace": 60,
        "signing_key_period": 90 * 86400,
        "signing_key_publish_ahead": 3600,
        "query_token_scopes": frozenset(),
        "query_token_lifetime": 86400,
        "audit_retention": 90 * 86400,
        "expiry_warning": 14 * 86400,
        "heartbeat_interval": 1,
        "apps_per_owner": 100,
        "api_tokens_per_app": 100,
        "log_format": "json",
        "log_level": "info",
        "failure_limit": 5,
        "failure_longest_delay": 300,
        "peer_failure_limit": 60,
        "app_failure_limit": 600,
        "refresh_limit": 30,
        "verification_limit": 1000,
        "revocation_limit": 60,
        "change_limit": 120,
        "streams_per_verifier": 1000,
        "workers": 1,
        "connection_age": 60,
        "metrics_address": "off",
        "traces": False,
        "reflection": False,
    }
    assert settings.limits == Limits()
    assert settings.bounds == Bounds()
    assert settings.lifetimes == Lifetimes()
    assert settings.database_path == tmp_path / "rpz-auth.db"
    assert settings.keyring_path == tmp_path / "keyring.json"


def test_nothing_given_keeps_its_data_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load({}, {}).data_dir == tmp_path / "rpz-auth-data"


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    (tmp_path / "rpz-auth.toml").write_text(
        'log_level = "warning"\naccess_token_lifetime = 100\ncode_lifetime = 10\n'
    )
    environ = {"RPZ_AUTH_ACCESS_TOKEN_LIFETIME": "200", "RPZ_AUTH_CODE_LIFETIME": "20"}
    settings = load(tmp_path, environ, code_lifetime=30, log_level=None)
    assert (
        settings.log_level,
        settings.access_token_lifetime,
        settings.code_lifetime,
        settings.refresh_grace,
    ) == ("warning", 200, 30, 60)


def test_file_in_the_data_directory_is_found_through_the_environment(tmp_path: Path) -> None:
    (tmp_path / "rpz-auth.toml").write_text("reflection = true\n")
    assert Settings.load({}, {"RPZ_AUTH_DATA_DIR": str(tmp_path)}).reflection


@pytest.mark.parametrize("by_flag", [True, False])
def test_named_file_is_read_instead_of_the_one_in_the_data_directory(
    tmp_path: Path, *, by_flag: bool
) -> None:
    (tmp_path / "rpz-auth.toml").write_text('log_level = "debug"\n')
    named = tmp_path / "other.toml"
    named.write_text(f'reflection = true\ndata_dir = "{tmp_path}/data"\n')
    if by_flag:
        settings = Settings.load({"config": named}, {})
    else:
        settings = Settings.load({}, {"RPZ_AUTH_CONFIG": str(named)})
    assert (settings.reflection, settings.log_level) == (True, "info")
    assert settings.data_dir == tmp_path / "data"


def test_named_file_must_be_there(tmp_path: Path) -> None:
    text = problems(tmp_path, config=tmp_path / "missing.toml")
    assert "--config (RPZ_AUTH_CONFIG)" in text
    assert "missing.toml: No such file or directory" in text


def test_found_file_cannot_name_another_data_directory(tmp_path: Path) -> None:
    (tmp_path / "rpz-auth.toml").write_text('data_dir = "/elsewhere"\n')
    assert "remove data_dir" in problems(tmp_path)


@pytest.mark.parametrize("content", [b"log_level = \n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_file_that_is_not_toml_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rpz-auth.toml").write_bytes(content)
    assert f"{tmp_path}/rpz-auth.toml is not a TOML file" in problems(tmp_path)


def test_unknown_names_are_errors_that_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "rpz-auth.toml").write_text('grpc-adress = "127.0.0.1:1"\n[lifetimes]\ncode = 1\n')
    text = problems(
        tmp_path, {"RPZ_AUTH_ISUER": "s3cret-value", "RPZ_AUTH_LOG_LEVELS": "x", "OTHER": "1"}, refection=True
    )
    lines = text.splitlines()
    assert lines[0] == "the settings cannot be used:"
    assert lines[1:5] == [
        "  - unknown flag --refection; did you mean --reflection?",
        "  - unknown environment variable RPZ_AUTH_ISUER; did you mean RPZ_AUTH_ISSUER?",
        "  - unknown environment variable RPZ_AUTH_LOG_LEVELS; did you mean RPZ_AUTH_LOG_LEVEL?",
        f"  - unknown setting in {tmp_path}/rpz-auth.toml: grpc-adress; did you mean grpc_address?",
    ]
    assert lines[5].startswith(f"  - unknown setting in {tmp_path}/rpz-auth.toml: lifetimes; did you mean")
    assert len(lines) == 6
    assert "s3cret-value" not in text


def test_name_that_resembles_nothing_is_answered_with_all_that_are_known(tmp_path: Path) -> None:
    text = problems(tmp_path, {"RPZ_AUTH_QQQQQQQQQQQQQQQQQQQQQQQQQ": "1"})
    assert "RPZ_AUTH_KEYRING" in text
    assert "RPZ_AUTH_GRPC_ADDRESS" in text


def test_variable_in_another_case_is_not_taken_silently(tmp_path: Path) -> None:
    assert "RPZ_AUTH_Issuer" in problems(tmp_path, {"RPZ_AUTH_Issuer": "https://auth.example"})


def test_key_ring_variable_is_known_and_no_setting(tmp_path: Path) -> None:
    assert load(tmp_path, {"RPZ_AUTH_KEYRING": "{}"}) == load(tmp_path)
    (tmp_path / "rpz-auth.toml").write_text('keyring = "{}"\n')
    assert "unknown setting" in problems(tmp_path)


def test_error_names_each_setting_by_all_its_spellings(tmp_path: Path) -> None:
    text = problems(tmp_path, code_lifetime=601, refresh_grace="x", grpc_address="nonsense")
    first, *lines = text.splitlines()
    assert first == "the settings cannot be used:"
    said = dict(line.removeprefix("  - ").split(": ", 1) for line in lines)
    assert said == {
        "grpc_address (--grpc-address, RPZ_AUTH_GRPC_ADDRESS, or grpc_address in a TOML file)": (
            "write host:port, as in 127.0.0.1:8470 or [::1]:8470"
        ),
        "code_lifetime (RPZ_AUTH_CODE_LIFETIME, or code_lifetime in a TOML file)": (
            "Input should be less than or equal to 600"
        ),
        "refresh_grace (RPZ_AUTH_REFRESH_GRACE, or refresh_grace in a TOML file)": (
            "Input should be a valid number, unable to parse string as a number"
        ),
    }


def test_flags_that_errors_name_are_those_that_serve_has() -> None:
    assert set(inspect.signature(serve).parameters) - {"config", "control"} == FLAGS


@pytest.mark.parametrize("name", ["data_dir", "tls_client_ca", "database", "issuer", "log_level"])
def test_empty_setting_is_an_error_not_a_default(tmp_path: Path, name: str) -> None:
    assert f"{name} (--{name.replace('_', '-')}" in problems(tmp_path, **{name: ""})
    with pytest.raises(ConfigurationError, match="is empty"):
        Settings.load({}, {f"RPZ_AUTH_{name.upper()}": ""})


@pytest.mark.parametrize(
    ("address", "issuer"),
    [
        ("127.0.0.1:8470", "https://localhost:8470"),
        ("127.0.0.2:1", "https://localhost:1"),
        ("[::1]:8470", "https://localhost:8470"),
        ("localhost:8470", "https://localhost:8470"),
        ("127.0.0.1:0", "https://localhost"),
        ("10.0.0.5:443", "https://10.0.0.5:443"),
        ("[2001:db8::1]:443", "https://[2001:db8::1]:443"),
        ("auth.example:443", "https://auth.example:443"),
    ],
)
def test_issuer_is_derived_from_the_address(tmp_path: Path, address: str, issuer: str) -> None:
    assert load(tmp_path, http_address=address).issuer == issuer


@pytest.mark.parametrize("address", ["0.0.0.0:8470", "[::]:8470"])
def test_issuer_must_be_given_where_the_address_says_nothing(tmp_path: Path, address: str) -> None:
    text = problems(tmp_path, http_address=address)
    assert "issuer (--issuer, RPZ_AUTH_ISSUER, or issuer in a TOML file): cannot be derived" in text
    settings = load(tmp_path, http_address=address, issuer="https://auth.example")
    assert settings.issuer == "https://auth.example"


@pytest.mark.parametrize(
    ("grpc", "http", "console"),
    [
        ("127.0.0.1:8470", "127.0.0.1:8471", "127.0.0.1:8472"),
        ("[::1]:50", "[::1]:51", "[::1]:52"),
        ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"),
        ("10.0.0.5:443", "10.0.0.5:444", "off"),
        ("localhost:8470", "localhost:8471", "off"),
    ],
)
def test_http_and_console_follow_the_address_of_grpc(
    tmp_path: Path, grpc: str, http: str, console: str
) -> None:
    settings = load(tmp_path, grpc_address=grpc)
    assert (settings.http_address, settings.console_address) == (http, console)


def test_console_without_tls_is_on_loopback_or_nowhere(tmp_path: Path) -> None:
    for address in ("0.0.0.0:8472", "10.0.0.5:8472", "localhost:8472", "[::]:1"):
        assert "the network could read credentials" in problems(tmp_path, console_address=address)
    assert load(tmp_path, console_address="off").console_address == "off"
    assert load(tmp_path, console_address="127.0.0.9:1").console_address == "127.0.0.9:1"
    assert load(tmp_path, insecure=True).console_address == "off"  # http_address is without TLS then


def test_lists_come_as_one_text_from_flags_and_as_lists_from_files(tmp_path: Path) -> None:
    settings = load(tmp_path, {"RPZ_AUTH_CORS_ORIGINS": "https://a.example,https://b.example:8443"})
    assert settings.cors_origins == ("https://a.example", "https://b.example:8443")
    (tmp_path / "rpz-auth.toml").write_text('trusted_proxies = ["10.0.0.0/8", "::1"]\n')
    assert load(tmp_path).trusted_proxies == ("10.0.0.0/8", "::1")


def test_list_with_a_typing_error_is_refused(tmp_path: Path) -> None:
    for network in ("10.0.0.1/8", "10.0.0.0/0.0.0.255", "proxy.example", "*"):
        assert "trusted_proxies (--trusted-proxies" in problems(tmp_path, trusted_proxies=network)
    for origin in ("*", "null", "http://a.example", "https://a.example/", "https://A.example", "a.example"):
        assert "is not an origin" in problems(tmp_path, cors_origins=origin)
    assert "is not an origin" in problems(tmp_path, cors_origins="https://a.example:443")


@pytest.mark.parametrize(
    "issuer",
    [
        "https://auth.example",
        "https://auth.example:8470",
        "https://auth.example/tenant/one",
        "https://[::1]:8470",
        "https://[::1]",
        "https://192.0.2.1",
    ],
)
def test_r106_issuer_is_an_https_url(tmp_path: Path, issuer: str) -> None:
    assert load(tmp_path, issuer=issuer).issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "auth.example",
        "http://auth.example",
        "HTTPS://auth.example",
        "https:/auth.example",
        "https://",
        "https://auth.example/",
        "https://auth.example/a/",
        "https://auth.example//a",
        "https://auth.example?a=b",
        "https://auth.example/?a=b",
        "https://auth.example#a",
        "https://user@auth.example",
        "https://user:password@auth.example",
        "https://auth.example:99999",
        "https://auth.example:x",
        "https://auth example",
        "https://auth.example\n",
        "https://[::1",
        "https://bücher.example",
        "https://auth.example/" + "a" * 255,
    ],
)
def test_r106_other_issuers_are_refused(tmp_path: Path, issuer: str) -> None:
    assert "issuer (--issuer" in problems(tmp_path, issuer=issuer)


@pytest.mark.parametrize(
    "address",
    ["", "8470", ":8470", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:8470", "a:-1", "[x]:1"],
)
def test_address_without_host_or_port_is_refused(tmp_path: Path, address: str) -> None:
    assert "grpc_address (--grpc-address" in problems(tmp_path, grpc_address=address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:8470", "[::ffff:127.0.0.1]:1"])
def test_r125_plaintext_is_served_on_loopback_when_asked_for(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, grpc_address=address, insecure=True).insecure


@pytest.mark.parametrize("address", ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "localhost:1", "auth.example:1"])
def test_r125_plaintext_elsewhere_is_refused(tmp_path: Path, address: str) -> None:
    text = problems(tmp_path, grpc_address=address, insecure=True, issuer="https://auth.example")
    assert "insecure (--insecure, RPZ_AUTH_INSECURE, or insecure in a TOML file)" in text
    assert "127.0.0.1:8470" in text


def test_plaintext_and_certificates_contradict_each_other(tmp_path: Path) -> None:
    assert "--insecure" in problems(tmp_path, insecure=True, tls_client_ca="ca.pem")


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key"])
def test_certificate_and_key_come_together(tmp_path: Path, given: str) -> None:
    assert "both or neither" in problems(tmp_path, **{given: "x.pem"})


def test_relative_paths_are_made_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(Path("d"), tls_certificate="c.pem", tls_key="k.pem", database="sqlite:///x/a%20b.db")
    assert (settings.data_dir, settings.tls_certificate) == (tmp_path / "d", tmp_path / "c.pem")
    assert settings.database_path == tmp_path / "x" / "a b.db"


def test_default_database_survives_odd_directory_names(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c %20"
    assert load(folder).database_path == folder / "rpz-auth.db"


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("mysql://rpz:s3cret@db/rpz", "or postgresql://user@host1,host2/name"),
        ("mysql://rpz:s3cret@db/rpz", "write sqlite:///path"),
        ("rpz-auth-s3cret.db", "write sqlite:///path"),
        ("sqlite://s3cret.db", "write sqlite:///path"),
        ("sqlite:///", "write sqlite:///path"),
        ("sqlite:///s3cret?mode=ro", "write sqlite:///path"),
        ("sqlite:///:memory:", "name a file"),
    ],
)
def test_r126_other_databases_are_refused_without_their_password(tmp_path: Path, url: str, mend: str) -> None:
    text = problems(tmp_path, {"RPZ_AUTH_DATABASE": url})
    assert mend in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code_lifetime", 0),
        ("code_lifetime", 601),
        ("code_lifetime", "nan"),
        ("access_token_lifetime", 59),
        ("access_token_lifetime", 86401),
        ("access_token_lifetime", "inf"),
        ("refresh_idle_lifetime", 0),
        ("refresh_absolute_lifetime", 10_000 * 86400),
        ("refresh_grace", -1),
        ("refresh_grace", 601),
        ("heartbeat_interval", 0),
        ("heartbeat_interval", 6),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("reflection", "perhaps"),
    ],
)
def test_r022_value_out_of_bounds_is_refused(tmp_path: Path, name: str, value: object) -> None:
    text = problems(tmp_path, **{name: value})
    assert f"- {name} (" in text
    assert f"RPZ_AUTH_{name.upper()}, or {name} in a TOML file): " in text


def test_idle_lifetime_is_not_longer_than_the_absolute_one(tmp_path: Path) -> None:
    text = problems(tmp_path, refresh_idle_lifetime=7200, refresh_absolute_lifetime=3600)
    assert "must not be longer than refresh_absolute_lifetime" in text


def test_lifetimes_reach_the_rules(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        code_lifetime=1,
        access_token_lifetime=60,
        refresh_idle_lifetime=61,
        refresh_absolute_lifetime=62,
        refresh_grace=0,
    )
    assert settings.lifetimes == Lifetimes(
        code=1, access_token=60, refresh_idle=61, refresh_absolute=62, refresh_grace=0
    )


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        settings.insecure = True


@pytest.mark.parametrize("given", ["feed.read  feed.list", ["feed.read", "feed.list"]])
def test_a_list_is_a_text_with_spaces_or_a_list(tmp_path: Path, given: Any) -> None:
    assert load(tmp_path, query_token_scopes=given).query_token_scopes == {"feed.read", "feed.list"}


def test_one_address_of_metrics_is_refused_for_several_workers(tmp_path: Path) -> None:
    assert "several workers" in problems(tmp_path, metrics_address="127.0.0.1:9470", workers=2)


def test_dns_servers_are_addresses_with_or_without_a_port(tmp_path: Path) -> None:
    servers = load(
        tmp_path, dns_servers="192.0.2.53,192.0.2.54:5353,2001:db8::53,[2001:db8::54]:5353"
    ).dns_servers
    assert [split_dns_server(server) for server in servers] == [
        ("192.0.2.53", 53),
        ("192.0.2.54", 5353),
        ("2001:db8::53", 53),
        ("2001:db8::54", 5353),
    ]
    for wrong in ("dns.example", "192.0.2.53:", "192.0.2.53:70000", "192.0.2.0/24"):
        assert "dns_servers (--dns-servers" in problems(tmp_path, dns_servers=wrong)
