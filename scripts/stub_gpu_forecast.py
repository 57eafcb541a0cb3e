"""The memory forecast beside the peak that torch's CUDA allocator counts on a stub GPU, for the shipped recipes.

    scripts/stub_gpu_check forecast --stub DIR [--case NAME ...] [--again] [--table]

A stub GPU is torch's CUDA build over a driver that computes nothing: DIR/run starts a command on it. Weights, batches,
autograd, the optimizer and `CUDACachingAllocator` are the real ones, at true size; numbers are not. So this counts what
torch asks for, and measures no GPU. STUB_GPU may name DIR, too.

Each recipe that is trained by gradients and whose model is on its card builds its model on the device, with random
weights, by the run's own functions, and takes two optimizer steps by its own engine, on micro-batches of texts that
are as long as the recipe reads; every second one is a token shorter, since texts of a run are hardly ever all alike,
and padding-free batches are for those. One row a recipe goes into `reports/stub_gpu.json` as soon as it is measured, so
that the same command goes on where it was stopped; `reports/stub_gpu.md` is made of that alone.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(ROOT)

from bench import console  # noqa: E402
from bench.config import registry, resolve  # noqa: E402
from bench.config.resolve import Resolved  # noqa: E402
from bench.errors import BenchError, SetupError  # noqa: E402
from bench.utils import files, git  # noqa: E402
from bench.utils.hardware import GIB  # noqa: E402

ROWS, REPORT = ROOT / "reports" / "stub_gpu.json", ROOT / "reports" / "stub_gpu.md"
VARIABLE = "STUB_GPU"
# Two of each: the optimizer has no state before its first step, and where gradients of several micro-batches are added
# up, there are none before the second one. More change no peak.
STEPS = ACCUMULATION = 2
# Recipes that one process measures, so that what it keeps by mistake does not grow, and a crash takes few along.
AT_ONCE = 12
# What a process may hold between two recipes, in bytes: cuBLAS's workspaces, and no part of a model.
LEFT = 2**25
# Of a token of a made-up text: beyond special ones, and below any vocabulary's size.
FIRST_ID, LAST_ID = 5, 500
# The device: larger than any recipe needs, so that nothing is freed and asked for again. Its size changes no peak.
DEVICE = {"STUB_GPU_GIB": "160", "STUB_GPU_CC": "8.0", "STUB_GPU_SMS": "108", "STUB_GPU_NAME": "Ampere"}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # as a run sets it
    "TORCH_DISABLE_NATIVE_JIT": "1",  # a few of torch's own operations are compiled by Triton, which needs a GPU
}
# A forecast that is off by more is marked in the table.
ALLOWED = 0.03


def names() -> list[str]:
    """Return the shipped recipes that a forecast is for: trained by gradients, of a model of its true size."""
    found = []
    for path in sorted(resolve.SHIPPED.glob("*/*.yaml")):
        if path.parent.name in ("datasets", "models", "studies"):
            continue
        given = resolve.load(path)
        plan = registry.load("methods", given.recipe.method.name).load_plan(given.options)
        if plan.trains == "gradient" and not given.model_name.startswith("tiny_"):
            found.append(f"{path.parent.name}/{path.stem}")
    return found


def load(name: str) -> Resolved:
    """Return a recipe with random weights, and a tokenizer's work left out."""
    return resolve.load(resolve.SHIPPED / f"{name}.yaml", ("model.weights=random",))


# ---------------------------------------------------------------- on the stub


