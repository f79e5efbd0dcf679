"""Where a refresh token is kept between renewals, and between programs."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rpz_auth.errors import ConfigurationError, RenewalFailed

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOCK_TIMEOUT = 60.0
_LOCK_PAUSE = 0.02


class RefreshTokenStore(Protocol):
    """Keeps one refresh token. `load` and `save` are called by whoever holds the lock."""

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """Keep everybody else who uses this token out, in whichever thread or process.

        Raises:
            RenewalFailed: Somebody else holds it for too long.
        """
        ...

    def load(self) -> str | None:
        """The refresh token, or None when there is none."""
        ...

    def save(self, refresh_token: str) -> None:
        """Keep a refresh token in place of the one before, durably."""
        ...


class MemoryStore:
    """Keeps a refresh token until the program ends."""

    def __init__(self, refresh_token: str | None = None) -> None:
        """Begin with this one, if any."""
        self._token = refresh_token
        self._lock = threading.Lock()

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """See `RefreshTokenStore.lock`."""
        return self._lock

    def load(self) -> str | None:
        """See `RefreshTokenStore.load`."""
        return self._token

    def save(self, refresh_token: str) -> None:
        """See `RefreshTokenStore.save`."""
        self._token = refresh_token


class FileStore:
    """Keeps a refresh token in a file of mode 0600, for any number of programs on one machine.

    A file is replaced as a whole, after it has reached the disk: whoever reads it finds the one before or the
    new one, whatever happens in between. A second file, `<name>.lock`, is what the programs lock.
    """

    def __init__(self, path: str | Path, *, lock_timeout: float = _LOCK_TIMEOUT) -> None:
        """Use this file; it need not be there yet, but its folder must.

        Args:
            path: Of the file.
            lock_timeout: Seconds to wait for other programs.

        Raises:
            ConfigurationError: This system has no locks between programs.
        """
        if fcntl is None:
            raise ConfigurationError("FileStore needs a POSIX system; give a RefreshTokenStore of your own")
        self._path = Path(path).expanduser().absolute()
        self._lock_path = self._path.with_name(f"{self._path.name}.lock")
        self._lock_timeout = lock_timeout
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FileStore({str(self._path)!r})"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `RefreshTokenStore.lock`; a program that dies lets go of it.

        Raises:
            RenewalFailed: Another program holds it for too long.
            ConfigurationError: The folder cannot be written.
        """
        with self._lock:  # a lock of the file is one for the process, not for a thread
            try:
                descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ConfigurationError(f"{self._lock_path}: {error.strerror}") from None
            try:
                self._wait_for(descriptor)
                yield
            finally:
                os.close(descriptor)

    def load(self) -> str | None:
        """See `RefreshTokenStore.load`.

        Raises:
            ConfigurationError: Others may read the file, or it is not one of ours.
        """
        try:
            with self._path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _OTHERS:
                    raise ConfigurationError(
                        f"others can open {self._path}: run chmod 600 on it, and have the user sign in again "
                        "if somebody may have read it"
                    )
                token = json.loads(file.read())["refresh_token"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError):
            token = None  # its text may quote the file
        if not isinstance(token, str) or not token:
            raise ConfigurationError(
                f"{self._path} is no refresh token file: delete it, and have the user sign in"
            )
        return token

    def save(self, refresh_token: str) -> None:
        """See `RefreshTokenStore.save`.

        Raises:
            OSError: The file cannot be written; the one before is still there.
        """
        content = json.dumps({"refresh_token": refresh_token}).encode("ascii")
        new = self._path.with_name(f"{self._path.name}.new")
        # One writer at a time, so what stands there is left from a program that died, or a trap.
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _wait_for(self, descriptor: int) -> None:
        # flock cannot be told when to give up, so it is asked again and again.
        give_up_at = time.monotonic() + self._lock_timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise RenewalFailed(
                        f"another program holds {self._lock_path} for more than {self._lock_timeout:g} s"
                    ) from None
                time.sleep(_LOCK_PAUSE)
            else:
                return
