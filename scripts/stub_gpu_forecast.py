"""The memory forecast beside the peak that torch's CUDA allocator counts on a stub GPU, for the shipped recipes.

    scripts/stub_gpu_check forecast --stub DIR [--case NAME ...] [--again] [--table]

A stub GPU is torch's CUDA build over a driver that computes nothing: DIR/run starts a command on it. Weights, batches,
autograd, the optimizer and `CUDACachingAllocator` are the real ones, at true size; numbers are not. So this counts what
torch asks for, and measures no GPU. STUB_GPU may name DIR, too.

Each recipe that is trained by gradients builds its model on the device, with random weights, by the run's own
functions, and takes two optimizer steps by its own engine, on micro-batches of texts that are as long as the recipe
reads; every second one is a token shorter, since texts of a run are hardly ever all alike, and padding-free batches are
for those. A few recipes are measured with other settings too, and on texts as they come (`scripts/stub_gpu_jobs.py`).
One row each goes into `reports/stub_gpu.json` as soon as it is measured, so that the same command goes on where it was
stopped; `reports/stub_gpu.md` is made of that alone.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(ROOT)

from bench import console  # noqa: E402
from bench.config.resolve import Resolved  # noqa: E402
from bench.errors import BenchError, SetupError  # noqa: E402
from bench.utils import files, git  # noqa: E402
from bench.utils.hardware import GIB  # noqa: E402
from scripts import stub_gpu_jobs as jobs  # noqa: E402
from scripts.stub_gpu_jobs import Job  # noqa: E402

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
    "TORCH_DISABLE_NATIVE_JIT": "1",  # a few of torch's own operations are compiled by Triton, which needs a GPU
}
# As a run sets it, and torch's default.
SEGMENTS = {"expandable": "expandable_segments:True", "fixed": "expandable_segments:False"}
# A forecast that is off by more is marked in the table.
ALLOWED = 0.03


# ---------------------------------------------------------------- on the stub


def measure(job: Job) -> dict[str, Any]:
    """Train a recipe for a few steps on the device; return the peaks of its phases in bytes, and the batch's sizes."""
    import torch
    from accelerate import PartialState

    from bench.models.library_internals import accelerate_internals
    from bench.records import clock
    from bench.training import fit as training
    from bench.training.schedule import Budget
    from bench.training.state import Progress

    os.environ["ACCELERATE_MIXED_PRECISION"] = job.precision
    accelerate_internals.reset_state(processes=True)
    given, phases = job.load(), clock.Clock()
    device = torch.device("cuda", 0)
    assert PartialState().device.type == "cuda"
    base = torch.cuda.memory_allocated()
    budget = Budget.plan(given.recipe.training, 10**6, 1)
    with tempfile.TemporaryDirectory() as folder, without_numbers():
        with phases.phase("load"), torch.device(device):
            model = _model(given, device)
        with phases.phase("train"), console.Phase("train", total=_steps(job)) as display:
            packed = _padding_free(given, model)
            inputs = _inputs(given, model, job, folder=Path(folder), clock=phases, display=display)
            training.fit(inputs, Progress())
        sizes = _heaviest(given, job, inputs, packed)
    del model, inputs
    return {
        **sizes,
        "accumulation": budget.accumulation,
        "padding_free": packed,
        "precision": job.precision,
        "settings": jobs.settings(given),
        "held_before": base,
        "measured": {
            phase: {"allocated": peak.allocated, "reserved": peak.reserved} for phase, peak in phases.peaks.items()
        },
    }


def _steps(job: Job) -> int:
    return jobs.VARIED_STEPS if job.texts else STEPS


def _heaviest(given: Resolved, job: Job, inputs: Any, packed: bool) -> dict[str, int]:
    """Return the sizes of the micro-batch that a forecast is for: rows, tokens of each, and those in the loss."""
    from bench.memory.planner import assumed
    from bench.runner.memory_prediction import largest_micro_batch
    from bench.training.schedule import sorted_in_steps

    lengths, rows = assumed(given.recipe), inputs.budget.per_device_batch
    if job.texts is None:
        return {"rows": rows, "length": lengths.longest, "answers": lengths.answers}
    order = inputs.budget.order(given.recipe.seed)
    if given.recipe.speed.padding_free and not packed:
        order = sorted_in_steps(order, inputs.train.lengths, inputs.budget.global_batch)
    return dataclasses.asdict(largest_micro_batch(inputs.train.features, order, rows, packed))


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


