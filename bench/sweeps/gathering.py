"""Brings what a run wrote on a node into the sweep's folder, whole and checked by its content, or not at all.

listing = manifest(folder)                    # on the node: name -> size and SHA-256 of what the run wrote
gather(job.folder, listing, read)             # in the sweep; read(name, offset, size) -> bytes
check(job.folder, listing)                    # where the folder is shared: both see the same
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.errors import DataError
from bench.records import store
from bench.runner import run_folder
from bench.training import checkpoint_files
from bench.utils import files

PIECE_BYTES = 2**23
INCOMING = ".incoming"
# Network file systems show another machine's files after a while: NFS keeps attributes for up to a minute.
PATIENCE_S = 90.0

# (bytes, SHA-256 in hexadecimal) of a file.
Listing = Mapping[str, tuple[int, str]]


def manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Return name -> (bytes, SHA-256) of what a run has written, but for checkpoints, which only it goes on from."""
    return {name: _stamp(folder / name) for name in _written(folder)}


def _written(folder: Path) -> list[str]:
    return _gathered(run_folder.survey(folder).made)


def _gathered(names: list[str]) -> list[str]:
    apart = (f"{checkpoint_files.FOLDER}/", "ship/")
    return [name for name in names if name not in run_folder.FIRST and not name.startswith(apart)]


def results(listing: Listing) -> dict[str, tuple[int, str]]:
    """Return the part of a listing that reports read: the record, the predictions and the log of training."""
    return {
        name: stamp
        for name, stamp in listing.items()
        if name in (store.FILE, "train_log.jsonl") or name.startswith("predictions/")
    }


def _stamp(path: Path) -> tuple[int, str]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()


def check(folder: Path, listing: Listing, patience_s: float = PATIENCE_S) -> None:
    """Wait until a shared folder shows files as their node wrote them. Raises DataError where it does not in time."""
    end = time.monotonic() + patience_s
    while wrong := list(_differing(folder, listing)):
        if time.monotonic() > end:
            raise DataError(
                f"{folder}: {run_folder.shortened(wrong)} not as the run's node wrote them, by size or SHA-256; is "
                "the file system whole? Repeat the sweep to run this again"
            )
        time.sleep(0.5)


def _differing(folder: Path, listing: Listing) -> Iterator[str]:
    for name, stamp in listing.items():
        try:
            if _stamp(folder / name) != tuple(stamp):
                yield name
        except OSError:
            yield name


def gather(folder: Path, listing: Listing, read: Callable[[str, int, int], bytes]) -> None:
    """Fetch a run's files into its folder. Until all have come, whole, what was in it before stays.

    Raises DataError where a file comes otherwise than it was listed, or is none that a run writes; SetupError where
    its place is taken.
    """
    _refuse_false(listing)
    incoming = folder.parent / INCOMING / folder.name
    _clear(incoming)
    incoming.mkdir(parents=True)
    try:
        for name, stamp in listing.items():
            _fetch(incoming / name, name, stamp, read)
        _move(incoming, folder, listing)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        with contextlib.suppress(OSError):
            incoming.parent.rmdir()


def _refuse_false(listing: Listing) -> None:
    """Raise DataError for a listing with anything else than files that a run writes, by name, size and SHA-256."""
    for name, stamp in listing.items():
        known = isinstance(name, str) and "\0" not in name and ".." not in Path(name).parts and run_folder.is_made(name)
        if not known or not _gathered([name]):
            raise DataError(f"a node lists {name!r:.200}, which is not in its run's folder, or no file of a run")
        if not (len(stamp) == 2 and isinstance(stamp[0], int) and isinstance(stamp[1], str)):
            raise DataError(f"a node lists {name!r:.200} with neither its size nor its SHA-256")


def _clear(incoming: Path) -> None:
    """Remove what a sweep that was killed has left. Raises DataError where anything else is in its place."""
    if incoming.parent.is_symlink() or incoming.is_symlink():
        raise DataError(f"{incoming}: a link is in the place of files that come from a node; move it away")
    contents = run_folder.survey(incoming)
    if contents.others or contents.wrong:
        names = run_folder.shortened([*contents.others, *contents.wrong])
        raise DataError(f"{incoming} is for files that come from a node, and has others ({names}); move it away")
    shutil.rmtree(incoming, ignore_errors=True)


def _fetch(path: Path, name: str, stamp: tuple[int, str], read: Callable[[str, int, int], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size, expected = stamp
    digest, done = hashlib.sha256(), 0
    with path.open("xb") as stream:
        while done < size and (piece := read(name, done, min(PIECE_BYTES, size - done))):
            stream.write(piece)
            digest.update(piece)
            done += len(piece)
        stream.flush()
        os.fsync(stream.fileno())
    if (done, digest.hexdigest()) != (size, expected):
        raise DataError(f"{name} did not come from its node as it lies there, by size or SHA-256; repeat the sweep")


def _move(incoming: Path, folder: Path, listing: Listing) -> None:
    """Put all files at their places: the folder as a whole where there is none, else one by one, the record last."""
    if not os.path.lexists(folder):
        incoming.rename(folder)
        return
    held = run_folder.claim(folder)
    try:
        stale = set(_written(folder)) - set(listing)
        for name in sorted(listing, key=lambda one: one == store.FILE):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(incoming / name, folder / name)
        run_folder.remove(folder, sorted(stale))
    finally:
        run_folder.unlock(folder, held)


def tail(path: Path, offset: int, most: int = 2**16) -> bytes:
    """Return the next bytes of a file that is being written; empty where there are none."""
    try:
        with files.open_regular(path) as stream:
            stream.seek(offset)
            return stream.read(most)
    except OSError:
        return b""
