"""PostgreSQL as the database. Its driver is imported by the first call of what stands here, not before."""

from __future__ import annotations

from rpz_auth_server.storage.store import Store


async def open_store(url: str) -> Store:
    """Open a database, as `PostgresStore.open` does.

    Raises:
        ConfigurationError: It cannot or must not be used; the message names the mend.
        BackendUnavailable: It does not answer just now.
    """
    from rpz_auth_server.storage.postgres.store import PostgresStore  # noqa: PLC0415 - see above

    return await PostgresStore.open(url)


async def is_incoming(url: str) -> bool:
    """Whether an authority is being moved to a database at the moment.

    Raises:
        ConfigurationError: It cannot or must not be used.
        BackendUnavailable: It does not answer just now.
    """
    from rpz_auth_server.storage.postgres import session, store  # noqa: PLC0415 - see above

    return await store.is_incoming(session.Address(url))
