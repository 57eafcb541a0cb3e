"""Memory of each process while a model trains whole, and sharded by ZeRO and FSDP2, over one, two and four processes.

    python scripts/benchmarks/spread_memory.py [--small] [--ways zero2 zero3] [--into DIR]
    python scripts/benchmarks/spread_memory.py --phases [--small] [--into DIR]
    python scripts/benchmarks/spread_memory.py --scoring [--small] [--into DIR]

Real launches of one recipe (a decoder of random weights, all of them trained, AdamW, float32, gradients summed over
micro-batches of one short text) under the accelerate configs that the tests use. Two things are measured, both of the
resident memory, the largest of the processes, less what they hold before the model is built (the libraries):

* held: between two micro-batches, once the optimiser has its states. That is what ZeRO shards (Rajbhandari et al.
  2020, section 5, in float32: 4 + 4 + 8 bytes a parameter for weights, gradients and Adam's moments).
* peak: of all steps. To it belongs what is there for a moment only, and it decides whether a model fits.

Both are without what a process takes whatever the model's size (modules that are imported while it trains, mostly),
measured by the same launch of a model of a few million parameters.

Beside each is what the sources of DeepSpeed (0.19) and torch give for it, by `held_bytes` and `peak_bytes`, and what
`bench plan` forecasts of weights, gradients and optimizer for that number of processes.

With --phases: the peak of each process while a model is loaded and saved sharded, on one, two and four processes, as
`models.shards` and `models.whole_on_disk` do for ZeRO-3 and FSDP2 alike. Measured is anonymous memory, which a process
has to itself; pages of the files that it reads are the system's, which takes them back when it needs room.

With --scoring: the peak of each process while it scores after training, under ZeRO-3 and FSDP2, on two and four
processes, beside what the libraries' sources give (`score_bytes`); and, of ZeRO-3 on two, the whole model on each. What
it takes whatever the model's size is taken off, as above.

With --into each launch's figures are kept in a file of that folder as soon as it is over: stopped and started again,
with bench/ as it was committed then, only the rest is measured.

Prints a table and one line of JSON. The exit code is 1 where the losses of two ways are not the same, where a
measurement is not what the sources give, or where what is held does not fall from stage to stage, and from one process
to two, by as much as it must; with --phases and --scoring, where a peak is more than 1.15 times the process's
part of what is held, and one layer.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from bench.records import store  # noqa: E402
from bench.utils import files, git  # noqa: E402
from bench.utils.hardware import GIB  # noqa: E402

# What scores sharded, and by which accelerate config.
SCORED = {"zero3": "zero3_cpu2", "fsdp2": "fsdp2_cpu2"}
CONFIGS = {way: f"{way}_cpu2" for way in ("ddp", "zero1", "zero2", *SCORED)} | {"offload": "zero3_offload_cpu2"}
RECIPE = ROOT / "recipes" / "tiny" / "mistral-lora.yaml"
SIZES = {"full": (1024, 8, 4096), "small": (256, 4, 1024)}
VOCABULARY = 2048  # of the recipe's model card
TOLERANCE = 1e-4
# Of a formula: activations of a text of 32 tokens, and what allocators and libraries add while they train.
SLACK = 0.12
# Of the part of a process and one layer, while it scores.
SCORE_SLACK = 0.15
WATCHED = "--watched"


def held_bytes(way: str, processes: int, parameters: int, bucket: int) -> float:
    """Bytes of a process between two micro-batches. bucket: elements in which gradients are summed.

    DDP keeps gradients a second time, in the buckets that it sends.
    ZeRO keeps a copy of a process's part of the weights for the optimiser, in float32 too:
    `single_partition_of_fp32_groups` in runtime/zero/stage_1_and_2.py, and in stage3.py `_create_fp32_partitions`,
    which would do without on the same device, but compares a device with a name. ZeRO-1 keeps all gradients until the
    step, ZeRO-3 its bucket. Offloaded gradients are copied for the optimiser into memory that is kept
    (`initialize_optimizer_states`). FSDP2's optimiser has the sharded weights themselves, and no copy.
    """
    shares = {"ddp": (20, 0), "zero1": (8, 12), "zero2": (4, 16), "zero3": (0, 20), "fsdp2": (0, 16)}
    shares["offload"] = (0, 24)
    whole, divided = shares[way]
    return parameters * (whole + divided / processes) + (4 * bucket if way in ("zero3", "offload") else 0)


def planned_bytes(way: str, processes: int, size: str) -> int:
    """Bytes of what is held, by the forecast of `bench plan` for so many processes.

    ZeRO-1 and 2 have their bucket while gradients are sent alone, ZeRO-3 always, and DDP's are those that it keeps.
    """
    from bench.config import resolve
    from bench.memory.planner import MemoryPlan, Parallelism

    ways: dict[str, Any] = {"ddp": {}, "fsdp2": {"fsdp": True}, "offload": {"zero": 3, "offload": "cpu"}}
    parallelism = Parallelism(world=processes, **(ways[way] if way in ways else {"zero": int(way[-1])}))
    # Several micro-batches on any number of processes.
    resolved = resolve.load(RECIPE, ("method=full", *settings(size, global_batch=8 * processes)))
    prediction = MemoryPlan.of(resolved, parallelism, precision="no").predict(1, 32)
    always = ["weights", "optimizer", "gradients", "master weights"]
    always += ["communication"] if parallelism.zero in (0, 3) else []
    # What waits on the host is forecast for all processes of it.
    return sum(prediction.parts.get(name, 0) + prediction.host.get(name, 0) // processes for name in always)


def peak_bytes(way: str, processes: int, parameters: int, buffers: dict[str, int], layer: int = 0) -> float:
    """Bytes of a process at the worst moment of a step. layer: parameters of one.

    ZeRO-1 and 2 copy their part of the gradients for the step (`flatten` in `step`); until then ZeRO-2 has it twice,
    summed and of the last micro-batch (`independent_gradient_partition_epilogue`). After the step, gloo gathers the
    weights into a copy of them all, which NCCL does not (`newLikeFlat` in torch's ProcessGroupGloo.cpp). So at its peak
    ZeRO-2 on two processes needs more than ZeRO-1. ZeRO-3 copies the gradients of a group of parameters at a time;
    before, it keeps weights that it has gathered, and gathers a bucket of them into one buffer, of which gloo makes a
    copy, and `AllGatherCoalescedHandle.wait` in partition_parameters.py another.

    FSDP2's peak is in the backward pass: a layer's gathered weights, the buffer into which the next one's are gathered,
    its gradients, and those of the layer before in the buffer that is sent (`pre_backward` and `post_backward` in
    _fsdp_param_group.py).
    """
    if way == "fsdp2":
        return held_bytes(way, processes, parameters, 0) + 4 * 4 * layer
    if way == "ddp":
        return held_bytes(way, processes, parameters, 0)
    share = parameters / processes
    if way in ("zero3", "offload"):
        live = min(parameters, buffers["stage3_max_live_parameters"]) + 3 * buffers["stage3_prefetch_bucket_size"]
        copied = min(share, buffers["sub_group_size"])
        passing = max(copied, live) if processes > 1 else copied
        passing = live if way == "offload" else passing  # from the host, also of one process
        return held_bytes(way, processes, parameters, buffers["reduce_bucket_size"]) + 4 * passing
    passing = {"zero1": max(8 * share, 4 * parameters), "zero2": 12 * share}[way]
    gathered = 4 * parameters if processes > 1 else 0
    return 4 * parameters + 12 * share + max(passing, gathered)


def settings(size: str, global_batch: int = 8) -> list[str]:
    """Overrides that make a tiny recipe's model large enough for its states to outweigh all else."""
    hidden, layers, inner = SIZES[size]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner}
    return [
        *(f"model.architecture.{name}={value}" for name, value in sizes.items()),
        "model.architecture.initializer_range=0.02", "max_length=32", "training.learning_rate=1e-4",
        "training.epochs=null", "training.steps=3", f"training.global_batch={global_batch}",
        "training.per_device_batch=1",
        "training.log_every=1", "limit={train: 24, test: 4}", "evaluation.before=false", "save=false",
        "speed.keep_memory=false",
    ]  # fmt: skip


