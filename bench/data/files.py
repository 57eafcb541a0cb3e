"""Finds and opens data files: regular files only, by name or pattern; also compressed ones, and those in UTF-16."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bench.errors import DataError, did_you_mean

# First bytes -> the compression that the standard library undoes, whatever the file is called.
_OPENERS: Mapping[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# First bytes -> what such a file is, and what to do with it.
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive (also an Excel file is one); unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it, or compress it with gzip, bzip2 or xz",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, not the data themselves; run `git lfs pull`",
    b"\xd0\xcf\x11\xe0": "an old Excel file; export it as CSV",
    b"SQLite format 3": "a database of SQLite; export its table as CSV",
    b"\x80\x04": "a pickle of Python, which is never read, for it can run code; save the rows as JSON lines or Parquet",
    b"\x80\x05": "a pickle of Python, which is never read, for it can run code; save the rows as JSON lines or Parquet",
    b"<!doctype html": "a web page, not the data themselves",
    b"<html": "a web page, not the data themselves",
    b"ARROW1": "an Arrow file; a folder of `datasets` is read with source.kind: saved",
}
_PARQUET = b"PAR1"
# The longer marks come first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_PATTERN = re.compile(r"[*?\[]")
# Names that the Hub and `datasets` give to the files of one split.
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5,})-of-(?P<total>\d{5,})(?P<end>\..*)?")


def find(folder: Path, names: str | Sequence[str], split: str) -> list[Path]:
    """Return the files of a split: names in the folder as they are listed, those of a pattern sorted.

    A name that a file has is no pattern. Raises DataError for a file that is missing, named twice or not a regular
    file, for a pattern that matches nothing, and for one that does not match all shards of a numbered set.
    """
    paths: list[Path] = []
    by_pattern = None
    for name in (names,) if isinstance(names, str) else names:
        if (folder / name).exists() or not _PATTERN.search(name):
            paths.append(_regular(folder, name))
            continue
        matches = sorted(
            path
            for path in folder.glob(name)
            # Systems and editors keep hidden copies beside files, as `._train.csv`.
            if not path.is_dir() and not path.name.startswith(".")
        )
        if not matches:
            raise DataError(f"no file in {folder} matches {name!r}, of the split {split!r}")
        by_pattern = name
        paths += [_regular(folder, str(path.relative_to(folder))) for path in matches]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"the data file {twice[0]} is named twice for the split {split!r}")
    if by_pattern is not None and (missing := missing_shards(paths)):
        raise DataError(f"the pattern {by_pattern!r} of the split {split!r} matches not all shards: {missing}")
    return paths


def missing_shards(paths: Sequence[Path]) -> str | None:
    """Return which files of numbered sets (`train-00000-of-00002.parquet`) are not among the paths; None if none."""
    sets: dict[tuple[str, int, str], set[int]] = {}
    for path in paths:
        if shard := _SHARD.fullmatch(path.name):
            key = (str(path.parent / shard["stem"]), int(shard["total"]), shard["end"] or "")
            sets.setdefault(key, set()).add(int(shard["number"]))
    for (stem, total, _), numbers in sets.items():
        if absent := sorted(set(range(total)) - numbers):
            shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            return f"{Path(stem).name} has {total} shards, and number {shown} is left out"
    return None


def _regular(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise DataError(f"the data file {name!r} in {folder} is a link to a file that is missing") from error
        raise DataError(f"the data file {name!r} is missing in {folder}.{near(path)}") from error
    check_regular(path, kind)
    return path


def check_regular(path: Path, kind: int) -> None:
    """Raise DataError for what is not a regular file: reading a pipe or a device may never end. kind: its `st_mode`."""
    if stat.S_ISDIR(kind):
        raise DataError(f"the data file {path} is a folder; name the files in it, for example with a pattern `*`")
    if not stat.S_ISREG(kind):
        raise DataError(f"the data file {path} is a pipe, a socket or a device; only regular files are read")


def near(path: Path) -> str:
    """Return ' Did you mean ...?', or the known names, for a path that is missing; empty where its folder is too."""
    return did_you_mean(path.name, _names_in(path.parent))


def _names_in(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return names[:20]
    return []


@contextlib.contextmanager
def binary(path: Path, *, parquet: bool = False) -> Iterator[io.BufferedReader]:
    """Open a data file and undo its compression (gzip, bzip2, xz); raise DataError for a damaged or foreign file."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        opener = next((opener for magic, opener in _OPENERS.items() if raw.peek(8).startswith(magic)), None)
        try:
            if opener is None:
                stream: io.BufferedReader = raw
            else:
                unpacked = stack.enter_context(opener(raw, "rb"))
                stream = stack.enter_context(io.BufferedReader(unpacked))
            what = _foreign(stream.peek(512), compressed=opener is not None, parquet=parquet)
            if what is not None:
                raise DataError(f"{path} is {what}")
            yield stream
        except _DAMAGED as error:
            raise DataError(f"{path}: the compressed file is damaged or cut off: {error}") from error
        except OSError as error:
            if opener is not None and error.errno is None:  # what bz2 raises
                raise DataError(f"{path}: the compressed file is damaged: {error}") from error
            raise


