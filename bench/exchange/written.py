"""Writes finished runs in a format of another tool, into a new folder or file."""

from collections.abc import Sequence
from pathlib import Path

from bench.analysis import accessors, predictions
from bench.analysis.accessors import Located
from bench.errors import DataError
from bench.exchange import every_eval_ever, hub_results, tables, to_lm_eval
from bench.exchange.formats import TABLES
from bench.records.record import Record
from bench.utils import files

# Runs that an error names.
SHOWN = 3


def write(runs: Sequence[Path], kind: str, out: Path, *, stage: str = "after", organization: str | None = None) -> str:
    """Write all runs at or below `runs` in a format of FORMATS; return a sentence on what was written.

    out: a new file for a table, else a new folder, in which each run has one of its own where there are several.
    organization: who evaluated; Every Eval Ever wants it. Raises DataError where `out` exists, or nothing can be
    written of any run; runs that can't be written are named in the sentence, and those whose predictions contradict
    their scores are among them.
    """
    _refuse(kind, out, organization)
    located, unreadable = accessors.read_all(list(runs))
    left_out = [f"{item.path}: {item.reason}" for item in unreadable]
    sound: list[Located] = []
    for path, record in sorted(located, key=lambda one: str(one[0])):
        if (why := _why_not(path, record, "after" if kind == "hub" else None if kind in TABLES else stage)) is not None:
            left_out.append(f"{path}: {why}")
        else:
            sound.append((path, record))
    names = _names([path for path, _ in sound])
    if kind in TABLES:
        table = tables.rows(sound, names)
        if not table:
            raise DataError(_nothing(left_out))
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(out, tables.as_csv(table).encode() if kind == "csv" else tables.as_parquet(table))
        return _sentence(f"{len(table):,} scores of {len(sound):,} runs: {out}", left_out)
    contents: dict[Path, str] = {}
    is_alone = len(sound) == 1
    for run, name in zip(list(sound), names, strict=True):
        try:
            made = _of_run(run, name, kind, stage, organization or "")
        except DataError as error:
            left_out.append(str(error))
            sound.remove(run)
            continue
        # The collection's paths begin at its root, and hold the run's name.
        folder = out if kind == "every-eval-ever" or is_alone else out / name
        contents |= {folder / place: content for place, content in made.items()}
    if not contents:
        raise DataError(_nothing(left_out))
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, content)
    return _sentence(f"{len(sound):,} runs in {len(contents):,} files: {out}", left_out)


def _refuse(kind: str, out: Path, organization: str | None) -> None:
    """Raise DataError for an output that is there, that is named as another table, and where it is not said by whom."""
    if out.exists():
        raise DataError(f"{out} is there already; give a new name with --out")
    other = out.suffix.lower().removeprefix(".")
    if other in TABLES and other != kind:
        raise DataError(f"--out {out}: it is named as {other}, and --format is {kind}; change one of the two")
    if kind == "every-eval-ever" and not (organization or "").strip():
        raise DataError("Every Eval Ever wants to know who evaluated: give --organization NAME")


def _why_not(path: Path, record: Record, stage: str | None) -> str | None:
    """Return why nothing is written of a run; None where it is. stage: whose scores; None for all."""
    if record.status != "ok":
        return f"it has no scores to export (status {record.status})"
    if not (record.scores.get(stage) if stage else any(record.scores.values())):
        return f"there are no scores of stage {stage!r} to export" if stage else "it has no scores to export"
    return predictions.find_contradiction(path, record)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each run: of its folder, with as many folders above as make all names different."""
    parts = [path.resolve().parent.parts for path in paths]
    for number in range(1, max(map(len, parts), default=0) + 1):
        names = ["--".join(part.strip("/") for part in one[-number:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [path.parent.name for path in paths]


def _of_run(run: Located, name: str, kind: str, stage: str, organization: str) -> dict[str, str]:
    """Return path -> content of one run in a format of several files."""
    if kind == "every-eval-ever":
        return every_eval_ever.files(run, name, stage, organization)
    return to_lm_eval.files(run, name, stage) if kind == "lm-eval" else dict([hub_results.file(run)])


def _nothing(left_out: Sequence[str]) -> str:
    more = f"; and {len(left_out) - SHOWN:,} more" if len(left_out) > SHOWN else ""
    return f"nothing can be exported: {'; '.join(left_out[:SHOWN])}{more}"


def _sentence(done: str, left_out: Sequence[str]) -> str:
    return f"{done}; left out: {'; '.join(left_out)}" if left_out else done
