"""How long `python -m bench compare` takes for 10 systems on 25,000 examples.

    python scripts/benchmarks/comparing.py [--small] [--rounds N]

Run folders are made up as a run would leave them, with labels, with probabilities and with answers in words. Each case
compares all systems by one metric, in this process: reading the records and predictions, then the statistics up to
the finished page. Seconds are the wall's, with the processor time of all threads beside them: where other work takes
the cores, the latter tells. The target is the statistics of all 45 pairs in 5 s.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Read when NumPy is loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.analysis import compare, predictions
from bench.analysis.stats.sums import Line, tally
from bench.records import store
from bench.records.record import Comparability, Data, RecipePart, Record, Score, SplitPart
from bench.reporting import comparison_page

# Metric -> labels; None for answers in words, whose F1 by example is a number between 0 and 1.
CASES: dict[str, int | None] = {"accuracy": 2, "f1_macro": 3, "mcc": 20, "squad_f1": None}
TARGET_S = 5.0


def write_run(folder: Path, number: int, metric: str, labels: int | None, examples: int) -> None:
    """A run's record and predictions; systems are right on 70 to 79 % of the examples, mostly the same ones."""
    draw, own = np.random.default_rng(0), np.random.default_rng(number + 1)
    reference, difficulty = draw.integers(labels or 2, size=examples), draw.random(examples)
    is_right = difficulty + own.normal(scale=0.1, size=examples) < 0.7 + number / 100
    guess = np.where(is_right, reference, own.integers(labels or 2, size=examples))
    partly = np.where(is_right, 1.0, own.random(examples).round(3))
    names = [f"label{label}" for label in range(labels or 0)]
    rows: list[dict[str, Any]] = [
        {
            "id": f"e{place:06}",
            "prediction": names[guess[place]] if labels else "some answer",
            "reference": names[reference[place]] if labels else ["some answer"],
            "scores": None,
            "metrics": {metric: float(guess[place] == reference[place]) if labels else float(partly[place])},
        }
        for place in range(examples)
    ]
    lines = [Line(prediction=row["prediction"], reference=row["reference"], value=row["metrics"][metric])
             for row in rows]  # fmt: skip
    score = Score(value=tally(metric, lines, names, multi_label=False).score, examples=examples, signature=metric)
    part = SplitPart(examples=examples, fingerprint="f", labels={}, tokens={}, truncated=0)
    (folder / "predictions").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions" / "after-test.jsonl").write_text(text, encoding="utf-8")
    store.write(
        Record(
            status="ok",
            reason=None,
            name=f"study--model{number}--full",
            seed=13,
            started_at="2026-01-01T00:00:00+00:00",
            recipe=RecipePart(path="x.yaml", hash=f"{number:064}"),
            comparability=Comparability(key="k", parts={"data": "d", "metrics": "m"}),
            data=Data(id="made up", labels=names, splits={"test": part}),
            scores={"after": {"test": {metric: score}}},
        ),
        folder,
    )


def timed(folder: Path, metric: str) -> tuple[list[float], compare.Comparison]:
    """Seconds of reading and of the statistics with the page, then their processor time; and what was found."""
    times = [(time.perf_counter(), time.process_time())]
    runs = predictions.gather([folder], predictions.CompareRequest(metric=metric))
    times.append((time.perf_counter(), time.process_time()))
    found = compare.compare_runs(runs)
    comparison_page.as_markdown(found)
    times.append((time.perf_counter(), time.process_time()))
    return [times[part + 1][kind] - times[part][kind] for kind in (0, 1) for part in (0, 1)], found


def main(arguments: list[str]) -> int:
    """Prints the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="3 systems, 200 examples: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    systems, examples = (3, 200) if options.small else (10, 25_000)
    rounds = 1 if options.small else options.rounds
    print(f"{systems} systems on {examples:,} examples, median of {rounds} round(s), numpy {np.__version__}\n")
    heading = "| metric | labels | reading, s | statistics, s | reading, CPU s | statistics, CPU s | target |"
    print(f"{heading}\n| --- | --: | --: | --: | --: | --: | --- |")
    cases = []
    for metric, labels in CASES.items():
        with tempfile.TemporaryDirectory() as name:
            for number in range(systems):
                write_run(Path(name, str(number)), number, metric, labels, examples)
            results = [timed(Path(name), metric) for _ in range(rounds)]
        seconds = [statistics.median(times) for times in zip(*(times for times, _ in results), strict=True)]
        found = results[0][1]
        cases.append(
            {
                "case": metric,
                "labels": labels,
                "systems": len(found.systems),
                "pairs": len(found.pairs),
                "examples": found.examples,
                "draws": found.draws,
                **dict(zip(("reading_s", "statistics_s", "reading_cpu_s", "statistics_cpu_s"), seconds, strict=True)),
                "within": seconds[1] <= TARGET_S,
            }
        )
        shown = " | ".join(f"{value:.2f}" for value in seconds)
        print(f"| {metric} | {labels or '–'} | {shown} | {'yes' if seconds[1] <= TARGET_S else 'no'} |", flush=True)
    print(json.dumps({"benchmark": "comparing", "small": options.small, "device": "cpu", "cases": cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
