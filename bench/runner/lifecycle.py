"""One recipe, one launch, one record: `accelerate launch bench/run.py RECIPE [--seed N] [--out DIR] [key=value ...]`.

The only file that knows the order of the stages: data, model, score before, fit, score after, save, record.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from bench import console
from bench.config import foreign_code, recipe_names, registry
from bench.config.resolve import COMMAND_LINE, Resolved, first_record, load
from bench.config.yaml_loader import Document
from bench.distributed import signals
from bench.distributed.watchdog import ProcessWatchdog, is_multi_process
from bench.errors import BenchError, RecipeError, ScoreError, SetupError
from bench.memory import limits
from bench.records import failures, record, store
from bench.records.record import Record
from bench.runner import completion, out_of_memory, resume, resumed_prompts, run_folder
from bench.runner.context import RunContext
from bench.utils import arguments, files, process, system
from bench.utils.system import utc_now

EXIT_CODES = {"ok": 0, "invalid": 2, "oom": 3, "diverged": 4, "crashed": 1, "interrupted": 130}

# What --no-texts sets: in the record, so that no later page quotes the data either.
NO_TEXTS = "dataset.quote=false"


def parser() -> argparse.ArgumentParser:
    """Return the command line of one run."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Runs one recipe once and leaves a record.")
    add_options(parser)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="confirm a card's trust_remote_code: true, or an evaluate: metric",
    )
    parser.add_argument(
        "--include", action="append", default=[], metavar="DIR", help="find drop-ins and cards there too"
    )
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of one run that no other command has."""
    parser.add_argument("recipe", type=Path, help="path of a recipe, or its name, like tiny/bert-full")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. training.steps=10 model.max_length=64")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=arguments.path, help="folder of the run (default: runs/<name>--seed<N>--<hash>)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run in that folder, and start anew")
    parser.add_argument("--no-texts", action="store_true", help="no texts of examples on pages (dataset.quote=false)")
    parser.add_argument(
        "--resume", action="store_true", help="note it in the record if there is no checkpoint to resume from"
    )
    parser.add_argument("--check", action="store_true", help="score a sample of examples by the plain path too")
    parser.add_argument(
        "--timeout-s",
        type=_limit_s,
        default=600.0,
        help="seconds without a heartbeat before a process is considered dead (600)",
    )


def overrides_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the overrides of a command line, of which --no-texts is one."""
    return (*options.overrides, *((NO_TEXTS,) if options.no_texts else ()))


def _limit_s(text: str) -> float:
    # Below, a busy process would be taken for a dead one; above, nobody waits.
    least, most = 10, 7 * 24 * 3600
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not least <= seconds <= most:
        raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most} seconds")
    return seconds


@dataclass
class Outcome:
    """Inputs and results of a run inside another program. document: the recipe, where it is not in a file.

    record: also of a run that failed; None where its recipe was refused. error: what ended it, or refused it.
    """

    document: Document | None = None
    record: Record | None = None
    error: BaseException | None = None


def main(words: list[str] | None = None, outcome: Outcome | None = None) -> int:
    """Run a recipe; return the exit code. Every way out leaves a record, unless its folder can't be written.

    outcome: filled in for a caller whose process goes on afterwards.
    """
    options = parser().parse_intermixed_args(words)
    stopper = signals.StopHandler()
    stopper.install()
    if not is_multi_process() and outcome is None:  # the watchdog over several processes watches their launcher too
        signals.stop_with_launcher(stopper)
    outcome = outcome or Outcome()
    run: RunContext | None = None
    try:
        run = _prepare(options, stopper, outcome)
        if run.previous.finished is not None:
            outcome.record = run.previous.finished
            return _complete(run)
        execute(run)
        if run.watchdog is not None and not console.is_main_process():
            run.state.wait_for_everyone()  # for rank zero, that writes the record; it may still be lost
        run.record.status, run.record.reason = "ok", None
    except (Exception, KeyboardInterrupt) as error:
        # Neither a second Ctrl-C nor the launcher's SIGTERM, when another process has died, may interrupt the record.
        signals.ignore()
        outcome.error = error
        if run is None:
            return _refuse(options, error)
        _record_error(run, error, show=options.traceback)
    signals.ignore()  # from here on nothing interrupts the writing of the record
    return _finish(run)


