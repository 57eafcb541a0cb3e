"""Runs over numbers of training examples, and over folds, made without training."""

import hashlib
import random

from bench.records.record import Comparability, TrainSubset
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