def measure(name: str, precision: str) -> dict[str, Any]:
    """Train a recipe for a few steps on the device; return the peaks of its phases in bytes, and the batch's sizes."""
    import torch
    from accelerate import PartialState

    from bench.memory.planner import assumed
    from bench.models.library_internals import accelerate_internals
    from bench.records import clock
    from bench.training import fit as training
    from bench.training.schedule import Budget
    from bench.training.state import Progress

    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    accelerate_internals.reset_state(processes=True)
    given, phases = load(name), clock.Clock()
    recipe, device = given.recipe, torch.device("cuda", 0)
    assert PartialState().device.type == "cuda"
    base = torch.cuda.memory_allocated()
    budget = Budget.plan(recipe.training, 10**6, 1)
    lengths = assumed(recipe)
    with tempfile.TemporaryDirectory() as folder, without_numbers():
        with phases.phase("load"), torch.device(device):
            model = _model(given, device)
        with phases.phase("train"), console.Phase("train", total=STEPS) as display:
            packed = _padding_free(given, model)
            inputs = _inputs(given, model, lengths, precision, folder=Path(folder), clock=phases, display=display)
            training.fit(inputs, Progress())
    del model, inputs
    return {
        "rows": budget.per_device_batch,
        "length": lengths.longest,
        "answers": lengths.answers,
        "accumulation": budget.accumulation,
        "padding_free": packed,
        "precision": precision,
        "held_before": base,
        "measured": {
            phase: {"allocated": peak.allocated, "reserved": peak.reserved} for phase, peak in phases.peaks.items()
        },
    }


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Let fast paths be judged by what they declare alone, inside: on a stub their results are no numbers."""
    from bench.models.kernels import padding_probe, patch
    from bench.training import log

    def _installed(model: Any, body: Any, install: Any) -> Any:
        install()
        return padding_probe.Proof()

    # Functions, not mocks: these would keep the tensors that they are called with.
    with (
        mock.patch.object(patch, "probe", lambda module, **_: None),  # noqa: PT008
        mock.patch.object(padding_probe, "compare", _installed),
        mock.patch.object(log, "_is_undefined", lambda value: False),  # noqa: PT008
    ):
        yield


def _model(given: Resolved, device: Any) -> Any:
    """Return the adapted model as a run builds it, its weights on the device from the first."""
    from bench.runner import stages

    labels = given.recipe.dataset.kept_labels or ("0", "1")
    built = stages.adapted_model(
        given.recipe, given.options, tokenizer=_tokenizer(), labels=tuple(labels), device=device
    )
    return built.model


def _tokenizer() -> Any:
    """Return a tokenizer of a few words: what is trained on are made-up tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {word: place for place, word in enumerate(("<pad>", "<s>", "</s>", "<unk>"))}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _padding_free(given: Resolved, model: Any) -> bool:
    from bench.models.kernels import padding_free

    return bool(given.recipe.speed.padding_free) and padding_free.attach(model) is None


def _inputs(given: Resolved, model: Any, lengths: Any, precision: str, **others: Any) -> Any:
    import torch

    from bench.data.examples import Encoded
    from bench.evaluation.metric_set import MetricSet
    from bench.evaluation.reader import Scoring
    from bench.runner import stages
    from bench.training.schedule import Budget
    from bench.training.state import Observer

    class _Apart(Observer):
        """Counts what the steps need apart from what sets them up."""

        def on_start(self, launch: dict[str, Any]) -> None:
            others["clock"].set_apart("train_setup")

    settings: dict[str, Any] = {"steps": STEPS, "epochs": None, "minutes": None, "warmup": 0.0, "evaluate_every": None}
    settings |= {"best": None, "early_stopping": None, "log_every": 10**6}
    budget = Budget.plan(given.recipe.training, 10**6, 1)
    settings["global_batch"] = budget.per_device_batch * min(budget.accumulation, ACCUMULATION)
    recipe = given.recipe.model_copy(update={"training": given.recipe.training.model_copy(update=settings)})
    rows = [_feature(given, model, lengths, number) for number in range(STEPS * recipe.training.global_batch)]
    train = Encoded(name="train", ids=tuple(map(str, range(len(rows)))), features=rows, truncated=0)
    scoring = Scoring(
        tokenizer=_tokenizer(),
        metrics=MetricSet(
            (), multi_label=recipe.dataset.multi_label, num_labels=max(1, len(recipe.dataset.kept_labels or ("0", "1")))
        ),
        threshold=recipe.evaluation.threshold,
        device=torch.device("cuda", 0),
        precision=precision,
        checked=0,
    )
    budget = Budget.plan(recipe.training, len(rows), 1)
    return stages.fit_inputs(recipe, model, train, scoring, budget, observer=_Apart(), **others)