def with_expected(row: dict[str, Any], size: str) -> dict[str, Any]:
    """Return the figures of a launch with those that the sources and the plan give beside them."""
    from bench.distributed import sharding

    case, parameters = (row["way"], row["processes"]), row["parameters"]
    bucket = min(parameters, sharding.BUFFERS["reduce_bucket_size"])  # what was never filled takes no memory
    peak = peak_bytes(*case, parameters, sharding.BUFFERS, layer_of(parameters, size))
    return {
        **row,
        "held_by_sources_gib": held_bytes(*case, parameters, bucket) / GIB,
        "held_by_the_plan_gib": planned_bytes(*case, size) / GIB,
        "peak_by_sources_gib": peak / GIB,
    }


def layer_of(parameters: int, size: str) -> int:
    """Return the parameters of one layer of a model with so many in all."""
    hidden, layers, _ = SIZES[size]
    return (parameters - hidden * VOCABULARY) // layers


def watched(folder: Path, arguments: list[str]) -> int:
    """In a process of a launch: one run of bench/run.py, that also writes down what it held; returns the exit code."""
    from bench.runner import lifecycle  # all libraries, before the run's first measurement
    from bench.training.engines import trainer

    held = [0]

    class Watch(trainer.TrainerCallback):
        """Looks between two micro-batches."""

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Not in the first step, before which there are no moments; DDP makes its buckets anew after it."""
            if state.global_step:
                held[0] = max(held[0], resident())

    import transformers.trainer

    transformers.trainer.DEFAULT_CALLBACKS.append(Watch)
    code = lifecycle.main(arguments)
    (folder / f"held-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(held[0]))
    lifecycle.leave()
    return code


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell a process's resident memory")


def kept(into: Path | None, name: str, measure_it: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a launch: those that the folder has of this code, or measured now and kept there."""
    if into is None:
        return measure_it()
    file, code = into / f"{name}.json", git.git("rev-parse", "HEAD:bench").strip()
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if known.get("code") != code:
        known = {"code": code, "row": measure_it()}
        files.write_text(file, json.dumps(known))
        print(f"{name}: measured", file=sys.stderr)
    row: dict[str, Any] = known["row"]
    return row


