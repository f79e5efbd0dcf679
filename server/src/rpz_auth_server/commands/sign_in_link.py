"""`rpz-auth-server sign-in-link`."""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from rpz_auth_server import first_sign_in, log
from rpz_auth_server.commands.offline import (
    ConfigOption,
    DatabaseOption,
    DataDirOption,
    HttpAddressOption,
    IssuerOption,
    JsonOption,
    ensure_founded,
    failing,
    load_as_started,
    say,
)
from rpz_auth_server.first_sign_in import Link
from rpz_auth_server.serving import open_authority
from rpz_auth_server.setting_values import OFF, connectable
from rpz_auth_server.settings import Settings

_NO_SETTINGS = ("user_name", "as_json")


def make_sign_in_link(
    user_name: Annotated[str, typer.Argument(help="Whose; a name that nobody has becomes an administrator.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    http_address: HttpAddressOption = None,
    console_address: Annotated[str | None, typer.Option(help="host:port of the console, or off.")] = None,
    issuer: IssuerOption = None,
    database: DatabaseOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a one-time link to the console for who is locked out.

    It is good on this machine only. Also while the authority runs; run it as the authority's own user.
    Address and issuer of the last start are known, as long as the administrator file is still there.
    """
    flags = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    with failing():
        link = asyncio.run(_make_sign_in_link(load_as_started(flags), os.environ, user_name))
    who = f"the new administrator {user_name}" if link.is_new else user_name
    text = f"to sign in as {who}, open the link in {link.path}"
    say(text, as_json=as_json, file=link.path, user_name=user_name, is_new=link.is_new)


async def _make_sign_in_link(settings: Settings, environ: Mapping[str, str], user_name: str) -> Link:
    await ensure_founded(settings)
    log.configure(log_format=settings.log_format, log_level=settings.log_level)
    off = settings.console_address == OFF
    address = settings.http_address if off else settings.console_address
    scheme = "https" if off and not settings.insecure else "http"
    path = urllib.parse.urlsplit(settings.issuer).path
    console = f"{scheme}://{connectable(address)}{path}"
    async with AsyncExitStack() as cleanup:
        authority, _ = await open_authority(settings, environ, cleanup)
        return await first_sign_in.make_link(authority, settings.data_dir, user_name, console)
