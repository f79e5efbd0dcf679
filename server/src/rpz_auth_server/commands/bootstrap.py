"""`rpz-auth-server bootstrap`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from rpz_auth.errors import ConfigurationError

from rpz_auth_server import bootstrap, log
from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    GrpcAddressOption,
    HttpAddressOption,
    IssuerOption,
    JsonOption,
    ensure_founded,
    failing,
    load_as_started,
    say,
)
from rpz_auth_server.serving import describe_connection, open_authority
from rpz_auth_server.settings import Settings


def make_administrator(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    grpc_address: GrpcAddressOption = None,
    http_address: HttpAddressOption = None,
    issuer: IssuerOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a new administrator file, as the first start did.

    It takes the place of the one that was there, whose token is revoked. Also while the authority runs, and
    when the old token has expired. Run it as the authority's own user.
    Address and issuer of the last start are known, as long as its file is still there.
    """
    flags = {name: value for name, value in locals().items() if name != "as_json"}
    with failing():
        settings = load_as_started(flags)
        path = settings.data_dir / bootstrap.FILE_NAME
        asyncio.run(_make_administrator(settings, os.environ, path))
    say(f"administrator: {path}", as_json=as_json, administrator=path)


async def _make_administrator(settings: Settings, environ: Mapping[str, str], path: Path) -> None:
    await ensure_founded(settings)
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    port = int(settings.grpc_address.rpartition(":")[2])
    if not port:
        raise ConfigurationError("name the port that the authority listens on by --grpc-address")
    connection, recorded = describe_connection(settings, port), bootstrap.read_connection(path)
    if settings.insecure is recorded.get("insecure"):  # else the last start was of another kind
        kept = ("ca_certificate", *bootstrap.CLIENT_PAIR)
        connection |= {name: recorded[name] for name in kept if name in recorded}
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        await bootstrap.replace_administrator(authority, path, connection)
