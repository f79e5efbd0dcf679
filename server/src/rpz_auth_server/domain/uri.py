"""Redirect URIs and resource indicators: what may be registered, and what equals it."""

from __future__ import annotations

import re
import urllib.parse

from rpz_auth_server.domain.refusal import RequestInvalid

MAX_LENGTH = 512

# No space, control character, backslash or quote; urlsplit() would silently drop some of them.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.ASCII)
_LOOPBACK = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\]))(?::[0-9]{1,5})?(/.*|\?.*|)", re.ASCII)


# Browsers decode and take more than this in a host (https://good.example%2eevil.example), and people who
# consent could be shown another place than the one that they are sent to.
_HTTPS = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?].*)?", re.ASCII)


def check_redirect_uri(uri: str) -> None:
    """Take what may be registered: https, or http on a loopback IP (RFC 8252 §7.3, RFC 9700 §2.6).

    Raises:
        RequestInvalid: With what to register instead.
    """
    if len(uri) > MAX_LENGTH or not _URI.fullmatch(uri):
        raise RequestInvalid("a redirect_uri is an absolute URI of at most 512 ASCII characters")
    parts = _split(uri)
    if "#" in uri:
        raise RequestInvalid("a redirect_uri has no fragment (RFC 6749 §3.1.2)")
    if "@" in parts.netloc:
        raise RequestInvalid("a redirect_uri has no user name")
    if _HTTPS.fullmatch(uri):
        return
    if uri.startswith("https://") and parts.hostname:
        raise RequestInvalid("a redirect_uri has a host of letters, digits and hyphens, or an IP address")
    if not _LOOPBACK.fullmatch(uri):
        raise RequestInvalid(
            "register an https:// redirect_uri, or http://127.0.0.1 or http://[::1] for a native App"
        )


def redirect_uri_is(registered: str, presented: str) -> bool:
    """Compare character by character; a loopback IP may differ in its port (RFC 8252 §7.3)."""
    if registered == presented:
        return True
    one, other = _LOOPBACK.fullmatch(registered), _LOOPBACK.fullmatch(presented)
    return one is not None and other is not None and one.groups() == other.groups()


def check_resource(uri: str) -> None:
    """Take an absolute URI without a fragment as the name of a service (RFC 8707 §2).

    Raises:
        RequestInvalid: It is not one.
    """
    if len(uri) > MAX_LENGTH or not _URI.fullmatch(uri) or "#" in uri:
        raise RequestInvalid("a resource is an absolute URI without a fragment, as in https://orders.example")


def _split(uri: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise RequestInvalid("a redirect_uri is an absolute URI") from None
    return parts
