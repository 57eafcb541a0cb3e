"""Figures and report of a run: drawn at its end, or by the same command again where the run was ended while drawing."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import console
from bench.errors import BenchError
from bench.records import store
from bench.records.record import Record
from bench.reporting import run_end
from bench.runner import run_folder
from bench.runner.context import RunContext
from bench.training import checkpoint_files
from bench.utils import files

if TYPE_CHECKING:  # it loads NumPy
    from bench.data.dataset import Corpus

LogRows = list[dict[str, Any]]
LOG = "train_log.jsonl"
LOG_BYTES = 2**30
COMPLETED = "figures and report were made by a later launch: the first was ended while it made them"
# What a launcher tells each process of how many there are: the others have ended, since nothing is left to train.
_LAUNCHED = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP",
)  # fmt: skip


def write_report(run: RunContext) -> None:
    """Write the figures and the one-page report. A failure here is noted, and fails no run."""
    rows = run.progress.log.rows if run.progress is not None else []
    encoded = run.inputs.encoded if run.has_inputs else {}
    corpus = run.inputs.corpus if run.has_inputs else None
    _write_report(run, run.record, rows, {name: split.lengths for name, split in encoded.items()}, corpus)


def _write_report(
    run: RunContext, record: Record, rows: LogRows, lengths: dict[str, list[int]], corpus: "Corpus | None" = None
) -> None:
    try:
        from bench.reporting import run_page
        from bench.reporting.figures.run import draw_all

        record.artifacts |= draw_all(run.folder, record, rows, lengths)
        run_page.write_run_report(record, run.folder, corpus=corpus)
        record.artifacts["report"] = "report.md"
    except Exception as error:
        record.note(f"no report could be written: {type(error).__name__}: {error}")
        console.complain(f"warning: {record.notes[-1]}")


def complete(run: RunContext) -> int:
    """Make what a finished run lacks, without training or scoring again; return the exit code."""
    finished = run.previous.finished
    assert finished is not None
    if not console.is_main_process():
        return 0
    console.say(f"{run.folder} holds this run, trained and scored: its figures and report are made now")
    for name in _LAUNCHED:
        os.environ.pop(name, None)
    finished.note(COMPLETED)
    rows, lengths = _rows(run, finished), _lengths(run, finished)
    _write_report(run, finished, rows, lengths)
    try:
        path = store.write(finished, run.folder)
    except OSError as error:
        console.complain(f"error: the record can't be written: {error}")
        return 1
    remove_checkpoints(run)
    say_end(finished, path)
    return 0


def say_end(record: Record, path: Path) -> None:
    """Say what a run has found, as its last lines: warnings, scores, where report and record are, what comes next.

    path: of the record. Scores only of a run that ended well.
    """
    folder, is_ok = path.parent, record.status == "ok"
    for warning in record.warnings:
        console.complain(f"warning: {warning.sentence}")
    for line in run_end.scores_table(record) if is_ok else ():
        console.say(line)
    if is_ok and "report" in record.artifacts:
        console.say(f"report: {folder / 'report.md'}")
    console.say(f"record: {path}")
    following = run_end.next_command(record, folder)
    if following is not None:
        console.say(f"next: {following}")


def _rows(run: RunContext, finished: Record) -> LogRows:
    try:
        lines = files.read_text(run.folder / LOG, LOG_BYTES).splitlines()
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        finished.note(f"{LOG} can't be read, and is not drawn: {error}")
        return []


def _lengths(run: RunContext, finished: Record) -> dict[str, list[int]]:
    """Return split -> number of tokens of each example, of the data as they are now."""
    from accelerate import PartialState

    from bench.records import clock
    from bench.runner.inputs import load_data

    console.quiet_libraries()
    run.clock = clock.Clock()
    try:
        run.state = PartialState()  # one process, whatever the launcher was asked for
        encoded = load_data(run).encoded  # what it writes goes into a record that is not kept
    except (BenchError, OSError, RuntimeError, ValueError) as error:
        finished.note(f"the lengths of the examples are not drawn: {type(error).__name__}: {error}")
        return {}
    if run.record.data != finished.data:
        finished.note("the lengths of the examples are not drawn: the data have changed since")
        return {}
    return {name: split.lengths for name, split in encoded.items()}


def remove_checkpoints(run: RunContext) -> None:
    """Remove the checkpoints, on this machine, and the seal of stage "before"; a record that is written replaces both.

    What somebody else has put beside them stays.
    """
    made = run_folder.survey(run.folder)
    run_folder.remove(run.folder, [*made.inside(checkpoint_files.FOLDER), run_folder.BEFORE_SEAL])
