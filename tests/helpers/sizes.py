"""Runs over numbers of training examples, and over folds, made without training."""

import hashlib
import random

from bench.records.record import Comparability, Fold, TrainSubset
from tests.helpers import studies


def law(size, floor, scale, exponent):
    """The error that a power law gives."""
    return floor + scale * (size / 50) ** -exponent


def write_series(folder, method, error, *, sizes, seeds=(13, 14, 15, 16, 17), examples=300, whole=4000, noise=0.01):
    """Runs of one method at each size and seed. error: size -> share of wrong answers. `whole` is all there is."""
    for size in sizes:
        for seed in seeds:
            chooser = random.Random(f"{method}/{size}/{seed}")
            # The same examples are hard for all systems.
            hard = random.Random("hard").sample(range(examples), examples)
            wrong = round(examples * (error(size) + chooser.gauss(0, noise)))
            mixed = sorted(range(examples), key=lambda place: hard[place] + chooser.gauss(0, examples / 10))
            missed = set(mixed[: max(0, wrong)])
            write_run(folder / f"{method}-{size}-{seed}", method, seed, size, missed, examples, whole)


def write_run(folder, method, seed, size, missed, examples, whole, **changes):
    """One run at a size; it answered all examples but those that it missed."""
    right = [number not in missed for number in range(examples)]
    studies.write_run(folder, f"study--minilm--{method}", seed, right, **changes)
    record = studies.store.read(folder)
    series = record.recipe.hash
    record.recipe.overrides = []
    record.recipe.path = f"recipes/study/{method}.yaml"
    record.comparability = Comparability(key="k", parts={"data": "d", "metrics": "m"})
    if size < whole:
        record.recipe.series_hash = series
        record.recipe.hash = hashlib.sha256(f"{series}/{size}".encode()).hexdigest()
        record.recipe.resolved["data"] = {"train_examples": size, "fold": None}
        record.data.train_subset = TrainSubset(examples=size, of=whole, seed=seed, labels={})
    record.data.splits["train"].examples = size
    studies.store.write(record, folder)


def write_folds(folder, method, shares, *, seed=13, examples=60, **changes):
    """Runs of one method on folds of `examples` rows each. shares: of wrong answers, by fold."""
    for number, share in enumerate(shares, 1):
        missed = round(examples * share)
        path = folder / f"{method}-{seed}-{number}"
        studies.write_run(path, f"study--minilm--{method}", seed, [place >= missed for place in range(examples)])
        record, made = studies.store.read(path), f"{method}/{seed}/{number}"
        lines = path / "predictions"
        (lines / "after-test.jsonl").rename(lines / "after-fold.jsonl")
        record.scores = {"after": {"fold": record.scores["after"]["test"]}}
        record.data.splits["fold"] = record.data.splits.pop("test")
        record.recipe.overrides, record.recipe.path = [], f"recipes/study/{method}.yaml"
        record.recipe.series_hash = record.recipe.hash
        record.recipe.hash = hashlib.sha256(made.encode()).hexdigest()
        record.recipe.resolved["data"] = {"folds": len(shares), "fold": number, "fold_of": ["train"]}
        record.comparability = Comparability(key=f"k{seed}{number}", parts={"data": f"d{number}", "metrics": "m"})
        record.data.fold = Fold(
            fold=number, folds=len(shares), of=["train"], seed=seed, examples=examples,
            train_examples=examples * (len(shares) - 1), fingerprint=f"f{seed}",
        )  # fmt: skip
        for field, value in changes.items():
            setattr(record, field, value)
        studies.store.write(record, path)
