"""How much faster classifiers are trained by the harness than by transformers' Trainer at its defaults.

    python scripts/benchmarks/training.py [--small] [--rounds N] [--case NAME]

Both train the same random weights on the same batches, in the same order, for the same steps, in turns and in one
process, so that threads, memory allocation and everything else around them are the same. The Trainer gets
TrainingArguments' defaults and DataCollatorWithPadding; not its defaults are `train_sampling_strategy="sequential"`
over examples in the harness's order, a loss logged at every step (as on our side), no checkpoints and no progress bars.
The harness trains by its default engine with `padding_free` attached. Dropout is off on both sides: with it the losses
could not be the same. Cases against "padded" have the harness on both sides: the other one computes pads, in
micro-batches of rows of like length, as the harness trains a model that is not shown to give the same without pads.
Cases against "sorted" have a Trainer whose batches are rows of like length, in random order: hardly a pad, but other
batches than ours, which stay random; so losses can't be compared, and a whole epoch is measured after a first one, for
both to have computed each text as often. Time is that of the steps after the first (or the first epoch), from its end
to the end of the last; building does not count.

The GEMM share is that of the step's operations, by torch's counter and without pads, in what the machine does in the
same time in products of matrices of the model's own sizes, measured between the rounds.

Prints a table and one line of JSON. The exit code is 1 where losses are not the same; a target that is missed is only
said. A ratio is the others' seconds over ours: processor seconds on a CPU, wall seconds on a GPU. It depends on the
texts, for pads are what is saved, on the size of the model, and on a CPU on glibc's malloc: with large tensors given
back to the system after every use (its default), training may take twice the time on either side.
"""

import argparse
import contextlib
import copy
import gc
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments  # noqa: E402
from transformers.trainer_callback import PrinterCallback  # noqa: E402

from bench.data.examples import Encoded  # noqa: E402
from bench.models import flops  # noqa: E402
from bench.models.kernels import padding_free  # noqa: E402
from bench.runner import stages  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

# The first step pays for allocation; it is compared, but not measured.
WARMUP_STEPS = 1
# How long the machine's rate of matrix products is measured, in seconds, and on how many tokens at once.
GEMM_S, GEMM_TOKENS = 0.5, 4096


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained. precision: of the harness's side; the Trainer's is single."""

    architecture: dict[str, Any]
    texts: common.Texts
    batch: int
    # Whom the harness is compared with: one of RIVALS.
    against: str = "Trainer"
    # The least ratio that is aimed at.
    target: float | None = None
    precision: str = "no"
    steps: int = 6
    # Largest differences of losses. Rounding alone moves the first; each optimiser step then makes it larger, for the
    # size of AdamW's first steps does not depend on that of the gradient.
    first_difference: float = 1e-6
    relative_difference: float = 1e-4

    @property
    def other_batches(self) -> bool:
        """The rival trains on other batches, so that only whole epochs are alike."""
        return self.against == "sorted"

    @property
    def warmup_steps(self) -> int:
        """Steps before the measured ones."""
        return self.steps if self.other_batches else WARMUP_STEPS

    @property
    def texts_in_all(self) -> int:
        """Of one epoch, where whole epochs are measured; else of all steps."""
        return self.batch * (self.steps if self.other_batches else self.steps + WARMUP_STEPS)

    def training(self, **others: Any) -> Any:
        """The harness's settings for all steps."""
        return common.settings("trainer", self.batch, self.steps + self.warmup_steps, log_every=1, **others)