def _inputs(given: Resolved, model: Any, job: Job, **others: Any) -> Any:
    import torch

    from bench.data.examples import Encoded
    from bench.evaluation.metric_set import MetricSet
    from bench.evaluation.reader import Scoring
    from bench.memory.planner import assumed
    from bench.runner import stages
    from bench.training.schedule import Budget
    from bench.training.state import Observer

    class _Apart(Observer):
        """Counts what the steps need apart from what sets them up."""

        def on_start(self, launch: dict[str, Any]) -> None:
            others["clock"].set_apart("train_setup")

    settings: dict[str, Any] = {
        "steps": _steps(job),
        "epochs": None,
        "minutes": None,
        "warmup": 0.0,
        "evaluate_every": None,
    }
    settings |= {"best": None, "early_stopping": None, "log_every": 10**6}
    budget = Budget.plan(given.recipe.training, 10**6, 1)
    settings["global_batch"] = budget.per_device_batch * min(budget.accumulation, ACCUMULATION)
    recipe = given.recipe.model_copy(update={"training": given.recipe.training.model_copy(update=settings)})
    lengths, count = assumed(recipe), _steps(job) * recipe.training.global_batch
    sizes = [lengths.longest - number % 2 for number in range(count)]
    if job.texts:
        sizes = jobs.lengths_of(job.texts, count, lengths.longest)
    rows = [_feature(given, model, size, lengths.answers, number) for number, size in enumerate(sizes)]
    train = Encoded(name="train", ids=tuple(map(str, range(len(rows)))), features=rows, truncated=0)
    scoring = Scoring(
        tokenizer=_tokenizer(),
        metrics=MetricSet(
            (), multi_label=recipe.dataset.multi_label, num_labels=max(1, len(recipe.dataset.kept_labels or ("0", "1")))
        ),
        threshold=recipe.evaluation.threshold,
        device=torch.device("cuda", 0),
        precision=job.precision,
        checked=0,
    )
    budget = Budget.plan(recipe.training, len(rows), 1)
    return stages.fit_inputs(recipe, model, train, scoring, budget, observer=_Apart(), **others)


def _feature(given: Resolved, model: Any, size: int, most: int, number: int) -> dict[str, Any]:
    """Return a training example of `size` tokens, with at most so many in the loss."""
    from bench.data.batching import IGNORED
    from bench.models.heads import unwrapped

    ids = [FIRST_ID + (number + place) % (LAST_ID - FIRST_ID) for place in range(size)]
    if unwrapped(model).config.is_encoder_decoder:  # its classification head reads where the text ends
        ids[-1] = unwrapped(model).config.eos_token_id
    row: dict[str, Any] = {"input_ids": ids}
    if given.recipe.objective == "text":
        answers = min(most, size)
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


def measure_all(wanted: list[str]) -> int:
    """Measure recipes one after another in this process, which is on the stub; print a line of JSON for each."""
    import torch

    console.quiet_libraries()
    for name in wanted:
        console.write(f">{name}\n")
        try:
            found = measure(Job.of(name))
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