def measure(way: str, processes: int, size: str, folder: Path) -> dict[str, Any]:
    """One launch."""
    folder.mkdir()
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet",
        "--config_file", str(ROOT / "accelerate_configs" / f"{CONFIGS[way]}.yaml"), "--num_processes", str(processes),
        __file__, WATCHED, str(folder), str(RECIPE), "method=full",
        *settings(size), "--out", str(folder / "run"),
    ]  # fmt: skip
    # Else glibc would keep what was freed, for a time that depends on the order in which tensors come and go.
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    environment = {**os.environ, **given_back}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{way} on {processes} processes failed:\n{done.stderr[-2000:]}")
    found = store.read(folder / "run")
    assert found.model is not None
    assert found.launch is not None
    parameters = found.model.parameters["total"]
    lines = (folder / "run" / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    before = [rank["rss_gib"] for rank in found.memory["tokenise"]["per_rank"]]
    peaks = [rank["rss_gib"] for rank in found.memory["train"]["per_rank"]]
    held = [json.loads((folder / f"held-{rank}.json").read_text()) / GIB for rank in range(processes)]
    return {
        "way": way,
        "processes": found.launch.world_size,
        "zero_stage": found.launch.zero_stage,
        "parameters": parameters,
        "held_gib": max(one - other for one, other in zip(held, before, strict=True)),
        "peak_gib": max(one - other for one, other in zip(peaks, before, strict=True)),
        "losses": [json.loads(line)["loss"] for line in lines],
    }


# ---------------------------------------------------------------- loading and saving

PHASE_WORKER = "--phase-worker"
PROCESSES = (1, 2, 4)
# A peak may be so many times the process's share of the weights, and one layer.
SHARE_SLACK = 1.15


def anonymous() -> int:
    """Return the bytes of this process in memory that are its own, and no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell a process's anonymous memory")


@contextlib.contextmanager
def peak_of(found: dict[str, int], phase: str) -> Iterator[None]:
    """Put the highest anonymous memory inside, less that of before, into `found`; a thread looks all the time."""
    gc.collect()
    before, done = anonymous(), threading.Event()
    found[phase] = 0

    def watch() -> None:
        while not done.wait(0.001):
            found[phase] = max(found[phase], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        found[phase] = max(found[phase], anonymous() - before)
        done.set()
        watcher.join()


def phase_worker(folder: Path) -> int:
    """In a process of a launch: load the model of a folder sharded, save it, and write down both peaks."""
    import torch
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM

    from bench.models import shards, whole_on_disk

    state, found = PartialState(cpu=True, backend="gloo"), {}
    torch.zeros(2**20).sum()  # the first use of an operator takes memory of its own
    out = folder / f"saved-{state.num_processes}"
    with peak_of(found, "load"):
        with shards.loading(torch.device("cpu")):
            model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        shards.hold(model)
    with peak_of(found, "save"), whole_on_disk.mapped(model, out / ".parameters") as size:
        if state.is_main_process:
            model.save_pretrained(out, max_shard_size=size)
    (folder / f"peaks-{state.num_processes}-{state.process_index}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    if state.is_main_process:
        again = AutoModelForCausalLM.from_pretrained(out)
        first = AutoModelForCausalLM.from_pretrained(folder / "model")
        pairs = zip(again.parameters(), first.parameters(), strict=True)
        (folder / f"same-{state.num_processes}.json").write_text(
            json.dumps(all(torch.equal(one, other) for one, other in pairs))
        )
    state.wait_for_everyone()
    torch.distributed.destroy_process_group()
    return 0


def make_model(folder: Path, size: str) -> dict[str, int]:
    """Write a model of random weights; return the bytes of its weights, and of its largest layer."""
    import transformers

    hidden, layers, inner = SIZES[size]
    config = transformers.AutoConfig.for_model(
        "mistral",
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=2048,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model", max_shard_size="100MB")
    layer = sum(parameter.numel() * 4 for parameter in model.model.layers[0].parameters())
    return {"weights": sum(parameter.numel() * 4 for parameter in model.parameters()), "layer": layer}


def measure_phases(processes: int, folder: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """One launch: the peaks of loading and saving, beside the shards, of the process that has the highest."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet",
        "--config_file", str(ROOT / "accelerate_configs" / "ddp_cpu2.yaml"), "--num_processes", str(processes),
        __file__, PHASE_WORKER, str(folder),
    ]  # fmt: skip
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    environment = {**os.environ, **given_back}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{processes} processes failed:\n{done.stderr[-2000:]}")
    ranks = [json.loads((folder / f"peaks-{processes}-{rank}.json").read_text()) for rank in range(processes)]
    share = sizes["weights"] / processes
    return {
        "processes": processes,
        "share_gib": share / GIB,
        "allowed_gib": (SHARE_SLACK * share + sizes["layer"]) / GIB,
        "load_gib": max(rank["load"] for rank in ranks) / GIB,
        "save_gib": (share + max(rank["save"] for rank in ranks)) / GIB,
        "same": json.loads((folder / f"same-{processes}.json").read_text()),
    }


