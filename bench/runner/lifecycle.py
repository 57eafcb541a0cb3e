"""One recipe, one launch, one record: `accelerate launch bench/run.py RECIPE [--seed N] [--out DIR] [key=value ...]`.

The only file that knows the order of the stages: data, model, score before, fit, score after, save, record.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from bench import console
from bench.config.resolve import first_record, load
from bench.distributed.signals import Stopper
from bench.distributed.watchdog import Peers, several
from bench.errors import BenchError, RecipeError, ScoreError
from bench.memory import limits
from bench.records import failures, record, store
from bench.records.record import Record
from bench.runner import out_of_memory, resume, run_folder
from bench.runner.context import Run
from bench.training import checkpoint_files
from bench.utils import process
from bench.utils.system import utc_now

EXIT_CODES = {"ok": 0, "invalid": 2, "oom": 3, "diverged": 4, "crashed": 1, "interrupted": 130}


def parser() -> argparse.ArgumentParser:
    """The command line of one run."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Runs one recipe once and leaves a record.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. training.steps=10 model.max_length=64")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<name>--seed<N>--<hash>)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run in that folder, and start anew")
    parser.add_argument("--resume", action="store_true", help="say so where there is no checkpoint to go on from")
    parser.add_argument("--check", action="store_true", help="score a sample of examples by the plain path too")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--timeout-s", type=_limit_s, default=600.0, help="silence after which another process counts as lost (600)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="confirm a card's trust_remote_code: true")
    return parser


def _limit_s(text: str) -> float:
    # Below, a busy process would be taken for a dead one; above, nobody waits.
    least, most = 10, 7 * 24 * 3600
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not least <= found <= most:
        raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most} seconds")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs a recipe; returns the exit code. Every way out leaves a record, unless its folder can't be written."""
    options = parser().parse_intermixed_args(arguments)
    stopper = Stopper()
    signal.signal(signal.SIGTERM, stopper)
    run: Run | None = None
    try:
        run = _prepare(options, stopper)
        execute(run)
        if run.peers is not None and not console.is_main_process():
            run.state.wait_for_everyone()  # for rank zero, that writes the record; it may still be lost
        run.record.status, run.record.reason = "ok", None
    except (Exception, KeyboardInterrupt) as error:
        # A second Ctrl-C must not tear the record, nor the launcher's SIGTERM because another process has died.
        _deafen()
        if run is None:
            return _refused(options, error)
        _file(run, error, show=options.traceback)
    _deafen()  # a run that has come to its end is not torn any more
    return _finish(run)


def _deafen() -> None:
    signal.signal(signal.SIGINT, _nothing)
    signal.signal(signal.SIGTERM, _nothing)


def _nothing(*_: Any) -> None:
    """A handler of one's own, since an ignored signal would be handed on to the processes started later."""


def _prepare(options: argparse.Namespace, stopper: Stopper) -> Run:
    resolved = load(options.recipe, tuple(options.overrides), options.seed)
    seed = resolved.recipe.seed
    folder = options.out or Path("runs") / f"{resolved.name}--seed{seed}--{resolved.hash[:8]}"
    past, taken = resume.Past(), None
    if console.is_main_process():
        if run_folder.is_ours(folder):
            taken = run_folder.lock(folder)  # before anything of a run that is still going on is touched
        try:
            past = resume.look(folder, resolved.hash, seed, overwrite=options.overwrite, resume=options.resume)
            resume.clear(folder, past)
            store.reserve(folder)
        except BaseException:
            run_folder.unlock(folder, taken)
            raise
        taken = taken or run_folder.lock(folder)
    run = Run(
        resolved,
        first_record(resolved),
        folder,
        trust_remote_code=options.trust_remote_code,
        check=options.check,
        timeout_s=options.timeout_s,
        stopper=stopper,
        past=past,
        taken=taken,
    )
    run.record.notes += past.notes
    _keep(run)
    return run


