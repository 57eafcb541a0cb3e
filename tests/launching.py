"""Real launches for tests: `accelerate launch` in a process of its own, one CPU thread each."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "bench" / "run.py"
# One core each, so that two launches side by side do not slow one another; nothing may reach for a network.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
    # Large tensors are given back to the system and asked for again in every step: half the time of a tiny run.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


def command(*arguments: Any, config: str = "cpu", script: Path = RUN, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of a launch with one of the shipped accelerate configs. options: the launcher's own."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    configured = ["--config_file", str(ROOT / "accelerate_configs" / f"{config}.yaml"), *options]
    return [*launcher, *configured, str(script), *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's environment without what a launcher above it may have set."""
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, **QUIET}


def launch(
    *arguments: Any,
    config: str = "cpu",
    timeout_s: float = 300,
    script: Path = RUN,
    options: tuple[str, ...] = (),
) -> Any:
    """Runs to the end; returns a CompletedProcess with text output."""
    return subprocess.run(
        command(*arguments, config=config, script=script, options=options),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def launch_all(jobs: dict[str, list[Any]], timeout_s: float = 1200) -> dict[str, Any]:
    """Several launches, two at a time. The limit is for what hangs, not for what is slow."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {name: pool.submit(launch, *arguments, timeout_s=timeout_s) for name, arguments in jobs.items()}
        return {name: future.result() for name, future in futures.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    """Logged training losses of a run."""
    return [row["loss"] for row in read_lines(folder / "train_log.jsonl") if "loss" in row]