REVIEWS = common.Texts(mean=230, longest=1024)
# Cut where BERT's own positions end, a batch has fewer pads.
CUT_REVIEWS = common.Texts(mean=230, longest=512)
SENTENCES = common.Texts(mean=25, longest=64, spread=0.5)
CASES = {
    "encoder-reviews": Case(architecture=common.BERT, texts=REVIEWS, batch=16, target=2.5),
    "encoder-reviews-bf16": Case(
        architecture=common.BERT,
        texts=REVIEWS,
        batch=16,
        target=4.5,
        precision="bf16",
        # bfloat16 has 8 bits of precision.
        first_difference=2e-2,
        relative_difference=2e-2,
    ),
    "encoder-reviews-cut": Case(architecture=common.BERT, texts=CUT_REVIEWS, batch=16, target=2.5),
    "encoder-sentences": Case(architecture=common.BERT, texts=SENTENCES, batch=32, target=1.8, steps=12),
    "decoder-head-reviews": Case(architecture=common.LLAMA, texts=REVIEWS, batch=16, target=2),
    "encoder-reviews-sorted": Case(
        architecture=common.BERT, texts=CUT_REVIEWS, batch=16, against="sorted", target=1.3, steps=12
    ),
    "encoder-sentences-sorted": Case(
        architecture=common.BERT, texts=SENTENCES, batch=32, against="sorted", target=1.15, steps=16
    ),
    "gemma3-reviews": Case(architecture=common.GEMMA3, texts=REVIEWS, batch=16, against="padded"),
    "qwen3_moe-reviews": Case(architecture=common.QWEN3_MOE, texts=REVIEWS, batch=16, against="padded"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. Spreads are over the rounds; seconds are those of the measured steps together."""

    case: str
    against: str
    precision: str
    steps: int
    batch: int
    mean_tokens: float
    padding_share: float
    rival_cpu_s: dict[str, float]
    bench_cpu_s: dict[str, float]
    cpu_ratio: dict[str, float]
    wall_ratio: dict[str, float]
    rival_tokens_per_s: float
    bench_tokens_per_s: float
    # Of processor or wall times, as the device has it.
    ratio: float
    target: float | None
    # Share of the machine's rate of matrix products that each side's steps reach; None where it can't be counted.
    rival_gemm_share: float | None
    bench_gemm_share: float | None
    # None, and no loss compared, where the rival trains on other batches.
    losses_compared: int
    first_difference: float | None
    relative_difference: float | None
    same_losses: bool | None


def by_trainer(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """transformers' Trainer."""
    return _by_trainer(model, common.in_order(split, case.training()), tokens, case, folder)


def by_sorted_trainer(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """transformers' Trainer with rows of like length in a batch, as an expert has them; batches in random order."""
    rows = sorted(split.features, key=lambda feature: len(feature["input_ids"]))
    batches = [rows[start : start + case.batch] for start in range(0, len(rows), case.batch)]
    draw, order = random.Random(13), []
    for _ in range((case.steps + case.warmup_steps) // case.steps):
        order += draw.sample(batches, len(batches))
    return _by_trainer(model, [feature for batch in order for feature in batch], tokens, case, folder)


def _by_trainer(model: Any, features: list[Any], tokens: Any, case: Case, folder: Path) -> common.Trained:
    training = case.training()
    watch = common.Watch()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=case.batch,
        max_steps=training.steps,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=features,
        data_collator=DataCollatorWithPadding(tokens),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return common.Trained(losses=watch.losses, moments=watch.ticks.moments)


def by_padded(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """The harness, with pads, in micro-batches of like length."""
    rows = min(case.batch, stages.SORTED_ROWS)
    training = case.training(per_device_batch=rows)
    return common.run_engine(model, split, tokens, training, folder / "padded", common.Ticks(), by_length=True)


RIVALS = {"Trainer": by_trainer, "sorted": by_sorted_trainer, "padded": by_padded}


def by_bench(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """The harness."""
    reason = padding_free.attach(model)
    assert reason is None, reason
    with mixed_precision(case.precision):
        return common.run_engine(model, split, tokens, case.training(), folder / "bench", common.Ticks())


@contextlib.contextmanager
def mixed_precision(kind: str) -> Iterator[None]:
    """As `accelerate launch --mixed_precision` says it to a process."""
    before = os.environ.get("ACCELERATE_MIXED_PRECISION")
    os.environ["ACCELERATE_MIXED_PRECISION"] = kind
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_MIXED_PRECISION"]
        else:
            os.environ["ACCELERATE_MIXED_PRECISION"] = before


def measure(name: str, case: Case, device: torch.device, rounds: int, small: bool) -> Result:
    """One case: both sides take turns with copies of one model; which one begins changes from round to round."""
    language = common.Language(500 if small else 20_000)
    tokens = language.tokenizer(
        "encoder" if case.architecture is common.BERT else "decoder", 1500 if small else case.architecture["vocab_size"]
    )
    rows = language.rows(case.texts, case.texts_in_all, tokens)
    split = common.encoded(rows, tokens, case.texts.longest)
    model = common.build_model(case.architecture, tokens, device, small)
    sides = {"rival": RIVALS[case.against], "bench": by_bench}
    found: dict[str, list[common.Trained]] = {side: [] for side in sides}
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            rates.append(gemm_rate(model, device))
            for side in list(sides)[:: -1 if number % 2 else 1]:
                gc.collect()
                found[side].append(sides[side](copy.deepcopy(model), split, tokens, case, Path(folder)))
    lengths = measured_lengths(split, case)
    work = Work(lengths=lengths, operations=operations(model, lengths), rate=statistics.median(rates))
    return summary(name, case, found, work, device, small)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of the measured steps: texts' lengths in our order, operations without pads, the machine's rate."""

    lengths: list[int]
    operations: float | None
    rate: float

    def gemm_share(self, seconds: float) -> float | None:
        """Share of the machine's rate."""
        return None if self.operations is None else self.operations / seconds / self.rate


def measured_lengths(split: Encoded, case: Case) -> list[int]:
    """Tokens of the texts of the measured steps, in our order."""
    lengths = [len(feature["input_ids"]) for feature in common.in_order(split, case.training())]
    return lengths[case.warmup_steps * case.batch : (case.warmup_steps + case.steps) * case.batch]


def operations(model: Any, lengths: list[int]) -> float | None:
    """Of forward and backward of these texts alone; None where torch's counter can't tell."""
    try:
        return flops.step_flops(model, lengths)
    except flops.UncountableError:
        return None


def gemm_rate(model: Any, device: torch.device) -> float:
    """Operations a second in the products of the model's feed-forward layer: of CPU time, on a GPU of wall time."""
    config = model.config.get_text_config()
    left = torch.randn(GEMM_TOKENS, config.hidden_size, device=device)
    right = torch.randn(config.hidden_size, config.intermediate_size, device=device)
    out = left @ right
    start, count = common.now(), 0
    while (common.now() - start).busy_s(device) < GEMM_S:
        torch.mm(left, right, out=out)
        count += 1
    return count * 2 * left.numel() * right.shape[1] / (common.now() - start).busy_s(device)


def padding_share(case: Case, lengths: list[int]) -> float:
    """Share of pads in batches of these texts, as the rival has them."""
    ordered = sorted(lengths) if case.other_batches else lengths
    batches = [ordered[start : start + case.batch] for start in range(0, len(ordered), case.batch)]
    return 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def summary(
    name: str, case: Case, found: dict[str, list[common.Trained]], work: Work, device: torch.device, small: bool
) -> Result:
    """Times and differences over all rounds."""
    real = sum(work.lengths)
    times = {
        side: [run.moments[-1] - run.moments[case.warmup_steps - 1] for run in runs] for side, runs in found.items()
    }
    pairs = list(zip(times["rival"], times["bench"], strict=True))
    cpu = common.spread([one.cpu_s / two.cpu_s for one, two in pairs])
    wall = common.spread([one.wall_s / two.wall_s for one, two in pairs])
    shares = {
        side: work.gemm_share(statistics.median(item.busy_s(device) for item in items)) for side, items in times.items()
    }
    rate = {side: real / statistics.median(item.wall_s for item in items) for side, items in times.items()}
    return Result(
        case=name,
        against=case.against,
        precision=case.precision,
        steps=case.steps,
        batch=case.batch,
        mean_tokens=real / (case.batch * case.steps),
        padding_share=padding_share(case, work.lengths),
        rival_cpu_s=common.spread([item.cpu_s for item in times["rival"]]),
        bench_cpu_s=common.spread([item.cpu_s for item in times["bench"]]),
        cpu_ratio=cpu,
        wall_ratio=wall,
        rival_tokens_per_s=rate["rival"],
        bench_tokens_per_s=rate["bench"],
        ratio=(cpu if device.type == "cpu" else wall)["median"],
        target=None if small else case.target,
        rival_gemm_share=shares["rival"],
        bench_gemm_share=shares["bench"],
        **compared(case, found),
    )


def compared(case: Case, found: dict[str, list[common.Trained]]) -> dict[str, Any]:
    """Differences of the losses of both sides, where they trained on the same batches."""
    if case.other_batches:
        return {"losses_compared": 0, "first_difference": None, "relative_difference": None, "same_losses": None}
    differences = [
        (abs(one - two), abs(one - two) / abs(one))
        for theirs, ours in zip(found["rival"], found["bench"], strict=True)
        for one, two in zip(theirs.losses, ours.losses, strict=True)
    ]
    first = max(differences[:: case.steps + case.warmup_steps])[0]
    relative = max(item[1] for item in differences)
    same = first <= case.first_difference and relative <= case.relative_difference
    return {
        "losses_compared": len(differences),
        "first_difference": first,
        "relative_difference": relative,
        "same_losses": same,
    }


def table(results: list[Result]) -> str:
    """Markdown."""
    header = {
        "case": "---",
        "against": "---",
        "ours in": "---",
        "tokens a text": "--:",
        "pads": "--:",
        "theirs, CPU s": "--:",
        "bench, CPU s": "--:",
        "ratio of CPU time": "--:",
        "of wall time": "--:",
        "theirs, real tokens/s": "--:",
        "bench": "--:",
        "GEMM share, theirs": "--:",
        "GEMM share, bench": "--:",
        "target": "--:",
        "reached": "---",
        "first losses differ by": "--:",
        "any, relative": "--:",
    }
    rows = [
        [
            *(result.case, result.against, {"no": "fp32"}.get(result.precision, result.precision)),
            *(f"{result.mean_tokens:.0f}", f"{result.padding_share:.0%}"),
            *(common.shown(item) for item in (result.rival_cpu_s, result.bench_cpu_s)),
            *(common.shown(item) for item in (result.cpu_ratio, result.wall_ratio)),
            *(f"{item:,.0f}" for item in (result.rival_tokens_per_s, result.bench_tokens_per_s)),
            *("" if item is None else f"{item:.0%}" for item in (result.rival_gemm_share, result.bench_gemm_share)),
            *("" if result.target is None else f"{result.target:g}", common.reached(result.ratio, result.target)),
            *(
                "other batches" if item is None else f"{item:.1e}"
                for item in (result.first_difference, result.relative_difference)
            ),
        ]
        for result in results
    ]
    return common.table(header, rows)


def reduced(case: Case) -> Case:
    """A case of a second or two."""
    texts = common.Texts(mean=case.texts.mean / 4, longest=case.texts.longest // 4, spread=case.texts.spread)
    return Case(**{**vars(case), "texts": texts, "batch": 4, "steps": 3})


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="tiny models and texts: does it run, are the losses the same"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each side (default: 3)")
    parser.add_argument("--case", choices=CASES, help="only this one")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.small else 3)
    common.quiet()
    device = common.pick_device()
    results = []
    for name in [options.case] if options.case else CASES:
        case = reduced(CASES[name]) if options.small else CASES[name]
        results.append(measure(name, case, device, rounds, options.small))
        print(f"{name}: {results[-1].ratio:.2f} times as fast", file=sys.stderr, flush=True)
    print(f"{common.described(device)}; the Trainer in fp32; {rounds} rounds\n")
    print(table(results))
    found = {"benchmark": "training", "small": options.small, "rounds": rounds, **common.surroundings(device)}
    print(json.dumps({**found, "cases": [asdict(result) for result in results]}))
    for result in results:
        if result.same_losses is False:
            print(f"{result.case}: the losses are not the same", file=sys.stderr)
    return 0 if all(result.same_losses is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
