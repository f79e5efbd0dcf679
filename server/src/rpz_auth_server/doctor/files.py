"""Who can read the files of an authority."""

from __future__ import annotations

import pwd
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rpz_auth_server import bootstrap, first_sign_in
from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.settings import FILE_NAME, Settings

_CHECK = Check("files")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SECRET_SETTINGS = ("oidc_client_secret", "database")


def check_files(settings: Settings, config: Path | None, user: int) -> Sequence[Finding]:
    """Look at modes and owners; nothing is opened but the TOML file.

    Args:
        settings: Say where the files are.
        config: The TOML file that was named.
        user: Whom the files must belong to: whoever asks.
    """
    folder, private = settings.data_dir, list(_private(settings))

    def problems() -> Iterator[Finding]:
        yield from _folder(folder, user)
        for path in private:
            yield from _private_file(path, user)
        yield from _config(config or folder / FILE_NAME)
        yield from _given_key(settings)

    return _CHECK.all_or(
        problems(), f"{folder} and {len(private)} private files are open to their owner only"
    )


def is_own(settings: Settings, user: int) -> bool:
    """Whether a user may work on the files without leaving some that the authority cannot open."""
    place = settings.database_path.parent if settings.is_embedded else settings.data_dir
    return not place.exists() or place.stat().st_uid == user


def _private(settings: Settings) -> Iterator[Path]:
    folder = settings.data_dir
    names = [settings.keyring_path, folder / bootstrap.FILE_NAME, folder / first_sign_in.FILE_NAME]
    if settings.is_embedded:
        place = settings.database_path
        names += [place, *sorted(place.parent.glob(f"{place.name}[-.]*"))]
    names += sorted((folder / "tls").glob("*.key"))
    yield from (path for path in names if path.is_file())


def _folder(folder: Path, user: int) -> Iterator[Finding]:
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS_WRITE:
        yield _CHECK.error(
            f"{folder} has mode {mode:04o}: others can put files of theirs into it", f"chmod 700 {folder}"
        )
    elif mode & _OTHERS:
        yield _CHECK.warning(f"{folder} has mode {mode:04o}: others can look into it", f"chmod 700 {folder}")
    if found.st_uid != user:
        yield _CHECK.error(
            f"{folder} belongs to {_name(found.st_uid)}, and this is {_name(user)}",
            f"run this as {_name(found.st_uid)}, the authority's own user",
        )


def _private_file(path: Path, user: int) -> Iterator[Finding]:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        yield _CHECK.error(
            f"{path} has mode {mode:04o}: others can read it", f"chmod 600 {path}; was it read, change it"
        )
    if found.st_uid != user:
        owner = _name(found.st_uid)
        yield _CHECK.error(f"{path} belongs to {owner}, not to {_name(user)}", f"chown {_name(user)} {path}")


def _config(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS and _holds_secret(tomllib.loads(path.read_text(encoding="utf-8"))):
        yield _CHECK.error(
            f"{path} has mode {mode:04o} and holds a password or secret",
            f"chmod 600 {path}, or give the secret in the environment",
        )


def _holds_secret(content: Mapping[str, Any]) -> bool:
    given = [str(content.get(name, "")) for name in _SECRET_SETTINGS]
    return any(text and not text.startswith("sqlite:") for text in given)


def _given_key(settings: Settings) -> Iterator[Finding]:
    path = settings.tls_key
    if path is None or not path.is_file():
        return  # what is missing is told with the certificate
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IRWXO:  # a group, such as Debian's ssl-cert, is somebody's choice
        yield _CHECK.error(f"{path} has mode {mode:04o}: everybody can read it", f"chmod o= {path}")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
