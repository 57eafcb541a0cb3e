"""Whose a run's folder is: what tells that a run has written into it, and the lock that keeps a second one out."""

import fcntl
from pathlib import Path
from typing import IO

from bench.errors import SetupError
from bench.records import store

LOCK = ".lock"


def is_ours(folder: Path) -> bool:
    """Whether a run has written into this folder."""
    return any((folder / name).exists() for name in (store.FILE, store.BALLAST, LOCK))


def lock(folder: Path) -> IO[bytes]:
    """Keeps a second run out of a folder until the returned file is closed, or its process is gone.

    Raises SetupError while another process has it. Where a file system knows no locks, nobody is kept out.
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


def unlock(folder: Path, taken: IO[bytes] | None) -> None:
    """Lets the next run into the folder; nothing where it was not taken."""
    if taken is not None:
        (folder / LOCK).unlink(missing_ok=True)
        taken.close()


def is_taken(folder: Path) -> bool:
    """Whether another process is writing into it now."""
    try:
        with (folder / LOCK).open("rb") as stream:
            # Shared, so that those who look don't keep one another out.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
