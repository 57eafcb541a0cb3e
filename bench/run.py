"""One recipe, one launch, one record: `accelerate launch bench/run.py RECIPE [--seed N] [--out DIR] [key=value ...]`.

The only file that knows the order of the stages: data, model, score before, fit, score after, save, record.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT / "bench":
    # Started as a script: its own folder would hide libraries, and another checkout might be found as `bench`.
    sys.path[0] = str(ROOT)

import argparse  # noqa: E402
import datetime  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import traceback  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from typing import Any  # noqa: E402

from bench import console, failures, record  # noqa: E402
from bench.errors import BenchError, RecipeError, ScoreError, SetupError, StoppedError  # noqa: E402
from bench.recipe import Resolved, load  # noqa: E402
from bench.record import Record  # noqa: E402

EXIT_CODES = {"ok": 0, "invalid": 2, "oom": 3, "diverged": 4, "crashed": 1, "interrupted": 130}


def parser() -> argparse.ArgumentParser:
    """The command line of one run."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Runs one recipe once and leaves a record.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. training.steps=10 model.max_length=64")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<name>--seed<N>--<hash>)")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run in that folder")
    parser.add_argument("--check", action="store_true", help="score a sample of examples by the plain path too")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.add_argument("--trust-remote-code", action="store_true", help="confirm a card's trust_remote_code: true")
    return parser


@dataclass
class Run:
    """What the stages hand on to one another."""

    resolved: Resolved
    record: Record
    folder: Path
    trust_remote_code: bool = False
    check: bool = False
    clock: Any = None
    state: Any = None
    lengths: dict[str, list[int]] = field(default_factory=dict)
    log_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed_in(self) -> str:
        """The innermost phase that an exception left."""
        return (self.clock.failed_in if self.clock is not None else None) or "set-up"


def main(arguments: list[str] | None = None) -> int:
    """Runs a recipe; returns the exit code. Every way out leaves a record, unless its folder can't be written."""
    options = parser().parse_intermixed_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    run: Run | None = None
    try:
        run = _prepare(options)
        execute(run)
        run.record.status, run.record.reason = "ok", None
    except (Exception, KeyboardInterrupt) as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not tear the record
        if run is None:
            return _refused(options, error)
        _file(run, error, show=options.traceback)
    return _finish(run)


def _stop(*_: Any) -> None:
    raise StoppedError("stopped by SIGTERM; what was written so far is kept")


