"""How much faster classifiers are trained by the harness than by transformers' Trainer at its defaults.

    python scripts/benchmarks/training.py [--small] [--rounds N] [--case NAME]

Both train the same random weights on the same batches, in the same order, for the same steps, in turns and in one
process, so that threads, memory allocation and everything else around them are the same. The Trainer gets
TrainingArguments' defaults and DataCollatorWithPadding; not its defaults are `train_sampling_strategy="sequential"`
over examples in the harness's order, a loss logged at every step (as on our side), no checkpoints and no progress bars.
The harness trains by its default engine with `padding_free` attached. Dropout is off on both sides: with it the losses
could not be the same. Cases against "padded" have the harness on both sides: the other one computes pads, in
micro-batches of rows of like length, as the harness trains a model that is not shown to give the same without pads.
Time is that of the steps after the first, from its end to the end of the last; building does not count.

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
from bench.models.kernels import padding_free  # noqa: E402
from bench.runner import stages  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

# The first step pays for allocation; it is compared, but not measured.
WARMUP_STEPS = 1


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
    losses_compared: int
    first_difference: float
    relative_difference: float
    same_losses: bool


def by_trainer(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """transformers' Trainer."""
    training = common.settings("trainer", case.batch, case.steps + WARMUP_STEPS, log_every=1)
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
        train_dataset=common.in_order(split, training),
        data_collator=DataCollatorWithPadding(tokens),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return common.Trained(losses=watch.losses, moments=watch.ticks.moments)


def by_padded(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """The harness, with pads, in micro-batches of like length."""
    rows = min(case.batch, stages.SORTED_ROWS)
    training = common.settings("trainer", case.batch, case.steps + WARMUP_STEPS, log_every=1, per_device_batch=rows)
    return common.run_engine(model, split, tokens, training, folder / "padded", common.Ticks(), by_length=True)


RIVALS = {"Trainer": by_trainer, "padded": by_padded}


def by_bench(model: Any, split: Encoded, tokens: Any, case: Case, folder: Path) -> common.Trained:
    """The harness."""
    reason = padding_free.attach(model)
    assert reason is None, reason
    training = common.settings("trainer", case.batch, case.steps + WARMUP_STEPS, log_every=1)
    with mixed_precision(case.precision):
        return common.run_engine(model, split, tokens, training, folder / "bench", common.Ticks())


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
    rows = language.rows(case.texts, case.batch * (case.steps + WARMUP_STEPS), tokens)
    split = common.encoded(rows, tokens, case.texts.longest)
    model = common.build_model(case.architecture, tokens, device, small)
    sides = {"rival": RIVALS[case.against], "bench": by_bench}
    found: dict[str, list[common.Trained]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for side in list(sides)[:: -1 if number % 2 else 1]:
                gc.collect()
                found[side].append(sides[side](copy.deepcopy(model), split, tokens, case, Path(folder)))
    return summary(name, case, found, padding(split, case), device, small)


def padding(split: Encoded, case: Case) -> tuple[int, int]:
    """(real tokens, pads too) of the measured steps."""
    training = common.settings("trainer", case.batch, case.steps + WARMUP_STEPS, log_every=1)
    lengths = [len(feature["input_ids"]) for feature in common.in_order(split, training)][WARMUP_STEPS * case.batch :]
    batches = [lengths[start : start + case.batch] for start in range(0, len(lengths), case.batch)]
    return sum(lengths), sum(max(batch) * len(batch) for batch in batches)


def summary(
    name: str, case: Case, found: dict[str, list[common.Trained]], tokens: Any, device: torch.device, small: bool
) -> Result:
    """Times and differences over all rounds."""
    real, processed = tokens
    times = {side: [run.moments[-1] - run.moments[WARMUP_STEPS - 1] for run in runs] for side, runs in found.items()}
    pairs = list(zip(times["rival"], times["bench"], strict=True))
    cpu = common.spread([one.cpu_s / two.cpu_s for one, two in pairs])
    wall = common.spread([one.wall_s / two.wall_s for one, two in pairs])
    differences = [
        (abs(one - two), abs(one - two) / abs(one))
        for theirs, ours in zip(found["rival"], found["bench"], strict=True)
        for one, two in zip(theirs.losses, ours.losses, strict=True)
    ]
    first = max(differences[:: case.steps + WARMUP_STEPS])[0]
    relative = max(item[1] for item in differences)
    rate = {side: real / statistics.median(item.wall_s for item in items) for side, items in times.items()}
    return Result(
        case=name,
        against=case.against,
        precision=case.precision,
        steps=case.steps,
        batch=case.batch,
        mean_tokens=real / (case.batch * case.steps),
        padding_share=1 - real / processed,
        rival_cpu_s=common.spread([item.cpu_s for item in times["rival"]]),
        bench_cpu_s=common.spread([item.cpu_s for item in times["bench"]]),
        cpu_ratio=cpu,
        wall_ratio=wall,
        rival_tokens_per_s=rate["rival"],
        bench_tokens_per_s=rate["bench"],
        ratio=(cpu if device.type == "cpu" else wall)["median"],
        target=None if small else case.target,
        losses_compared=len(differences),
        first_difference=first,
        relative_difference=relative,
        same_losses=first <= case.first_difference and relative <= case.relative_difference,
    )


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
            *("" if result.target is None else f"{result.target:g}", common.reached(result.ratio, result.target)),
            *(f"{result.first_difference:.1e}", f"{result.relative_difference:.1e}"),
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
        if not result.same_losses:
            print(f"{result.case}: the losses are not the same", file=sys.stderr)
    return 0 if all(result.same_losses for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
