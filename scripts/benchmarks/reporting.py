"""Measure the processor time of `python -m bench report` for 10 systems of 5 seeds on 25,000 examples.

    python scripts/benchmarks/reporting.py [--small] [--before] [--profile]

Run folders are made up as a classification run would leave them: a record with accuracy, F1 and confusion matrix,
predictions with probabilities, a log. Then the whole report is written in this process, Markdown and HTML: reading and
verifying the predictions, all paired tests, tables and figures. Seconds are processor time of all threads, since other
work may take the cores; those of the wall stand beside them. The target is 12 s.
"""

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Read when NumPy is loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.analysis.stats import intervals
from bench.analysis.stats.sums import Line, tally
from bench.records import store
from bench.records.record import Comparability, Data, Launch, PhaseTime, RecipePart, Record, Score, SplitPart
from bench.reporting import study_page

LABELS = ["negative", "neutral", "positive"]
METRICS = ("accuracy", "f1_macro", "mcc")
TARGET_S = 12.0


def write_run(folder: Path, system: int, seed: int, examples: int, skills: dict[str, float]) -> None:
    """A run's record, log, and predictions of each stage. skills: stage -> share of right answers, mostly the same."""
    rows = {stage: _predictions(system, seed, examples, skill + system / 100) for stage, skill in skills.items()}
    (folder / "predictions").mkdir(parents=True)
    for stage, lines in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (folder / "predictions" / f"{stage}-test.jsonl").write_text(text, encoding="utf-8")
    log = [{"step": step, "loss": 0.7 * 0.99**step} for step in range(1, 400, 4)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    store.write(_record(system, seed, {stage: _scores(lines) for stage, lines in rows.items()}, examples), folder)


def _predictions(system: int, seed: int, examples: int, skill: float) -> list[dict[str, Any]]:
    draw, own = np.random.default_rng(0), np.random.default_rng((system, seed))
    reference, difficulty = draw.integers(len(LABELS), size=examples), draw.random(examples)
    is_right = difficulty + own.normal(scale=0.1, size=examples) < skill
    guess = np.where(is_right, reference, own.integers(len(LABELS), size=examples))
    return [
        {
            "id": f"e{place:06}",
            "prediction": LABELS[guess[place]],
            "reference": LABELS[reference[place]],
            "scores": [0.123456, 0.234567, 0.641977],
            "metrics": {"accuracy": float(guess[place] == reference[place])},
        }
        for place in range(examples)
    ]


def _scores(rows: list[dict[str, Any]]) -> dict[str, Score]:
    lines = [Line(row["prediction"], row["reference"], row["metrics"]["accuracy"]) for row in rows]
    counts = [[sum(line.reference == one and line.prediction == other for line in lines) for other in LABELS]
              for one in LABELS]  # fmt: skip
    scores = {
        name: Score(value=tally(name, lines, LABELS, multi_label=False).score, examples=len(rows), signature=name)
        for name in METRICS
    }
    low, high = intervals.wilson(sum(line.value or 0 for line in lines), len(lines))
    scores["accuracy"] = scores["accuracy"].model_copy(update={"low": low, "high": high, "interval": "wilson 95 %"})
    scores["confusion_matrix"] = Score(value=counts, examples=len(rows), signature="c")
    return scores


def _record(system: int, seed: int, scores: dict[str, dict[str, Score]], examples: int) -> Record:
    part = SplitPart(examples=examples, fingerprint="f", labels={}, tokens={}, truncated=0)
    return Record(
        status="ok",
        reason=None,
        name=f"study--model{system}--full",
        study="study",
        method="full",
        seed=seed,
        started_at="2026-01-01T00:00:00+00:00",
        recipe=RecipePart(path="x.yaml", hash=f"{system:064}"),
        comparability=Comparability(key="k", parts={"data": "d", "metrics": "m"}),
        launch=Launch(world_size=1, num_machines=1, distributed_type="NO", mixed_precision="no", device="cpu",
                      global_batch=32, per_device_batch=32, accumulation=1),
        data=Data(id="made up", labels=LABELS, splits={"test": part}),
        scores={stage: {"test": found} for stage, found in scores.items()},
        baselines={"test": {"majority": {"accuracy": 1 / 3}}},
        phases=[PhaseTime(name="train", seconds=100 + 10 * system + seed)],
        memory={"train": {"rss_gib": 1 + system / 10}},
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Prints the seconds and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="3 systems of 2 seeds, 200 examples: does it run?")
    parser.add_argument("--before", action="store_true", help="with predictions before training too")
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    options = parser.parse_args(arguments)
    systems, seeds, examples = (3, 2, 200) if options.small else (10, 5, 25_000)
    skills = {"before": 0.4, "after": 0.7} if options.before else {"after": 0.7}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for system in range(systems):
            for seed in range(seeds):
                write_run(folder / "runs" / f"{system}-{seed}", system, seed, examples, skills)
        profile = cProfile.Profile()
        started = time.perf_counter(), time.process_time()
        if options.profile:
            profile.enable()
        study_page.write([folder / "runs"], folder / "report", folder / "page.html")
        profile.disable()
        wall_s, cpu_s = time.perf_counter() - started[0], time.process_time() - started[1]
        sizes = {path.name: path.stat().st_size for path in (folder / "page.html", folder / "report" / "report.md")}
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    what = (
        f"{systems} systems x {seeds} seeds x {examples:,} predictions{' before and after' if options.before else ''}"
    )
    print(
        f"{what}: {cpu_s:.1f} CPU s ({wall_s:.1f} s), target {TARGET_S:g}; page.html {sizes['page.html'] / 1e6:.2f} MB"
    )
    case = {"before": options.before, "systems": systems, "seeds": seeds, "examples": examples, **sizes}
    case |= {"cpu_s": cpu_s, "wall_s": wall_s, "within": cpu_s <= TARGET_S}
    print(json.dumps({"benchmark": "reporting", "small": options.small, "device": "cpu", "cases": [case]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
