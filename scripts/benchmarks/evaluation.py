"""How much faster a classifier answers texts by the harness's scoring than by transformers' pipeline.

    python scripts/benchmarks/evaluation.py [--small] [--rounds N]

Both begin with the same texts and end with a label and its score for each, so each tokenises in its own way. The
pipeline is `pipeline("text-classification", model, tokenizer, batch_size=32)`, which takes the texts in their order,
with batches of one, its default, where there is no pad to leave out, and of sizes between, one of which may be its
fastest: that is said below the table. The harness scores as after training, by `evaluation.scoring`, with
`padding_free` attached. All take turns in one process, with copies of one model of random weights, in fp32: threads and
memory allocation are the same.

Prints a table and one line of JSON. The exit code is 1 where labels are not the same or scores differ by more than
1e-5; a target that is missed is only said. A ratio is the pipeline's seconds over ours: processor seconds on a CPU,
wall seconds on a GPU.
"""

import argparse
import copy
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from transformers import pipeline  # noqa: E402

from bench.evaluation.scoring import run  # noqa: E402
from bench.models.kernels import padding_free  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

TOLERANCE = 1e-5
MAX_LENGTH = 512
REVIEWS = common.Texts(mean=230, longest=MAX_LENGTH)
# Size of the pipeline's batches -> the least ratio that is aimed at.
PIPELINES: dict[int, float | None] = {32: 2.0, 1: None, 4: None, 8: None}
# Of these, how many a small run has.
FEW = 2

# Label and its probability, for each text.
Answers = Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Against a pipeline with one size of batches. Spreads are over the rounds."""

    case: str
    num_texts: int
    mean_tokens: float
    pipeline_cpu_s: dict[str, float]
    bench_cpu_s: dict[str, float]
    cpu_ratio: dict[str, float]
    wall_ratio: dict[str, float]
    # Of processor or wall times, as the device has it.
    ratio: float
    target: float | None
    labels_compared: int
    largest_difference: float
    same_labels: bool

    @property
    def is_same(self) -> bool:
        """Whether labels and scores are those of the pipeline."""
        return self.same_labels and self.largest_difference <= TOLERANCE


def by_pipeline(model: Any, tokens: Any, batch: int) -> Callable[[Sequence[str]], Answers]:
    """transformers' pipeline."""
    pipe = pipeline("text-classification", model=model, tokenizer=tokens, batch_size=batch, device=model.device)

    def answer(texts: Sequence[str]) -> Answers:
        found = pipe(list(texts), truncation=True, max_length=MAX_LENGTH)
        return [(item["label"], item["score"]) for item in found]

    return answer


def by_bench(model: Any, tokens: Any) -> Callable[[Sequence[str]], Answers]:
    """The harness."""
    reason = padding_free.attach(model)
    assert reason is None, reason
    scoring = common.scoring(tokens, model.device)

    def answer(texts: Sequence[str]) -> Answers:
        # Nobody knows the labels; the task's encoding wants some.
        rows = [{"id": f"{number:06}", "text": text, "label": 0} for number, text in enumerate(texts)]
        scored = run(model, common.encoded(rows, tokens, MAX_LENGTH), scoring, "score").predictions
        pairs = zip(scored.predictions.tolist(), scored.scores.tolist(), strict=True)
        return [(model.config.id2label[label], scores[label]) for label, scores in pairs]

    return answer


def timed(answer: Callable[[Sequence[str]], Answers], texts: Sequence[str]) -> tuple[common.Moment, Answers]:
    """How long it took, and the answers."""
    gc.collect()
    start = common.now()
    found = answer(texts)
    return common.now() - start, found


