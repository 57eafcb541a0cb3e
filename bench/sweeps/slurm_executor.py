"""Runs as jobs of Slurm by submitit: `sweep --on slurm`. The sweep stays, shows states, and collects results.

Runs that take the same go to Slurm as one job array. Each job launches its run on its node, several nodes one task on
each, and ends it when the sweep is gone: the sweep writes a beat into its folder, which all nodes must see.

    python -m bench sweep recipes/studies/imdb --on slurm --out runs/imdb
    python -m bench sweep recipes/studies/imdb --on slurm --slurm-cluster local   # the same jobs, on this machine

submitit is imported only here; without it `scripts/slurm/study.sbatch` is the way.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil

from bench import console
from bench.errors import SetupError
from bench.sweeps import forecasts, gathering, processes, supervisor
from bench.sweeps.executors import Ended
from bench.sweeps.jobs import Job, Machine, outside_of_slurm, visible_gpus, written_at
from bench.sweeps.node_agent import SECRET, NodeAgent, RemoteRun, remote_run, say_withheld, token_in
from bench.sweeps.resources import Need, Node, Resources
from bench.utils import files, system

FOLDER = "submitit"
LOG_LEVEL = "SUBMITIT_LOG_LEVEL"
# How often the sweep says that it lives, and after which silence its runs stop.
BEAT_S, LOST_S = 5.0, 60.0
# Slurm is not asked more often than that how its jobs stand; submitit itself asks it once a minute.
LOOK_S = 1.0
HOURS = 8
# MaxArraySize, unless Slurm was set up otherwise.
MOST_OF_AN_ARRAY = 1001
# Before the time is up, or the job is preempted: for a step and a checkpoint.
SIGNAL_S = 300


# ---------------------------------------------------------------- the beat of a sweep


class Beat:
    """A file in the sweep's folder that changes as long as the sweep lives, with orders for its runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / f".sweep-{secrets.token_hex(4)}.json"
        self._orders: dict[str, str] = {}
        self._number, self._is_over = 0, threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        """Begin; jobs of a sweep that was killed end without the file that it has left."""
        for left in self.path.parent.glob(".sweep-????????.json"):
            with contextlib.suppress(OSError, ValueError):  # of somebody else
                if {"beat", "lost_s", "orders"} == set(json.loads(files.read_text(left, 2**24))):
                    left.unlink(missing_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and remove the file: what still runs or comes then stops."""
        self._is_over.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def order(self, name: str, word: str) -> None:
        """Give the run of that name an order: supervisor.STOP or KILL."""
        with self._lock:
            self._orders[name] = word
        self._write()

    def _go_on(self) -> None:
        while not self._is_over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a disk that is full for a moment
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._number += 1
            content = {"beat": self._number, "lost_s": LOST_S, "orders": self._orders}
            files.write_text(self.path, json.dumps(content))


class Listener:
    """Hears the beat on a node: the order for a run, and STOP where the sweep is gone or silent for too long."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._last: object = None
        self._changed_s, self._limit_s = time.monotonic(), LOST_S
        self.own = ""

    def __call__(self) -> str:
        """Return the order, after a moment."""
        time.sleep(processes.POLL_S)
        return self.own or self.heard()

    def heard(self) -> str:
        """Return the order that stands there now."""
        now = time.monotonic()
        try:
            told = json.loads(files.read_text(self._path, 2**24))
        except FileNotFoundError:
            return supervisor.STOP
        except (OSError, ValueError):
            told = {}
        if told.get("beat") is not None and told["beat"] != self._last:
            self._last, self._changed_s, self._limit_s = told["beat"], now, float(told["lost_s"])
        word = told.get("orders", {}).get(self._name, "")
        return word or (supervisor.STOP if now - self._changed_s > self._limit_s else "")


# ---------------------------------------------------------------- on a node


@dataclass
class SlurmRun:
    """The work of a job on its nodes. submitit calls it, and `checkpoint` when it is preempted or its time is up."""

    run: RemoteRun
    name: str
    beat: str

    def __call__(self) -> dict[str, Any]:
        """Run, and return how that ended."""
        self._listener = Listener(Path(self.beat), self.name)
        agent = NodeAgent(self.run)
        if not agent.sees_the_folder():
            return {"refused": f"does not see {Path(self.run.token[0]).parent}, which all nodes of Slurm must share"}
        if self._listener.heard():
            return {"ended": -signal.SIGTERM}
        place = agent.place()
        if place.refused:
            return {"refused": place.refused, "host": place.host}
        launch = agent.prepared(*_rendezvous()) if self.run.nodes > 1 else agent.prepared(0, place.address, place.port)
        ended = supervisor.run(launch, self._listener)
        listing = {} if ended == supervisor.TAKEN else agent.listing()
        return {"ended": ended, "host": place.host, "listing": listing}

    def checkpoint(self) -> Any:
        """Let the run write its checkpoint and end, and return what Slurm is to queue again."""
        import submitit

        self._end_run()
        return submitit.helpers.DelayedSubmission(SlurmRun(self.run, self.name, self.beat))

    def _end_run(self) -> None:
        """End the run's processes, which are those of this one; called in the middle of `__call__`."""
        limit = time.monotonic() + processes.STOP_S
        below = psutil.Process().children(recursive=True)
        launchers = list(psutil.Process().children())
        for child in [child for one in launchers for child in one.children()]:
            with contextlib.suppress(psutil.Error):
                child.terminate()
        psutil.wait_procs(below, timeout=max(0.0, limit - time.monotonic()))


def _rendezvous() -> tuple[int, str, int]:
    """Return (this node's rank, the first node's name, a port that follows from the job's number)."""
    import submitit

    environment = submitit.JobEnvironment()
    number = int(re.sub(r"\D", "", environment.job_id) or 0)
    return environment.node, environment.hostnames[0], 20000 + number % 20000


# ---------------------------------------------------------------- the sweep's side


class SlurmExecutor:
    """Gives the jobs of a sweep to Slurm, or with cluster "local" to submitit's processes on this machine.

    jobs: how many at once; None for as many as Slurm likes, and one on this machine.
    """

    def __init__(self, machine: Machine, out: Path, jobs: int | None, cluster: str = "slurm") -> None:
        self._machine, self._out, self._cluster = machine, out, cluster
        self._most = jobs if jobs is not None or cluster == "slurm" else 1
        self._asked: dict[Path, Resources] = {}
        self._new: list[SlurmExecution] = []
        self._array_size, self._is_counted = MOST_OF_AN_ARRAY, cluster == "local"
        self._opened = contextlib.ExitStack()
        self._token, self._beat = ("", ""), Beat(out)
        self._submitit = _submitit()
        if cluster == "slurm" and (shutil.which("sbatch") is None or shutil.which("srun") is None):
            raise SetupError(
                "--on slurm: this machine has no Slurm (sbatch and srun were not found); to try the jobs here, give "
                "--slurm-cluster local"
            )
        _refuse_pattern(out)

    def __enter__(self) -> Self:
        """Begin the beat, and write the token by which nodes find whether they see the sweep's folder."""
        self._token = self._opened.enter_context(token_in(self._out))
        self._beat = self._opened.enter_context(Beat(self._out))
        return self

    def __exit__(self, *_: object) -> None:
        """End the beat, with which jobs that are left end."""
        self._opened.close()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Forecast what each run takes. Raises SetupError where no node holds one."""
        nodes = _this_machine() if self._cluster == "local" else _nodes()
        self._asked = forecasts.of_jobs(jobs, self._machine, nodes)
        if self._cluster == "local" and any(asked.nodes > 1 for asked in self._asked.values()):
            raise SetupError(f"--slurm-cluster local: {self._machine.config.name} asks for several nodes; this is one")
        if self._cluster == "local" and self._machine.per_run and (self._most or 1) > 1:
            raise SetupError("--slurm-cluster local: --jobs: each job would get the same GPUs; run one at a time")
        if nodes:
            forecasts.refuse_too_large(jobs, self._asked, nodes)
        kinds = {Need.of(asked) for asked in self._asked.values()}
        self._array_size = most_of_an_array() if self._cluster == "slurm" else len(jobs)
        # Slurm knows such a limit for one array alone.
        self._is_counted = self._cluster == "local" or len(kinds) > 1 or len(jobs) > self._array_size
        say_withheld()

    def take(self, waiting: list[Job], running: int) -> Job | None:
        """Take the first job; one array of Slurm itself keeps to so many at once."""
        is_full = self._is_counted and self._most is not None and running >= self._most
        return None if is_full else waiting.pop(0)

    def start(self, job: Job) -> "SlurmExecution":
        """Note a job, which the next `flush` submits."""
        job.before = written_at(job)
        run = remote_run(job, self._machine, self._asked[job.folder], self._token)
        # It is written to a file; the secret goes the way of the environment.
        run = replace(run, environment={name: text for name, text in run.environment.items() if name != SECRET})
        self._new.append(SlurmExecution(job, SlurmRun(run, job.folder.name, str(self._beat.path)), self._beat))
        return self._new[-1]

    def flush(self) -> None:
        """Submit what was started: runs that take the same as one array. Raises SetupError where Slurm refuses."""
        groups: dict[Resources, list[SlurmExecution]] = {}
        for one in self._new:
            groups.setdefault(self._asked[one.job.folder], []).append(one)
        self._new = []
        size = self._array_size
        parts = [
            (asked, all_[first : first + size]) for asked, all_ in groups.items() for first in range(0, len(all_), size)
        ]
        for asked, group in parts:
            try:
                with _for_submission({SECRET: secrets.token_hex(32)} if asked.nodes > 1 else {}):
                    submitted = self._submitter(asked).submit_array([one.run for one in group])
            except Exception as error:  # of submitit's own kinds, and of what sbatch says
                raise SetupError(f"--on slurm: the jobs can't be submitted: {str(error).strip()}") from error
            for one, job in zip(group, submitted, strict=True):
                one.submitted = job
            if not console.is_live():
                numbers = ", ".join(dict.fromkeys(str(job.job_id).partition("_")[0] for job in submitted))
                console.say(f"submitted: {len(group)} runs as job {numbers}, each with {asked.words()}")

    def _submitter(self, asked: Resources) -> Any:
        submitit, folder = self._submitit, self._out.absolute() / FOLDER / "%j"
        if self._cluster == "local":
            executor = submitit.LocalExecutor(folder=folder)
            executor.update_parameters(timeout_min=60 * HOURS, gpus_per_node=asked.gpus, signal_delay_s=SIGNAL_S)
            return executor
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=1000)
        memory = {"mem": f"{-(-asked.host_bytes // 2**20)}M"} if asked.host_bytes else {}
        gpus = {"gpus_per_node": asked.gpus} if asked.gpus else {}
        executor.update_parameters(
            job_name="finetune-bench",
            time=60 * HOURS,
            nodes=asked.nodes,
            ntasks_per_node=1,
            cpus_per_task=asked.cpus,
            signal_delay_s=SIGNAL_S,
            array_parallelism=self._most or 10_000,
            **memory,
            **gpus,
        )
        return executor


def _submitit() -> Any:
    try:
        # As it is imported it would set up logging anew, which closes the handlers, and with them streams, of others.
        with system.variables({LOG_LEVEL: "NOCONFIG"}):
            import submitit
    except ImportError as error:
        raise SetupError(
            "--on slurm: submitit is not installed; pip install 'finetune-bench[slurm]', or submit a job array with "
            "--slurm"
        ) from error
    logging.getLogger("submitit").setLevel(logging.ERROR)
    return submitit


@contextlib.contextmanager
def _for_submission(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started inside find this package, and not end with a Ctrl-C, which is for the sweep.

    variables: that they get, where there are none of that name.
    """
    before = signal.getsignal(signal.SIGINT)
    path = os.pathsep.join(filter(None, [str(files.ROOT), os.environ.get("PYTHONPATH")]))
    given: dict[str, str | None] = dict.fromkeys(os.environ.keys() - outside_of_slurm(os.environ).keys())
    given |= {name: value for name, value in variables.items() if name not in os.environ} | {"PYTHONPATH": path}
    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with system.variables(given):
            yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _refuse_pattern(out: Path) -> None:
    """Raise SetupError for a folder whose name Slurm would read as a pattern, or a script as several lines."""
    odd = [character for character in str(out.absolute()) if character in "%\\" or not character.isprintable()]
    if odd:
        raise SetupError(
            f"--out {str(out)!r:.200}: {odd[0]!r} has a meaning of its own for Slurm in names of files; give another"
        )


def most_of_an_array() -> int:
    """Return how many jobs an array of this Slurm may have, as scontrol tells, or else Slurm's default."""
    try:
        told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return MOST_OF_AN_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", told.stdout, re.MULTILINE)
    return max(1, int(found.group(1))) if found else MOST_OF_AN_ARRAY


def _this_machine() -> list[Node]:
    return [
        Node(
            name="this machine",
            gpus=len(visible_gpus()),
            host_bytes=psutil.virtual_memory().total,
            cpus=os.cpu_count() or 1,
        )
    ]


def _nodes() -> list[Node]:
    """Return the nodes that sinfo tells of; none where it tells nothing, and sbatch itself refuses."""
    try:
        told = subprocess.run(
            ["sinfo", "-N", "-h", "-o", "%N|%c|%m|%G"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_nodes(told.stdout)


def read_nodes(text: str) -> list[Node]:
    """Return the nodes in lines of sinfo's NAME|CORES|MEBIBYTES|GRES; a node of two partitions is one.

    >>> read_nodes("a1|64|515000|gpu:a100:8(S:0-1)")[0].gpus
    8
    """
    nodes: dict[str, Node] = {}
    for line in text.splitlines():
        name, *rest = line.split("|")
        numbers = [re.match(r"\d+", word) for word in rest[:2]]
        if len(rest) < 3 or not all(numbers):
            continue
        cores, size = (int(number.group()) for number in numbers if number)
        gpus = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", rest[2]))
        nodes[name] = Node(name=f"node {name}", gpus=gpus, host_bytes=size * 2**20, cpus=cores)
    return list(nodes.values())


class SlurmExecution:
    """A run that was given to submitit."""

    def __init__(self, job: Job, run: SlurmRun, beat: Beat) -> None:
        self.job, self.run, self._beat = job, run, beat
        self.submitted: Any = None
        self._is_withdrawn = False
        self._looked_s, self._listing = 0.0, dict[str, tuple[int, str]]()

    def poll(self) -> Ended | None:
        """Return how the run ended; None before. Raises SetupError for a node with other software than the sweep's."""
        if self._is_withdrawn and self.job.state != "running":
            return Ended(is_unstarted=True)
        if self.submitted is None:
            return None
        if self.job.state != "running" and files.is_locked(self.job.log):
            self.job.state, self.job.started_s = "running", time.monotonic()
            if not console.is_live():
                console.say(f"started: {self.job.name} (job {self.submitted.job_id}, log: {self.job.log})")
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return None
        self._looked_s = now
        if not self.submitted.done():
            return None
        outcome, told = self._outcome()
        if outcome == "error":
            return Ended(returncode=1, why=f"job {self.submitted.job_id} of Slurm: {told}")
        if "refused" in told:
            raise SetupError(f"node {told.get('host', '')}: {told['refused']}".replace("node :", "a node"))
        if told["ended"] == supervisor.TAKEN:
            return Ended(is_taken=True)
        self._listing = told["listing"]
        return Ended(returncode=int(told["ended"]))

    def _outcome(self) -> tuple[str, Any]:
        """Return ("success", what `SlurmRun` returned), or ("error", why there is nothing)."""
        try:
            return "success", self.submitted.results()[0]
        except Exception as error:  # of submitit's own kinds; of a job that was killed, or an error on its node
            lines = [line for line in str(error).strip().splitlines() if line.strip("- ")]
            return "error", (lines[-1] if lines else type(error).__name__)[:500]

    def stop(self) -> None:
        """Tell the run to write a checkpoint and end; a job that is still queued is taken from the queue."""
        self._order(supervisor.STOP)
        if self.job.state != "running":
            self._is_withdrawn = True
            self._cancel()

    def kill(self) -> None:
        """Kill its processes."""
        self._order(supervisor.KILL)
        self._cancel()

    def _order(self, word: str) -> None:
        with contextlib.suppress(OSError):
            self._beat.order(self.job.folder.name, word)

    def _cancel(self) -> None:
        # submitit's processes on this machine hear the order themselves.
        if self.submitted is not None and type(self.submitted).__name__ != "LocalJob":
            with contextlib.suppress(Exception):  # it has ended already
                self.submitted.cancel(check=False)

    def collect(self) -> None:
        """Wait until the sweep's folder shows what the node wrote. Raises DataError where it does not."""
        gathering.check(self.job.folder, self._listing)