def _foreign(head: bytes, *, compressed: bool, parquet: bool) -> str | None:
    """Return what a file is by its first bytes, where it is of a kind that can't be read, and what to do with it."""
    if not parquet and head.startswith(_PARQUET):
        return "a Parquet file; set source.kind: parquet"
    if compressed and head.startswith(tuple(_OPENERS)):
        return "compressed twice; unpack it once"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    return next((what for magic, what in _FOREIGN.items() if head[: len(magic)].lower() == magic.lower()), None)


@contextlib.contextmanager
def text(
    path: Path, newline: str, notes: list[str], encoding: str | None = None, *, is_table: bool = False
) -> Iterator[TextIO]:
    """Open a data file as text: UTF-8, or UTF-16 and UTF-32 where it begins with their byte order mark, with a note.

    encoding: another one that the card names. is_table: whether a card may name one. Raises DataError for a file that
    is in another encoding.
    """
    with binary(path) as stream:
        used = _encoding_of(path, stream.peek(), encoding, notes, is_table=is_table)
        wrapped = io.TextIOWrapper(stream, encoding=used, newline=newline)
        try:
            yield wrapped
        except UnicodeError as error:
            name = "UTF-8" if used.startswith("utf-8") else used.upper()
            advice = "; convert the file to UTF-8"
            if is_table:
                advice += ", or name its encoding: Excel's is often `encoding: cp1252` (cp1250 in Central Europe)"
            raise DataError(f"{path}: not {name} text: {error}{advice}") from error
        finally:
            with contextlib.suppress(ValueError):
                wrapped.detach()


def _looks_like_utf8(head: bytes) -> bool:
    """Return whether bytes hold letters that are not ASCII, all of them valid UTF-8; the last may be cut off."""
    try:
        return not head.decode("utf-8").isascii()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and not head[: error.start].isascii()


def _encoding_of(path: Path, head: bytes, given: str | None, notes: list[str], *, is_table: bool) -> str:
    """Return the encoding of a file that begins with these bytes. given: what the card says."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if given is not None:
        asked = codecs.lookup(given).name
        if marked is None or asked in (marked, marked.removesuffix("-sig")):
            if not asked.startswith("utf") and _looks_like_utf8(head):
                notes.append(f"{path.name} is read as {given}, as the card says, and looks like UTF-8")
            return marked or given
        name = marked.removesuffix("-sig").upper()
        raise DataError(f"{path} begins with the byte order mark of {name}; remove `encoding: {given}`")
    if marked not in (None, "utf-8-sig"):
        notes.append(f"{path.name} is read as {str(marked).upper()}, by its byte order mark")
    elif marked is None and b"\0" in head[:4]:
        first_is_zero = head[:1] == b"\0"
        line = f", or write `encoding: utf-16-{'be' if first_is_zero else 'le'}`" if is_table else ""
        raise DataError(
            f"{path}: not UTF-8 text; it looks like UTF-16 without a byte order mark: save it as UTF-8{line}"
        )
    return marked or "utf-8"
