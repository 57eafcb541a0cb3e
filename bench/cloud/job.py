"""Plans a run on rented machines: those that its forecast needs, and the arguments with which it is started there."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from bench import __version__
from bench.cloud import carried, devices, names
from bench.cloud.carried import Carried
from bench.config import foreign_code, resolve, without_model
from bench.config.overrides import as_yaml
from bench.config.resolve import Resolved
from bench.errors import SetupError
from bench.memory import report
from bench.memory.planner import Parallelism
from bench.memory.report import Answer, PlanRequest
from bench.memory.verdict import Card, asked_card, precision_of
from bench.sweeps.resources import Resources
from bench.utils import shipped
from bench.utils.hardware import GIB

# Texts with their tokens, predictions and the system's own part, which no forecast has: an assumption.
SPARE_BYTES = 4 * GIB
# Of a run without a model, whose memory is not forecast.
CPU_BYTES = 16 * GIB
# A process trains, and threads beside it tokenize and read.
CPUS_PER_PROCESS = 4
# Buffers of NCCL, and of workers, in shared memory (NVIDIA's images ask for 1 GiB).
SHARED_BYTES = GIB
# Data of the Hub, records, predictions, logs, and a margin over what is forecast.
DISK_SPARE_BYTES, DISK_FACTOR = 10 * GIB, 1.2
# Their names are in one variable, which may have 128 KiB (MAX_ARG_STRLEN of Linux).
MOST_NODES = 1000
WORK = "/work"
IMAGE = f"finetune-bench:{__version__}"
# https://pkg.go.dev/github.com/distribution/reference#pkg-overview
_IMAGE = re.compile(
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)
CHECKPOINTS = "checkpoints.every_minutes=10"
FOLDER_KEY = "dataset.source.folder"


@dataclass(frozen=True, kw_only=True)
class CloudRequest:
    """A run as it is asked for. gpu: a size or a name. image: None for a checkout that is sent along, or a default."""

    path: Path
    overrides: tuple[str, ...] = ()
    gpu: str | None = None
    gpus_per_node: int = 1
    nodes: int = 1
    zero: int = 0
    fsdp: bool = False
    offload: str = "none"
    spot: bool = False
    seed: int | None = None
    name: str | None = None
    image: str | None = None

    @property
    def parallelism(self) -> Parallelism:
        """Return how the processes of all nodes share the model."""
        world = self.nodes * self.gpus_per_node
        return Parallelism(world=world, zero=self.zero, offload=self.offload, fsdp=self.fsdp)


@dataclass(frozen=True, kw_only=True)
class CloudJob:
    """A run with all that the files say of it. resources: of each node. config: of accelerate, by name.

    said: lines for people on what was planned. labels: of Kubernetes nodes. accelerators: of SkyPilot.
    """

    name: str
    request: CloudRequest
    resources: Resources
    disk_bytes: int
    config: str
    seed: int
    carried: Carried
    overrides: tuple[str, ...]
    labels: list[dict[str, object]] = field(default_factory=list)
    accelerators: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        """Return the image that has the project."""
        return self.request.image or IMAGE

    @property
    def is_shared(self) -> bool:
        """Return whether several processes must know one secret."""
        return self.resources.nodes * self.processes > 1

    @property
    def processes(self) -> int:
        """Return the number of processes on each node."""
        return max(1, self.resources.gpus)

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of shared memory on each node."""
        return self.processes * SHARED_BYTES

    def arguments(self, data: str | None) -> list[str]:
        """Return the arguments of bench/run.py. data: where the folder of the data lies on the machine."""
        moved = () if data is None else (f"{FOLDER_KEY}={as_yaml(data)}",)
        kept = [one for one in self.overrides if data is None or one.partition("=")[0] != FOLDER_KEY]
        trust = [foreign_code.FLAG] if foreign_code.is_confirmed() else []
        out = f"{WORK}/runs/{self.name}"
        return [self.carried.recipe, "--seed", str(self.seed), "--out", out, *trust, *kept, *moved]


