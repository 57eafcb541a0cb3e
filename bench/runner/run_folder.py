"""A run's folder: recognised by its files, and locked against a second run."""

import fcntl
from pathlib import Path
from typing import IO

from bench.errors import SetupError
from bench.records import store

LOCK = ".lock"


def is_ours(folder: Path) -> bool:
    """Return whether a run has written into this folder."""
    return any((folder / name).exists() for name in (store.FILE, store.BALLAST, LOCK))


def lock(folder: Path) -> IO[bytes]:
    """Lock a folder against a second run until the returned file is closed, or its process has ended.

    Raises SetupError while another process holds the lock. A file system without locks keeps nobody out.
    """
    stream = (folder / LOCK).open("wb")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise SetupError(
            f"{folder} is being written by another run; wait for its end, or give another --out"
        ) from error
    except OSError:
        pass
    return stream


def unlock(folder: Path, held: IO[bytes] | None) -> None:
    """Unlock the folder for the next run, if it was locked."""
    if held is not None:
        (folder / LOCK).unlink(missing_ok=True)
        held.close()


def is_taken(folder: Path) -> bool:
    """Return whether another process holds the lock."""
    try:
        with (folder / LOCK).open("rb") as stream:
            # Shared, so that processes that only look don't block one another.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
