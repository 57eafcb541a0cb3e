"""Forecasts the resources of each run of a sweep on a node: GPUs, bytes of each, bytes of the host.

    asked = of_jobs(jobs, machine, nodes)     # folder -> Resources
    refuse_too_large(jobs, asked, nodes)

Torch is loaded when something is forecast. Runs that differ in their seed alone share a forecast.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import console
from bench.config import without_model, yaml_loader
from bench.config.resolve import Resolved
from bench.errors import BenchError, SetupError
from bench.sweeps import placement
from bench.sweeps.jobs import Job, Machine
from bench.sweeps.resources import Node, Resources
from bench.utils import system

# Cores of a run on GPUs, for each of them, where the nodes have as many.
CORES_PER_GPU = 8
MOST_SHOWN = 5


def of_jobs(jobs: Sequence[Job], machine: Machine, nodes: Sequence[Node]) -> dict[Path, Resources]:
    """Return a job's folder -> what it takes; what can't be forecast is said, and nothing reserved for it.

    nodes: that there are, of whose cores a run on GPUs takes its share.
    """
    shape = _shape(machine, nodes)
    known: dict[str, Resources] = {}
    with _offline():
        for resolved in (job.planned.resolved for job in jobs):
            if resolved.hash not in known:
                known[resolved.hash] = _forecast(resolved, machine, shape)
                if not known[resolved.hash].host_bytes:
                    console.complain(f"warning: {resolved.name}: {known[resolved.hash].source}; no memory is reserved")
    return {job.folder: known[job.planned.resolved.hash] for job in jobs}


def described(jobs: Sequence[Job], asked: Mapping[Path, Resources]) -> list[str]:
    """Return a line for each need, with the number of runs that have it: "7 runs, each with 1 GPU, 8 cores"."""
    words = Counter(asked[job.folder].words() for job in jobs)
    return [f"{count} run{'s, each' if count > 1 else ''} with {need}" for need, count in words.items()]


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let libraries inside ask for nothing on a network, nor talk; the runs, which get variables too, may."""
    console.quiet_libraries()
    with system.variables({"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE") or "1"}):
        yield


def refuse_too_large(jobs: Sequence[Job], asked: Mapping[Path, Resources], nodes: Sequence[Node]) -> None:
    """Raise SetupError where no node holds a run, even an empty one: with all such runs, by what they ask for."""
    said = placement.refusals(nodes, {job.name: asked[job.folder] for job in jobs})
    if said:
        shown = "\n".join(said[:MOST_SHOWN])
        rest = f"\nand {len(said) - MOST_SHOWN} more" if len(said) > MOST_SHOWN else ""
        raise SetupError(
            f"{shown}{rest}\nnothing was started: take a config with more GPUs, nodes or sharding, or smaller runs"
        )


def _shape(machine: Machine, nodes: Sequence[Node]) -> Resources:
    """Return nodes, GPUs and cores of a run, without its memory. Raises SetupError for processes that don't divide."""
    num_nodes = _content(machine).get("num_machines", 1)
    if machine.processes % num_nodes:
        raise SetupError(
            f"{machine.config.name}: {machine.processes} processes are not the same number on each of {num_nodes} "
            "nodes; give --gpus-per-run a multiple of them"
        )
    each = machine.processes // num_nodes
    if machine.on_cpu:
        return Resources(nodes=num_nodes, cpus=each)
    shares = [node.cpus * each // node.gpus for node in nodes if node.gpus >= each and node.cpus]
    cores = min([CORES_PER_GPU * each, *shares]) or 1
    return Resources(nodes=num_nodes, gpus=each, cpus=cores)


def _content(machine: Machine) -> dict[str, Any]:
    content: dict[str, Any] = yaml_loader.read(machine.config).data
    number = content.get("num_machines", 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise SetupError(f"{machine.config}: num_machines: expected a positive integer, got {number!r:.100}")
    return content


def _forecast(resolved: Resolved, machine: Machine, shape: Resources) -> Resources:
    if not without_model.uses_model(resolved.recipe.method.name):
        return replace(shape, source=f"method {resolved.recipe.method.name!r} uses no model, and has no forecast")
    try:
        gpu_bytes, host_bytes = _bytes(resolved, machine, shape)
    except BenchError as error:
        return replace(shape, source=f"its memory can't be forecast: {error}")
    if machine.on_cpu:
        host_bytes, gpu_bytes = host_bytes + gpu_bytes * (machine.processes // shape.nodes), 0
    return replace(shape, gpu_bytes=gpu_bytes, host_bytes=host_bytes, source="by the forecast of `bench plan`")


def _bytes(resolved: Resolved, machine: Machine, shape: Resources) -> tuple[int, int]:
    """Return the bytes of each GPU, or process on a CPU, and those that the host needs beside them on each node."""
    from bench.memory import inference, phases, report, search
    from bench.memory.planner import MemoryPlan

    precision = {"float32": "no"}.get(machine.precision, machine.precision)
    lengths = report.lengths_of(resolved)
    if not resolved.by_gradients:
        found = inference.plan(resolved, precision=precision, lengths=lengths, usable=None)
        return found.total, machine.processes // shape.nodes * phases.LIBRARIES
    plan = MemoryPlan.of(resolved, _parallelism(machine), precision=precision, lengths=lengths, on_cpu=machine.on_cpu)
    rows, _ = search.planned(plan, lengths.longest, None)
    prediction = plan.predict(rows, lengths.longest)
    told = phases.forecast(plan, prediction)
    # A forecast of a host is for as many processes as a whole one has; each of these nodes has its share of them.
    whole = min(machine.processes, phases.GPUS_PER_HOST)
    host = max(phase.host for phase in told) * (machine.processes // shape.nodes) // whole
    return max(phase.gpu for phase in told), host


def _parallelism(machine: Machine) -> Any:
    from bench.memory.planner import Parallelism

    content, kind = _content(machine), str(_content(machine).get("distributed_type"))
    if kind != "DEEPSPEED":
        return Parallelism(world=machine.processes, fsdp=kind == "FSDP")
    deepspeed = content.get("deepspeed_config") or {}
    stage = deepspeed.get("zero_stage", 0) if isinstance(deepspeed, dict) else None
    if stage not in range(4) or "deepspeed_config_file" in deepspeed:
        raise SetupError(f"{machine.config}: deepspeed_config: the stage of ZeRO is read from zero_stage alone, 0 to 3")
    offload = "none" if deepspeed.get("offload_optimizer_device", "none") == "none" else "cpu"
    return Parallelism(world=machine.processes, zero=int(stage or 0), offload=offload)
