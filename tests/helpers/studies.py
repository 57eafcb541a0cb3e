"""Studies for tests of reports: copies of a shipped record with other seeds, scores, predictions and logs."""

import hashlib
import json
import random
from pathlib import Path

from bench.analysis.stats import intervals
from bench.data.rows import Split
from bench.records import store
from bench.records.record import Score

ROOT = Path(__file__).resolve().parents[2]
# A study of two systems, one of which can not be run, with two settings to choose from for each.
TWO_SYSTEMS = """
title: Which rate?
metric: accuracy
runs:
  - recipe: tiny/bert-full
  - recipe: broken
settings: {full: {training.steps: 2, save: false, evaluation.before: false}}
tune: {full: {training.learning_rate: [1e-3, 1e-4]}, lora: {training.learning_rate: [1e-3, 1e-4]}}
"""
LABELS = ["negative", "positive"]


def base():
    """The record that all are made from."""
    return store.read(ROOT / "reports" / "minilm" / "sst2-lora")


def write_texts(folder, examples, text="a fine film, number {number}"):
    """A data set of one split; returns what records tell of it: the source, and the split's fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"t-{n:05d}", "sentence": text.format(number=n), "label": LABELS[n % 2]} for n in range(examples)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept = [{"id": row["id"], "text": row["sentence"], "text_pair": None, "label": n % 2} for n, row in enumerate(rows)]
    return {"folder": str(folder), "fingerprint": Split(name="test", rows=kept).fingerprint}


def write_run(folder, name, seed, right, *, before=(), texts=None, **changes):
    """A run that answered the examples where `right` holds; changes: fields of the record. Returns its folder."""
    made = base()
    made.name, made.seed, made.recipe.resolved["seed"] = name, seed, seed
    made.study, _, made.method = name.split("--")
    made.recipe.hash = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()
    made.scores = {"after": {"test": scores(right)}}
    if before:
        made.scores["before"] = {"test": scores(before)}
    made.data.splits["test"].examples = len(right)
    described = made.recipe.resolved["dataset"]
    described |= {"splits": {"test": "dev"}}
    if texts is not None:
        described["source"] |= {"folder": texts["folder"], "files": {"dev": "test.jsonl"}}
        made.data.splits["test"].fingerprint = texts["fingerprint"]
    (folder / "predictions").mkdir(parents=True)
    lines = [json.dumps(line(number, hit)) for number, hit in enumerate(right)]
    (folder / "predictions" / "after-test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = [{"step": step, "loss": 0.7 * 0.98**step + seed / 1000} for step in range(1, 40, 3)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    for field, value in changes.items():
        setattr(made, field, value)
    store.write(made, folder)
    return folder


def line(number, hit):
    """One line of a file of predictions."""
    reference = number % 2
    prediction = reference if hit else 1 - reference
    return {
        "id": f"t-{number:05d}", "prediction": LABELS[prediction], "reference": LABELS[reference],
        "scores": None, "metrics": {"accuracy": float(hit)},
    }  # fmt: skip


def scores(right):
    """Accuracy, accuracy by label and confusion matrix of these answers."""
    number, hits = len(right), sum(right)
    by_label = [sum(right[side::2]) / len(right[side::2]) for side in (0, 1)]
    low, high = intervals.wilson(hits, number)
    counts = [[0, 0], [0, 0]]
    for place, hit in enumerate(right):
        counts[place % 2][place % 2 if hit else 1 - place % 2] += 1
    return {
        "accuracy": Score(
            value=hits / number, low=low, high=high, interval="wilson 95 %", examples=number, signature="a"
        ),
        "accuracy_per_label": Score(value=by_label, examples=number, signature="p"),
        "confusion_matrix": Score(value=counts, examples=number, signature="c"),
    }


def answers(skill, seed, examples=200):
    """So many answers, right with this probability; hard examples are hard for all."""
    chooser, same = random.Random(f"{skill} {seed}"), random.Random(0)
    return [chooser.random() < min(1, max(0, skill + 0.5 * (same.random() - 0.5))) for _ in range(examples)]


def write_study(folder, skills, seeds=(13, 14, 15), examples=200, **changes):
    """Runs of systems with these skills, each with all seeds, on one data set; returns the folder of the runs."""
    texts = write_texts(folder / "data", examples)
    for name, skill in skills.items():
        for seed in seeds:
            hits = answers(skill, seed, examples)
            before = answers(0.5, seed, examples)
            place = folder / "runs" / f"{name}-{seed}"
            write_run(place, f"study--{name}--lora", seed, hits, before=before, texts=texts, **changes)
    return folder / "runs"