def measure(num_texts: int, texts: common.Texts, device: torch.device, rounds: int, small: bool) -> list[Result]:
    """All take turns, after a few texts each to warm up."""
    language = common.Language(500 if small else 20_000)
    tokens = language.tokenizer("encoder", 1500 if small else common.BERT["vocab_size"])
    asked = [row["text"] for row in language.rows(texts, num_texts, tokens)]
    model = common.build_model(common.BERT, tokens, device, small)
    asked_of = dict([*PIPELINES.items()][: FEW if small else None])
    ways = {str(batch): by_pipeline(copy.deepcopy(model), tokens, batch) for batch in asked_of}
    ways["bench"] = by_bench(copy.deepcopy(model), tokens)
    found: dict[str, list[tuple[common.Moment, Answers]]] = {name: [] for name in ways}
    for answer in ways.values():
        answer(asked[:4])
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(timed(ways[name], asked))
    mean_tokens = sum(len(row) for row in tokens(asked)["input_ids"]) / num_texts
    return [
        summary(batch, found[str(batch)], found["bench"], mean_tokens, None if small else target, device)
        for batch, target in asked_of.items()
    ]


def fastest(results: list[Result]) -> Result:
    """Against the pipeline at its best size of batches."""
    return min(results, key=lambda result: result.ratio)


def summary(
    batch: int, theirs: Any, ours: Any, mean_tokens: float, target: float | None, device: torch.device
) -> Result:
    """Times and differences over all rounds; theirs and ours: (time, answers) of each."""
    pairs = [(one[0], two[0]) for one, two in zip(theirs, ours, strict=True)]
    answers = [pair for one, two in zip(theirs, ours, strict=True) for pair in zip(one[1], two[1], strict=True)]
    cpu = common.spread([one.cpu_s / two.cpu_s for one, two in pairs])
    wall = common.spread([one.wall_s / two.wall_s for one, two in pairs])
    return Result(
        case=f"pipeline, batch_size={batch}",
        num_texts=len(ours[0][1]),
        mean_tokens=mean_tokens,
        pipeline_cpu_s=common.spread([one.cpu_s for one, _ in pairs]),
        bench_cpu_s=common.spread([two.cpu_s for _, two in pairs]),
        cpu_ratio=cpu,
        wall_ratio=wall,
        ratio=(cpu if device.type == "cpu" else wall)["median"],
        target=target,
        labels_compared=len(answers),
        largest_difference=max(abs(one[1] - two[1]) for one, two in answers),
        same_labels=all(one[0] == two[0] for one, two in answers),
    )


def table(results: list[Result]) -> str:
    """Markdown."""
    header = {
        "against": "---",
        "texts": "--:",
        "tokens a text": "--:",
        "pipeline, CPU s": "--:",
        "bench, CPU s": "--:",
        "ratio of CPU time": "--:",
        "of wall time": "--:",
        "target": "--:",
        "reached": "---",
        "same labels": "---",
        "scores differ by": "--:",
    }
    rows = [
        [
            *(result.case, f"{result.num_texts}", f"{result.mean_tokens:.0f}"),
            *(common.shown(item) for item in (result.pipeline_cpu_s, result.bench_cpu_s)),
            *(common.shown(item) for item in (result.cpu_ratio, result.wall_ratio)),
            *("" if result.target is None else f"{result.target:g}", common.reached(result.ratio, result.target)),
            *("yes" if result.same_labels else "no", f"{result.largest_difference:.1e}"),
        ]
        for result in results
    ]
    return common.table(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="a tiny model and few texts: does it run, are the answers the same"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each side (default: 3)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.small else 3)
    common.quiet()
    device = common.pick_device()
    texts, count = (common.Texts(mean=40, longest=100), 40) if options.small else (REVIEWS, 160)
    results = measure(count, texts, device, rounds, options.small)
    print(f"{common.described(device)}; fp32; {rounds} rounds\n")
    print(table(results))
    best = fastest(results)
    print(f"\nat its fastest, {best.case}: ratio {best.ratio:.2f}\n")
    found = {"benchmark": "evaluation", "small": options.small, "rounds": rounds, "precision": "fp32"}
    found |= {"fastest": best.case, "fastest_ratio": best.ratio}
    print(json.dumps({**found, **common.surroundings(device), "cases": [asdict(result) for result in results]}))
    for result in results:
        if not result.is_same:
            print(f"{result.case}: the answers are not the same", file=sys.stderr)
    return 0 if all(result.is_same for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