def _keep(run: Run) -> None:
    """Writes down what is known so far: this is what a run leaves that is killed."""
    _take_times(run)
    if console.is_main_process() and (run.past.record is None or run.past.settled):
        store.write(run.record, run.folder, last=False)


def _take_times(run: Run) -> None:
    if run.clock is not None:
        run.record.phases = [record.PhaseTime(name=n, seconds=s) for n, s in run.clock.seconds.items()]


def execute(run: Run) -> None:
    """The stages in order. Heavy libraries are imported only now, so that a bad recipe is refused at once."""
    recipe = run.resolved.recipe
    process.set_cuda_allocator(expandable_segments=recipe.speed.expandable_segments)
    console.quiet_libraries()
    with process.libraries_apart():
        from bench.distributed import launcher, setup
        from bench.records import clock, environment
        from bench.runner import memory_prediction, results, stages
        from bench.runner.inputs import load_data

    run.clock = clock.Clock()
    with run.clock.phase("load"):
        if several():
            run.peers = Peers(lambda: run.phase, lambda failure: _end(run, failure), run.timeout_s).start()
        run.state = setup.start(run.timeout_s)
        if (fallback := launcher.fallback(run.state.device.type)) is not None:
            run.record.note(fallback)
        run.record.speed |= process.allocator_in_force(
            run.state.device.type,
            keep_memory=recipe.speed.keep_memory,
            searches_batch_size=recipe.training.per_device_batch == "auto",
            note=run.record.note,
        )
        run.record.environment = environment.environment()
    material = run.material = load_data(run)
    run.before = limits.Before.now()
    stages.build_model(run, material)
    memory_prediction.predict(run, material)
    _keep(run)
    if run.resolved.recipe.evaluation.before and material.plan.trains != "nothing":
        if not resume.take_over_before(run):
            results.score(run, material, "before")
        _keep(run)
    run.past.settled = True
    stages.fit(run, material)
    _keep(run)
    results.score(run, material, "after")
    _keep(run)
    if run.check:
        results.check_answers(run, material)
    if run.resolved.recipe.save:
        stages.save(run, material)
    stages.measure(run, material)
    memory_prediction.compare(run, material)
    failed = [check for check in run.record.checks if not check.ok]
    if failed:
        raise ScoreError(f"check {failed[0].name!r} failed: {failed[0].detail}")


def _file(run: Run, error: BaseException, *, show: bool) -> None:
    """Writes an error into the record, or another process's that caused it, and its traceback beside it."""
    failure = failures.of(error, run.failed_in, *(_whereabouts() if run.peers is not None else ()))
    failure = out_of_memory.told(failure, error, run)
    if show:
        traceback.print_exception(error)
    _blame(run, failure if run.peers is None else run.peers.verdict(failure))


def _blame(run: Run, failure: failures.Failure) -> None:
    run.record.status, run.record.failed_in, run.record.reason = failure.status, failure.phase, failure.sentence
    run.record.oom = record.OutOfMemory(**failure.shortage) if failure.shortage else None
    if console.is_main_process() and failure.trace:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that filled it
            (run.folder / "traceback.txt").write_text(failure.trace, encoding="utf-8")
    if failure.kind == "lost" and failure.rank == 0 and not console.is_main_process():
        _stand_in(run, failure)


def _stand_in(run: Run, failure: failures.Failure) -> None:
    """Rank zero is gone: what it wrote last gets its end from another process, if that one can see the folder."""
    try:
        left = store.read(run.folder)
        if left.finished_at is None and left.recipe.hash == run.record.recipe.hash:
            left.status, left.failed_in, left.reason = failure.status, failure.phase, failure.sentence
            left.finished_at = utc_now()
            store.write(left, run.folder)
            console.err.print(f"{left.status}: {left.reason}\nrecord: {run.folder / store.FILE}", markup=False)
    except (BenchError, OSError):
        pass  # on another machine; rank zero's own record says that the run did not come to its end


