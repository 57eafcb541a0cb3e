"""One run of a sweep: its folder, command and outcome. Each run is a separate launch, started by `scheduler`.

    python -m bench sweep recipes/sst2 --num-seeds 3 --jobs 2
    python -m bench sweep recipes/studies/imdb --mini

Finished runs are skipped; a failed run is recorded and does not stop the others.
"""

import contextlib
import datetime
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench import console
from bench.analysis import accessors
from bench.config import foreign_code, registry, resolve, yaml_loader
from bench.config.resolve import first_record
from bench.errors import BenchError, RecipeError, SetupError
from bench.records import store
from bench.records.record import Record
from bench.runner import resume, run_folder
from bench.sweeps.study import PlannedRun
from bench.utils import files, secret_formats, shipped
from bench.utils.files import ROOT
from bench.utils.system import utc_now

CONFIGS, SLURM = shipped.folder("accelerate_configs"), shipped.folder("scripts") / "slurm" / "study.sbatch"
PROGRAM = ROOT / "bench" / "run.py"
LOGS = "logs"
# A killed process holds its locks until the system has cleaned it up.
RELEASE_S = 10.0
# Statuses that a repetition would give again.
FINAL_STATUSES = ("ok", "oom", "diverged", "invalid")
# Phases of a run that was refused for what is neither in its recipe nor a result.
PREPARATION = {"load", "tokenise"}
# A precision as recipes name it -> as accelerate does, where that is another name.
FULL = "float32"
_MIXED = {FULL: "no"}
State = Literal["waiting", "running", "elsewhere", "ok", "oom", "diverged", "interrupted", "invalid", "crashed"]
# Submissions to Slurm, one line a run.
LISTING_BYTES = 2**26