def _prepare(options: argparse.Namespace, stopper: signals.StopHandler, outcome: Outcome) -> RunContext:
    system.refuse_undecoded([str(options.recipe), str(options.out or ""), *options.overrides, *options.include])
    system.require_working_folder()
    registry.include(options.include)
    foreign_code.confirm(options.trust_remote_code)
    if outcome.document is None:
        options.recipe = recipe_names.find(options.recipe)
    resolved = load(options.recipe, overrides_of(options), options.seed, document=outcome.document)
    seed = resolved.recipe.seed
    folder = options.out or Path("runs") / f"{resolved.name}--seed{seed}--{resolved.hash[:8]}"
    previous, lock = resume.PreviousRun(), None
    if console.is_main_process():
        try:
            lock, previous = _claim(folder, resolved, options)
        except Exception as error:
            if is_multi_process():
                _report_to_others(error, options.timeout_s)
            raise
    elif not options.overwrite:
        previous.finished = resume.find_finished(folder, resolved.hash, seed)
    run = RunContext(
        resolved=resolved,
        record=first_record(resolved),
        folder=folder,
        check=options.check,
        timeout_s=options.timeout_s,
        stopper=stopper,
        previous=previous,
        lock=lock,
    )
    outcome.record = run.record
    for note in (*resolved.made_notes, *resolved.unused_notes, *previous.notes):
        run.record.note(note)
        console.say(f"note: {note}")
    if previous.finished is None:
        _write_record(run)
    return run


def _claim(
    folder: Path, resolved: Resolved, options: argparse.Namespace
) -> tuple[run_folder.FolderLock, resume.PreviousRun]:
    """Lock a run's folder and clear it for this run. Raises SetupError where it is not free, and leaves no lock."""
    seed = resolved.recipe.seed
    lock = run_folder.claim(folder)  # before anything of a run that is still going on is touched
    try:
        previous = resume.find_previous(folder, resolved.hash, seed, overwrite=options.overwrite, resume=options.resume)
        if previous.finished is None:
            resume.clear(folder, previous)
            run_folder.reserve(folder)
    except BaseException:
        run_folder.unlock(folder, lock)
        raise
    previous.notes += [lock.note] if lock.note else []
    return lock, previous


def _write_record(run: RunContext) -> None:
    """Write the record as far as it is known: this is what a run leaves that is killed.

    Between two stages: raises StoppedError for a signal that no stage has heeded.
    """
    _record_phases(run)
    if console.is_main_process() and (run.previous.record is None or run.previous.settled):
        store.write(run.record, run.folder, last=False)
    run.stopper.heed()


def _complete(run: RunContext) -> int:
    """Make what a finished run lacks; whatever happens, its record stays that of a finished run."""
    try:
        return completion.complete(run)
    finally:
        run_folder.unlock(run.folder, run.lock)


def _record_phases(run: RunContext) -> None:
    if run.has_clock:
        run.record.phases = [record.PhaseTime(name=n, seconds=s) for n, s in run.clock.seconds.items()]