def _prepare(options: argparse.Namespace) -> Run:
    resolved = load(options.recipe, tuple(options.overrides), options.seed)
    seed = resolved.recipe.seed
    folder = options.out or Path("runs") / f"{resolved.name}--seed{seed}--{resolved.hash[:8]}"
    if console.is_main_process():
        _clear(folder, overwrite=options.overwrite)
        record.reserve(folder)
    started = Record(
        name=resolved.name,
        study=resolved.study,
        method=resolved.recipe.method.name,
        seed=seed,
        started_at=_now(),
        recipe=record.RecipePart(
            path=resolved.path,
            as_written=resolved.as_written,
            resolved=resolved.recipe.model_dump(mode="json"),
            overrides=list(resolved.overrides),
            card_overrides=resolved.card_overrides,
            hash=resolved.hash,
        ),
    )
    return Run(resolved, started, folder, trust_remote_code=options.trust_remote_code, check=options.check)


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Makes room for a run. A finished one is only removed when that was asked for."""
    try:
        finished = (folder / record.FILE).exists() and record.read(folder).status == "ok"
    except BenchError:
        finished = False
    if finished and not overwrite:
        raise SetupError(f"{folder} holds a finished run; give --overwrite to replace it, or another --out")
    ours = (folder / record.FILE).exists() or (folder / ".ballast").exists()
    if folder.exists() and not ours and any(folder.iterdir()):
        raise SetupError(f"{folder} is not empty and holds no record; give another --out")
    for name in ("record.json", "report.md", "train_log.jsonl", "traceback.txt"):
        (folder / name).unlink(missing_ok=True)
    for name in ("predictions", "figures", "model", "checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)


def execute(run: Run) -> None:
    """The stages in order. Heavy libraries are imported only now, so that a bad recipe is refused at once."""
    console.quiet_libraries()
    from bench import allocator, launch, measure, results, stages
    from bench.material import load_data

    run.clock = measure.Clock()
    with run.clock.phase("load"):
        run.state = launch.start()
        if run.resolved.recipe.speed.keep_memory and run.state.device.type == "cpu":
            run.record.speed["keep_memory"] = allocator.keep_freed_memory()
        run.record.environment = launch.environment()
    material = load_data(run)
    stages.build_model(run, material)
    if run.resolved.recipe.evaluation.before and material.plan.trains != "nothing":
        results.score(run, material, "before")
    stages.fit(run, material)
    results.score(run, material, "after")
    if run.check:
        results.check_answers(run, material)
    if run.resolved.recipe.save:
        stages.save(run, material)
    stages.measure(run, material)
    failed = [check for check in run.record.checks if not check.ok]
    if failed:
        raise ScoreError(f"check {failed[0].name!r} failed: {failed[0].detail}")


def _file(run: Run, error: BaseException, *, show: bool) -> None:
    """Writes an error into the record, and its traceback beside it."""
    run.record.status = failures.status_of(error)
    run.record.failed_in = run.failed_in
    run.record.reason = failures.sentence(error, run.failed_in)
    if console.is_main_process() and run.record.status in ("crashed", "oom"):
        try:
            (run.folder / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        except OSError:
            pass  # a full disk must not hide the error that filled it
    if show:
        traceback.print_exception(error)


def _finish(run: Run) -> int:
    """Writes record, figures and report; says where they are. The record comes first: it is what must not be lost."""
    run.record.finished_at = _now()
    if run.clock is not None:
        run.record.phases = [record.PhaseTime(name=n, seconds=s) for n, s in run.clock.seconds.items()]
        if not run.record.memory:  # a run that failed: this rank's figures are better than none
            run.record.memory = {name: peaks.gib() for name, peaks in run.clock.peaks.items()}
    if console.is_main_process():
        try:
            path = record.write(run.record, run.folder)
            _draw(run)
            path = record.write(run.record, run.folder)
        except OSError as error:
            console.complain(f"error: the record can't be written: {error}")
            return EXIT_CODES["crashed"]
        if run.record.status != "ok":
            console.complain(f"{run.record.status}: {run.record.reason}")
        else:
            console.say(f"report: {run.folder / 'report.md'}")
        console.say(f"record: {path}")
    if run.state is not None and run.record.status == "ok":
        run.state.wait_for_everyone()
    return EXIT_CODES[run.record.status]


def _draw(run: Run) -> None:
    """Figures and the one-page report. A picture that can't be drawn is noted, and fails no run."""
    try:
        from bench import figures, report

        drawn = figures.draw_all(run.folder, run.record, run.log_rows, run.lengths)
        run.record.artifacts.update(drawn)
        report.write_run_report(run.record, run.folder)
        run.record.artifacts["report"] = "report.md"
    except Exception as error:
        run.record.note(f"no report could be written: {type(error).__name__}: {error}")
        console.complain(f"warning: {run.record.notes[-1]}")


def _refused(options: argparse.Namespace, error: BaseException) -> int:
    """A run that ended before it had a recipe or a folder: a record is left where no other one is touched."""
    status = failures.status_of(error)
    reason = failures.sentence(error, "set-up")
    if options.traceback:
        traceback.print_exception(error)
    console.complain(f"{status}: {reason}")
    folder = options.out or Path("runs") / f"{options.recipe.stem}--seed{options.seed}--invalid"
    if console.is_main_process() and not (folder / record.FILE).exists() and isinstance(error, RecipeError):
        refused = Record(
            name=options.recipe.stem,
            status=status,
            reason=reason,
            failed_in="set-up",
            seed=options.seed,
            started_at=_now(),
            finished_at=_now(),
            recipe=record.RecipePart(path=str(options.recipe), overrides=list(options.overrides)),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            console.say(f"record: {record.write(refused, folder)}")
        except OSError as problem:
            console.complain(f"error: the record can't be written: {problem}")
    return EXIT_CODES[status]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def leave() -> None:
    """An orderly end of this process: its group is taken apart before the interpreter is."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Quiet libraries: their advice is for people who call them; what matters is in the record.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    code = main()
    if code == 0:
        leave()
    sys.exit(code)
