"""One process at a time works in a data directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatrpc.errors import SettingsError


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Make the directory if it is absent, and hold its lock.

    The kernel drops the lock with the process, however that ends, so a lock file left behind stops nobody.

    Raises:
        SettingsError: The directory cannot be made or written, or another process works in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(
            f"{directory} cannot be used as a data directory ({error.strerror}); choose another with --data-dir."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise SettingsError(
                f"{directory} is in use by process {holder}; end that one, or choose another with --data-dir."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
