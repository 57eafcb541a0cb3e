"""How often the regression gate raises a false alarm, and how often it catches a planted damage.

    python scripts/benchmarks/gate_power.py [--baseline reports/baseline] [--gates 1000] [--tries 100]

Runs are made from the committed baselines and judged by the gate's own criteria, all recipes and all checks of a gate
together; only the timing of `--against` is left out, whose tests take their share of the same error rate. Two machines
are simulated. "repeated": versions and processor of the baseline, or a base commit run beside by `--against`, where a
clean run repeats every bit. "elsewhere": another processor without `--against`; losses move by 1e-6 in the first
steps, and by their own size afterwards, and the scores of every seed are drawn anew with the spread between the seeds,
which is far more than rounding does. Exits with 1 if a false alarm is raised by more than 1 of 100 gates, or if two
points on all seeds of one recipe are caught in fewer than 95 of 100 where runs are repeated.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.sweeps.gate import criteria
from bench.sweeps.gate.criteria import Baseline
from bench.sweeps.gate.measured import Measured, Trajectory

POINTS = 0.02
EXAMPLES = 400  # that the shipped recipes score, where a baseline does not say it
MAX_FALSE_ALARMS, MIN_CAUGHT = 0.01, 0.95
# The first step from which another instruction set moved the losses of some shipped recipe by more than 1e-4.
CHAOS_FROM = 50

Runs = list[Measured]
Draw = np.random.Generator
Damage = Callable[[Baseline, Runs, Draw], Runs]


def completed(baseline: Baseline) -> Baseline:
    """Return a baseline with made-up norms, rates and tokens where it was written without them."""
    if baseline.missing == []:
        return baseline
    count, seeds = len(baseline.losses), list(baseline.scores)
    steps = np.arange(1, count + 1)
    whole = Trajectory(
        steps=steps.tolist(),
        losses=baseline.losses,
        grad_norms=(0.5 + 0.4 * np.sin(steps)).tolist(),
        learning_rates=(1e-3 * (1 - steps / max(count, 1))).tolist(),
        tokens=(700 * steps).tolist(),
    )
    return baseline.model_copy(
        update={
            "grad_norms": baseline.grad_norms or whole.grad_norms,
            "learning_rates": baseline.learning_rates or whole.learning_rates,
            "tokens": baseline.tokens or whole.tokens,
            "other_seeds": baseline.other_seeds or (dict.fromkeys(seeds[1:], whole.sample) if count else {}),
            "all_scores": baseline.all_scores
            or {seed: {baseline.metric: score} for seed, score in baseline.scores.items()},
            "examples": baseline.examples or EXAMPLES,
            "data": baseline.data or "the same",
        }
    )


def repeated(baseline: Baseline, draw: Draw) -> Runs:
    """Return what the same code measures again on the baseline's machine, but for a jitter in the last digit."""
    count = len(baseline.losses)
    whole = Trajectory(
        steps=list(range(1, count + 1)),
        losses=_jittered(baseline.losses, draw, 1e-7),
        grad_norms=_jittered(baseline.grad_norms, draw, 1e-7),
        learning_rates=baseline.learning_rates,
        tokens=baseline.tokens,
    )
    return [
        Measured(
            seed=seed,
            scores=dict(baseline.all_scores[seed]),
            arithmetic=baseline.arithmetic,
            trajectory=baseline.other_seeds.get(seed, whole),
            examples=baseline.examples,
            data=baseline.data,
        )
        for seed in baseline.scores
    ]


def elsewhere(baseline: Baseline, draw: Draw) -> Runs:
    """Return what the same code measures on another processor, with scores that vary as between seeds."""
    runs, spread = repeated(baseline, draw), float(np.std(list(baseline.scores.values()), ddof=1))
    moved = []
    for one in runs:
        size = np.where(np.array(one.trajectory.steps) < CHAOS_FROM, 1e-6, 0.3)
        score = float(np.mean(list(baseline.scores.values())) + spread * draw.standard_normal())
        moved.append(
            replace(
                one,
                arithmetic={**one.arithmetic, criteria.PROCESSOR: "another"},
                scores=dict(one.scores) | {baseline.metric: score},
                trajectory=one.trajectory.model_copy(
                    update={
                        "losses": _jittered(one.trajectory.losses, draw, size),
                        "grad_norms": _jittered(one.trajectory.grad_norms, draw, size),
                    }
                ),
            )
        )
    return moved


def _jittered(values: list[Any], draw: Draw, size: Any) -> list[Any]:
    return (np.array(values, dtype=float) * (1 + size * draw.standard_normal(len(values)))).tolist()


# ---------------------------------------------------------------- what is planted


def _scores(baseline: Baseline, runs: Runs, change: Callable[[float], float], seeds: int | None = None) -> Runs:
    """Change the compared score of the first seeds, or of all."""
    sign = 1 if baseline.higher_is_better else -1
    return [
        replace(one, scores=dict(one.scores) | {baseline.metric: one.scores[baseline.metric] - sign * change(0.0)})
        if seeds is None or number < seeds
        else one
        for number, one in enumerate(runs)
    ]


