"""Criteria of the regression gate: verdicts on quality, losses and speed, for continuous integration.

A baseline holds, for each recipe, the scores of several seeds and the losses of the first one. New runs with the same
seeds are compared with it. Pure functions; `runs` executes the gate. Loads no torch.
"""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from bench.errors import DataError
from bench.records.record import Part
from bench.reporting import markdown
from bench.utils import files, numbers

# False alarm rate over all quality and speed tests of a gate.
ALPHA = 0.01
# With fewer seeds no drop can be significant.
FEWEST_SEEDS = 3
# A smaller drop (in the metric's unit), or a smaller slowdown, is not a regression, however significant.
MARGIN, FACTOR = 0.005, 1.15
# Relative tolerance of losses with the same arithmetic; rounding differences grow, so only the first steps count.
SAME_LOSS, COMPARED_STEPS = 1e-4, 20
# If losses agree to this at every step, both trainings gave the same model.
SAME_TRAINING = 1e-6
# Tolerance with other library versions or another processor, which change the order of summation.
NEAR_LOSS, NEAR_STEPS = 1e-2, 5
# Packages whose versions determine the arithmetic; major, minor and patch.
ARITHMETIC = ("torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes", "numpy")


class Baseline(Part):
    """Reference results of a recipe. scores: by seed. losses: every step of the first seed.

    arithmetic: versions and processor, which determine rounding.
    """

    recipe: str
    hash: str
    metric: str
    higher_is_better: bool
    scores: dict[int, float]
    losses: list[float]
    arithmetic: dict[str, str]