def planned(request: CloudRequest) -> tuple[Answer, CloudJob | None]:
    """Return the plan of a run, and the job where it fits. Raises BenchError for what can't be planned or sent."""
    card = asked_card(request.gpu)
    devices.refuse_other_makers(card)
    resolved = resolve.load(request.path, request.overrides, request.seed)
    uses_model = without_model.uses_model(resolved.recipe.method.name)
    _check(request, uses_model)
    config = _config(request, precision_of(None, card)) if uses_model else "cpu"
    answer = report.answer(
        PlanRequest(
            path=request.path,
            overrides=request.overrides,
            gpu=request.gpu,
            parallelism=request.parallelism,
            gpus_per_host=request.gpus_per_node,
        )
    )
    if answer.refused:
        raise SetupError("\n".join(answer.refused))
    if not answer.fits:
        return answer, None
    return answer, _job(request, resolved, answer, card, config)


def _check(request: CloudRequest, uses_model: bool) -> None:
    if request.image is not None and not _IMAGE.fullmatch(request.image):
        raise SetupError(
            f"--image {request.image!r:.100} is not the name of a container image, as registry.example.com/me/bench:1"
        )
    if request.nodes > MOST_NODES:
        raise SetupError(f"--nodes {request.nodes}: at most {MOST_NODES}")
    if request.name is not None:
        names.check(request.name)
    if uses_model and request.gpu is None:
        raise SetupError("--gpu is not given: write the memory of the GPU that you want, or its name: 24GiB, A10G")
    if not uses_model and (request.nodes > 1 or request.gpus_per_node > 1):
        raise SetupError("the method uses no model and no GPU, and runs on one node; omit --nodes and --gpus-per-node")


def _job(request: CloudRequest, resolved: Resolved, answer: Answer, card: Card, config: str) -> CloudJob:
    recipe, needs, uses_model = resolved.recipe, answer.needs, config != "cpu"
    brought = carried.of(resolved)
    overrides = (*request.overrides, *resolved.pins)
    given = {"--image": request.image or "", "--name": request.name or "", "an override": " ".join(overrides)}
    for what, text in given.items():
        carried.refuse_secrets(text, what)
    said = list(resolved.made_notes)
    if resolved.by_gradients and recipe.checkpoints.every_minutes is None and recipe.checkpoints.every_steps is None:
        key = CHECKPOINTS.partition("=")[0]
        overrides = (*(one for one in overrides if one.partition("=")[0] != key), CHECKPOINTS)
        said.append(f"{CHECKPOINTS}: the recipe writes no checkpoints, and a lost machine would lose the run")
    if recipe.model.package is not None and uses_model:
        said.append(f"the image must have the Python package {recipe.model.package}, which carries the model")
    gpus = request.gpus_per_node if uses_model else 0
    bf16 = not config.endswith("_fp16")
    host = needs.host_bytes + SPARE_BYTES + max(1, gpus) * SHARED_BYTES if uses_model else CPU_BYTES
    seed = recipe.seed
    return CloudJob(
        name=request.name or names.of_run(resolved.name, seed, resolved.hash),
        request=request,
        resources=Resources(
            nodes=request.nodes,
            gpus=gpus,
            gpu_bytes=needs.gpu_bytes,
            host_bytes=math.ceil(host / GIB) * GIB,
            cpus=CPUS_PER_PROCESS * max(1, gpus),
        ),
        disk_bytes=math.ceil((needs.disk_bytes * DISK_FACTOR + brought.data_bytes + DISK_SPARE_BYTES) / GIB) * GIB,
        config=config,
        seed=seed,
        carried=brought,
        overrides=overrides,
        labels=devices.node_labels(card, needs.gpu_bytes, bf16=bf16) if uses_model else [],
        accelerators=devices.accelerators(card, needs.gpu_bytes, bf16=bf16) if uses_model else [],
        said=said,
    )


def _config(request: CloudRequest, precision: str) -> str:
    """Return the accelerate config of a parallelism. Raises SetupError where none is shipped for it."""
    parallelism = request.parallelism
    if parallelism.world == 1 and not parallelism.zero and not parallelism.fsdp:
        name = "gpu1"
    elif parallelism.zero:
        name = f"zero{parallelism.zero}"
    else:
        name = "fsdp2" if parallelism.fsdp else "ddp"
    if request.offload == "cpu":
        name += "_offload_cpu"
    name += "_fp16" if precision == "fp16" else ""
    folder = shipped.folder("accelerate_configs")
    if not (folder / f"{name}.yaml").is_file():
        known = ", ".join(sorted(one.stem for one in folder.glob("*.yaml")))
        raise SetupError(f"there is no accelerate config {name!r}; share the model in another way. Known: {known}")
    return name
