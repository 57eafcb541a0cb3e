"""How much faster logits become answers by bench.evaluation.spans than by the usual loops over starts and ends.

    python scripts/benchmarks/postprocessing.py [--small] [--rounds N]

Both begin with the start and end logits of windows of 384 tokens, in batches of 32, and end with an answer, a score,
the odds of there being none, and the 20 best spans with their texts and probabilities. The loops are those of the
public example scripts, in our own words: for each window the 20 highest starts with the 20 highest ends, pair by pair
in Python; then all spans of a question, sorted. The logits are made up to look like a trained model's: low nearly
everywhere, high where an answer and a few near misses begin and end. So the best span is among those that the loops
look at, and both must give the same answers. They take turns in one process, on one thread of a CPU.

Prints a table and one line of JSON. The exit code is 1 where answers are not the same. A ratio is the loops' processor
seconds over ours.
"""

import argparse
import gc
import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np  # noqa: E402
import torch  # noqa: E402

from bench.evaluation import spans  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

TOKENS, BATCH = 384, 32
N_BEST, MAX_ANSWER_LENGTH, THRESHOLD = 20, 30, 0.0
# Tokens of the question, and tokens that neighbouring windows share.
QUESTION, SHARED = 14, 128
# Both sides add two logits in float32.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one side says of a question."""

    text: str
    score: float
    null_odds: float
    nbest: list[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Questions, their windows, and logits in batches; threshold: None where every question has an answer."""

    rows: list[dict[str, Any]]
    features: list[dict[str, Any]]
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Spreads are over the rounds."""

    case: str
    num_questions: int
    num_windows: int
    loops_cpu_s: dict[str, float]
    bench_cpu_s: dict[str, float]
    loops_per_s: float
    bench_per_s: float
    cpu_ratio: dict[str, float]
    wall_ratio: dict[str, float]
    answers_compared: int
    no_answers: int
    largest_difference: float
    same_answers: bool

    @property
    def is_same(self) -> bool:
        """Whether texts are the same, and scores and odds too."""
        return self.same_answers and self.largest_difference <= TOLERANCE


def material(num_questions: int, tokens: int, windows: int, threshold: float | None) -> Material:
    """Made-up questions, each on a context that fills so many windows."""
    draw = np.random.default_rng(13)
    words = np.array(common.Language(2000).words)
    room = tokens - QUESTION - 3
    rows, features, logits = [], [], []
    for number in range(num_questions):
        size = (windows - 1) * (room - SHARED) + room
        chosen = draw.choice(words, size).tolist()
        ends = np.cumsum([len(word) + 1 for word in chosen]) - 1
        offsets = np.stack([ends - [len(word) for word in chosen], ends], axis=1).astype(np.int32)
        rows.append({"id": f"{number:06}", "text": " ".join(chosen)})
        whole = _logits(draw, size)
        # Two questions of five seem to have no answer.
        null = 9.0 if draw.random() < 0.4 else -4.0
        for start in range(0, size - SHARED, room - SHARED):
            features.append(
                {
                    "example": number,
                    "context_start": QUESTION + 2,
                    "context_end": QUESTION + 2 + room,
                    "offsets": offsets[start : start + room],
                    "null": 0,
                }
            )
            row = draw.normal(-7, 1, (2, tokens))
            row[:, QUESTION + 2 : -1] = whole[:, start : start + room]
            row[:, 0] = draw.normal(null, 1, 2)
            logits.append(row.astype(np.float32))
    stacked = torch.from_numpy(np.stack(logits, axis=1))
    batches = list(zip(stacked[0].split(BATCH), stacked[1].split(BATCH), strict=True))
    return Material(rows=rows, features=features, batches=batches, threshold=threshold)


def _logits(draw: np.random.Generator, size: int) -> np.ndarray:
    """[2, size]: of a context as long as that."""
    logits = draw.normal(-7, 1.5, (2, size))
    # The answer and four near misses; a word beside each end is likely, too.
    for height in (6.0, 3.0, 2.0, 1.0, 0.0):
        first = draw.integers(0, size - 12)
        last = first + draw.integers(0, 10)
        logits[0, first : first + 2] = height + draw.normal(0, 1, 2)
        logits[1, last : last + 2] = height + draw.normal(0, 1, 2)
    return logits


def by_loops(given: Material) -> list[Said]:
    """The usual way: all logits as arrays, then question by question, window by window, pair by pair."""
    starts, ends = (np.concatenate([batch[side].numpy() for batch in given.batches]) for side in (0, 1))
    # The public scripts have lists of pairs of offsets, with None for what is no context.
    mapped = []
    for feature in given.features:
        mapping: list[Any] = [None] * TOKENS
        mapping[feature["context_start"] : feature["context_end"]] = feature["offsets"].tolist()
        mapped.append(mapping)
    windows_of = defaultdict(list)
    for place, feature in enumerate(given.features):
        windows_of[feature["example"]].append(place)
    said = []
    for number, row in enumerate(given.rows):
        found, null_score = [], math.inf
        for place in windows_of[number]:
            null = given.features[place]["null"]
            null_score = min(null_score, starts[place][null] + ends[place][null])
            found += pairs_of(starts[place], ends[place], mapped[place])
        said.append(best_of(row["text"], found, null_score, given.threshold))
    return said


def pairs_of(start: np.ndarray, end: np.ndarray, mapping: list[Any]) -> list[dict[str, Any]]:
    """Spans of one window."""
    found = []
    highest_ends = np.argsort(end)[-1 : -N_BEST - 1 : -1].tolist()
    for first in np.argsort(start)[-1 : -N_BEST - 1 : -1].tolist():
        for last in highest_ends:
            if first >= len(mapping) or last >= len(mapping) or mapping[first] is None or mapping[last] is None:
                continue
            if last < first or last - first + 1 > MAX_ANSWER_LENGTH:
                continue
            found.append({"offsets": (mapping[first][0], mapping[last][1]), "score": start[first] + end[last]})
    return found


def best_of(context: str, found: list[dict[str, Any]], null_score: float, threshold: float | None) -> Said:
    """The answer to one question."""
    ranked = sorted(found, key=lambda span: span["score"], reverse=True)[:N_BEST]
    for span in ranked:
        span["text"] = context[span["offsets"][0] : span["offsets"][1]]
    scores = np.array([span["score"] for span in ranked] + ([] if threshold is None else [null_score]))
    weights = np.exp(scores - scores.max())
    for span, probability in zip(ranked, weights / weights.sum(), strict=False):
        span["probability"] = probability
    best = ranked[0]
    odds = float(null_score) - float(best["score"])
    is_none = threshold is not None and odds > threshold
    nbest = [(span["text"], span["probability"]) for span in ranked]
    return Said(text="" if is_none else best["text"], score=float(best["score"]), null_odds=odds, nbest=nbest)


def by_bench(given: Material) -> list[Said]:
    """The harness: batch by batch, as logits come from a model."""
    parts, numbers = [], iter(range(len(given.features)))
    for start, end in given.batches:
        mine = list(itertools.islice(numbers, len(start)))
        features = [given.features[number] for number in mine]
        found = spans.candidates(
            start,
            end,
            context_starts=[feature["context_start"] for feature in features],
            context_ends=[feature["context_end"] for feature in features],
            nulls=[feature["null"] for feature in features],
            n_best=N_BEST,
            max_answer_length=MAX_ANSWER_LENGTH,
        )
        parts.append((mine, found))
    found = spans.joined(parts, len(given.features))
    answers = spans.best_answers(found, given.features, given.rows, null_score_diff_threshold=given.threshold)
    return [
        Said(
            text=answer.text,
            score=answer.score,
            null_odds=answer.null_odds,
            nbest=[(span.text, span.probability) for span in answer.nbest],
        )
        for answer in answers
    ]


def timed(answer: Callable[[Material], list[Said]], given: Material) -> tuple[common.Moment, list[Said]]:
    """How long it took, and what was said."""
    gc.collect()
    start = common.now()
    said = answer(given)
    return common.now() - start, said


def measure(case: str, given: Material, rounds: int) -> Result:
    """Both take turns, after a batch each to warm up."""
    few = Material(
        rows=given.rows[:1],
        features=[feature for feature in given.features[:BATCH] if feature["example"] == 0],
        batches=[],
        threshold=given.threshold,
    )
    size = len(few.features)
    few.batches.append((given.batches[0][0][:size], given.batches[0][1][:size]))
    ways = {"loops": by_loops, "bench": by_bench}
    found: dict[str, list[tuple[common.Moment, list[Said]]]] = {name: [] for name in ways}
    for answer in ways.values():
        answer(few)
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(timed(ways[name], given))
    return summary(case, given, found["loops"], found["bench"])


def summary(case: str, given: Material, theirs: Any, ours: Any) -> Result:
    """Times and differences over all rounds; theirs and ours: (time, answers) of each."""
    times = [(one[0], two[0]) for one, two in zip(theirs, ours, strict=True)]
    answers = [pair for one, two in zip(theirs, ours, strict=True) for pair in zip(one[1], two[1], strict=True)]
    loops_cpu_s = common.spread([one.cpu_s for one, _ in times])
    bench_cpu_s = common.spread([two.cpu_s for _, two in times])
    return Result(
        case=case,
        num_questions=len(given.rows),
        num_windows=len(given.features),
        loops_cpu_s=loops_cpu_s,
        bench_cpu_s=bench_cpu_s,
        loops_per_s=len(given.rows) / loops_cpu_s["median"],
        bench_per_s=len(given.rows) / bench_cpu_s["median"],
        cpu_ratio=common.spread([one.cpu_s / two.cpu_s for one, two in times]),
        wall_ratio=common.spread([one.wall_s / two.wall_s for one, two in times]),
        answers_compared=len(answers),
        no_answers=sum(not item.text for item in ours[0][1]),
        largest_difference=max(
            max(abs(one.score - two.score), abs(one.null_odds - two.null_odds)) for one, two in answers
        ),
        same_answers=all(one.text == two.text for one, two in answers),
    )


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    header = {
        "case": "---",
        "questions": "--:",
        "windows": "--:",
        "without answer": "--:",
        "loops, CPU s": "--:",
        "bench, CPU s": "--:",
        "loops, questions a CPU s": "--:",
        "bench, questions a CPU s": "--:",
        "ratio of CPU time": "--:",
        "of wall time": "--:",
        "same answers": "---",
        "scores differ by": "--:",
    }
    rows = [
        [
            *(result.case, f"{result.num_questions}", f"{result.num_windows}", f"{result.no_answers}"),
            *(common.shown(item, 3) for item in (result.loops_cpu_s, result.bench_cpu_s)),
            *(f"{item:,.0f}" for item in (result.loops_per_s, result.bench_per_s)),
            *(common.shown(item, 1) for item in (result.cpu_ratio, result.wall_ratio)),
            *("yes" if result.same_answers else "no", f"{result.largest_difference:.1e}"),
        ]
        for result in results
    ]
    return common.table(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few questions: does it run, are the answers the same")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each side (default: 3)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.small else 3)
    common.quiet()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    count = 60 if options.small else 2000
    results = [
        measure("v1.1, one window", material(count, TOKENS, 1, None), rounds),
        measure("v2.0, three windows", material(count // 2, TOKENS, 3, THRESHOLD), rounds),
    ]
    print(f"{common.described(device)}; {rounds} rounds\n")
    print(table(results))
    found = {"benchmark": "postprocessing", "small": options.small, "rounds": rounds, "batch": BATCH}
    print(json.dumps({**found, **common.surroundings(device), "cases": [asdict(result) for result in results]}))
    for result in results:
        if not result.is_same:
            print(f"{result.case}: the answers are not the same", file=sys.stderr)
    return 0 if all(result.is_same for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
