"""What pages load: one style sheet, one script, the typefaces. Nothing comes from elsewhere (R051)."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.transport.http.answers import plain

_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
    "fonts/plex-sans-latin.woff2": "font/woff2",
    "fonts/plex-sans-latin-ext.woff2": "font/woff2",
    "fonts/plex-mono-latin.woff2": "font/woff2",
}
_FILES = {
    name: files("rpz_auth_server.transport.console").joinpath("static", name).read_bytes() for name in _TYPES
}
VERSION = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]
"""Stands in their addresses, so that browsers may keep them."""


async def static(request: Request) -> Response:
    """Serve one file."""
    name = request.path_params["name"]
    if name not in _FILES:
        return plain(404, "There is nothing here.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(_FILES[name], media_type=_TYPES[name], headers=headers)
