"""Writes, reads and finds record files."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from bench.errors import DataError
from bench.records.record import SCHEMA, Record
from bench.utils import files
from bench.utils.files import write_text
from bench.utils.numbers import whole_number

FILE = "record.json"
# In a sweep's folder of tuning trials.
TRIALS_MARK = ".trials"
BALLAST = ".ballast"
# Kept free while a run writes, so that the record of a run that filled the disk still finds room.
BALLAST_BYTES = 256 * 1024
# A confusion matrix of 5,000 labels fits, one number a line.
LIMIT_BYTES = 512 * 2**20
# Levels of lists and objects: a run nests a dozen, and a recipe may bring some of its own.
LIMIT_DEPTH = 100


def write(record: Record, folder: Path, *, last: bool = True) -> Path:
    """Write `record.json` into the folder, atomically; the last time, remove the ballast file. Returns its path."""
    if last:
        (folder / BALLAST).unlink(missing_ok=True)
    path = folder / FILE
    write_text(path, record.model_dump_json(by_alias=True, indent=1) + "\n")
    return path


def reserve(folder: Path) -> None:
    """Reserve the disk space that a failed run's record will need. Raises OSError where even that much is not free."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BALLAST).unlink(missing_ok=True)  # it may be a link, or another name of a file elsewhere
    with files.open_own(folder / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb") as stream:
        stream.write(b"\0" * BALLAST_BYTES)


def read(path: Path) -> Record:
    """Read a record file, or the one inside a run's folder. Raises DataError with what is wrong with it.

    Only a regular file of a limited size is read: a device or a FIFO would never come to its end.
    """
    path = path / FILE if path.is_dir() else path
    try:
        text = files.read_text(path, LIMIT_BYTES)
        content = json.loads(text, parse_constant=_refuse_constant, parse_int=whole_number)
        if files.is_too_deep(content, LIMIT_DEPTH):
            raise ValueError(f"nested more than {LIMIT_DEPTH} levels deep")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no record here") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise DataError(f"{path}: not a whole record (half-written or edited?): {reason}") from error
    version = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(f"{path}: not a run record: it has no `schema` number")
    if version > SCHEMA:
        raise DataError(f"{path}: schema {version} is newer than this version reads ({SCHEMA}); update the harness")
    try:
        # Strict, since a run writes numbers as numbers; text in their place was put there by hand.
        return Record.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: not a valid record: {where}: {first['msg']}") from error


def looks_like_record(path: Path) -> bool:
    """Return whether a file begins as a run writes its record, though it may be cut, edited or of another version."""
    try:
        with files.open_regular(path, follow=False) as stream:
            return re.match(rb'\s*\{\s*"schema"\s*:\s*\d', stream.read(200)) is not None
    except OSError:
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value; a run writes null")


def locate(paths: Sequence[Path]) -> list[Path]:
    """Return the record files at or below `paths`, sorted; a file that is reached in two ways is listed once.

    Raises DataError for a path that does not exist, and when there is no record at all.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
    records = find(list(paths))
    if not records:
        raise DataError(f"no {FILE} in or below {', '.join(map(str, paths)) or 'nothing'}")
    return sorted({os.path.realpath(path): path for path in reversed(records)}.values())


def find(paths: list[Path]) -> list[Path]:
    """Return the record files at or below the given paths, sorted, each once; links to folders are followed.

    A sweep's tuning trials are not results: they are found only where their folder itself is given.
    """
    return sorted({one for path in paths for one in ([path] if path.is_file() else _below(path))})


def mark_trials(folder: Path) -> None:
    """Mark a folder as one whose runs are tuning trials."""
    folder.mkdir(parents=True, exist_ok=True)
    files.open_own(folder / TRIALS_MARK, os.O_WRONLY | os.O_CREAT, "wb").close()


def _below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for name, folders, inside in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        kept = (one for one in folders if not Path(name, one, TRIALS_MARK).exists())
        folders[:] = [] if real in seen else sorted(kept)
        if real not in seen and FILE in inside:
            yield Path(name, FILE)
        seen.add(real)