def phases(size: str, into: Path | None) -> int:
    """Measure loading and saving on one, two and four processes; return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = make_model(folder, size)
        counts = PROCESSES if size != "small" else (2,)
        rows = [
            kept(into, f"{size}-phases-{processes}", partial(measure_phases, processes, folder, sizes))
            for processes in counts
        ]
    weights, layer = (sizes[key] / GIB for key in ("weights", "layer"))
    print(f"{weights:.3f} GiB of weights, {layer:.3f} GiB of them in a layer; peak of each process, GiB\n")
    print("| processes | share of the weights | load | save | at most |\n| --: | --: | --: | --: | --: |")
    for row in rows:
        figures = (row[f"{key}_gib"] for key in ("share", "load", "save", "allowed"))
        print(f"| {row['processes']} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    print(json.dumps({"benchmark": "spread_memory", "phases": ["load", "save"], "small": size == "small", **sizes,
                      "device": "cpu", "cases": rows}))  # fmt: skip
    wrong = phase_problems(rows) if size != "small" else [row for row in rows if not row["same"]]
    for text in wrong:
        print(f"problem: {text}", file=sys.stderr)
    return 1 if wrong else 0


def phase_problems(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is not as it must be."""
    found = [f"{row['processes']} processes saved other weights than they loaded" for row in rows if not row["same"]]
    for row in rows:
        for phase in ("load", "save"):
            if row[f"{phase}_gib"] > row["allowed_gib"]:
                found.append(
                    f"{phase} on {row['processes']}: {row[f'{phase}_gib']:.3f} GiB, at most {row['allowed_gib']:.3f}"
                )
    return found


