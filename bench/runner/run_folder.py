"""A run's folder: what a run writes into it, what else lies there, and its lock against a second run.

held = claim(folder)             # made where it is not there, and locked; raises SetupError, and leaves nothing
contents = survey(folder)        # what a run writes, and what it does not
remove(folder, contents.made)    # never what a run does not write
unlock(folder, held)
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.errors import SetupError
from bench.records import store
from bench.records.failures import is_disk_full
from bench.training import checkpoint_files
from bench.utils import files, system

LOCK = ".lock"
# The seal of the scores of stage "before"; see `runner/resume.py`.
BEFORE_SEAL = ".before.json"
# Written before anything else; a run that is killed at once leaves no more.
FIRST = (LOCK, store.BALLAST)
FOLDERS = ("predictions", "figures", "model", "checkpoints", "tensorboard", "ship")
# Who only looks whether a folder is taken holds its lock for less than a moment.
LOCK_PATIENCE_S = 1.0
_MODEL_FILES = (
    r"config\.json|generation_config\.json|bench\.json|README\.md|probe\.safetensors|adapter_config\.json"
    r"|adapter_model\.safetensors|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer\.model|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|chat_template\.(jinja|json)"
    r"|(video_)?preprocessor_config\.json|processor_config\.json"
    r"|(configuration|modeling|tokenization)_\w+\.py"
)
# Whatever a run writes, relative to its folder. Only what is here is ever removed.
_MADE = re.compile(
    rf"\.lock|\.ballast|\.before\.json|{re.escape(store.FILE)}|report\.md|train_log\.jsonl|traceback\.txt"
    r"|predictions/(before|after|temperature)-[^/]+\.jsonl"
    r"|figures/(learning_curves|length_histogram|confusion_matrix-[^/]+|per_label-[^/]+)\.png"
    r"|tensorboard/(.+/)?events\.out\.tfevents\.[^/]+"
    r"|checkpoints/(best\.safetensors|\.best\.safetensors\.partial)"
    rf"|checkpoints/step-\d{{8,}}/({checkpoint_files.FILE_NAMES})|checkpoints/\.step-\d{{8,}}\.partial/.+"
    rf"|model/(base/)?({_MODEL_FILES})"
    # Of `bench ship`: what it says of a model is no longer true when the run is repeated.
    r"|ship/ship\.(json|md)"
)
# What `files.write_text` leaves where it is killed.
_TEMPORARY = re.compile(rf"(.*/)?\.(?P<name>[^/]+)\.[0-9a-z_]{{{files.RANDOM_CHARACTERS}}}")


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """Paths relative to a run's folder, sorted. made: files that a run writes, by their names. others: all else.

    wrong: sentences about links and devices where a run would write, which it neither follows nor removes.
    """

    made: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_fresh(self) -> bool:
        """Return whether nothing of any worth is in it."""
        return not self.others and not self.wrong and all(_is_first(name) for name in self.made)

    def inside(self, folder: str) -> list[str]:
        """Return the files that a run writes, of one of its folders."""
        return [name for name in self.made if name.startswith(f"{folder}/")]


@dataclass(kw_only=True)
class FolderLock:
    """A held lock. created: folders that were made for it, the deepest first. note: for the record, if any."""

    stream: IO[bytes]
    created: list[Path] = field(default_factory=list)
    note: str | None = None

    def close(self) -> None:
        """Release the lock; its file stays."""
        self.stream.close()


def _is_first(name: str) -> bool:
    return name in FIRST or (_TEMPORARY.fullmatch(name) is not None and "/" not in name)


def is_made(name: str) -> bool:
    """Return whether a run writes a file of this name, in its folder; for a moment perhaps under another name."""
    temporary = _TEMPORARY.fullmatch(name)
    if temporary is not None and _MADE.fullmatch(f"{temporary[1] or ''}{temporary['name']}"):
        return True
    return _MADE.fullmatch(name) is not None


def survey(folder: Path) -> FolderContents:
    """Return what is in a folder, without following a link; what is no run's is not looked into.

    Raises SetupError for a folder that can't be read.
    """
    contents = FolderContents()
    try:
        _survey(folder, "", contents)
    except OSError as error:
        raise SetupError(f"{folder} can't be read: {error.strerror or error}") from error
    return contents


def _survey(folder: Path, inside: str, contents: FolderContents) -> None:
    try:
        with os.scandir(folder / inside) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        name = f"{inside}{entry.name}"
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:  # of a run that is still going on
            continue
        reserved = inside != "" or name in FOLDERS or is_made(name)
        if not reserved:
            contents.others.append(name)
        elif stat.S_ISDIR(mode) and (inside != "" or name in FOLDERS):
            _survey(folder, f"{name}/", contents)
        elif stat.S_ISREG(mode) and name not in FOLDERS:
            (contents.made if is_made(name) else contents.others).append(name)
        else:
            contents.wrong.append(f"{name} is {files.kind_of(mode)}")


def is_ours(folder: Path) -> bool:
    """Return whether a run has written its record into this folder; it may not be readable."""
    return (folder / store.FILE).is_file()


def run_of(path: Path) -> Path | None:
    """Return the folder of the run that writes a file of this path itself; None for any other path."""
    whole = path.absolute()
    owners = (folder for folder in whole.parents if is_ours(folder))
    return next((folder for folder in owners if is_made(whole.relative_to(folder).as_posix())), None)


def check_place(folder: Path, option: str = "--out") -> None:
    """Raise SetupError where no folder can be made or written at a path. Writes nothing."""
    shown = f"{option} {_shown(folder)}"
    system.refuse_undecoded([str(folder)])
    here = folder
    while True:
        try:
            mode = here.lstat().st_mode
            break
        except FileNotFoundError:
            here = here.absolute().parent
        except NotADirectoryError as error:
            above = next((one for one in folder.absolute().parents if one.exists() and not one.is_dir()), here)
            raise SetupError(f"{shown}: {above} is a file, so nothing can lie below it; give another path") from error
        except OSError as error:
            raise _unusable(shown, error) from error
    if stat.S_ISLNK(mode) and not here.exists():
        raise SetupError(f"{shown}: {here} is a link to nowhere; mend or remove it, or give another path")
    if not here.is_dir():
        kind = files.kind_of(mode)
        raise SetupError(f"{shown}: {here} is {kind}, and a run writes into a folder; give another path")
    longest = os.pathconf(here, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in folder.parts):  # below a folder that is still to be made
        raise _unusable(shown, OSError(errno.ENAMETOOLONG, ""))
    if not os.access(here, os.W_OK | os.X_OK):
        reason = "on a read-only file system" if os.statvfs(here).f_flag & os.ST_RDONLY else "not writable for you"
        raise SetupError(f"{shown}: {here} is {reason}; give another path")


def _shown(folder: Path) -> str:
    text = str(folder)
    if system.is_undecoded(text):
        text = os.fsencode(folder).decode("ascii", "backslashreplace")
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]} ({len(text)} characters)"


def _unusable(shown: str, error: OSError) -> SetupError:
    if error.errno == errno.ENAMETOOLONG:
        return SetupError(f"{shown}: the name is too long for this file system; give a shorter one")
    return SetupError(f"{shown}: the folder can't be written: {error.strerror or error}")


def reserve(folder: Path) -> None:
    """Reserve the disk space that a failed run's record will need.

    Raises SetupError for a folder that can't be written, OSError for a full disk.
    """
    try:
        store.reserve(folder)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise _unusable(f"--out {_shown(folder)}", error) from error


def is_free(folder: Path) -> bool:
    """Return whether a record may be written into a folder: nothing is in it, and no run is beginning there."""
    try:
        check_place(folder)
        return survey(folder).is_fresh and not is_taken(folder)
    except SetupError:
        return False


def claim(folder: Path) -> FolderLock:
    """Make a folder where it is not there, and lock it for a run. Where it raises an error, nothing is left behind.

    Raises SetupError for a path that can't be a run's folder, for files that no run wrote, and while another run has
    it; OSError for a full disk.
    """
    check_place(folder)
    refuse_foreign(folder, survey(folder))
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    created: list[Path] = []
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            created.insert(0, one)
        held = lock(folder)
    except SetupError:
        _remove_empty(created)
        raise
    except OSError as error:
        _remove_empty(created)
        if is_disk_full(error):
            raise
        raise _unusable(f"--out {_shown(folder)}", error) from error
    held.created = created
    return held


def refuse_foreign(folder: Path, contents: FolderContents) -> None:
    """Raise SetupError for a folder with files but no record: nothing tells whose they are."""
    if store.FILE not in contents.made and not contents.is_fresh and not contents.wrong:
        others = [name for name in [*contents.others, *contents.made] if not _is_first(name)]
        raise SetupError(f"{folder} is not empty and holds no record ({shortened(others)}); give another --out")
    if contents.wrong:
        raise SetupError(
            f"{folder}: {shortened(contents.wrong)}; a run writes its own files and follows no link: move "
            f"{'it' if len(contents.wrong) == 1 else 'them'} away, or give another --out"
        )


def shortened(names: list[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"


def lock(folder: Path) -> FolderLock:
    """Lock a folder against a second run until the returned lock is closed, or its process has ended.

    The lock is that of the file that is there: one that was removed while this process waited locks nothing. Raises
    SetupError while another process holds it. A file system without locks keeps nobody out, which is noted.
    """
    path, end = folder / LOCK, time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            stream = files.open_own(path, os.O_RDWR | os.O_CREAT, "rb+")
        except OSError as error:
            raise SetupError(f"{path} can't be opened: {error.strerror or error}; give another --out") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            if time.monotonic() > end:
                raise SetupError(
                    f"{folder} is being written by another run; wait for its end, or give another --out"
                ) from error
            time.sleep(0.05)
            continue
        except OSError as error:
            note = f"the folder's file system has no locks ({error.strerror}): nothing keeps a second run out of it"
            return FolderLock(stream=stream, note=note)
        if _is_there(stream, path):
            return FolderLock(stream=stream)
        stream.close()


def _is_there(stream: IO[bytes], path: Path) -> bool:
    """Return whether an open file is still the one at its path."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(stream.fileno()), there)