@dataclass
class Job:
    """A run of a sweep. left_out: it was finished before the sweep began. scored: metric and split of `value`.

    label: what tells it from the sweep's other runs. started_s: when it was launched, of a monotonic clock. is_timed:
    whether `seconds` are all that it took; of a resumed run they are those of the last launch.
    before: modification time in ns of the record that existed at the launch; None without one. elsewhere: another
    process executes this run, and its result is waited for. is_pruned: it was told to stop, as a hopeless trial.
    launches: that were lost with their node.
    """

    planned: PlannedRun
    folder: Path
    log: Path
    label: str = ""
    state: State = "waiting"
    reason: str | None = None
    left_out: bool = False
    seconds: float | None = None
    value: float | None = None
    scored: str = ""
    before: int | None = None
    elsewhere: bool = False
    is_pruned: bool = False
    started_s: float | None = None
    is_timed: bool = True
    launches: int = 0

    @property
    def name(self) -> str:
        """Return what tells it from the sweep's other runs; of a job that was given no label, its whole name."""
        return self.label or f"{self.planned.resolved.name} seed {self.planned.seed}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Resources for runs. gpus: identifiers of all devices. per_run: number of devices for each run.

    precision: the config's mixed precision. on_cpu: it uses no GPU, and trains in that precision whatever others did.
    """

    config: Path
    jobs: int = 1
    gpus: tuple[str, ...] = ()
    per_run: int = 0
    processes: int = 1
    options: tuple[str, ...] = ()
    precision: str = FULL
    on_cpu: bool = False

    @classmethod
    def from_config(cls, config: str | None, jobs: int | None, per_run: int | None, *, dry: bool = False) -> "Machine":
        """Read an accelerate config. dry: nothing runs on this machine, so GPUs need not be present.

        Raises SetupError for a config that does not exist, or that needs more GPUs than available.
        """
        gpus = visible_gpus()
        path = find_config(config or ("gpu1" if gpus else "cpu"))
        content = yaml_loader.read(path).data
        processes = content.get("num_processes", 1)
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise SetupError(f"{path}: num_processes: expected a positive integer, got {processes!r:.100}")
        mixed = str(content.get("mixed_precision", _MIXED[FULL]))
        precision = FULL if mixed == _MIXED[FULL] else mixed
        on_cpu = bool(content.get("use_cpu")) or str(content.get("distributed_type")) == "MULTI_CPU"
        if on_cpu:
            if per_run:
                raise SetupError(f"--gpus-per-run: {path.name} uses no GPU")
            return cls(config=path, jobs=jobs or 1, processes=processes, precision=precision, on_cpu=True)
        options: tuple[str, ...] = ()
        if per_run is not None:
            processes, options = per_run, ("--num_processes", str(per_run))
        machine = cls(
            config=path,
            jobs=jobs or 1,
            per_run=processes,
            processes=processes,
            options=options,
            precision=precision,
        )
        if dry:
            return machine
        if processes > len(gpus):
            raise SetupError(
                f"{path.name} needs {processes} GPUs per run, but {len(gpus)} are available; pass another --config, or "
                "--gpus-per-run"
            )
        most = len(gpus) // processes
        if jobs is not None and jobs > most:
            raise SetupError(
                f"--jobs {jobs}: {len(gpus)} GPUs suffice for {most} concurrent runs with {processes} GPUs each"
            )
        return replace(machine, jobs=jobs or most, gpus=gpus)

    def command(self, job: Job, port: int | None = None) -> list[str]:
        """Return the command line of a run; one with the settings of others is launched in their precision."""
        asked = published_precision(job)
        other = asked is not None and asked != self.precision and not self.on_cpu
        return self.launch_command(PROGRAM, arguments(job), port, precision=asked if other else None)

    def launch_command(
        self, program: Path, arguments: Sequence[str], port: int | None = None, *, precision: str | None = None
    ) -> list[str]:
        """Return the command line that launches a `bench/run.py` with its arguments.

        precision: mixed precision in place of the config's.
        """
        options = [*self.options, *(() if port is None else ("--main_process_port", str(port)))]
        options += [] if precision is None else ["--mixed_precision", _MIXED.get(precision, precision)]
        launcher = [
            sys.executable,
            "-P",
            "-m",
            "accelerate.commands.launch",
            "--quiet",
            "--config_file",
            str(self.config),
        ]
        return [*launcher, *options, str(program), *arguments]

    def other_precisions(self, jobs: Sequence[Job], *, slurm: bool = False) -> list[str]:
        """Return sentences on runs with settings of others that can't be run in the precision of these.

        slurm: an array has one config for all of its runs.
        """
        asked = dict.fromkeys(published_precision(job) for job in jobs)
        here = "on a CPU" if self.on_cpu else "a Slurm array has one config for all of its runs"
        return [
            f"published in {one}; these runs are in {self.precision} ({self.config.name}: {here})"
            for one in asked
            if one is not None and one != self.precision and (self.on_cpu or slurm)
        ]

    def environment(self, gpus: Sequence[str]) -> dict[str, str]:
        """Return the environment of a run: without variables of an outer launcher, with its share of GPUs and cores."""
        kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        threads = max(1, (os.cpu_count() or 1) // (self.jobs * self.processes))
        given = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        # The launcher of several processes kills them after this time, which a checkpoint must not exceed.
        given["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "240")
        if gpus:
            given["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return kept | given


def published_precision(job: Job) -> str | None:
    """Return the precision that others ran this run's settings in; None for settings of one's own."""
    of_others = job.planned.resolved.recipe.as_published
    return None if of_others is None else of_others.precision


def arguments(job: Job, *, absolute: bool = False) -> list[str]:
    """Return the arguments of `bench/run.py` for a run. absolute: for another working directory."""
    planned = job.planned
    path, folder = (one.absolute() if absolute else one for one in (planned.path, job.folder))
    # The environment holds them too; a line that is printed must work by itself.
    trust = [foreign_code.FLAG] if foreign_code.is_confirmed() else []
    include = [word for place in registry.included() for word in ("--include", str(place))]
    given = (*planned.overrides, *planned.resolved.pins)
    return [str(path), "--seed", str(planned.seed), "--out", str(folder), *include, *trust, *given]


def visible_gpus() -> tuple[str, ...]:
    """Return the CUDA devices of this process as in CUDA_VISIBLE_DEVICES, else from nvidia-smi; without torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


def find_config(name: str) -> Path:
    """Return the path of an accelerate config, given its name in `accelerate_configs/` or its path."""
    for path in (CONFIGS / f"{name}.yaml", Path(name).absolute()):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise SetupError(f"--config: no accelerate config {name!r}. Available: {known}.")


def jobs_of(runs: list[PlannedRun], out: Path) -> list[Job]:
    """Return a job for each distinct run folder: equal runs are one job."""
    jobs: dict[str, Job] = {}
    for planned in runs:
        name = planned.folder_name
        jobs.setdefault(name, Job(planned, out / name, out / LOGS / f"{name}.txt"))
    return list(jobs.values())


def refuse_lost(jobs: list[Job]) -> None:
    """Raise SetupError where a run would not start, for fear of what is in its folder: with all such folders.

    A record that can't be read may be that of a finished run, e.g. of a newer version.
    """
    problems = []
    for job in jobs:
        try:
            contents = run_folder.survey(job.folder)
            run_folder.refuse_foreign(job.folder, contents)
            if store.FILE in contents.made:
                store.read(job.folder)
        except BenchError as error:
            problems.append(str(error))
    if problems:
        shown = "\n".join(problems[:5])
        rest = f"\nand {len(problems) - 5} more folders" if len(problems) > 5 else ""
        raise SetupError(
            f"{shown}{rest}\nnothing was started: move these folders away, read them with the version that wrote them, "
            "or give another --out"
        )