def score_bytes(way: str, processes: int, parameters: int, units: dict[str, int]) -> float:
    """Bytes of a process that scores a model after training, sharded: its part of the states, and what it gathers.

    units: numbers of a matrix, the largest one; of a layer; of what belongs to no layer; of ZeRO-3's bucket for sums of
    gradients, which it keeps. Activations of so short texts do not count.

    ZeRO-3 holds what it holds in training, and gathers a module's own weights when that runs (`fetch_sub_module` in
    partitioned_param_coordinator.py, without an order to gather ahead by); gloo gathers into a copy. FSDP2 has given up
    its gradients (`zero_grad` after the step), so that weights and Adam's moments are left, 4 + 8 bytes. It gathers a
    layer into a buffer, of which it makes the parameters (`foreach_all_gather_copy_out` in _fsdp_collectives.py), and
    keeps the buffer until the next layer's was gathered (`all_gather_state` in _fsdp_param_group.py), beside gloo's
    copy; what belongs to no layer stays gathered for all of a forward.
    """
    if way == "zero3":
        return held_bytes(way, processes, parameters, units["bucket"]) + 2 * 4 * units["matrix"]
    return 12 * parameters / processes + 3 * 4 * units["layer"] + 4 * units["outside"]


def allowed_bytes(way: str, processes: int, parameters: int, units: dict[str, int]) -> float:
    """Bytes that a process may take while it scores: 1.15 times its part of what is held, and one layer.

    A layer in as many copies as the libraries make of what they gather; see `score_bytes`.
    """
    held = held_bytes(way, processes, parameters, units["bucket"]) if way == "zero3" else 12 * parameters / processes
    gathered = 4 * units["layer"] if way == "zero3" else score_bytes(way, processes, parameters, units) - held
    return (1 + SCORE_SLACK) * held + gathered