def _end(run: Run, failure: failures.Failure) -> int:
    """Files a failure from the watch's own thread, because the main one waits for a process that is gone."""
    run.record.note("this process still waited for the others when the record was written")
    _blame(run, failure)
    return _finish(run)


def _finish(run: Run) -> int:
    """Writes record, figures and report; says where they are. The record comes first: it is what must not be lost."""
    if run.peers is not None and run.record.status == "ok":
        run.peers.claim()
    run.record.finished_at = utc_now()
    _take_times(run)
    if run.clock is not None and not run.record.memory:  # a run that failed: this rank's figures are better than none
        run.record.memory = {name: peaks.gib() for name, peaks in run.clock.peaks.items()}
    if console.is_main_process():
        try:
            path = store.write(run.record, run.folder)
            if run.record.oom is not None:
                _explain(run)
            _draw(run)
            path = store.write(run.record, run.folder)
        except OSError as error:
            console.complain(f"error: the record can't be written: {error}")
            return EXIT_CODES["crashed"]
        if run.record.status != "ok":
            console.complain(f"{run.record.status}: {run.record.reason}")
        elif "report" in run.record.artifacts:
            console.say(f"report: {run.folder / 'report.md'}")
        console.say(f"record: {path}")
    if run.record.status == "ok" and run.state.is_local_main_process:
        # Not before the record is there: until then they are what is left of the run.
        shutil.rmtree(run.folder / checkpoint_files.FOLDER, ignore_errors=True)
    if run.peers is not None:
        _part(run)
    run_folder.unlock(run.folder, run.taken)
    return EXIT_CODES[run.record.status]


def _part(run: Run) -> None:
    """Lets the other processes go, which waited for the record."""
    assert run.peers is not None
    if console.is_main_process() and run.record.status == "ok":
        try:
            run.state.wait_for_everyone()
        except RuntimeError as error:
            console.complain(f"warning: a process was lost after the record was written: {error}")
    run.peers.stop()


def _explain(run: Run) -> None:
    """Adds to a run that was out of memory what the plan advises."""
    try:
        from bench.runner.memory_prediction import advise

        run.record.reason = advise(run)
    except Exception as error:  # e.g. not enough memory to load it
        run.record.note(f"no advice could be given: {type(error).__name__}: {error}")


def _draw(run: Run) -> None:
    """Figures and the one-page report. A picture that can't be drawn is noted, and fails no run."""
    try:
        from bench.reporting import run_page
        from bench.reporting.figures.run import draw_all

        run.record.artifacts |= draw_all(run.folder, run.record, run.log_rows, run.lengths)
        run_page.write_run_report(run.record, run.folder)
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
    if console.is_main_process() and not (folder / store.FILE).exists() and isinstance(error, RecipeError):
        refused = Record(
            name=options.recipe.stem,
            status=status,
            reason=reason,
            failed_in="set-up",
            seed=options.seed,
            started_at=utc_now(),
            finished_at=utc_now(),
            recipe=record.RecipePart(path=str(options.recipe), overrides=list(options.overrides)),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            console.say(f"record: {store.write(refused, folder)}")
        except OSError as problem:
            console.complain(f"error: the record can't be written: {problem}")
    if several() and not console.is_main_process():
        _tell_rank_zero(error, options.timeout_s)
    return EXIT_CODES[status]


def _tell_rank_zero(error: BaseException, timeout_s: float) -> None:
    """What only this machine lacks must not leave rank zero waiting; if it was refused too, the launcher ends this."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    failure = failures.of(error, "set-up", *_whereabouts())
    watch = Peers(lambda: "set-up", lambda failure: EXIT_CODES[failure.status], timeout_s).start()
    watch.verdict(failure)
    watch.stop()


def _whereabouts() -> tuple[int, str]:
    """This process for a sentence: its rank, and " on rank 1 (host b)"."""
    rank = int(os.environ.get("RANK") or 0)
    return rank, f" on rank {rank} (host {socket.gethostname()})"


def leave() -> None:
    """An orderly end of this process: its group is taken apart before the interpreter is."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