class Verdict(Part):
    """Result of one check. p: one-sided p-value, None if the check is not a statistical test."""

    recipe: str
    kind: str
    ok: bool
    sentence: str
    p: float | None = None
    limit: float | None = None


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises DataError for a missing, malformed or edited file."""
    try:
        baseline = Baseline.model_validate(
            json.loads(files.read_text(path), parse_int=numbers.whole_number), strict=False
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: baseline not found; write it with --write") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: invalid baseline: {where}: {first['msg']}; write a new one with --write") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: invalid baseline: {reason}; write a new one with --write") from error
    if len(baseline.scores) < FEWEST_SEEDS:
        raise DataError(f"{path}: invalid baseline: it needs scores of at least {FEWEST_SEEDS} seeds")
    if not all(map(math.isfinite, [*baseline.scores.values(), *baseline.losses])):
        raise DataError(f"{path}: invalid baseline: a score or a loss is not finite")
    return baseline


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, baseline.model_dump_json(indent=1) + "\n")


def quality(baseline: Baseline, new: dict[int, float], level: float, margin: float = MARGIN) -> Verdict:
    """Test for a drop of the scores, by two one-sided tests.

    The first tests the paired differences at equal seeds, the second compares the mean difference with the variance
    over the baseline's seeds. The same seed and code give the same score, so any difference is due to the change;
    changes of rounding go up as often as down. The first test detects a small drop common to all seeds, the second a
    large drop of some. level: false alarm rate of this verdict, divided between both tests. A drop below `margin`
    passes. new: scores by seed; only common seeds are compared.
    """
    seeds = sorted(set(baseline.scores) & set(new))
    if len(seeds) < FEWEST_SEEDS:
        raise DataError(
            f"{baseline.recipe}: {len(seeds)} seeds in common with the baseline, at least {FEWEST_SEEDS} are needed"
        )
    sign = 1 if baseline.higher_is_better else -1
    gains = sign * np.array([new[seed] - baseline.scores[seed] for seed in seeds])
    before, after = (float(np.mean([scores[seed] for seed in seeds])) for scores in (baseline.scores, new))
    drop = -float(gains.mean())
    old = np.array([baseline.scores[seed] for seed in seeds])
    p = min(1.0, 2 * min(drop_p_value(gains), seed_spread_p_value(old, drop, margin)))
    ok = p >= level or drop < margin
    change = f"{before:.4f} -> {after:.4f}"
    if drop <= 0:
        sentence = f"{baseline.metric} {change}: no drop"
    elif ok:
        detectable = max(margin, detectable_drop(old, level / 2, margin))
        why = f"below the margin of {margin:g}" if p < level else f"not significant, detectable is {detectable:.4f}"
        sentence = f"{baseline.metric} {change}: dropped by {drop:.4f}, {why} (p = {p:.3g})"
    else:
        change += f" over {len(seeds)} seeds"
        sentence = f"{baseline.metric} dropped by {drop:.4f}, {change} (p = {p:.2g} < {level:.2g})"
    return Verdict(recipe=baseline.recipe, kind="quality", ok=ok, sentence=sentence, p=p, limit=level)


def drop_p_value(gains: np.ndarray) -> float:
    """Return the one-sided p-value of Student's t-test for a mean gain below zero. gains: new minus old, shape (n,).

    Without variance: 0 for a drop common to all seeds, else 1.
    """
    from scipy import stats

    if np.ptp(gains) < 1e-12:
        return 0.0 if gains.mean() < -1e-12 else 1.0
    return float(stats.ttest_1samp(gains, 0.0, alternative="less").pvalue)


def _error(old: np.ndarray, margin: float) -> float:
    """Return the standard error of the difference of two means over seeds; their std is at least the margin."""
    error: float = max(float(old.std(ddof=1)), margin) * (2 / len(old)) ** 0.5
    return error


def seed_spread_p_value(old: np.ndarray, drop: float, margin: float) -> float:
    """Return the one-sided p-value of this drop of the mean under the old code's variance over seeds.

    Student's t with the old standard deviation only, since the change may affect that of the new runs. It is at least
    the margin, since another order of summation can flip an example. old: scores, shape (n,).
    """
    from scipy import stats

    error = _error(old, margin)
    if error == 0:
        return 0.0 if drop > 0 else 1.0
    return float(stats.t.sf(drop / error, len(old) - 1))


def detectable_drop(old: np.ndarray, level: float, margin: float) -> float:
    """Return the smallest drop of the mean for which `seed_spread_p_value` is below the level."""
    from scipy import stats

    return _error(old, margin) * float(stats.t.isf(level, len(old) - 1))


def changed_arithmetic(baseline: Baseline, arithmetic: dict[str, str]) -> list[str]:
    """Return the names of versions, or "processor", that differ from the baseline's."""
    names = sorted({*arithmetic, *baseline.arithmetic})
    return [name for name in names if arithmetic.get(name) != baseline.arithmetic.get(name)]


def trajectory(baseline: Baseline, losses: Sequence[float], arithmetic: dict[str, str]) -> Verdict:
    """Compare the losses of a fixed seed with the baseline's: a wrong gradient shows in the first steps.

    With different arithmetic the tolerance is so large that little is detected; the base commit's losses tell more
    then.
    """
    changed = changed_arithmetic(baseline, arithmetic)
    tolerance, steps = (NEAR_LOSS, NEAR_STEPS) if changed else (SAME_LOSS, COMPARED_STEPS)
    if len(losses) != len(baseline.losses):
        sentence = f"{len(losses)} steps were logged, but {len(baseline.losses)} in the baseline"
        return Verdict(recipe=baseline.recipe, kind="losses", ok=False, sentence=sentence)
    compared = list(zip(baseline.losses, losses, strict=True))[:steps]
    off = next((n for n, (old, new) in enumerate(compared, 1) if not abs(new - old) <= tolerance * abs(old)), None)
    within = f"within {tolerance:g}" + (f", since {', '.join(changed)} changed" if changed else "")
    if off is None:
        sentence = f"the first {len(compared)} losses agree {within}"
    else:
        old, new = compared[off - 1]
        sentence = f"the loss at step {off} is {new:.6f}, expected {old:.6f}; they must agree {within}"
    return Verdict(recipe=baseline.recipe, kind="losses", ok=off is None, sentence=sentence)