def two_points(baseline: Baseline, runs: Runs, draw: Draw) -> Runs:
    """Every seed loses two points on average: of its examples each is lost with that chance."""
    count = baseline.examples or EXAMPLES
    return _scores(baseline, runs, lambda _: draw.binomial(count, POINTS) / count)


def one_seed(baseline: Baseline, runs: Runs, draw: Draw) -> Runs:
    """One seed loses ten points."""
    return _scores(baseline, runs, lambda _: 0.10, seeds=1)


def _training(runs: Runs, change: Callable[[Trajectory], dict[str, Any]], seeds: slice = slice(None)) -> Runs:
    chosen = set(range(len(runs))[seeds])
    return [
        replace(one, trajectory=one.trajectory.model_copy(update=change(one.trajectory))) if number in chosen else one
        for number, one in enumerate(runs)
    ]


def _from(trajectory: Trajectory, step: int, share: float) -> dict[str, Any]:
    """From this step on every loss is higher by a share."""
    pairs = zip(trajectory.steps, trajectory.losses, strict=True)
    return {"losses": [loss * (1 + share * (number >= step)) for number, loss in pairs]}


TRAINING: dict[str, Damage] = {
    "gradients of half the size": lambda _, runs, draw: _training(
        runs, lambda one: {"grad_norms": [0.5 * (norm or 0) for norm in one.grad_norms]}
    ),
    "gradients of twice the size": lambda _, runs, draw: _training(
        runs, lambda one: {"grad_norms": [2.0 * (norm or 0) for norm in one.grad_norms]}
    ),
    "losses 0.1 % higher from step 21 on": lambda _, runs, draw: _training(runs, lambda one: _from(one, 21, 1e-3)),
    "the last loss 0.1 % higher": lambda _, runs, draw: _training(runs, lambda one: _from(one, one.steps[-1], 1e-3)),
    "losses of one other seed 0.1 % higher": lambda _, runs, draw: _training(
        runs, lambda one: _from(one, 21, 1e-3), slice(2, 3)
    ),
    "learning rates shifted by a step": lambda _, runs, draw: _training(
        runs, lambda one: {"learning_rates": [*one.learning_rates[1:], 0.0]}
    ),
    "one step fewer": lambda _, runs, draw: _training(
        runs, lambda one: {name: getattr(one, name)[:-1] for name in Trajectory.model_fields}
    ),
    "one training example missing": lambda _, runs, draw: _training(
        runs, lambda one: {"tokens": [tokens and tokens - 31 for tokens in one.tokens]}
    ),
}
SCORING: dict[str, Damage] = {
    "two points on all seeds": two_points,
    "ten points on one seed": one_seed,
    "one example not scored": lambda _, runs, draw: [replace(one, examples=(one.examples or 1) - 1) for one in runs],
    "labels in another order": lambda _, runs, draw: [replace(one, data="other") for one in runs],
}


def fails(baseline: Baseline, runs: Runs, level: float) -> bool:
    """Return whether a recipe's runs fail any check."""
    return any(not verdict.ok for verdict in criteria.verdicts(baseline, runs, level))


def main() -> int:
    """Simulate, print a table, and return 1 where the stated rates do not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, default=Path(__file__).resolve().parents[2] / "reports" / "baseline")
    parser.add_argument("--gates", type=int, default=1000, help="clean gates of all recipes")
    parser.add_argument("--tries", type=int, default=100, help="planted damages for each recipe and kind")
    options = parser.parse_args()
    baselines = [completed(criteria.read_baseline(path)) for path in sorted(options.baseline.glob("*.json"))]
    level, draw = criteria.ALPHA / len(baselines), np.random.default_rng(13)
    print(f"{len(baselines)} recipes, level {level:.2g} for each test of quality, {options.gates} clean gates")
    ok = True
    for name, machine in {"repeated": repeated, "elsewhere": elsewhere}.items():
        alarms = sum(
            any(fails(baseline, machine(baseline, draw), level) for baseline in baselines) for _ in range(options.gates)
        )
        ok &= alarms <= MAX_FALSE_ALARMS * options.gates
        print(f"\n{name}: {alarms} of {options.gates} clean gates raise a false alarm\n")
        print(f"| planted | caught, of {options.tries} for each recipe | lowest recipe |\n| --- | --: | --- |")
        for kind, damage in {**SCORING, **TRAINING}.items():
            concerned = [one for one in baselines if one.losses or kind in SCORING]
            caught = {}
            for baseline in concerned:
                tries = [damage(baseline, machine(baseline, draw), draw) for _ in range(options.tries)]
                caught[baseline.recipe] = sum(fails(baseline, runs, level) for runs in tries)
            share = sum(caught.values()) / (len(caught) * options.tries)
            lowest = min(caught, key=lambda recipe: caught[recipe])
            print(f"| {kind} | {100 * share:.1f} % | {lowest}: {caught[lowest]} |")
            if name == "repeated" and damage is two_points:
                ok &= min(caught.values()) >= MIN_CAUGHT * options.tries
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