def execute(run: RunContext) -> None:
    """Run the stages in order. Heavy libraries are imported only now, so that a bad recipe is refused at once."""
    recipe = run.resolved.recipe
    process.set_cuda_allocator(expandable_segments=recipe.speed.expandable_segments)
    console.quiet_libraries()
    with process.imports_without_collection():
        from bench.distributed import launcher, setup
        from bench.records import clock, energy, environment
        from bench.runner import memory_prediction, model_checks, results, sharded_scoring, stage_scores, stages
        from bench.runner.inputs import load_data

    run.clock = clock.Clock(energy.Meter.here())
    with run.clock.phase("load"):
        if is_multi_process():
            run.watchdog = ProcessWatchdog(
                lambda: run.phase, lambda failure: _end_from_watchdog(run, failure), run.timeout_s
            ).start()
        run.state = setup.start(run.timeout_s)
        if (fallback := launcher.device_fallback(run.state.device.type)) is not None:
            run.record.note(fallback)
        run.record.speed |= process.allocator_in_force(
            run.state.device.type,
            keep_memory=recipe.speed.keep_memory,
            searches_batch_size=recipe.training.per_device_batch == "auto",
            note=run.record.note,
        )
        run.record.environment = environment.environment()
    run.inputs = load_data(run)
    stage_scores.prepare(run)
    resumed_prompts.refuse_other(run)
    run.memory_baseline = limits.MemoryBaseline.now()
    stages.build_model(run)
    memory_prediction.predict(run)
    sharded_scoring.decide(run)
    _write_record(run)
    if (
        run.resolved.recipe.evaluation.before
        and run.inputs.plan.trains not in ("nothing", "texts")
        and "before" not in run.score_sharded
    ):
        stage_scores.score_before(run)
        _write_record(run)
    run.previous.settled = "before" not in run.score_sharded
    stages.fit(run)
    _write_record(run)
    stage_scores.score_after(run)
    _write_record(run)
    if run.check:
        results.check_answers(run)
    sharded_scoring.make_whole(run)
    if run.resolved.recipe.save:
        stages.save(run)
    stages.measure(run)
    memory_prediction.compare(run)
    if run.resolved.recipe.save and run.inputs.plan.trains != "nothing":
        model_checks.check_saved(run)
    failed = [check for check in run.record.checks if not check.ok]
    if failed:
        raise ScoreError(f"check {failed[0].name!r} failed: {failed[0].detail}")


def _record_error(run: RunContext, error: BaseException, *, show: bool) -> None:
    """Write an error, or another process's error that caused it, into the record, and its traceback beside it."""
    failure = failures.from_exception(error, run.failed_in, *(_rank_and_host() if run.watchdog is not None else ()))
    failure = out_of_memory.add_shortage(failure, error, run)
    if show:
        console.complain_on_any_rank(failures.traceback_of(error))
    _record_failure(run, failure if run.watchdog is None else run.watchdog.verdict(failure))


def _record_failure(run: RunContext, failure: failures.Failure) -> None:
    run.record.status, run.record.failed_in, run.record.reason = failure.status, failure.phase, failure.sentence
    run.record.oom = record.OutOfMemory(**failure.shortage) if failure.shortage else None
    if console.is_main_process() and failure.trace:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that filled it
            files.write_text(run.folder / "traceback.txt", failure.trace)
    if failure.kind == "lost" and failure.rank == 0 and not console.is_main_process():
        _finish_for_rank_zero(run, failure)


def _finish_for_rank_zero(run: RunContext, failure: failures.Failure) -> None:
    """Complete the record of a rank zero that died, from another process, if that one can see the folder."""
    try:
        left = store.read(run.folder)
        if left.finished_at is None and left.recipe.hash == run.record.recipe.hash:
            left.status, left.failed_in, left.reason = failure.status, failure.phase, failure.sentence
            left.finished_at = utc_now()
            store.write(left, run.folder)
            console.complain_on_any_rank(f"{left.status}: {left.reason}\nrecord: {run.folder / store.FILE}")
    except (BenchError, OSError):
        pass  # on another machine; rank zero's own record says that the run did not finish


def _end_from_watchdog(run: RunContext, failure: failures.Failure) -> int:
    """Record a failure from the watchdog's thread, because the main one waits for a process that died."""
    run.record.note("this process still waited for the others when the record was written")
    _record_failure(run, failure)
    return _finish(run)


def _finish(run: RunContext) -> int:
    """Write record, figures and report; say where they are. The record comes first: it must not be lost."""
    if run.watchdog is not None and run.record.status == "ok":
        run.watchdog.claim()
    run.record.finished_at = utc_now()
    for loss in console.losses():
        run.record.note(loss)
    _record_phases(run)
    if run.has_clock and not run.record.memory:  # a run that failed: this rank's figures are better than none
        run.record.memory = {name: peaks.gib() for name, peaks in run.clock.peaks.items()}
    if console.is_main_process():
        try:
            path = store.write(run.record, run.folder)
            if run.record.oom is not None:
                _add_memory_advice(run)
            completion.write_report(run)
            _finish_trackers(run)
            path = store.write(run.record, run.folder)
        except OSError as error:
            console.complain(f"error: the record can't be written: {error}")
            return EXIT_CODES["crashed"]
        if run.record.status != "ok":
            console.complain(f"{run.record.status}: {run.record.reason}")
        completion.say_end(run.record, path)
    if run.record.status == "ok" and run.state.is_local_main_process:
        # Only after the record is written: until then the checkpoints are all that is left of the run.
        with contextlib.suppress(OSError, SetupError):
            completion.remove_checkpoints(run)
    if run.watchdog is not None:
        _release_processes(run)
    run_folder.unlock(run.folder, run.lock)
    return EXIT_CODES[run.record.status]