def measure_scoring(way: str, processes: int, size: str, folder: Path, *, sharded: bool) -> dict[str, Any]:
    """One launch that is scored after training: sharded, or whole on each process."""
    from bench.distributed import sharding

    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file",
        str(ROOT / "accelerate_configs" / f"{SCORED[way]}.yaml"), "--num_processes", str(processes), __file__, WATCHED,
        str(folder), str(ROOT / "recipes" / "tiny" / "mistral-lora.yaml"), "method=full", *settings(size),
        f"evaluation.sharded={str(sharded).lower()}", f"speed.sharded_load={str(sharded).lower()}",
        "--out", str(folder / "run"),
    ]  # fmt: skip
    folder.mkdir()
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **given_back}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"scoring by {way} on {processes} processes failed:\n{done.stderr[-2000:]}")
    found = store.read(folder / "run")
    assert found.model is not None
    parameters = found.model.parameters["total"]
    hidden, _, inner = SIZES[size]
    outside = hidden * VOCABULARY
    units = {
        "matrix": max(hidden * inner, outside),
        "layer": layer_of(parameters, size),
        "outside": outside,
        "bucket": sharding.BUFFERS["reduce_bucket_size"],
    }
    peaks = [
        after["rss_gib"] - before["rss_gib"]
        for after, before in zip(
            found.memory["score_after"]["per_rank"], found.memory["tokenise"]["per_rank"], strict=True
        )
    ]
    by_sources = score_bytes(way, processes, parameters, units) if sharded else 4 * parameters
    allowed = allowed_bytes(way, processes, parameters, units) if sharded else None
    return {
        "way": way,
        "processes": processes,
        "sharded": sharded,
        "why": found.sharded_phases["after"],
        "parameters": parameters,
        "score_gib": max(peaks),
        "score_by_sources_gib": by_sources / GIB,
        "allowed_gib": allowed and allowed / GIB,
    }


