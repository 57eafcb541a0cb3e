"""Real launches for tests: `accelerate launch` in a process of its own, one CPU thread each."""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
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
# Dropout draws depend on how a batch is cut; with it off, every way of cutting must give the same loss.
NO_DROPOUT = {
    "bert": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
    "roberta": ["hidden_dropout_prob", "attention_probs_dropout_prob"],
    "albert": ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"],
    "distilbert": ["dropout", "attention_dropout", "seq_classif_dropout"],
    "gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"],
    "t5": ["dropout_rate", "classifier_dropout"],
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


def bench(*arguments: Any, **options: Any) -> Any:
    """`python -m bench ARGUMENTS` to its end; returns a CompletedProcess with text output. options: of subprocess."""
    words = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, **options)


def launch_all(jobs: dict[str, list[Any]], folder: Path, alone: Collection[str] = ()) -> Any:
    """Runs jobs by name to the end, each in a process of its own; returns a CompletedProcess of each.

    alone: names of those that are launched by themselves, from nothing, as a user does. All others are forked from the
    process of one launch that has imported the libraries. folder: an empty one, for what those print. The limit of five
    minutes for each is for what hangs, not for what is slow.
    """
    together = {name: list(map(str, words)) for name, words in jobs.items() if name not in alone}
    file = folder / "jobs.json"
    file.write_text(json.dumps(together), encoding="utf-8")
    limit_s = 300 * len(jobs)
    with ThreadPoolExecutor(max_workers=1) as pool:
        rest = pool.submit(launch, file, script=ROOT / "tests" / "helpers" / "run_many.py", timeout_s=limit_s)
        done = {name: launch(*jobs[name], timeout_s=limit_s) for name in alone}
        launched = rest.result()
        assert launched.returncode == 0, launched.stderr[-3000:]
    return {name: done[name] if name in done else _printed(folder, name, jobs[name]) for name in jobs}


def _printed(folder: Path, name: str, arguments: list[Any]) -> Any:
    code, out, error = (
        f.read_text(encoding="utf-8") for f in (folder / f"{name}.{end}" for end in ("code", "out", "err"))
    )
    return subprocess.CompletedProcess(arguments, int(code), out, error)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    """Logged training losses of a run."""
    return [row["loss"] for row in read_lines(folder / "train_log.jsonl") if "loss" in row]