def on_stub(stub: Path, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of jobs as processes on the stub measure them; one that crashes its process has "failed"."""
    for segments, setting in SEGMENTS.items():
        chosen = [name for name in wanted if Job.of(name).segments == segments]
        yield from _in_processes(stub, chosen, {"PYTORCH_CUDA_ALLOC_CONF": setting})


def _in_processes(stub: Path, wanted: list[str], variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    waiting = list(wanted)
    while waiting:
        batch = waiting[:AT_ONCE]
        command = [str(stub / "run"), sys.executable, __file__, "--measure", *batch]
        environment = {**DEVICE, **os.environ, **ENVIRONMENT, **variables}
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
    from bench.memory.planner import MemoryPlan, Parallelism, assumed
    from bench.runner.memory_prediction import UNCOUNTED

    given = Job.of(row["recipe"]).load()
    lengths = dataclasses.replace(assumed(given.recipe), longest=row["length"], answers=row["answers"])
    plan = MemoryPlan.of(given, Parallelism(), precision=row["precision"], lengths=lengths)
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
OTHER_SETTINGS = (
    "",
    "## Other settings",
    "",
    "The same of three recipes with one setting changed: precision (`no` is float32), batches with pads and their mask",
    "in place of padding-free ones, and each optimizer. What a paged optimizer keeps in managed memory is not counted.",
    "",
)
AS_THEY_COME = (
    "",
    "## Reserved against allocated, on texts as they come",
    "",
    f"{jobs.VARIED_STEPS} steps on texts whose lengths lie as those of IMDB's reviews, SST-2's phrases and SQuAD's",
    "questions with their passages, cut where the recipe cuts them, in the run's own order. Reserved over allocated is",
    "what the caching allocator holds of the device beyond what tensors take at their peak: free pieces of blocks, and",
    "blocks of no size that is asked for. With expandable segments, as a run sets it, and without, torch's default.",
    "Micro-batch: the heaviest one. The last two columns are the forecast for it: its error in what is allocated, and",
    "its allowance for fragmentation over what is allocated.",
    "",
)
# Name of a column -> its side in Markdown.
COLUMNS = {
    "recipe": ":--", "micro-batch": ":--", "padding-free": ":--", "forecast, GiB": "--:", "measured, GiB": "--:",
    "error": "--:", "reserved, GiB": "--:", "fullest moment": ":--", "commit": ":--",
}  # fmt: skip
COLUMNS_AS_THEY_COME = {
    "recipe": ":--", "texts": ":--", "segments": ":--", "micro-batch": ":--", "allocated, GiB": "--:",
    "reserved, GiB": "--:", "reserved over allocated": "--:", "error": "--:", "allowance": "--:", "commit": ":--",
}  # fmt: skip


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the report, of the rows alone."""
    done = [row for _, row in sorted(rows.items()) if "measured" in row and "forecast" in row]
    failed = [row for _, row in sorted(rows.items()) if "failed" in row]
    plain = [row for row in done if " " not in row["recipe"]]
    mixed = [row for row in done if Job.of(row["recipe"]).texts]
    other = [row for row in done if row not in plain and row not in mixed]
    lines = [*INTRODUCTION, *_summary(plain), *_table(COLUMNS, map(_cells, plain))]
    if other:
        lines += [*OTHER_SETTINGS, *_summary(other), *_table(COLUMNS, map(_cells, other))]
    if mixed:
        lines += [*AS_THEY_COME, *_table(COLUMNS_AS_THEY_COME, map(_cells_as_they_come, mixed))]
    if failed:
        lines += ["", "Not measured:", "", *(f"* {row['recipe']}: {row['failed']}" for row in failed)]
    waiting = [name for name in all_jobs() if name not in rows]
    if waiting:
        lines += ["", f"Not measured yet, {len(waiting)}: {', '.join(waiting)}."]
    return "\n".join(lines) + "\n"


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    errors = sorted(abs(_error(row)) for row in rows)
    if not errors:
        return []
    within = sum(error <= ALLOWED for error in errors)
    median, most = errors[len(errors) // 2], errors[-1]
    return [
        f"{within} of {len(errors)} recipes within {ALLOWED:.0%}; median error {median:.2%}, largest {most:.2%}.",
        "",
    ]


def _table(columns: dict[str, str], rows: Iterable[list[str]]) -> list[str]:
    lines = [list(columns), list(columns.values()), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _error(row: dict[str, Any]) -> float:
    return float(row["forecast"]["counted"] / row["measured"]["train"]["allocated"] - 1)


def _cells(row: dict[str, Any]) -> list[str]:
    error, peak = _error(row), row["measured"]["train"]
    return [
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


def _cells_as_they_come(row: dict[str, Any]) -> list[str]:
    job, peak = Job.of(row["recipe"]), row["measured"]["train"]
    return [
        " ".join((job.recipe, *job.overrides)),
        str(job.texts),
        job.segments,
        f"{row['rows']} x {row['length']}",
        f"{peak['allocated'] / GIB:.3f}",
        f"{peak['reserved'] / GIB:.3f}",
        f"{peak['reserved'] / peak['allocated'] - 1:+.1%}",
        f"{_error(row):+.2%}",
        f"{row['forecast']['parts']['fragmentation'] / peak['allocated']:+.1%}",
        row["commit"],
    ]


def all_jobs() -> list[str]:
    """Return the names of all jobs, in the report's order."""
    return [*jobs.names(), *jobs.OTHER_SETTINGS, *jobs.LENGTHS_MIXED]


def check(stub: Path | None, wanted: list[str], again: bool) -> int:
    """Measure what is missing or was measured with other settings, forecast all of it.

    Returns the exit code: 1 where an error is too large.
    """
    rows, commit = read(), git.git("rev-parse", "--short", "HEAD").strip()
    missing = [name for name in wanted if again or name not in rows or is_stale(rows[name])]
    if missing:
        if stub is None:
            raise SetupError(f"where is the stub GPU? Give --stub DIR or {VARIABLE}; DIR/run starts a command on it")
        for row in on_stub(stub, missing):
            rows[row["recipe"]] = row | {"commit": commit}
            write(rows)
            console.say(f"{row['recipe']}: {row.get('failed', 'measured')}")
    for name in wanted:
        _add_forecast(rows[name])
        write(rows)
    found = [rows[name] for name in wanted if "forecast" in rows[name]]
    return 1 if len(found) < len(wanted) or any(abs(_error(row)) > ALLOWED for row in found) else 0


def is_stale(row: dict[str, Any]) -> bool:
    """Return whether a row is of other settings than its recipe has now; so is one that was not measured."""
    return row.get("settings") != jobs.settings(Job.of(row["recipe"]).load())


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
    parser.add_argument(
        "--case", action="append", metavar="NAME", help="only this job, or these: study/recipe, and its changes"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what was measured")
    parser.add_argument("--list", action="store_true", help="print the names of the jobs")
    parser.add_argument("--table", action="store_true", help="only forecast anew, and make the report")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    console.quiet_libraries()
    try:
        if options.measure:
            return measure_all(options.measure)
        if options.table:
            rows = read()
            for row in rows.values():
                if "measured" in row:
                    _add_forecast(row)
            write(rows)
            return 0
        known = all_jobs()
        if options.list:
            for name in known:
                console.say(name)
            return 0
        unknown = [name for name in options.case or () if name not in known]
        if unknown:
            raise SetupError(f"there is no job {unknown[0]!r} with a forecast; --list names them")
        return check(options.stub, options.case or known, options.again)
    except BenchError as error:
        console.complain(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