def _feature(given: Resolved, model: Any, lengths: Any, number: int) -> dict[str, Any]:
    """Return a training example of full length, or of one token less."""
    from bench.data.batching import IGNORED
    from bench.models.heads import unwrapped

    size = lengths.longest - number % 2
    ids = [FIRST_ID + (number + place) % (LAST_ID - FIRST_ID) for place in range(size)]
    if unwrapped(model).config.is_encoder_decoder:  # its classification head reads where the text ends
        ids[-1] = unwrapped(model).config.eos_token_id
    row: dict[str, Any] = {"input_ids": ids}
    if given.recipe.objective == "text":
        answers = min(lengths.answers, size)
        if unwrapped(model).config.is_encoder_decoder:
            return row | {"token_labels": ids[:answers]}
        return row | {"token_labels": [IGNORED] * (size - answers) + ids[size - answers :]}
    task = given.recipe.dataset.task
    if task == "question_answering":
        return row | {"labels": [1, 2]}
    if task == "token_classification":
        return row | {"word_labels": [0] * size}
    if given.recipe.dataset.multi_label:
        return row | {"labels": [0.0] * len(given.recipe.dataset.kept_labels)}
    return row | {"labels": 0}


def measure_all(wanted: list[str], precision: str) -> int:
    """Measure recipes one after another in this process, which is on the stub; print a line of JSON for each."""
    import torch

    console.quiet_libraries()
    for name in wanted:
        console.write(f">{name}\n")
        try:
            found = measure(name, precision)
        except (BenchError, RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if os.environ.get("STUB_GPU_TRACE"):
                raise
            found = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"}
        console.write(json.dumps({"recipe": name, **found}) + "\n")
        sys.stdout.flush()
        gc.collect()
        torch.cuda.empty_cache()
        if torch.cuda.memory_allocated() > LEFT:
            break  # the others go into a new process
    return 0


# ---------------------------------------------------------------- off the stub


def on_stub(stub: Path, wanted: list[str], precision: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of recipes as a process on the stub measures them; one that crashes it has "failed"."""
    waiting = list(wanted)
    while waiting:
        batch = waiting[:AT_ONCE]
        command = [str(stub / "run"), sys.executable, __file__, "--measure", precision, *batch]
        environment = {**DEVICE, **os.environ, **ENVIRONMENT}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun = None
            for line in process.stdout:
                if line.startswith(">"):
                    begun = line[1:].strip()
                elif line.startswith("{"):
                    row = json.loads(line)
                    waiting.remove(row["recipe"])
                    begun = None
                    yield row
        if process.returncode == 0:
            continue
        if begun is None:
            raise SetupError(f"the process on the stub GPU ended with {process.returncode} before it measured anything")
        waiting.remove(begun)
        yield {"recipe": begun, "failed": f"the process ended with {process.returncode}"}


def forecast(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan predicts for a measured row, in bytes: in all, by part, and what the allocator counts."""
    from bench.memory.planner import MemoryPlan, Parallelism
    from bench.runner.memory_prediction import UNCOUNTED

    plan = MemoryPlan.of(load(row["recipe"]), Parallelism(), precision=row["precision"])
    found = plan.predict(row["rows"], row["length"])
    counted = sum(size for name, size in found.parts.items() if name not in UNCOUNTED)
    return {"counted": counted, "total": found.total, "moment": found.moment, "parts": found.parts}


def write(rows: dict[str, dict[str, Any]]) -> None:
    """Write the rows, and the report that is made of them."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(ROWS, json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    files.write_text(REPORT, table(rows))


def read() -> dict[str, dict[str, Any]]:
    """Return the rows that there are: recipe -> row."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.is_file() else {}


INTRODUCTION = (
    "# The memory forecast beside torch's own count, on a stub GPU",
    "",
    "Made by `scripts/stub_gpu_check forecast`. Measured is the peak that torch's `CUDACachingAllocator` counts in two",
    "training steps of the recipe's model at true size, with its own engine and optimizer, bf16 autocast, and texts as",
    "long as the recipe reads. **Not a GPU measurement**: the driver underneath is a stub that computes nothing.",
    "Forecast is what `bench plan` predicts of the same, without CUDA's context and the allowance for fragmentation,",
    "which that allocator does not count. Error: forecast over measured, less 1. Reserved: what the allocator holds of",
    "the device at its peak, which fragmentation makes larger. Commit: of the code that was measured.",
    "",
)
# Name of a column -> its side in Markdown.
COLUMNS = {
    "recipe": ":--", "micro-batch": ":--", "padding-free": ":--", "forecast, GiB": "--:", "measured, GiB": "--:",
    "error": "--:", "reserved, GiB": "--:", "fullest moment": ":--", "commit": ":--",
}  # fmt: skip


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the report, of the rows alone."""
    done = [row for _, row in sorted(rows.items()) if "measured" in row and "forecast" in row]
    failed = [row for _, row in sorted(rows.items()) if "failed" in row]
    errors = sorted(abs(_error(row)) for row in done)
    lines = [*INTRODUCTION]
    if errors:
        within = sum(error <= ALLOWED for error in errors)
        median, most = errors[len(errors) // 2], errors[-1]
        lines += [
            f"{within} of {len(errors)} recipes within {ALLOWED:.0%}; median error {median:.2%}, largest {most:.2%}.",
            "",
        ]
    lines += [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join(COLUMNS.values())} |", *(_cells(row) for row in done)]
    if failed:
        lines += ["", "Not measured:", "", *(f"* {row['recipe']}: {row['failed']}" for row in failed)]
    waiting = [name for name in names() if name not in rows]
    if waiting:
        lines += ["", f"Not measured yet, {len(waiting)} recipes: {', '.join(waiting)}."]
    return "\n".join(lines) + "\n"


def _error(row: dict[str, Any]) -> float:
    return float(row["forecast"]["counted"] / row["measured"]["train"]["allocated"] - 1)


def _cells(row: dict[str, Any]) -> str:
    error, peak = _error(row), row["measured"]["train"]
    cells = [
        row["recipe"],
        f"{row['rows']} x {row['length']}",
        "yes" if row["padding_free"] else "no",
        f"{row['forecast']['counted'] / GIB:.3f}",
        f"{peak['allocated'] / GIB:.3f}",
        f"{error:+.2%}" if abs(error) <= ALLOWED else f"**{error:+.2%}**",
        f"{peak['reserved'] / GIB:.3f}",
        row["forecast"]["moment"],
        row["commit"],
    ]
    return f"| {' | '.join(cells)} |"


def check(stub: Path | None, wanted: list[str], again: bool, precision: str) -> int:
    """Measure what is missing, forecast what was measured; return the exit code: 1 where an error is too large."""
    rows, commit = read(), git.git("rev-parse", "--short", "HEAD").strip()
    missing = [name for name in wanted if again or name not in rows]
    if missing:
        if stub is None:
            raise SetupError(f"where is the stub GPU? Give --stub DIR or {VARIABLE}; DIR/run starts a command on it")
        for row in on_stub(stub, missing, precision):
            rows[row["recipe"]] = row | {"commit": commit}
            write(rows)
            console.say(f"{row['recipe']}: {row.get('failed', 'measured')}")
    for name in wanted:
        _add_forecast(rows[name])
        write(rows)
    found = [rows[name] for name in wanted if "forecast" in rows[name]]
    return 1 if len(found) < len(wanted) or any(abs(_error(row)) > ALLOWED for row in found) else 0


def _add_forecast(row: dict[str, Any]) -> None:
    if "measured" in row:
        try:
            row["forecast"] = forecast(row)
        except BenchError as error:
            row["failed"] = f"no forecast: {error}"
    shown = f"{_error(row):+.2%}" if "forecast" in row else row["failed"]
    console.say(f"{row['recipe']}: {shown}")


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = os.environ.get(VARIABLE)
    parser.add_argument("--stub", type=Path, default=place and Path(place), help="folder of the stub GPU's `run`")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this recipe, or these: study/recipe")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured")
    parser.add_argument("--list", action="store_true", help="print the names of the recipes")
    parser.add_argument("--table", action="store_true", help="only forecast anew, and make the report")
    parser.add_argument("--precision", choices=["bf16", "fp16", "no"], default="bf16", help="mixed precision")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    console.quiet_libraries()
    try:
        if options.measure:
            return measure_all(options.measure[1:], options.measure[0])
        if options.table:
            rows = read()
            for row in rows.values():
                if "measured" in row:
                    _add_forecast(row)
            write(rows)
            return 0
        known = names()
        if options.list:
            for name in known:
                console.say(name)
            return 0
        unknown = [name for name in options.case or () if name not in known]
        if unknown:
            raise SetupError(f"there is no recipe {unknown[0]!r} with a forecast; --list names them")
        return check(options.stub, options.case or known, options.again, options.precision)
    except BenchError as error:
        console.complain(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
