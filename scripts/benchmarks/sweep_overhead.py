"""Measure the cost of an executor of sweeps beside its runs, and check that a study survives the loss of a node.

    python scripts/benchmarks/sweep_overhead.py                  # seconds of each run and of each sweep, by executor
    python scripts/benchmarks/sweep_overhead.py --lose-a-node    # twelve runs on two Ray nodes, of which one is lost

Slurm's jobs are those of submitit on this machine, without a queue; Ray's nodes are two raylets on it. The second form
compares losses, scores and predictions with a sweep on this machine alone; it ends with 1 where anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.records import store  # noqa: E402
from scripts.benchmarks.ray_nodes import RayNodes  # noqa: E402

# Runs whose time is that of Python's imports: what is between them is the executor's.
SHORT = ["recipes/tiny/none-tfidf.yaml", "limit={train: 24, test: 16}"]
FEW, MANY = 2, 8
STUDY = ["recipes/tiny/bert-full.yaml", "recipes/tiny/mistral-lora.yaml", "training.epochs=null", "training.steps=60"]
STUDY += ["training.log_every=1", "checkpoints.every_steps=10", "save=false", "limit={train: 48, test: 16}"]
SEEDS = 6
# One core for each run, so that two do not slow one another, and sums are added in one order.
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def sweep(out: Path, *words: str) -> tuple[float, str]:
    """Run a sweep; return its seconds and what it said. Ends this program where a run fails."""
    command = [sys.executable, "-m", "bench", "sweep", *words, "--config", "cpu", "--out", str(out)]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(
            f"error: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return time.perf_counter() - begun, done.stdout


def overhead(folder: Path) -> int:
    """Print the table of both costs, by executor."""
    print("| executor | s of each run | over local, s | s of each sweep |")
    print("| --- | --: | --: | --: |")
    local = 0.0
    with RayNodes(nodes=1, folder=folder) as cluster:
        for name, words in executors(cluster.address).items():
            few, many = (
                sweep(folder / f"{name}-{number}", *SHORT, "--num-seeds", str(number), "--jobs", "1", *words)[0]
                for number in (FEW, MANY)
            )
            each = (many - few) / (MANY - FEW)
            local = local or each
            print(f"| {name} | {each:.2f} | {each - local:+.2f} | {few - FEW * each:.1f} |", flush=True)
    return 0


def executors(address: str) -> dict[str, list[str]]:
    """Return the options of each executor."""
    return {
        "local": [],
        "slurm": ["--on", "slurm", "--slurm-cluster", "local"],
        "ray": ["--on", "ray", "--address", address],
    }


def results(out: Path) -> dict[str, dict[str, Any]]:
    """Return what must not depend on the executor, by run."""
    found = {}
    for path in store.find([out]):
        record, folder = store.read(path), path.parent
        lines = (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
        found[folder.name] = {
            "status": record.status,
            "losses": [row["loss"] for row in map(json.loads, lines) if "loss" in row],
            "scores": record.model_dump()["scores"],
            "predictions": {one.name: one.read_bytes() for one in sorted((folder / "predictions").iterdir())},
        }
    return found


def lose_a_node(folder: Path) -> int:
    """Run the study on this machine, on Slurm's jobs and on Ray, where a node is lost; compare the results."""
    words = [*STUDY, "--num-seeds", str(SEEDS)]
    failures = []
    with RayNodes(nodes=2, folder=folder) as cluster:
        options = executors(cluster.address)
        for name in ("local", "slurm"):
            seconds, _ = sweep(folder / name, *words, "--jobs", "2", *options[name])
            print(f"{name}: {len(results(folder / name))} runs in {seconds:.0f} s", flush=True)
        loser = threading.Thread(target=_lose, args=(folder / "ray", cluster), daemon=True)
        loser.start()
        seconds, said = sweep(folder / "ray", *words, *options["ray"])
        loser.join()
        again = [line for line in said.splitlines() if line.startswith("again ")]
        resumed = [record for record in map(store.read, store.find([folder / "ray"])) if record.resumed]
        print(f"ray: {len(results(folder / 'ray'))} runs in {seconds:.0f} s, a node lost in the middle")
        print("\n".join([*again, f"{len(resumed)} went on from a checkpoint"]))
        failures += [] if again else ["no run was lost"]
        failures += [
            f"{name} differs" for name in ("slurm", "ray") if results(folder / name) != results(folder / "local")
        ]
        failures += [] if len(results(folder / "local")) == 2 * SEEDS else ["not all runs have a record"]
        failures += [f"left behind: {process.cmdline()}" for process in cluster.processes_of_runs()]
    print("\n".join(failures) or "losses, scores and predictions are equal; no process is left")
    return 1 if failures else 0


def _lose(out: Path, cluster: RayNodes) -> None:
    """Lose the second node when some runs are over, and one on each node has a checkpoint."""
    while True:
        running = [path.parent for path in out.glob("*/.lock")]
        over = len(list(out.glob("*/report.md")))
        if over >= SEEDS // 2 and sum(any(one.glob("checkpoints/step-*")) for one in running) >= 2:
            cluster.lose_a_node()
            return
        time.sleep(0.05)


def main() -> int:
    """Read the options, and do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lose-a-node", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return lose_a_node(Path(folder)) if options.lose_a_node else overhead(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