def _finish_trackers(run: RunContext) -> None:
    """Send the final values. Not from the watchdog's thread: a service that hangs would keep a dead run alive."""
    if threading.current_thread() is threading.main_thread():
        names = (store.FILE, "report.md", "train_log.jsonl")
        figures = sorted((run.folder / "figures").glob("*.png"))
        run.trackers.finish(run.record, [path for name in names if (path := run.folder / name).exists()] + figures)


def _release_processes(run: RunContext) -> None:
    """Release the other processes, which waited for the record."""
    assert run.watchdog is not None
    if console.is_main_process() and run.record.status == "ok":
        try:
            run.state.wait_for_everyone()
        except RuntimeError as error:
            console.complain(f"warning: a process was lost after the record was written: {error}")
    run.watchdog.stop()


def _add_memory_advice(run: RunContext) -> None:
    """Add the memory planner's advice to the record of a run that ran out of memory."""
    try:
        from bench.runner.memory_prediction import advise

        run.record.reason = advise(run)
    except Exception as error:  # e.g. not enough memory to load it
        run.record.note(f"no advice could be given: {type(error).__name__}: {error}")


def _refuse(options: argparse.Namespace, error: BaseException) -> int:
    """End a run that has no recipe or no folder yet; leave a record where that replaces no other one."""
    status = failures.status_of(error)
    reason = failures.sentence(error, "set-up")
    if options.traceback:
        console.complain_on_any_rank(failures.traceback_of(error))
    console.complain(f"{status}: {reason}")
    seed = "" if options.seed is None else f"--seed{options.seed}"
    folder = options.out or Path("runs") / f"{options.recipe.stem}{seed}--invalid"
    if console.is_main_process() and _leaves_record(options, error) and run_folder.is_free(folder):
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
    if is_multi_process() and not console.is_main_process():
        _report_to_rank_zero(error, options.timeout_s)
    return EXIT_CODES[status]


def _leaves_record(options: argparse.Namespace, error: BaseException) -> bool:
    """Return whether a refused recipe leaves a record: a mistyped command, for which no folder was named, does not."""
    if not isinstance(error, RecipeError) or not options.recipe.is_file():
        return False
    by_command = all(line.startswith(COMMAND_LINE) for line in str(error).splitlines())
    return options.out is not None or not by_command


def _report_to_rank_zero(error: BaseException, timeout_s: float) -> None:
    """Report an error of this machine alone, so that rank zero does not wait for it.

    If rank zero failed too, the launcher ends this process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    watch = _watch_of_set_up(timeout_s)
    watch.verdict(failures.from_exception(error, "set-up", *_rank_and_host()))
    watch.stop()


def _report_to_others(error: Exception, timeout_s: float) -> None:
    """Tell the other processes that rank zero, which alone looks at the run's folder, ends before it joins them.

    They wait in native code, where no signal reaches them: without this word the launcher would kill them after 30 s.
    """
    with process.imports_without_collection():
        import torch.distributed  # noqa: F401  # slow, and a message waits only a moment to go out

    watch = _watch_of_set_up(timeout_s)
    watch.tell(failures.from_exception(error, "set-up", *_rank_and_host()))
    watch.stop()


def _watch_of_set_up(timeout_s: float) -> ProcessWatchdog:
    return ProcessWatchdog(lambda: "set-up", lambda failure: EXIT_CODES[failure.status], timeout_s).start()


def _rank_and_host() -> tuple[int, str]:
    """Return this process's rank, and for a sentence " on rank 1 (host b)"."""
    rank = int(os.environ.get("RANK") or 0)
    return rank, f" on rank {rank} (host {socket.gethostname()})"


def leave() -> None:
    """Destroy the process group before the interpreter shuts down."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