def leave_out_finished(jobs: list[Job], *, retry: bool, metric: str | None) -> None:
    """Mark jobs with a finished record as left out. retry: repeat reproducible failures too."""
    for job in jobs:
        record = read(job)
        if record is None or record.finished_at is None:
            continue
        if record.status == "ok" and _was_ended_while_drawing(job, record):
            continue  # the same command makes its figures and report, and trains nothing
        if record.status == "ok" or (record.status in FINAL_STATUSES and not retry and not _was_refused(record)):
            job.left_out = True
            read_result(job, record, metric)


def _was_refused(record: Record) -> bool:
    """Return whether a run ended before any work: what it lacked, such as data or a package, may be there by now."""
    return record.status == "invalid" and {phase.name for phase in record.phases} <= PREPARATION


def _was_ended_while_drawing(job: Job, record: Record) -> bool:
    return (job.folder / run_folder.LOCK).exists() and not resume.is_complete(record, job.folder)


def read(job: Job) -> Record | None:
    """Return the record in the job's folder if it is readable and of this run, else None."""
    try:
        record = store.read(job.folder)
    except BenchError:
        return None
    same = (record.recipe.hash, record.seed) == (job.planned.resolved.hash, job.planned.seed)
    return record if same else None


def read_result(job: Job, record: Record, metric: str | None) -> None:
    """Set the job's status, duration and score on the first split from its record.

    metric: that of the sweep; for a run without it, the metric that ranks runs in reports.
    """
    job.state, job.reason = record.status, record.reason
    job.seconds, job.is_timed = sum(phase.seconds for phase in record.phases), not record.resumed
    split = next(iter(record.scores.get("after", {})), None)
    names = accessors.scalars(record, "after", split)
    shown = metric if metric in names else accessors.ranking_metric(names)
    if shown is not None:
        job.value, job.scored = score_of(record, shown, split), f"{shown}, {split}"


def score_of(record: Record, metric: str, split: str | None = None) -> float | None:
    """Return a metric's value after the run. split: None for the first that was scored."""
    splits = record.scores.get("after", {})
    scores = splits.get(split, {}) if split else next(iter(splits.values()), {})
    value = scores[metric].value if metric in scores else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def finish(
    job: Job,
    returncode: int,
    seconds: float,
    metric: str | None,
    *,
    stopped: bool = False,
    why: str | None = None,
) -> None:
    """Set the outcome of a run that has ended, and complete the record of one that was killed.

    A finished record from before the launch, and one that another process is writing, are not this launch's and stay.
    stopped: the sweep told the run to end. why: what is known of its end, in place of its last output.
    """
    job.seconds = seconds
    if _stays_taken(job.folder):
        mark_taken(job)
        return
    record = read(job)
    if record is None or record.finished_at is None:
        status: Literal["crashed", "interrupted"] = "interrupted" if stopped and returncode < 0 else "crashed"
        record = _record_crash(job, record, why or _crash_reason(job, returncode), status)
    elif job.before is not None and written_at(job) == job.before:
        job.state, job.reason = "crashed", f"the launch wrote no record: {why or _crash_reason(job, returncode)}"
        return
    read_result(job, record, metric)
    job.seconds = seconds


def _stays_taken(folder: Path) -> bool:
    """Return whether another process holds the folder, after waiting for a killed one to release it."""
    end = time.monotonic() + RELEASE_S
    while run_folder.is_taken(folder):
        if time.monotonic() > end:
            return True
        time.sleep(0.02)
    return False


def is_changed(job: Job) -> bool:
    """Return whether a launch would now run another recipe than was planned, for hours and for nothing."""
    planned = job.planned
    try:
        now = resolve.load(planned.path, (*planned.overrides, *planned.resolved.pins), planned.seed)
    except BenchError:  # which the launch says itself
        return False
    return now.hash != planned.resolved.hash


def mark_taken(job: Job) -> None:
    """Mark a run that another process executes; its record and log are not touched."""
    job.state, job.elsewhere, job.seconds = "elsewhere", True, None
    job.reason = f"another process is writing to {job.folder}; this sweep waits for its end, and takes its result"


def is_taken(job: Job) -> bool:
    """Return whether another process executes this run, or has just launched it: its log is locked from the start."""
    return run_folder.is_taken(job.folder) or files.is_locked(job.log)


def written_at(job: Job) -> int | None:
    """Return the modification time of the run's record in ns; None without a record."""
    try:
        return (job.folder / store.FILE).stat().st_mtime_ns
    except OSError:
        return None


