"""Where the names in an App's whitelist lead."""

from __future__ import annotations

from dataclasses import replace

from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.resolution import addresses_of, names_in
from rpz_auth_server.storage.store import Store


async def with_names_resolved(store: Store, app: App) -> App:
    """The App with what is known of its names by now; the DNS is asked elsewhere, in the background."""
    names = names_in(app.whitelist)
    if not names:
        return replace(app, resolved=())
    known = await store.resolutions(names)
    resolved = addresses_of(known, store.now(), private_allowed=app.private_names_allowed)
    return replace(app, resolved=resolved)