def unlock(folder: Path, held: FolderLock | None) -> None:
    """Unlock the folder for the next run, if it was locked; folders that were made for it go, where they are empty."""
    if held is not None:
        with contextlib.suppress(OSError):  # a disk that is full or gone ends no run
            (folder / LOCK).unlink(missing_ok=True)
        held.close()
        _remove_empty(held.created)


def _remove_empty(folders: Iterable[Path]) -> None:
    for one in folders:
        with contextlib.suppress(OSError):
            one.rmdir()


def is_taken(folder: Path) -> bool:
    """Return whether another process holds the lock."""
    path = folder / LOCK
    while True:
        try:
            stream = files.open_regular(path, follow=False)
        except OSError:
            return False
        with stream:
            try:
                # Shared, so that processes that only look don't block one another.
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if _is_there(stream, path):
                    return True
                continue  # its holder has removed it: who holds the one that is there now?
            except OSError:  # a file system without locks
                return False
            return False


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files that a run wrote, named as `survey` does, and folders of a run that are empty then."""
    above: set[Path] = set()
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        above |= {folder / one for one in Path(name).parents if str(one) != "."}
    for path in sorted(above, key=lambda one: len(one.parts), reverse=True):
        with contextlib.suppress(OSError):  # something that is not a run's is left in it
            path.rmdir()