def without_any_size(row: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Return a row with what a process takes whatever the model's size, from the row of a small model, and the rest."""
    any_size = max(0.0, small["score_gib"] - small["score_by_sources_gib"])
    return {**row, "any_size_gib": any_size, "of_model_gib": row["score_gib"] - any_size}


def trained_without_any_size(row: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Return a row of training whose figures lack what a process takes whatever the model's size."""
    any_size = max(0.0, small["held_gib"] - small["held_by_sources_gib"])
    rest = {name: row[name] - any_size for name in ("held_gib", "peak_gib")}
    return {**row, **rest, "any_size_gib": any_size}


def scoring_table(rows: list[dict[str, Any]]) -> str:
    """A row per launch."""
    lines = [
        "| scored | by | processes | peak, GiB | of any size, GiB | of this model, GiB | by the sources | at most |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        way = "sharded" if row["sharded"] else "whole"
        most = f"{row['allowed_gib']:.2f}" if row["sharded"] else ""
        names = ("score_gib", "any_size_gib", "of_model_gib", "score_by_sources_gib")
        figures = " | ".join([*(f"{row[name]:.2f}" for name in names), most])
        lines.append(f"| {way} | {row['way']} | {row['processes']} | {figures} |")
    return "\n".join(lines)


def scoring(size: str, into: Path | None) -> int:
    """Measure the phase score, sharded on two processes and four, and whole on two; return the exit code."""
    cases = [(way, count, True) for way in SCORED for count in (2, 4)] + [("zero3", 2, False)]
    if size == "small":
        cases = [("zero3", 2, True)]
    with tempfile.TemporaryDirectory() as folder:

        def measured(way: str, count: int, sharded: bool, size: str) -> dict[str, Any]:
            name = f"{size}-scoring-{way}-{count}-{'sharded' if sharded else 'whole'}"
            once = partial(measure_scoring, way, count, size, Path(folder) / name, sharded=sharded)
            return kept(into, name, once)

        rows = [without_any_size(measured(*case, size), measured(*case, "small")) for case in cases]
    print(f"{rows[0]['parameters']:,} parameters; memory of each process while it scores after training\n")
    print(scoring_table(rows))
    print(json.dumps({"benchmark": "spread_memory", "phase": "score", "device": "cpu", "cases": rows}))
    wrong = scoring_problems(rows) if size == "full" else []
    for text in wrong:
        print(f"problem: {text}", file=sys.stderr)
    return 1 if wrong else 0


def scoring_problems(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is not as it must be."""
    return [
        f"scored by {row['way']} on {row['processes']}: {row['of_model_gib']:.2f} GiB, at most {row['allowed_gib']:.2f}"
        for row in rows
        if row["sharded"] and row["of_model_gib"] > row["allowed_gib"]
    ]


COLUMNS = ("any_size", "held", "held_by_sources", "held_by_the_plan", "peak", "peak_by_sources")


def table(rows: list[dict[str, Any]]) -> str:
    """A row per launch."""
    lines = [
        "| sharded by | processes | of any size, GiB | held, GiB | by the sources | by the plan | peak, GiB "
        "| by the sources |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        names = [f"{name}_gib" for name in COLUMNS]
        lines.append(
            f"| {row['way']} | {row['processes']} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |"
        )
    return "\n".join(lines)


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """What is not as it must be."""
    found = []
    first = rows[0]["losses"]
    for row in rows:
        name = f"{row['way']} on {row['processes']}"
        if any(abs(one - other) > TOLERANCE * abs(one) for one, other in zip(first, row["losses"], strict=True)):
            found.append(f"{name}: losses {row['losses']}, expected {first}")
        for kind in ("held", "peak"):
            expected, measured = row[f"{kind}_by_sources_gib"], row[f"{kind}_gib"]
            if abs(measured - expected) > SLACK * expected:
                found.append(f"{name}: {kind} {measured:.2f} GiB, by the sources {expected:.2f}")
        planned = row["held_by_the_plan_gib"]
        if abs(row["held_gib"] - planned) > SLACK * planned:
            found.append(f"{name}: held {row['held_gib']:.2f} GiB, by the plan {planned:.2f}")
    by_case = {(row["way"], row["processes"]): row for row in rows}
    falls = [((way, 2), (then, 2)) for way, then in (("ddp", "zero1"), ("zero1", "zero2"), ("zero2", "zero3"))]
    sharded = ("zero1", "zero2", "zero3", "fsdp2", "offload")
    falls += [((way, few), (way, many)) for way in sharded for few, many in ((1, 2), (2, 4))]
    for high, low in falls:
        measured, expected = (by_case[high][key] - by_case[low][key] for key in ("held_gib", "held_by_sources_gib"))
        if measured < expected / 2:
            found.append(f"from {high} to {low}, what is held falls by {measured:.2f} GiB, expected {expected:.2f}")
    return found


def main() -> int:
    """Measures all ways; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a model too small for the fall to show: a trial run")
    parser.add_argument("--ways", nargs="+", choices=list(CONFIGS), help="these alone")
    parser.add_argument("--phases", action="store_true", help="loading and saving, in place of training")
    parser.add_argument("--scoring", action="store_true", help="only what scoring takes, sharded and whole")
    parser.add_argument("--into", type=Path, metavar="DIR", help="keep figures there; only what it lacks is measured")
    options = parser.parse_args()
    size, into = "small" if options.small else "full", options.into
    if into is not None:
        into.mkdir(parents=True, exist_ok=True)
    if options.phases:
        return phases(size, into)
    if options.scoring:
        return scoring(size, into)
    launches = [(way, count) for way in CONFIGS for count in PROCESSES if (way, count) != ("ddp", 1)]
    if options.ways:
        launches = [(way, count) for way, count in launches if way in options.ways]
    elif size == "small":
        launches = [("ddp", 2), ("zero3", 2)]
    with tempfile.TemporaryDirectory() as folder:

        def measured(way: str, count: int, size: str) -> dict[str, Any]:
            name = f"{size}-{way}-{count}"
            return with_expected(kept(into, name, partial(measure, way, count, size, Path(folder) / name)), size)

        rows = [
            trained_without_any_size(measured(*case, size), measured(*case, "small")) if size == "full"
            else {**measured(*case, size), "any_size_gib": 0.0}
            for case in launches
        ]  # fmt: skip
    print(f"{rows[0]['parameters']:,} parameters; memory of each process\n")
    print(table(rows))
    found = {"benchmark": "spread_memory", "small": size == "small", "device": "cpu", "cases": rows}
    print(json.dumps(found))
    wrong = [] if size == "small" or options.ways else problems(rows)
    for text in wrong:
        print(f"problem: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [WATCHED]:
        sys.exit(watched(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] == [PHASE_WORKER]:
        sys.exit(phase_worker(Path(sys.argv[2])))
    sys.exit(main())
