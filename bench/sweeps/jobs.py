"""Many runs, each a launch of its own: what is finished is left out, what fails is written down, and the rest goes on.

    python -m bench sweep recipes/sst2 --seeds 3 --jobs 2
    python -m bench sweep recipes/studies/imdb --mini

Holds what a run is to a sweep: its folder, its command, how it ended. `jobs` starts and watches them.
"""

import contextlib
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import console
from bench.analysis import accessors
from bench.config import registry, yaml_loader
from bench.config.resolve import first_record
from bench.errors import BenchError, RecipeError, SetupError
from bench.records import store
from bench.records.record import Record
from bench.runner import run_folder
from bench.sweeps.study import Planned
from bench.utils import files
from bench.utils.files import ROOT
from bench.utils.system import utc_now

CONFIGS, SLURM = ROOT / "accelerate_configs", ROOT / "scripts" / "slurm" / "study.sbatch"
LOGS = "logs"
# A killed process holds its locks until the system has cleared it away.
RELEASE_S = 10.0
# How a run ended that would end so again.
SETTLED = ("ok", "oom", "diverged", "invalid")
State = Literal["waiting", "running", "ok", "oom", "diverged", "interrupted", "invalid", "crashed"]


@dataclass
class Job:
    """A run of a sweep. left_out: whether it was finished before the sweep began. scored: what value is, in words.

    before: when the record was written that lay there at the launch, in ns; None for none. elsewhere: whether another
    process is at this run.
    """

    planned: Planned
    folder: Path
    log: Path
    state: State = "waiting"
    reason: str | None = None
    left_out: bool = False
    seconds: float | None = None
    value: float | None = None
    scored: str = ""
    before: int | None = None
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs are given. gpus: identifiers of the devices, to be shared out. per_run: how many each run gets."""

    config: Path
    jobs: int = 1
    gpus: tuple[str, ...] = ()
    per_run: int = 0
    processes: int = 1
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: str | None, jobs: int | None, per_run: int | None, *, dry: bool = False) -> "Machine":
        """Reads the accelerate config. dry: nothing will run here, so that GPUs need not be there.

        Raises SetupError for a config that is not there, or asks for more GPUs than are.
        """
        gpus = visible_gpus()
        path = find_config(config or ("gpu1" if gpus else "cpu"))
        content = yaml_loader.read(path).data
        processes = content.get("num_processes", 1)
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            told = f"expected a whole number from 1 on, got {processes!r:.100}"
            raise SetupError(f"{path}: num_processes: {told}")
        on_cpu = bool(content.get("use_cpu")) or str(content.get("distributed_type")) == "MULTI_CPU"
        if on_cpu:
            if per_run:
                raise SetupError(f"--gpus-per-run: {path.name} uses no GPU")
            return cls(config=path, jobs=jobs or 1, processes=processes)
        options: tuple[str, ...] = ()
        if per_run is not None:
            processes, options = per_run, ("--num_processes", str(per_run))
        if dry:
            return cls(config=path, jobs=jobs or 1, per_run=processes, processes=processes, options=options)
        if processes > len(gpus):
            raise SetupError(
                f"{path.name} asks for {processes} GPUs for each run, and there are {len(gpus)} here; give another "
                "--config, or --gpus-per-run"
            )
        most = len(gpus) // processes
        if jobs is not None and jobs > most:
            raise SetupError(f"--jobs {jobs}: {len(gpus)} GPUs are enough for {most} runs of {processes} at once")
        return cls(config=path, jobs=jobs or most, gpus=gpus, per_run=processes, processes=processes, options=options)

    def command(self, job: Job, port: int | None = None) -> list[str]:
        """The command line of a run, as it would be typed."""
        return self.words(ROOT / "bench" / "run.py", arguments(job), port)

    def words(self, program: Path, arguments: Sequence[str], port: int | None = None) -> list[str]:
        """The command line that launches a `bench/run.py` with its arguments."""
        spread = [*self.options, *(() if port is None else ("--main_process_port", str(port)))]
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(self.config)]
        return [*launcher, *spread, str(program), *arguments]

    def environment(self, gpus: Sequence[str]) -> dict[str, str]:
        """This process's, less what a launcher above it may have set; the devices and the cores are shared out."""
        kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        threads = max(1, (os.cpu_count() or 1) // (self.jobs * self.processes))
        given = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        # The launcher of several processes kills what it told to stop: not in the middle of a checkpoint.
        given["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "240")
        if gpus:
            given["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return kept | given


def arguments(job: Job, *, absolute: bool = False) -> list[str]:
    """What follows `bench/run.py` on the command line of a run. absolute: for another working directory."""
    planned = job.planned
    path, folder = (one.absolute() if absolute else one for one in (planned.path, job.folder))
    return [str(path), "--seed", str(planned.seed), "--out", str(folder), *planned.overrides]


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; asks the driver, not torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


def find_config(name: str) -> Path:
    """An accelerate config by its name in `accelerate_configs/`, or by its path."""
    for path in (CONFIGS / f"{name}.yaml", Path(name).absolute()):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise SetupError(f"--config: there is no accelerate config {name!r}. Known: {known}.")


def jobs_of(runs: list[Planned], out: Path) -> list[Job]:
    """A job for each run, each folder once: two ways to write the same run are one run."""
    found: dict[str, Job] = {}
    for planned in runs:
        name = planned.folder_name
        found.setdefault(name, Job(planned, out / name, out / LOGS / f"{name}.txt"))
    return list(found.values())


def leave_out_finished(jobs: list[Job], *, retry: bool, metric: str | None) -> None:
    """Marks what has a finished record. retry: failures that would come again are tried again too."""
    for job in jobs:
        found = read(job)
        if found is None or found.finished_at is None:
            continue
        if found.status == "ok" or (found.status in SETTLED and not retry):
            job.left_out = True
            take_result(job, found, metric)


def read(job: Job) -> Record | None:
    """The record of this very run in its folder, if there is a readable one."""
    try:
        found = store.read(job.folder)
    except BenchError:
        return None
    same = (found.recipe.hash, found.seed) == (job.planned.resolved.hash, job.planned.seed)
    return found if same else None


def take_result(job: Job, found: Record, metric: str | None) -> None:
    """What a record says of a run: how it ended, in what time, and the score of the first split.

    metric: the sweep's; where the run has no such score, it is the metric that ranks its kind of runs.
    """
    job.state, job.reason = found.status, found.reason
    job.seconds = sum(phase.seconds for phase in found.phases)
    split = next(iter(found.scores.get("after", {})), None)
    names = accessors.scalars(found, "after", split)
    shown = metric if metric in names else accessors.ranking_metric(names)
    if shown is not None:
        job.value, job.scored = score_of(found, shown, split), f"{shown}, {split}"


def score_of(found: Record, metric: str, split: str | None = None) -> float | None:
    """A metric's value after the run, on the first split that was scored."""
    splits = found.scores.get("after", {})
    scores = splits.get(split, {}) if split else next(iter(splits.values()), {})
    value = scores[metric].value if metric in scores else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def settle(job: Job, returncode: int, seconds: float, metric: str | None, *, stopped: bool = False) -> None:
    """How a run that has ended did end; one that could not say so itself is filed here.

    A finished record that lay there before, and one that another process is writing, say nothing of this launch, and
    stay. stopped: the sweep has told it to end.
    """
    job.seconds = seconds
    if _stays_taken(job.folder):
        leave_elsewhere(job)
        return
    found = read(job)
    if found is None or found.finished_at is None:
        is_told = stopped and returncode < 0
        found = _file_death(job, found, _why(job, returncode), status="interrupted" if is_told else "crashed")
    elif job.before is not None and written_at(job) == job.before:
        job.state, job.reason = "crashed", f"the launch left no record: {_why(job, returncode)}"
        return
    take_result(job, found, metric)
    job.seconds = seconds


def _stays_taken(folder: Path) -> bool:
    """Whether another process has the folder; one that was killed just now takes a moment to let go of it."""
    end = time.monotonic() + RELEASE_S
    while run_folder.is_taken(folder):
        if time.monotonic() > end:
            return True
        time.sleep(0.02)
    return False


def leave_elsewhere(job: Job) -> None:
    """Another process is at this run; its record and its log are left alone."""
    job.state, job.elsewhere = "crashed", True
    job.reason = f"{job.folder} is being written by another run, which goes on"


def written_at(job: Job) -> int | None:
    """When the record in the run's folder was written, in ns; None where there is none."""
    try:
        return (job.folder / store.FILE).stat().st_mtime_ns
    except OSError:
        return None


def _why(job: Job, returncode: int) -> str:
    """Why there is no whole record of this run, in words."""
    said = last_line(job.log)
    try:
        left = store.read(job.folder)
    except BenchError as error:
        if (job.folder / store.FILE).exists():
            return str(error)
    else:
        if left.recipe.hash != job.planned.resolved.hash or left.seed != job.planned.seed:
            return f"{job.folder} holds the record of another run"
    last = f"; last it said: {said}" if said else ""
    if returncode < 0:
        return f"its launcher was ended by signal {-returncode}{last}"
    if written_at(job) != job.before and not said.startswith("error"):
        # It had begun, and could not write down how it ended.
        return f"its processes were ended from outside, as by SIGKILL or for want of memory (code {returncode}){last}"
    return said or f"it ended with code {returncode} and said nothing"


def _file_death(job: Job, found: Record | None, why: str, status: Literal["crashed", "interrupted"]) -> Record:
    """A record of a run whose processes left none, or one without an end. One of another run is not touched."""
    free = found is not None or not (job.folder / store.FILE).exists()
    if found is None:
        found = first_record(job.planned.resolved)
        found.failed_in = "set-up"
    found.status, found.reason = status, f"there is no record of the run's end: {why}"
    found.finished_at = utc_now()
    if free:
        job.folder.mkdir(parents=True, exist_ok=True)
        store.write(found, job.folder)
    return found


def losses(folder: Path) -> list[float]:
    """Every loss that a run logged; none where nothing is trained by gradient."""
    path = folder / "train_log.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if row.get("loss") is not None]


def last_line(log: Path) -> str:
    """The last line that says something in a run's output; empty for none."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    # The first line of a log is the command, which the run did not say.
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("$ ")), "")


def higher_is_better(metric: str) -> bool:
    """Whether more is better, as the metric's own file says. Raises RecipeError for one that none of them defines."""
    known = registry.directions()
    if metric not in known:
        raise RecipeError(
            f"metric {metric!r}: it is not known whether more of it is better; take one of the harness's own"
        )
    return known[metric]


def submit(jobs: list[Job], machine_config: Path, out: Path, at_once: int | None) -> str:
    """Gives jobs to Slurm as one array; returns what sbatch said. Raises SetupError where there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise SetupError("--slurm: there is no sbatch on this machine")
    import shlex

    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    lines = [shlex.join(arguments(job, absolute=True)) for job in jobs]
    _tell_of_repetition(lines, out)
    listing = out / f"array-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    files.write_text(listing, "".join(f"{line}\n" for line in lines))
    limit = "" if at_once is None else f"%{at_once}"
    command = ["sbatch", f"--array=1-{len(jobs)}{limit}", str(SLURM), str(listing)]
    shipped = machine_config.parent == CONFIGS
    environment = {**os.environ, "CONFIG": machine_config.stem if shipped else str(machine_config)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        with contextlib.suppress(OSError):
            listing.unlink()
        raise SetupError(f"sbatch refused: {(done.stderr or done.stdout).strip()}")
    return f"{done.stdout.strip()}: {len(jobs)} runs, listed in {listing}"


def _tell_of_repetition(lines: list[str], out: Path) -> None:
    earlier = {line for path in out.glob("array-*.txt") for line in path.read_text(encoding="utf-8").splitlines()}
    again = sum(line in earlier for line in lines)
    if again:
        console.complain(
            f"{again} of these runs were submitted before, see {out}/array-*.txt: where they still wait or run, cancel "
            "one of the two arrays"
        )
