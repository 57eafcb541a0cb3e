"""Memory of each process while a model trains whole, and divided by ZeRO-1, 2 and 3, over one process and over two.

    python scripts/benchmarks/spread_memory.py [--small] [--ways zero2 zero3]

Real launches of one recipe (a decoder of random weights, all of them trained, AdamW, float32) under the accelerate
configs that the tests use. Measured is the peak of resident memory of the training steps alone, the largest over the
processes, less what a process holds before the model is built: the libraries. Beside it, what the states of weights,
gradients and optimiser come to by the formulas of ZeRO (Rajbhandari et al. 2020, section 5, in float32: 4 + 4 + 8 bytes
a parameter, of which the stages divide 8, 12 and 16 by the processes). Activations, and the buffers in which gradients
are summed, come on top of it.

Prints a table and one line of JSON. The exit code is 1 where the losses of two ways are not the same, or where memory
does not fall from stage to stage and from one process to two as it must.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from bench import record  # noqa: E402
from bench.hardware import GIB  # noqa: E402

# Bytes of a parameter that are not divided, and that are.
BYTES = {"ddp": (16, 0), "zero1": (8, 8), "zero2": (4, 12), "zero3": (0, 16)}
CONFIGS = {"ddp": "ddp_cpu2", "zero1": "zero1_cpu2", "zero2": "zero2_cpu2", "zero3": "zero3_cpu2"}
SIZES = {"full": (1024, 16, 4096), "small": (256, 4, 1024)}
TOLERANCE = 1e-4


def settings(size: str) -> list[str]:
    """Overrides that make a tiny recipe's model large enough for its states to outweigh all else."""
    hidden, layers, inner = SIZES[size]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner}
    return [
        *(f"model.architecture.{name}={value}" for name, value in sizes.items()),
        "training.epochs=null", "training.steps=3", "training.global_batch=4", "training.log_every=1",
        "limit={train: 16, test: 4}", "evaluation.before=false", "save=false", "speed.keep_memory=false",
    ]  # fmt: skip


def measure(way: str, processes: int, size: str, folder: Path) -> dict[str, Any]:
    """One launch."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet",
        "--config_file", str(ROOT / "accelerate_configs" / f"{CONFIGS[way]}.yaml"), "--num_processes", str(processes),
        str(ROOT / "bench" / "run.py"), str(ROOT / "recipes" / "tiny" / "llama-text_qlora.yaml"), "method=full",
        *settings(size), "--out", str(folder), "--overwrite",
    ]  # fmt: skip
    # Else glibc would keep what was freed, for a time that depends on the order in which tensors come and go.
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    environment = {**os.environ, **given_back}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{way} on {processes} processes failed:\n{done.stderr[-2000:]}")
    found = record.read(folder)
    assert found.model is not None
    assert found.launch is not None
    parameters = found.model.parameters["total"]
    whole, divided = BYTES[way]
    lines = (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    per_rank = zip(found.memory["train"]["per_rank"], found.memory["tokenise"]["per_rank"], strict=True)
    return {
        "way": way,
        "processes": found.launch.world_size,
        "zero_stage": found.launch.zero_stage,
        "parameters": parameters,
        "states_gib": parameters * (whole + divided / processes) / GIB,
        "measured_gib": max(trained["rss_gib"] - before["rss_gib"] for trained, before in per_rank),
        "losses": [json.loads(line)["loss"] for line in lines],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row per launch."""
    lines = ["| spread by | processes | states, GiB | measured, GiB |", "| --- | --: | --: | --: |"]
    for row in rows:
        sizes = f"{row['states_gib']:.2f} | {row['measured_gib']:.2f}"
        lines.append(f"| {row['way']} | {row['processes']} | {sizes} |")
    return "\n".join(lines)


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """What is not as it must be."""
    found = []
    first = rows[0]["losses"]
    for row in rows:
        name = f"{row['way']} on {row['processes']}"
        if any(abs(one - other) > TOLERANCE * abs(one) for one, other in zip(first, row["losses"], strict=True)):
            found.append(f"{name}: losses {row['losses']}, expected {first}")
    two = [row["measured_gib"] for row in rows if row["processes"] == 2]
    if sorted(two, reverse=True) != two:
        found.append(f"memory on two processes does not fall from stage to stage: {two}")
    for way in ("zero1", "zero2", "zero3"):
        one, other = (row["measured_gib"] for row in rows if row["way"] == way)
        if other >= one:
            found.append(f"{way}: {other:.2f} GiB on two processes, {one:.2f} on one")
    return found


def main() -> int:
    """Measures all ways; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a model too small for the fall to show: a trial run")
    parser.add_argument("--ways", nargs="+", choices=list(CONFIGS), help="these alone")
    options = parser.parse_args()
    size = "small" if options.small else "full"
    launches = [(way, count) for way in CONFIGS for count in (1, 2)]
    if options.ways:
        launches = [(way, count) for way, count in launches if way in options.ways]
    elif size == "small":
        launches = [("ddp", 2), ("zero3", 2)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(way, count, size, Path(folder) / f"{way}{count}") for way, count in launches]
    print(f"{rows[0]['parameters']:,} parameters; memory of each process\n")
    print(table(rows))
    found = {"benchmark": "spread_memory", "small": size == "small", "device": "cpu", "cases": rows}
    print(json.dumps(found))
    wrong = [] if size == "small" or options.ways else problems(rows)
    for text in wrong:
        print(f"problem: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
