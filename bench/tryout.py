"""Starts a trial of a micro-batch (`bench.trial`) in a process of its own, and tells what its end means.

A fresh process, because memory that ran out leaves an allocator, or a CUDA context, that nobody should go on with, and
because the system may kill it, which must not end the run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import failures, sharding
from bench.material import Material

Run = Any  # bench.run.Run, which lies above

# How often the other processes hear that rank zero is still trying: no collective call of theirs may run out of time.
BEAT_S = 2.0
STEPS = 2
REQUEST, ANSWER, TOKENIZER, ERRORS = "request.json", "answer.json", "tokenizer", "errors.txt"
# Of a launch of several processes; a trial is one alone. The last are those of MPI.
LAUNCHED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PMI_", "OMPI_", "MV2_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_USE_", "ACCELERATE_DEEPSPEED", "FSDP_"),
)
# The large ones, which take memory by being there.
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "pyarrow", "pandas", "sklearn", "scipy")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried: so many rows of a micro-batch, at a precision, of those real examples.

    accumulation: micro-batches of a step; two stand for any number, for the second one finds gradients. room: limit ->
    bytes that it may take.
    """

    rows: int
    accumulation: int
    precision: str
    features: list[dict[str, Any]]
    room: dict[str, int]


def outcome(run: Run, material: Material, trial: Trial, tick: Callable[[], Any]) -> dict[str, Any]:
    """What the trial's process wrote, or what its end means: {"status", "reason"}, and where that is "ok" its "taken"
    and "room", bytes by limit. Killed by the system is "oom". tick: is called every BEAT_S while it runs."""
    device = run.state.device
    with tempfile.TemporaryDirectory(prefix="micro-batch-") as name:
        folder = Path(name)
        material.tokenizer.save_pretrained(folder / TOKENIZER)
        (folder / REQUEST).write_text(json.dumps(_request(run, material, trial)), encoding="utf-8")
        code = _ended(folder, _environment(device, trial.precision), tick)
        if (folder / ANSWER).is_file():
            return json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        told = (folder / ERRORS).read_text(encoding="utf-8", errors="replace")[-4000:]
    if code == -signal.SIGKILL:
        return {"status": "oom", "reason": "its process was killed, as the system does when memory runs out"}
    last = (told.strip().splitlines() or [f"its process ended with {code}, and said nothing"])[-1]
    scarce = failures.is_out_of_memory(RuntimeError(told)) or "MemoryError" in told
    return {"status": "oom" if scarce else "crashed", "reason": last}


def _request(run: Run, material: Material, trial: Trial) -> dict[str, Any]:
    several, divided = run.state.num_processes > 1, sharding.asked()
    return {
        "recipe": _short(run, trial).model_dump(mode="json"),
        "model_name": run.resolved.model_name,
        "labels": list(material.corpus.labels),
        "features": trial.features,
        "device": run.state.device.type,
        "precision": trial.precision,
        "room": trial.room,
        "libraries": sorted(name for name in sys.modules if name.partition(".")[0] in LIBRARIES),
        # DDP sends gradients from copies; DeepSpeed keeps copies of weights, and two buckets of at most 4 bytes.
        "sends": several or divided is not None,
        "constant": sharding.BUFFERS["reduce_bucket_size"] * 8 if divided == "deepspeed" else 0,
    }


def _short(run: Run, trial: Trial) -> Any:
    """The recipe with a few steps of that micro-batch, and nothing around them."""
    recipe = run.resolved.recipe
    training = recipe.training.model_copy(
        update={
            "global_batch": trial.rows * trial.accumulation,
            "per_device_batch": trial.rows,
            "steps": STEPS,
            "epochs": None,
            "minutes": None,
            "evaluate_every": None,
            "best": None,
            "early_stopping": None,
        }
    )
    never = recipe.checkpoints.model_copy(update={"every_steps": None, "every_minutes": None})
    # The run keeps no freed memory either (bench.allocator).
    speed = recipe.speed.model_copy(update={"precision": "launcher", "keep_memory": False})
    changes = {"training": training, "checkpoints": never, "speed": speed, "trackers": (), "save": False}
    return recipe.model_copy(update=changes)


def _environment(device: torch.device, precision: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    return {
        **kept,
        "ACCELERATE_USE_CPU": str(device.type == "cpu").lower(),
        "ACCELERATE_MIXED_PRECISION": precision,
    }


def _ended(folder: Path, environment: dict[str, str], tick: Callable[[], Any]) -> int:
    """Runs a trial to its end; returns the exit code, below 0 for a signal. It does not outlive this process."""
    # The place of this package goes first: from another folder, another checkout might be found as `bench`.
    code = "import sys; sys.path[0] = sys.argv[1]; from bench import trial; sys.exit(trial.main(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(ROOT), str(folder)]
    with (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while True:
                try:
                    return process.wait(timeout=BEAT_S)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
