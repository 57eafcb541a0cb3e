"""A run as it is sent to a node, and what is done with it there: the same command as on the sweep's own machine.

    agent = NodeAgent(remote_run(job, machine, ...))   # on the node
    agent.place()                                      # is this the same software? is the folder shared?
    agent.launch(rank, main_host, main_port)
    agent.wait(1.0)                                    # how it ended, and what it said meanwhile

Where the sweep's folder is not shared with the node, the run writes to a folder there, from which the sweep fetches it.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import console
from bench.errors import SetupError
from bench.sweeps import gathering, node_check, processes, supervisor
from bench.sweeps.jobs import PROGRAM, Job, Machine, arguments, published_precision, refuse_secrets
from bench.sweeps.resources import Resources
from bench.utils import files, secret_formats, shipped

# Variables of the sweep that a run elsewhere gets too, but for secrets.
PREFIXES = ("BENCH_", "HF_", "TRANSFORMERS_", "NCCL_", "GLOO_", "CUBLAS_", "PYTORCH_", "TOKENIZERS_", "OMP_", "MKL_")
SHIPPED = ("recipes", "accelerate_configs")
# With it processes of several nodes sign what they say.
SECRET = "BENCH_LAUNCH_SECRET"
# A node that does not come up must not keep the others for a quarter of an hour.
RENDEZVOUS_S = 300


@dataclass(frozen=True, kw_only=True)
class SentFile:
    """A file that a run reads. path: as the sweep has it. shipped: where it comes with the package; "" elsewhere."""

    path: str
    sha256: str
    shipped: str = ""

    @classmethod
    def of(cls, path: Path) -> "SentFile":
        """Return a file of this machine."""
        whole, place = path.resolve(), ""
        for name in SHIPPED:
            if whole.is_relative_to(shipped.folder(name).resolve()):
                place = f"{name}/{whole.relative_to(shipped.folder(name).resolve())}"
        return cls(path=str(path), sha256=_sha256(path), shipped=place)

    def find(self, folder: Path) -> str:
        """Return where it lies on this node, the same to the byte. Raises SetupError where it does not."""
        name, _, inside = self.shipped.partition("/")
        places = [self.path, *([str(shipped.folder(name) / inside)] if name else [])]
        for place in places:
            with contextlib.suppress(OSError):
                if _sha256(folder / place) == self.sha256:
                    return place
        raise SetupError(f"{places[0]} is not there, or is another file; put it where all nodes see it under one path")


def _sha256(path: Path) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RemoteRun:
    """A run as it is sent. arguments: of bench/run.py, after the recipe, without --out. folder, log: of the sweep.

    token: of a file in the sweep's folder, and its text: who reads it there sees that folder. cores: on each node.
    """

    cwd: str
    recipe: SentFile
    config: SentFile
    arguments: tuple[str, ...]
    folder: str
    log: str
    token: tuple[str, str]
    fingerprint: Mapping[str, str]
    options: tuple[str, ...] = ()
    precision: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    nodes: int = 1
    cores: int = 1


def remote_run(job: Job, machine: Machine, asked: Resources, token: tuple[str, str]) -> RemoteRun:
    """Return a job as it is sent to nodes."""
    recipe, *words = arguments(job)
    refuse_secrets([words])
    at = words.index("--out")
    published = published_precision(job)
    other = published is not None and published != machine.precision and not machine.on_cpu
    secret = {SECRET: secrets.token_hex(32)} if asked.nodes > 1 else {}
    return RemoteRun(
        cwd=os.getcwd(),
        recipe=SentFile.of(Path(recipe)),
        config=SentFile.of(machine.config),
        arguments=(*words[:at], *words[at + 2 :]),
        folder=str(job.folder),
        log=str(job.log),
        token=token,
        fingerprint=node_check.fingerprint(),
        options=machine.options,
        precision=published if other else None,
        environment={**_sent_variables(os.environ), **secret},
        processes=machine.processes,
        nodes=asked.nodes,
        cores=asked.cpus,
    )


def _sent_variables(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(PREFIXES) and not secret_formats.is_secret_name(name) and not secret_formats.is_in(value)
    }


def say_withheld() -> None:
    """Say which variables, though their names are of settings, are not sent, as their values have a secret."""
    for name, value in os.environ.items():
        if name.startswith(PREFIXES) and not secret_formats.is_secret_name(name) and secret_formats.is_in(value):
            console.complain(f"warning: {name} has what looks like a token or a password, and is not sent to nodes")


@contextlib.contextmanager
def token_in(out: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of a file in the sweep's folder, by which a node finds whether it sees that folder."""
    path, text = out.absolute() / f".token-{secrets.token_hex(4)}", secrets.token_hex(16)
    for left in path.parent.glob(".token-????????"):  # of a sweep that was killed
        with contextlib.suppress(OSError, ValueError):  # of somebody else
            if re.fullmatch("[0-9a-f]{32}", files.read_text(left, 4096)):
                left.unlink(missing_ok=True)
    files.write_text(path, text)
    try:
        yield str(path), text
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A run's place on a node. refused: why this node can't run it. port: that is free there, for the rendezvous."""

    host: str
    address: str = ""
    port: int = 0
    is_shared: bool = True
    refused: str = ""


class NodeAgent:
    """Launches one run on one node, and tells how it goes on."""

    def __init__(self, run: RemoteRun) -> None:
        self._run = run
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._scratch, self._offset, self._said, self._group = "", 0, b"", 0
        self._folder, self._log = Path(run.cwd) / run.folder, Path(run.cwd) / run.log

    def place(self, address: str = "") -> Place:
        """Look whether the run can be launched here, and where it writes. address: of this node for others."""
        run, host = self._run, socket.gethostname()
        wrong = node_check.problems(run.fingerprint, node_check.fingerprint())
        if wrong:
            return Place(host=host, refused="; ".join(wrong))
        is_shared = self.sees_the_folder()
        if not is_shared:
            self._scratch = tempfile.mkdtemp(prefix="finetune-bench-")
            self._folder, self._log = Path(self._scratch) / self._folder.name, Path(self._scratch) / "log.txt"
        try:
            for file in (run.recipe, run.config):
                file.find(self._cwd)
        except SetupError as error:
            self.clean()
            return Place(host=host, refused=str(error))
        return Place(host=host, address=address or host, port=processes.free_port(), is_shared=is_shared)

    def sees_the_folder(self) -> bool:
        """Return whether the sweep's folder is here too, and can be written."""
        path, text = self._run.token
        try:
            return files.read_text(Path(path), 4096) == text and os.access(Path(path).parent, os.W_OK)
        except (OSError, ValueError):
            return False

    @property
    def _cwd(self) -> Path:
        own = Path(self._run.cwd)
        return own if own.is_dir() else Path(self._scratch or tempfile.gettempdir())

    def prepared(self, rank: int = 0, main_host: str = "", main_port: int = 0) -> supervisor.Launch:
        """Return the launch of this node's part: the command as on the sweep's own machine, with the rendezvous set."""
        run, spread = self._run, tuple[str, ...]()
        config = Path(run.config.find(self._cwd))
        if run.nodes > 1:
            spread = ("--num_machines", str(run.nodes), "--num_processes", str(run.processes))
            spread += ("--machine_rank", str(rank), "--main_process_ip", main_host)
            spread += ("--rdzv_conf", f"timeout={RENDEZVOUS_S}")
        machine = Machine(config=config, options=(*run.options, *spread), processes=run.processes)
        folder = str(self._folder) if self._scratch else run.folder
        seed, rest = run.arguments[:2], run.arguments[2:]  # in the order of a launch on the sweep's own machine
        words = [run.recipe.find(self._cwd), *seed, "--out", folder, *rest]
        port = main_port if run.processes > 1 else None
        command = machine.launch_command(PROGRAM, words, port, precision=run.precision)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            kept.pop(name, None)
        threads = max(1, run.cores * run.nodes // run.processes)
        own = {"OMP_NUM_THREADS": str(threads), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "240"}
        log = self._log if rank == 0 else self._log.with_name(f"{self._log.stem}-node{rank}{self._log.suffix}")
        return supervisor.Launch(
            command=command,
            log=str(log),
            cwd=str(self._cwd),
            environment={**kept, **own, **run.environment},
            scratch=self._scratch,
        )

    def launch(self, rank: int = 0, main_host: str = "", main_port: int = 0) -> tuple[dict[str, object] | None, bytes]:
        """Start the run under a supervisor, which ends it when this process is gone; return what `wait` does."""
        words = [sys.executable, "-P", supervisor.__file__]
        started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert started.stdin is not None
        self._supervisor = started
        started.stdin.write(f"{self.prepared(rank, main_host, main_port).as_json()}\n".encode())
        started.stdin.flush()
        return self.wait(0)

    def wait(self, seconds: float) -> tuple[dict[str, object] | None, bytes]:
        """Return (how it ended, or None after so many seconds; new output of a run whose log the sweep can't see)."""
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        stream, ended = self._supervisor.stdout, None
        if select.select([stream], [], [], seconds)[0]:
            piece = os.read(stream.fileno(), 4096)
            self._said += piece
            *lines, self._said = self._said.split(b"\n")
            for told in map(json.loads, lines):
                self._group = told.get("started", self._group)
                ended = told if "started" not in told else ended
            if not piece and ended is None:
                ended = self._without_supervisor()
        said = gathering.tail(self._log, self._offset) if self._scratch else b""
        self._offset += len(said)
        return ended, said

    def _without_supervisor(self) -> dict[str, object]:
        """Kill a run whose supervisor was killed."""
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
        return {"lost": f"its supervisor on {socket.gethostname()} was killed"}

    def rest_of_log(self) -> bytes:
        """Return the next piece of output that `wait` has not returned, of a run whose log the sweep can't see."""
        piece = gathering.tail(self._log, self._offset, gathering.PIECE_BYTES) if self._scratch else b""
        self._offset += len(piece)
        return piece

    def order(self, word: str) -> None:
        """Give the run an order: supervisor.STOP or KILL."""
        if self._supervisor is not None and self._supervisor.stdin is not None:
            with contextlib.suppress(OSError):
                self._supervisor.stdin.write(f"{word}\n".encode())
                self._supervisor.stdin.flush()

    def listing(self) -> dict[str, tuple[int, str]]:
        """Return what the run has written; in a folder that both see, what reports read of it."""
        found = gathering.manifest(self._folder)
        return found if self._scratch else gathering.results(found)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return a piece of one of the run's files."""
        with files.open_regular(self._folder / name, follow=False) as stream:
            stream.seek(offset)
            return stream.read(size)

    def clean(self) -> None:
        """Leave nothing on the node: the supervisor removes its folder when nobody speaks to it any more."""
        if self._supervisor is not None:
            for stream in (self._supervisor.stdin, self._supervisor.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._supervisor.wait()
        elif self._scratch:
            with contextlib.suppress(OSError):
                os.rmdir(self._scratch)
