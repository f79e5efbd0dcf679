"""What the value of one setting may be. Each check names the mend, and looks at nothing but the value."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from rpz_auth.address import parse_address, parse_network

_MAX_PORT = 65535
_DNS_PORT = 53
_MAX_ISSUER = 255  # it stands in every access token
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", re.ASCII)
_ORIGIN = re.compile(r"https://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::(?!443$)[0-9]{1,5})?", re.ASCII)
SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
OFF = "off"


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` or `[IPv6]:port`; the host without brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise ValueError("write host:port, as in 127.0.0.1:8470 or [::1]:8470")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("write host:port, as in 127.0.0.1:8470 or [::1]:8470")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return parse_address(host).is_loopback
    except ValueError:
        return False  # a name, `localhost` too, can lead anywhere


def is_wildcard(host: str) -> bool:
    """Whether a host stands for every address of this machine."""
    try:
        return parse_address(host).is_unspecified
    except ValueError:
        return False


def connectable(address: str, port: int | None = None) -> str:
    """What clients on this machine connect to, for an address to listen on; `port` if another was taken."""
    host = "localhost" if is_wildcard(split_address(address)[0]) else address.rpartition(":")[0]
    return f"{host}:{split_address(address)[1] if port is None else port}"


def split_words(value: Any) -> Any:
    """A list from the environment or a flag is a text with spaces."""
    return value.split() if isinstance(value, str) else value


def check_address(text: str) -> str:
    """Let pass `host:port`."""
    split_address(text)
    return text


def check_issuer(issuer: str) -> str:
    """RFC 8414 §2; a trailing slash is refused because clients append paths (§3.1)."""
    if not issuer:
        raise ValueError(
            "cannot be derived, as http_address stands for every address of this machine; "
            "set the https URL that clients know this authority by"
        )
    mend = "write an https URL without query, fragment or trailing slash, as in https://auth.example.com"
    scheme, separator, rest = issuer.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme != "https" or not separator or not _URL_PATH.fullmatch(slash + path):
        raise ValueError(mend)
    try:
        split_address(authority if authority.rpartition("]")[2].count(":") else f"{authority}:443")
    except ValueError:
        raise ValueError(mend) from None
    if len(issuer) > _MAX_ISSUER:
        raise ValueError(f"is longer than {_MAX_ISSUER} characters")
    return issuer


def check_console_address(text: str) -> str:
    """Let pass an address that only this machine can reach, or `off`."""
    if text == OFF:
        return text
    host, _ = split_address(text)
    if not is_loopback(host):
        raise ValueError(
            f"without TLS the network could read credentials; write a loopback IP address, or {OFF}"
        )
    return text


def check_metrics_address(text: str) -> str:
    """Let pass `host:port`, or `off`."""
    return text if text == OFF else check_address(text)


def split_list(value: Any) -> Any:
    """From flags and environment a list comes as one text, its members between commas."""
    return [member for member in value.split(",") if member] if isinstance(value, str) else value


def check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Let pass networks and addresses."""
    for network in networks:
        try:
            parse_network(network)
        except ValueError as error:
            raise ValueError(f"{network!r}: {error}") from None
    return networks


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Let pass origins as browsers send them."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin as browsers send it; write https://app.example, with a port "
                "only if it is not 443"
            )
    return origins


def check_provider(issuer: str) -> str:
    """Let pass the issuer of an OpenID Connect provider."""
    scheme, _, rest = issuer.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0].strip("[]")
    if scheme == "http" and is_loopback(host):  # to try it out
        return issuer
    check_issuer(issuer.removesuffix("/"))  # many end with one, and it is a part of the name
    return issuer


def split_dns_server(text: str) -> tuple[str, int]:
    """Split an IP address, `IP:port` or `[IPv6]:port`."""
    try:
        return str(parse_address(text)), _DNS_PORT
    except ValueError:
        host, port = split_address(text)
        return str(parse_address(host)), port


def check_dns_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    """Let pass IP addresses, with or without a port."""
    for server in servers:
        try:
            split_dns_server(server)
        except ValueError:
            raise ValueError(
                f"{server!r}: write an IP address, as in 192.0.2.53, or 192.0.2.53:5353"
            ) from None
    return servers


def check_database(url: str) -> str:
    """Say what to write instead, but never the URL: it may hold a password."""
    if url.startswith(_POSTGRES):
        return url
    if not url.startswith(SQLITE) or url == SQLITE or "?" in url or "#" in url:
        raise ValueError(
            "write sqlite:///path/to/file.db, with four slashes for an absolute path, or "
            "postgresql://user@host1,host2/name"
        )
    if url == SQLITE + ":memory:":
        raise ValueError("an authority that forgets at its end what it promised is not offered; name a file")
    return url