def _crash_reason(job: Job, returncode: int) -> str:
    """Explain why the run has no complete record."""
    output = last_line(job.log)
    try:
        record = store.read(job.folder)
    except BenchError as error:
        if (job.folder / store.FILE).exists():
            return str(error)
    else:
        if record.recipe.hash != job.planned.resolved.hash or record.seed != job.planned.seed:
            return f"{job.folder} contains the record of another run"
    last = f"; last output: {output}" if output else ""
    if returncode < 0:
        return f"its launcher was killed by signal {-returncode}{last}"
    if written_at(job) != job.before and not output.startswith("error"):
        # It had started, but could not record its end.
        return f"its processes were killed, e.g. by SIGKILL or out of memory (exit code {returncode}){last}"
    return output or f"it ended with exit code {returncode} and no output"


def _record_crash(job: Job, record: Record | None, why: str, status: Literal["crashed", "interrupted"]) -> Record:
    """Complete an unfinished record, or write one for a run that left none; a record of another run is kept."""
    free = record is not None or run_folder.is_free(job.folder)
    if record is None:
        record = first_record(job.planned.resolved)
        record.failed_in = "set-up"
    record.status, record.reason = status, f"the run did not record its end: {why}"
    record.finished_at = utc_now()
    if free:
        job.folder.mkdir(parents=True, exist_ok=True)
        store.write(record, job.folder)
    return record


def last_line(log: Path) -> str:
    """Return the last non-empty line of a run's output; empty without one."""
    try:
        with files.open_regular(log) as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    # The first line of a log is the command, not output.
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("$ ")), "")


def higher_is_better(metric: str) -> bool:
    """Return whether a higher value of a metric is better. Raises RecipeError for a metric of another library."""
    known = registry.directions()
    if metric not in known:
        raise RecipeError(f"metric {metric!r}: whether higher is better is unknown; use a metric of this harness")
    return known[metric]


def submit(jobs: list[Job], machine_config: Path, out: Path, at_once: int | None) -> str:
    """Submit jobs to Slurm as one array; return sbatch's output. Raises SetupError without sbatch."""
    if shutil.which("sbatch") is None:
        raise SetupError("--slurm: sbatch not found on this machine")
    import shlex

    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    words = [arguments(job, absolute=True) for job in jobs]
    refuse_secrets(words)
    lines = [shlex.join(each) for each in words]
    if broken := [line for line in lines if "\n" in line]:
        raise SetupError(f"--slurm: a task of an array is one line, and this would be several: {broken[0]!r:.300}")
    _warn_of_repetition(lines, out)
    listing = out / f"array-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    files.write_text(listing, "".join(f"{line}\n" for line in lines))
    limit = "" if at_once is None else f"%{at_once}"
    command = ["sbatch", f"--array=1-{len(jobs)}{limit}", str(SLURM), str(listing)]
    done = subprocess.run(
        command,
        cwd=ROOT if shipped.is_checkout() else None,
        env={**outside_of_slurm(os.environ), **_slurm_environment(machine_config)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        with contextlib.suppress(OSError):
            listing.unlink()
        raise SetupError(f"sbatch failed: {(done.stderr or done.stdout).strip()}")
    return f"{done.stdout.strip()}: {len(jobs)} runs, listed in {listing}"


def refuse_secrets(runs: Iterable[Sequence[str]]) -> None:
    """Raise SetupError, without quoting it, for a secret in the arguments of runs that are sent to other machines."""
    for words in runs:
        for word in words:
            if secret_formats.is_in(word):
                key = word.partition("=")[0] if "=" in word else "an argument"
                raise SetupError(
                    f"{secret_formats.remove(key)} has what looks like a token or a password, which would be written "
                    "to a file or sent to other machines; set it there as a variable of the environment"
                )


def outside_of_slurm(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of a Slurm job that the sweep is in, which would bind what it submits."""
    if "SLURM_JOB_ID" not in variables:
        return dict(variables)
    return {
        name: value
        for name, value in variables.items()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SLURMD_", "SRUN_"))
    }


def _slurm_environment(machine_config: Path) -> dict[str, str]:
    """Return what the Slurm scripts must know: the config, and outside of a checkout also where everything lies."""
    if shipped.is_checkout():
        return {"CONFIG": machine_config.stem if machine_config.parent == CONFIGS else str(machine_config)}
    places = {"BENCH_PYTHON": sys.executable, "BENCH_RUN": str(PROGRAM), "BENCH_SLURM": str(SLURM.parent)}
    return {"CONFIG": str(machine_config), **places}


def _warn_of_repetition(lines: list[str], out: Path) -> None:
    earlier = set[str]()
    for path in out.glob("array-*.txt"):
        with contextlib.suppress(OSError, ValueError):  # of somebody else
            earlier |= set(files.read_text(path, LISTING_BYTES).splitlines())
    again = sum(line in earlier for line in lines)
    if again:
        console.complain(
            f"{again} of these runs were submitted before (see {out}/array-*.txt): if they are still queued or "
            "running, cancel one of the two arrays"
        )
