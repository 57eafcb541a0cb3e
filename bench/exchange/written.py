"""Writes finished runs in a format of another tool, into a new folder or file."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.errors import DataError
from bench.exchange import every_eval_ever, hub_results, tables, to_lm_eval
from bench.exchange.formats import TABLES
from bench.utils import files


def write(runs: Sequence[Path], kind: str, out: Path, *, stage: str = "after", organization: str | None = None) -> str:
    """Write all runs at or below `runs` in a format of FORMATS; return a sentence on what was written.

    out: a new file for a table, else a new folder, in which each run has one of its own where there are several.
    organization: who evaluated; Every Eval Ever wants it. Raises DataError where `out` exists, or nothing can be
    written of any run; runs that can't be written are named in the sentence.
    """
    if out.exists():
        raise DataError(f"{out} is there already; give a new name with --out")
    located, unreadable = accessors.read_all(list(runs))
    located = sorted(located, key=lambda one: str(one[0]))
    left_out = [f"{item.path}: {item.reason}" for item in unreadable]
    if kind in TABLES:
        table = tables.rows(located)
        if not table:
            raise DataError(f"there are no scores to export: none of {len(located)} runs ended with status ok")
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(out, tables.as_csv(table).encode() if kind == "csv" else tables.as_parquet(table))
        return _sentence(f"{len(table):,} scores of {len({row['run'] for row in table}):,} runs: {out}", left_out)
    contents: dict[Path, str] = {}
    done = 0
    for run in located:
        try:
            if kind != "hub":  # which has the stage after training alone, and its own sentence
                _require_scores(run, stage)
            made = _of_run(kind, stage, organization)(run)
        except DataError as error:
            left_out.append(str(error))
            continue
        done += 1
        # The collection's paths begin at its root, and hold the run's name.
        folder = out if kind == "every-eval-ever" or len(located) == 1 else out / run[0].parent.name
        contents |= {folder / name: content for name, content in made.items()}
    if not contents:
        raise DataError("nothing can be exported: " + "; ".join(left_out[:3]))
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, content)
    return _sentence(f"{done:,} runs in {len(contents):,} files: {out}", left_out)


def _of_run(kind: str, stage: str, organization: str | None) -> Callable[[Located], dict[str, str]]:
    if kind == "every-eval-ever":
        if not organization:
            raise DataError("Every Eval Ever wants to know who evaluated: give --organization NAME")
        return functools.partial(every_eval_ever.files, stage=stage, organization=organization)
    if kind == "lm-eval":
        return functools.partial(to_lm_eval.files, stage=stage)
    return lambda run: dict([hub_results.file(run)])


def _require_scores(run: Located, stage: str) -> None:
    path, record = run
    if record.status != "ok" or not record.scores.get(stage):
        raise DataError(f"{path}: there are no scores of stage {stage!r} to export (status {record.status})")


def _sentence(done: str, left_out: Sequence[str]) -> str:
    return f"{done}; left out: {'; '.join(left_out)}" if left_out else done