def scoring(
    baseline: Baseline,
    new: dict[int, float],
    losses: Sequence[float],
    arithmetic: dict[str, str],
    margin: float = MARGIN,
) -> Verdict | None:
    """Check whether an identical model gets a lower score: a bug in scoring that `quality` may attribute to seeds.

    None where the model may differ: different arithmetic, or a different loss at any step. A model without gradient
    training is identical.
    """
    alike = len(losses) == len(baseline.losses) and all(
        abs(one - old) <= SAME_TRAINING * abs(old) for old, one in zip(baseline.losses, losses, strict=True)
    )
    seeds = sorted(set(baseline.scores) & set(new))
    if not alike or not seeds or changed_arithmetic(baseline, arithmetic):
        return None
    sign = 1 if baseline.higher_is_better else -1
    drop = float(np.mean([sign * (baseline.scores[seed] - new[seed]) for seed in seeds]))
    model = f"identical losses at all {len(losses)} steps" if losses else "no gradient training"
    change = f"{baseline.metric} dropped by " + (f"{drop:.4f}" if drop >= margin else f"less than {margin:g}")
    sentence = f"{model}, and {change} over {len(seeds)} seeds"
    return Verdict(recipe=baseline.recipe, kind="scoring", ok=drop < margin, sentence=sentence)


def same_as_base(
    baseline: Baseline, base: Sequence[float], losses: Sequence[float], arithmetic: dict[str, str]
) -> Verdict:
    """Compare losses with those of the base commit on the same machine. base: its losses."""
    there = baseline.model_copy(update={"losses": list(base), "arithmetic": arithmetic})
    return trajectory(there, losses, arithmetic).model_copy(update={"kind": "losses of the base commit"})


def speed(
    recipe: str, what: str, base: Sequence[float], new: Sequence[float], level: float, factor: float = FACTOR
) -> Verdict:
    """Test for a slowdown: one-sided Mann-Whitney U test, and a ratio of medians above `factor`.

    base, new: seconds of runs of both commits, interleaved on one machine.
    """
    from scipy import stats

    p = float(stats.mannwhitneyu(new, base, alternative="greater", method="exact").pvalue)
    least = smallest_p(len(base), len(new))
    if least >= level:
        raise DataError(
            f"{len(base)} and {len(new)} runs are too few for a test at level {level:.2g}; use more --rounds"
        )
    ratio = float(np.median(new) / np.median(base))
    ok = p >= level or ratio <= factor
    times = f"{what}: x {ratio:.3f} ({np.median(base):.4g} s -> {np.median(new):.4g} s, p = {p:.2g})"
    return Verdict(recipe=recipe, kind="speed", ok=ok, sentence=times if ok else f"slower, {times}", p=p, limit=level)


def smallest_p(base: int, new: int) -> float:
    """Return the smallest p-value for these numbers of runs: all new ones slower than all old ones."""
    return 1 / math.comb(base + new, base)


def rounds_needed(level: float) -> int:
    """Return the minimum number of runs of each commit for a test at this level."""
    return next(count for count in itertools.count(2) if smallest_p(count, count) < level)


def as_markdown(verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> str:
    """Return a short comment for a pull request, failures first."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    head = f"**{len(failed)} of {len(verdicts)} checks failed**" if failed else f"**All {len(verdicts)} checks passed**"
    lines = [f"### Regression gate\n\n{head}\n"]
    rows = [
        ["ok" if one.ok else "**failed**", markdown.escape(one.recipe), one.kind, markdown.escape(one.sentence, 400)]
        for one in sorted(verdicts, key=lambda one: one.ok)
    ]
    lines.append(markdown.table(["", "recipe", "check", "result"], rows, "llll") + "\n")
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"
