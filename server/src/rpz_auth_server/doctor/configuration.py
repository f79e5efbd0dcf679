"""Settings that can be used, and yet are a risk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rpz_auth.address import parse_network

from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.setting_values import is_loopback, split_address
from rpz_auth_server.settings import FILE_NAME, Settings

_CHECK = Check("settings")


def check_settings(settings: Settings, config: Path | None) -> Sequence[Finding]:
    """Look for what an operator should know of."""
    path = config or settings.data_dir / FILE_NAME
    source = f"{path} is read" if path.exists() else f"there is no {path}"
    return _CHECK.all_or(_problems(settings), f"{source}; the issuer is {settings.issuer}")


def _problems(settings: Settings) -> Iterator[Finding]:
    if settings.insecure:
        yield _CHECK.warning("insecure: credentials travel without TLS", "leave --insecure out")
    for network in settings.trusted_proxies:
        if parse_network(network).prefixlen == 0:
            yield _CHECK.error(
                f"trusted_proxies has {network}: whoever calls can pass for any address",
                "name the addresses of the proxies",
            )
    for name in ("failure_limit", "peer_failure_limit", "app_failure_limit"):
        if getattr(settings, name) == 0:
            yield _CHECK.warning(f"{name} = 0: guesses are not limited", "take it out of the settings")
    host = urlsplit(settings.issuer).hostname or ""
    if _is_local(host) and not _is_local(split_address(settings.http_address)[0]):
        yield _CHECK.warning(
            f"it listens for other machines, and {settings.issuer} leads nowhere from there",
            "found the authority anew with --issuer: it cannot be changed later",
        )


def _is_local(host: str) -> bool:
    return host == "localhost" or is_loopback(host)
