"""Files: the root of the checkout, atomic writing, and opening that follows no link and waits for no device."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
# Characters of the random ending of a temporary file's name.
RANDOM_CHARACTERS = 8
# Of what a run leaves beside its record: predictions of a million long texts fit.
LIMIT_BYTES = 2**32
PIECE_BYTES = 2**20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}


def kind_of(mode: int) -> str:
    """Return the kind of a file by its `st_mode`, in words: "a file", "a folder", "a link", "a FIFO" ..."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a file whole or not at all, with the mode of the umask; a link in its place is replaced, not followed.

    text: or its parts, of which only one need be in memory.
    """
    write_bytes(path, (part.encode("utf-8") for part in ([text] if isinstance(text, str) else text)))


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to disk, then renamed."""
    # Not tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(RANDOM_CHARACTERS // 2)}")
    stream = os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")
    try:
        with stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_regular(path: Path, limit_bytes: int | None = None, *, follow: bool = True) -> IO[bytes]:
    """Open a regular file for reading. follow: a link to one is opened, too.

    Raises OSError for a folder, a device, a FIFO (which would wait for a writer), a link unless `follow`, and for more
    than so many bytes.
    """
    stream = _opened(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW), "rb")
    size = os.fstat(stream.fileno()).st_size
    if limit_bytes is not None and size > limit_bytes:
        stream.close()
        raise OSError(errno.EINVAL, f"{size:,} bytes are more than the {limit_bytes:,} that are read", str(path))
    return stream


def open_own(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a regular file for writing, with the mode of the umask where it is created. flags: as of `os.open`.

    Raises OSError for a link and for whatever else is not a regular file.
    """
    return _opened(path, flags | os.O_NOFOLLOW, mode)


def _opened(path: Path, flags: int, mode: str) -> IO[bytes]:
    try:
        # Without waiting: a FIFO without another end would wait for ever.
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise OSError(errno.EINVAL, "a link, not a regular file", str(path)) from error
        raise
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{kind_of(kind)}, not a regular file", str(path))
    return os.fdopen(handle, mode)


def lock_file(path: Path) -> IO[bytes] | None:
    """Open a file for writing, made where it is not there, and lock it until it is closed by all that inherit it.

    Returns None where another process holds the lock. A file system without locks keeps nobody out.
    """
    stream = open_own(path, os.O_RDWR | os.O_CREAT, "rb+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    except OSError:
        pass
    return stream


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file."""
    try:
        with open_regular(path, follow=False) as stream:
            # Shared, so that processes that only look don't block one another.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def read_bytes(path: Path, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Return the content of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path, limit_bytes) as stream:
        # In pieces: to ask for as many bytes as are allowed would take that much memory at once.
        pieces, size = [], 0
        while size <= limit_bytes and (piece := stream.read(min(PIECE_BYTES, limit_bytes + 1 - size))):
            pieces.append(piece)
            size += len(piece)
    if size > limit_bytes:  # it has grown since it was opened
        raise OSError(errno.EINVAL, f"more than the {limit_bytes:,} bytes that are read", str(path))
    return b"".join(pieces)


def read_text(path: Path, limit_bytes: int = LIMIT_BYTES) -> str:
    """Return the UTF-8 text of a regular file. Raises OSError as `open_regular`, UnicodeDecodeError for other text."""
    return read_bytes(path, limit_bytes).decode("utf-8")


def use_umask(path: Path) -> None:
    """Give a file that a library created for its owner alone the mode that the umask gives every other file."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(RANDOM_CHARACTERS // 2)}")
    # A thread-safe way to read the umask: have the system apply it.
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        probe.unlink()
    with contextlib.suppress(PermissionError):  # a file system without modes
        os.chmod(path, mode)


def is_too_deep(value: object, limit: int) -> bool:
    """Return whether JSON content is nested deeper than so many levels."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
