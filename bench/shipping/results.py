"""Results of a ship check, and the folder that they are written into."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.errors import DataError, SetupError
from bench.shipping.timing import Timed
from bench.shipping.verdict import Compared
from bench.utils import files

SCHEMA, KIND = 1, "finetune-bench ship check"
JSON, PAGE = "ship.json", "ship.md"
FORMS, TEMPORARY, LOCK = "forms", ".forms-", ".lock"


@dataclass(frozen=True, kw_only=True)
class FormResult:
    """One form. reason: why it could not be made or scored; all else is None then. compared: with the saved model.

    size_bytes: of its weights; None of a server's. load, per_100: seconds. largest_change: of a probability.
    """

    name: str
    reason: str | None = None
    compared: Compared | None = None
    largest_change: float | None = None
    size_bytes: int | None = None
    load: Timed | None = None
    per_100: Timed | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """All forms of a run. reference: the saved model scored again, compared with the run's own predictions.

    command: that asks for the same. left_out: form -> why it was not tried, where it was not asked for by name.
    """

    command: str
    name: str
    seed: int | None
    recipe: str
    recipe_hash: str | None
    split: str
    metric: str
    examples: int
    margin: float
    machine: Mapping[str, Any]
    reference: FormResult
    forms: tuple[FormResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 0 where all is equivalent, 1 where anything is not, or is undecided, 3 where a form was not made."""
        compared = [one.compared for one in (self.reference, *self.forms)]
        if any(one is not None and one.verdict != "equivalent" for one in compared):
            return 1
        return 3 if any(one is None for one in compared) else 0

    def as_json(self) -> str:
        """Return it as JSON."""
        content = {"schema": SCHEMA, "kind": KIND, **asdict(self), "exit_code": self.exit_code}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A new folder for files of forms, and its lock, which tells another check that this one is not over."""

    place: Path
    lock: IO[bytes] | None

    def give_up(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.place, ignore_errors=True)
        if self.lock is not None:
            self.lock.close()


def claim(folder: Path, keep: Iterable[str]) -> Claimed:
    """Make the folder, or take one of an earlier check; return a new folder in it, for files of forms.

    keep: names of forms that are to stay there.

    Raises DataError for a folder that holds anything else, SetupError for one that can't be written, or that another
    check is writing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
        foreign = [name for name in found if name not in (JSON, PAGE, FORMS) and not name.startswith(TEMPORARY)]
        if foreign or (found and not _is_ours(folder)):
            shown = ", ".join((foreign or found)[:3])
            raise DataError(f"-o {folder}: this is not the folder of a ship check (it holds {shown}); give another one")
        for name in found:
            if files.is_locked(folder / name / LOCK):
                raise SetupError(f"-o {folder}: another ship check is writing into it; wait for it, or give another -o")
        for name in found:
            if name.startswith(TEMPORARY):  # of a check that was killed
                shutil.rmtree(folder / name)
        taken = [name for name in keep if (folder / FORMS / name).exists()]
        if taken:
            raise DataError(f"--keep: {folder / FORMS / taken[0]} is there already; remove it, or give another -o")
        place = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
        return Claimed(place=place, lock=files.lock_file(place / LOCK))
    except OSError as error:
        raise SetupError(f"-o {folder} can't be written: {error.strerror or error}; give another -o") from error


def _is_ours(folder: Path) -> bool:
    if not (folder / JSON).exists():
        # A check that was killed before its end.
        return all(name == PAGE or name.startswith(TEMPORARY) for name in (path.name for path in folder.iterdir()))
    try:
        content = json.loads(files.read_text(folder / JSON))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND
