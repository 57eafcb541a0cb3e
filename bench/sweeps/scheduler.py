"""Run the jobs of a sweep concurrently: assign devices and ports, show a live table, stop cleanly on Ctrl-C."""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live

from bench import console
from bench.errors import BenchError, RecipeError
from bench.records import store
from bench.runner import run_folder
from bench.sweeps import forecasts, labels, overview, plan_file, tuning
from bench.sweeps.executors import Ended, Execution, Executor, LocalExecutor
from bench.sweeps.jobs import (
    Job,
    Machine,
    finish,
    higher_is_better,
    is_changed,
    is_taken,
    jobs_of,
    last_line,
    leave_out_finished,
    mark_taken,
    refuse_lost,
    submit,
)
from bench.sweeps.overview import Row
from bench.sweeps.processes import POLL_S, STOP_S
from bench.sweeps.study import Plan, PlannedRun
from bench.utils import secret_formats
from bench.utils.system import utc_now

# How often a run is launched whose node is lost each time.
LAUNCHES = 3
# Until a run that was killed is known to have ended, on a node far away.
KILL_S = 20.0


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep. slurm: submit the runs to Slurm. dry_run: only print the commands. at_once: for Slurm.

    says_next: end with the command that compares the runs. started_at: names the sweep in its plan file. executor: of
    runs elsewhere; None for this machine. is_elsewhere: a dry run of such a sweep, which says what its runs will take.
    """

    out: Path
    machine: Machine
    retry: bool = False
    slurm: bool = False
    dry_run: bool = False
    at_once: int | None = None
    says_next: bool = True
    executor: Executor | None = None
    is_elsewhere: bool = False
    started_at: str = field(default_factory=utc_now)


def run_sweep(plans: list[Plan], options: SweepOptions) -> int:
    """Tune settings where a study requests it, then run everything; return the exit code, 1 if a run failed.

    Raises SetupError while another sweep is running in the folder.
    """
    run_folder.check_place(options.out)
    if options.dry_run:
        return _run_sweep(plans, options)
    with plan_file.claimed(options.out):
        return _run_sweep(plans, options)


def _run_sweep(plans: list[Plan], options: SweepOptions) -> int:
    metric = next((plan.metric for plan in plans if plan.metric), None)
    runs, without_settings = list[PlannedRun](), 0
    for plan in plans:
        chosen = _tune(plan, options)
        if chosen is None:
            return 0 if options.slurm or options.dry_run else 1
        runs += [run for each in chosen for run in each]
        without_settings += len(plan.systems) - len(chosen)
    jobs = jobs_of(runs, options.out)
    _execute(jobs, options, metric, "runs")
    if options.slurm or options.dry_run:
        return 0
    rows = rows_of(jobs, options.machine)
    endings = overview.endings(rows, options.out, compares=options.says_next)
    for line in [*overview.lines(rows, _at_once(rows, options.machine), reasons=False), *endings]:
        console.say(line)
    return 0 if not without_settings and all(job.state == "ok" for job in jobs) else 1


def _execute(
    jobs: list[Job], options: SweepOptions, metric: str | None, what: str, watch: Callable[[Job], bool] | None = None
) -> None:
    for job, label in zip(jobs, labels.of_runs([job.planned for job in jobs]), strict=True):
        trial = "trial " if job.folder.parent.name == tuning.TRIALS else ""
        job.label = trial + secret_formats.remove(label)
    leave_out_finished(jobs, retry=options.retry, metric=metric)
    left = [job for job in jobs if not job.left_out]
    refuse_lost(left)
    name = labels.common_name([job.planned for job in jobs])
    of = f"; all are of {name}" if name else ""
    failed = sum(job.left_out and job.state != "ok" for job in jobs)
    repeated = f" ({failed} of them failed; --retry repeats these)" if failed else ""
    finished = f"{len(jobs) - len(left)} already finished{repeated}"
    console.say(f"{len(jobs)} {what}, {finished}; output folder: {options.out}{of}")
    for sentence in options.machine.other_precisions(left, slurm=options.slurm):
        console.say(sentence)
    if options.dry_run:
        for job in left:
            console.say(shlex.join(options.machine.command(job)))
        if options.is_elsewhere and left:
            for line in forecasts.described(left, forecasts.of_jobs(left, options.machine, ())):
                console.say(line)
    elif options.slurm and left:
        console.say(submit(left, options.machine.config, options.out, options.at_once))
        _write_plan(jobs, options, metric)
    elif left:
        if options.executor is not None:
            options.executor.prepare(left)
        _write_plan(jobs, options, metric)
        run_all(jobs, options.machine, metric, watch, options.executor)


def _write_plan(jobs: list[Job], options: SweepOptions, metric: str | None) -> None:
    """Write down for other terminals which runs there are, and say how to watch them."""
    planned = tuple(
        plan_file.PlannedJob(
            label=job.name,
            system=_system(job),
            method=job.planned.resolved.recipe.method.name,
            seed=job.planned.seed,
            folder=os.path.relpath(job.folder, options.out),
            log=os.path.relpath(job.log, options.out),
            was_over=job.left_out,
        )
        for job in jobs
    )
    slurm, machine = options.slurm, options.machine
    plan_file.add(
        options.out,
        plan_file.SweepPlan.begun(
            options.started_at,
            at_once=options.at_once if slurm or options.executor is not None else machine.jobs,
            gpus=machine.per_run,
            slurm=slurm,
            metric=metric,
            jobs=planned,
        ),
    )
    console.say(f"to watch it from another terminal: {overview.watch_command(options.out)}")


def _system(job: Job) -> str:
    """Return what a job shares with those of other seeds."""
    return f"{job.planned.resolved.name}--{job.planned.resolved.hash[:8]}"


def _tune(plan: Plan, options: SweepOptions) -> list[list[PlannedRun]] | None:
    """Return the runs of each system with tuned settings; None while trials are unfinished.

    A system whose trials all failed is left out. Raises RecipeError if none is left.
    """
    trials = tuning.trials_of(plan, options.out)
    searches = any(system.search is not None for system in plan.systems)
    if not trials and not searches:
        return [system.runs() for system in plan.systems]
    assert plan.metric is not None
    if searches:
        choices = _search(plan, plan.metric, options)
        return None if choices is None else _chosen(plan, choices, plan.metric, options)
    higher_is_better(plan.metric)
    jobs = [job for _, tried in trials for job in tried.values()]
    if not options.dry_run:
        store.mark_trials(options.out / tuning.TRIALS)
    _execute(jobs, options, plan.metric, "tuning trials on validation data")
    if any(job.state == "waiting" for job in jobs):
        console.say("repeat this command when the trials are finished: it then selects settings and runs the rest")
        return None
    choices = [tuning.choose(system, tried, plan.metric) for system, tried in trials]
    return _chosen(plan, choices, plan.metric, options)


def _search(plan: Plan, metric: str, options: SweepOptions) -> list[tuning.Choice] | None:
    """Return the choices among settings that are proposed one after the other; None while a trial is unfinished."""
    if options.slurm:
        raise RecipeError(
            "--slurm: the study has `search`, whose next settings depend on the last results; run the sweep inside of "
            "one job, or tune without `search`"
        )
    if not options.dry_run:
        store.mark_trials(options.out / tuning.TRIALS)

    def execute(jobs: list[Job], watch: Callable[[Job], bool]) -> None:
        """Run the next trial of each system."""
        _execute(jobs, options, metric, "tuning trials on validation data", watch)

    choices = tuning.searched(plan, options.out, metric, execute)
    if choices is None:
        again = "those after them depend on their results" if options.dry_run else "repeat this command to go on"
        console.say(f"tuning trials are unfinished: {again}")
    return choices


def _chosen(plan: Plan, choices: list[tuning.Choice], metric: str, options: SweepOptions) -> list[list[PlannedRun]]:
    """Write the choices, and return the runs of each system with its tuned settings."""
    console.say(f"tuned settings: {tuning.write_choices(choices, options.out, metric)}")
    by_system = {id(choice.system): choice for choice in choices}
    runs = []
    for system in plan.systems:
        choice = by_system.get(id(system))
        if choice is not None and choice.chosen is None:
            console.complain(f"{system.resolved.name} is left out: all of its tuning trials failed")
            continue
        runs.append(system.runs(choice.chosen or () if choice is not None else ()))
    if not runs:
        raise RecipeError("no system is left: all tuning trials failed")
    return runs


def run_all(
    jobs: list[Job],
    machine: Machine,
    metric: str | None = None,
    watch: Callable[[Job], bool] | None = None,
    executor: Executor | None = None,
) -> None:
    """Run all jobs that are not left out, and set their state and reason; wait for those that another process runs.

    watch: is asked again and again whether a running job should stop before its end. executor: of this machine, if not
    given.

    Raises KeyboardInterrupt when the sweep is stopped, after its runs have written their checkpoints and ended.
    """
    waiting = [job for job in jobs if not job.left_out]
    running, others = list[Execution](), list[Job]()
    with terminable(), executor or LocalExecutor(machine) as at_work, _display(jobs, machine) as show:
        try:
            while waiting or running or others:
                while waiting and (job := at_work.take(waiting, len(running))) is not None:
                    _begin(job, at_work, running, others)
                at_work.flush()
                time.sleep(POLL_S)
                for one in [one for one in running if watch is not None and watch(one.job)]:
                    one.job.is_pruned = True
                    one.stop()
                for one, ended in [(one, one.poll()) for one in running]:
                    if ended is None:
                        continue
                    running.remove(one)
                    if _is_repeated(one, ended):
                        waiting[:0] = _take_over(one.job, metric)
                        continue
                    _end(one, ended, metric)
                    _say_end(one.job, jobs, machine)
                    others += [one.job] if one.job.elsewhere else []
                for job in [job for job in others if not is_taken(job)]:
                    others.remove(job)
                    waiting += _take_over(job, metric)
                show()
        except BaseException:
            _stop(running, metric)
            raise


def _begin(job: Job, executor: Executor, running: list[Execution], others: list[Job]) -> None:
    """Start a job, or put it to those that another process runs; not one whose recipe is another by now."""
    if is_changed(job):
        job.state = "crashed"
        job.reason = f"{job.planned.path} or a card of it was changed while the sweep ran; repeat the command"
        console.say(describe(job))
        return
    started = None if is_taken(job) else executor.start(job)
    if started is None:
        mark_taken(job)
        others.append(job)
        console.say(describe(job))
        return
    running.append(started)
    if not console.is_live() and job.state == "running":
        console.say(f"started: {job.name} (log: {job.log})")


def _is_repeated(one: Execution, ended: Ended) -> bool:
    """Return whether a run whose node is lost is run again, which goes on from its checkpoint where one is left."""
    job = one.job
    if ended.lost is None:
        return False
    if not ended.is_unstarted:
        job.launches += 1
    if job.launches >= LAUNCHES:
        return False
    one.collect()
    job.state, job.started_s = "waiting", None
    how = "placed anew" if ended.is_unstarted else f"again ({job.launches + 1} of {LAUNCHES})"
    console.say(f"{how}: {job.name}: {ended.lost}")
    return True


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Handle SIGTERM (sent by schedulers) and SIGHUP (closed terminal) like Ctrl-C inside the block."""

    def _interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # Under nohup SIGHUP is ignored, and stays so.
    kinds = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) != signal.SIG_IGN]
    before = {kind: signal.signal(kind, _interrupt) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _take_over(job: Job, metric: str | None) -> list[Job]:
    """Take the result of a run that has ended unseen; return it as still to be run where there is none.

    Another process had it, or its node was lost with it.
    """
    job.state, job.elsewhere, job.reason = "waiting", False, None
    leave_out_finished([job], retry=False, metric=metric)
    if not job.left_out:
        return [job]
    console.say(describe(job))
    return []


def _end(one: Execution, ended: Ended, metric: str | None, *, stopped: bool = False) -> None:
    job = one.job
    seconds = time.monotonic() - job.started_s if job.started_s is not None else 0.0
    why = ended.why
    if ended.lost is not None:
        why = f"{ended.lost}, and so it was {LAUNCHES} times" if job.launches >= LAUNCHES else ended.lost
    try:
        one.collect()
        if ended.is_unstarted:
            job.state = "waiting"
        elif ended.is_taken:
            mark_taken(job)
        else:
            finish(job, ended.returncode, seconds, metric, stopped=stopped, why=why)
    except BenchError as error:  # what it wrote has not come whole; nothing of it is used
        job.state, job.reason = "crashed", str(error)
    except OSError as error:
        job.state, job.reason = "crashed", f"{error.filename or job.folder}: {error.strerror or error}"
    if job.is_pruned and job.state == "interrupted":
        job.reason = "pruned, as its validation score was behind the median of other trials: nothing goes on from it"


def _say_end(job: Job, jobs: list[Job], machine: Machine) -> None:
    """Print how a run has ended, and how far the sweep is."""
    if console.is_live():
        return
    rows = rows_of(jobs, machine)
    is_done = all(row.is_over for row in rows)
    console.say(describe(job) + ("" if is_done else f"\n  {overview.summary(rows, _at_once(rows, machine))}"))


def _stop(running: list[Execution], metric: str | None) -> None:
    """Tell the runs to stop and wait for their checkpoints; another Ctrl-C kills them."""
    if running:
        console.say(f"stopping {len(running)} runs, which write checkpoints first; press Ctrl-C again to kill them")
    ended: dict[int, Ended] = {}
    limit = time.monotonic() + STOP_S
    try:
        for one in running:
            one.stop()
        while len(ended) < len(running) and time.monotonic() < limit:
            _poll(running, ended)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        pass
    for one in running:
        if id(one) not in ended:
            one.kill()
    limit = time.monotonic() + KILL_S
    while len(ended) < len(running) and time.monotonic() < limit:
        _poll(running, ended)
        time.sleep(POLL_S / 10)
    for one in running:
        _end(one, ended.get(id(one), Ended(returncode=-signal.SIGKILL)), metric, stopped=True)
        console.say(describe(one.job))


def _poll(running: list[Execution], ended: dict[int, Ended]) -> None:
    """Note how runs have ended. One that raises an error, mostly that which stops the sweep, keeps no other waiting."""
    for one in running:
        try:
            outcome = None if id(one) in ended else one.poll()
        except (BenchError, OSError) as error:
            outcome = Ended(returncode=1, why=str(error))
        if outcome is not None:
            ended[id(one)] = outcome


def describe(job: Job) -> str:
    """Describe a finished job in one line."""
    time_taken = "" if job.seconds is None else f" in {console.duration(job.seconds)}"
    value = "" if job.value is None else f", {job.value:.4f} {job.scored}"
    reason = f": {job.reason}" if job.reason else ""
    return f"{job.state}{' (already finished)' if job.left_out else ''}: {job.name}{time_taken}{value}{reason}"


@contextlib.contextmanager
def _display(jobs: list[Job], machine: Machine) -> Iterator[Callable[[], None]]:
    """Yield a function that updates a live table on a terminal; elsewhere each run prints a line when it ends."""
    if not console.is_live():
        yield lambda: None
        return

    def _drawn() -> Group:
        rows = rows_of(jobs, machine)
        most = overview.rows_that_fit(console.out.size.height)
        return overview.drawn(overview.lines(rows, _at_once(rows, machine), most), overview.logs(rows))

    with Live(_drawn(), console=console.out, refresh_per_second=4, transient=True) as live:
        yield lambda: live.update(_drawn())


def rows_of(jobs: list[Job], machine: Machine) -> list[Row]:
    """Return what is shown of each job now."""
    return [
        Row(
            label=job.name,
            system=_system(job),
            method=job.planned.resolved.recipe.method.name,
            state=job.state,
            folder=job.folder,
            log=job.log,
            seconds=_seconds(job),
            is_timed=job.is_timed,
            gpus=machine.per_run or None,
            value=job.value,
            scored=job.scored,
            note=last_line(job.log) if job.state == "running" else job.reason or "",
        )
        for job in jobs
    ]


def _at_once(rows: list[Row], machine: Machine) -> int:
    """Return how many runs go side by side: on a cluster as many as do now."""
    return max(machine.jobs, sum(row.state == "running" for row in rows))


def _seconds(job: Job) -> float | None:
    return time.monotonic() - job.started_s if job.state == "running" and job.started_s is not None else job.seconds
