"""Is a change worse than what was there? Verdicts on quality, losses and speed, for continuous integration.

A baseline holds, for each recipe, the scores of several seeds and the losses of the first one. A new set of runs with
the same seeds is held against it. Pure functions and their types; `gate_runs` makes the runs. Does not import torch.
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

# Chance of an alarm at a change that makes nothing worse, over all quality and speed verdicts of a gate together.
ALPHA = 0.01
# Of fewer seeds no test can tell a fall from chance.
FEWEST_SEEDS = 3
# Less of a fall, in the metric's own unit, is no regression, however sure it is; nor is less of a slowdown.
MARGIN, FACTOR = 0.005, 1.15
# Losses of equal arithmetic agree to rounding; after many steps rounding grows, so only so many are compared.
SAME_LOSS, COMPARED_STEPS = 1e-4, 20
# A training whose losses agree to this at every step has ended with the same model.
SAME_TRAINING = 1e-6
# With other versions of libraries or another processor, sums are in another order from the first step on.
NEAR_LOSS, NEAR_STEPS = 1e-2, 5
# What decides about arithmetic; of versions, major, minor and patch.
ARITHMETIC = ("torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes", "numpy")


class Baseline(Part):
    """What a recipe's runs gave when all was well. scores, losses: by seed; losses of every step, the first seed only.

    arithmetic: versions and processor, on which digits depend.
    """

    recipe: str
    hash: str
    metric: str
    higher_is_better: bool
    scores: dict[int, float]
    losses: list[float]
    arithmetic: dict[str, str]


class Verdict(Part):
    """One line of a gate. p: one-sided, of so much or more by chance; null for what is not a test of chance."""

    recipe: str
    kind: str
    ok: bool
    sentence: str
    p: float | None = None
    limit: float | None = None


def read_baseline(path: Path) -> Baseline:
    """Raises DataError for a file that is none, or was edited."""
    try:
        found = Baseline.model_validate(
            json.loads(path.read_text(encoding="utf-8"), parse_int=numbers.whole_number), strict=False
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such baseline; make it with --write") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not a baseline: {where}: {first['msg']}; make it anew: --write") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a baseline: {str(error).splitlines()[0]}; make it anew: --write") from error
    if len(found.scores) < FEWEST_SEEDS:
        raise DataError(f"{path}: not a baseline: it needs the scores of {FEWEST_SEEDS} seeds or more")
    if not all(map(math.isfinite, [*found.scores.values(), *found.losses])):
        raise DataError(f"{path}: not a baseline: a score or a loss in it is not a number")
    return found


def write_baseline(found: Baseline, path: Path) -> None:
    """Writes a baseline whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, found.model_dump_json(indent=1) + "\n")


def quality(baseline: Baseline, new: dict[int, float], level: float, margin: float = MARGIN) -> Verdict:
    """Whether the scores fell, by two one-sided tests: of the differences at equal seeds, and against the spread of the
    baseline's seeds.

    A run with the same seed and the same code gives the same score, so that any difference is the change's, and what a
    change of rounding does to a training is as often up as down. The first test sees a small fall that all seeds share,
    the second a large one of some. level: chance of a false alarm of this verdict alone, halved between the two. A fall
    below `margin` is none. new: by seed; only seeds that both have are compared.
    """
    seeds = sorted(set(baseline.scores) & set(new))
    if len(seeds) < FEWEST_SEEDS:
        told = f"{len(seeds)} seeds are the baseline's and the new runs', {FEWEST_SEEDS} are needed"
        raise DataError(f"{baseline.recipe}: {told}")
    sign = 1 if baseline.higher_is_better else -1
    gains = sign * np.array([new[seed] - baseline.scores[seed] for seed in seeds])
    before, after = (float(np.mean([found[seed] for seed in seeds])) for found in (baseline.scores, new))
    fell = -float(gains.mean())
    old = np.array([baseline.scores[seed] for seed in seeds])
    p = min(1.0, 2 * min(fall_probability(gains), beyond_probability(old, fell, margin)))
    ok = p >= level or fell < margin
    change = f"{before:.4f} -> {after:.4f}"
    if fell <= 0:
        sentence = f"{baseline.metric} {change}: no fall"
    elif ok:
        seen = max(margin, visible_fall(old, level / 2, margin))
        why = f"below the {margin:g} that count" if p < level else f"no more than seeds do, {seen:.4f} surely is"
        sentence = f"{baseline.metric} {change}: a fall of {fell:.4f}, {why} (p = {p:.3g})"
    else:
        sentence = f"{baseline.metric} fell by {fell:.4f}, {change} over {len(seeds)} seeds (p = {p:.2g} < {level:.2g})"
    return Verdict(recipe=baseline.recipe, kind="quality", ok=ok, sentence=sentence, p=p, limit=level)


def fall_probability(gains: np.ndarray) -> float:
    """One-sided p of Student's t-test that the mean gain is not below zero. gains: new minus old by seed, shape (n,).

    Equal gains leave no doubt: 0 for a fall that all seeds share, else 1.
    """
    from scipy import stats

    if np.ptp(gains) < 1e-12:
        return 0.0 if gains.mean() < -1e-12 else 1.0
    return float(stats.ttest_1samp(gains, 0.0, alternative="less").pvalue)


def _error(old: np.ndarray, margin: float) -> float:
    """Standard error of the difference of two means over such seeds, which vary by the margin at least."""
    error: float = max(float(old.std(ddof=1)), margin) * (2 / len(old)) ** 0.5
    return error


def beyond_probability(old: np.ndarray, fell: float, margin: float) -> float:
    """One-sided p of a fall of the mean this large, if other seeds of the old code were run. old: scores, shape (n,).

    Student's t with the old spread alone: that of the new runs may be what is wrong with them. Seeds that are alike to
    less than the margin are taken to vary by it, since another order of sums can turn an example over.
    """
    from scipy import stats

    error = _error(old, margin)
    if error == 0:
        return 0.0 if fell > 0 else 1.0
    return float(stats.t.sf(fell / error, len(old) - 1))


def visible_fall(old: np.ndarray, level: float, margin: float) -> float:
    """From which fall of the mean on `beyond_probability` is below the level."""
    from scipy import stats

    return _error(old, margin) * float(stats.t.isf(level, len(old) - 1))


def changed_arithmetic(baseline: Baseline, arithmetic: dict[str, str]) -> list[str]:
    """What the digits of the baseline were made with, and is another one now."""
    names = sorted({*arithmetic, *baseline.arithmetic})
    return [name for name in names if arithmetic.get(name) != baseline.arithmetic.get(name)]


def trajectory(baseline: Baseline, losses: Sequence[float], arithmetic: dict[str, str]) -> Verdict:
    """Whether a fixed seed's losses are the same ones: a wrong gradient shows in the first steps, in every recipe.

    With another arithmetic they are compared so loosely that little shows; then the base commit's losses tell more.
    """
    changed = changed_arithmetic(baseline, arithmetic)
    tolerance, steps = (NEAR_LOSS, NEAR_STEPS) if changed else (SAME_LOSS, COMPARED_STEPS)
    if len(losses) != len(baseline.losses):
        told = f"{len(losses)} steps were logged, {len(baseline.losses)} by the baseline"
        return Verdict(recipe=baseline.recipe, kind="losses", ok=False, sentence=told)
    compared = list(zip(baseline.losses, losses, strict=True))[:steps]
    off = next((n for n, (old, new) in enumerate(compared, 1) if not abs(new - old) <= tolerance * abs(old)), None)
    loosely = f" to {tolerance:g}, since {', '.join(changed)} changed" if changed else f" to {tolerance:g}"
    if off is None:
        sentence = f"the first {len(compared)} losses agree{loosely}"
    else:
        old, new = compared[off - 1]
        sentence = f"the loss of step {off} is {new:.6f}, it was {old:.6f}; they must agree{loosely}"
    return Verdict(recipe=baseline.recipe, kind="losses", ok=off is None, sentence=sentence)


def scoring(
    baseline: Baseline,
    new: dict[int, float],
    losses: Sequence[float],
    arithmetic: dict[str, str],
    margin: float = MARGIN,
) -> Verdict | None:
    """Whether the same trained model is scored worse, which no seed excuses: damage to scoring that `quality`, which
    allows for seeds, may take for chance.

    None where the model is not known to be the same: another arithmetic, or another loss at any step. A model that is
    not trained is the same without losses.
    """
    alike = len(losses) == len(baseline.losses) and all(
        abs(one - old) <= SAME_TRAINING * abs(old) for old, one in zip(baseline.losses, losses, strict=True)
    )
    seeds = sorted(set(baseline.scores) & set(new))
    if not alike or not seeds or changed_arithmetic(baseline, arithmetic):
        return None
    sign = 1 if baseline.higher_is_better else -1
    fell = float(np.mean([sign * (baseline.scores[seed] - new[seed]) for seed in seeds]))
    what = f"{len(losses)} losses are the baseline's" if losses else "nothing is trained by gradients"
    told = f"fell by {fell:.4f}" if fell >= margin else f"fell by less than {margin:g}"
    sentence = f"{what}, and {baseline.metric} {told} over {len(seeds)} seeds"
    return Verdict(recipe=baseline.recipe, kind="scoring", ok=fell < margin, sentence=sentence)


def same_as_base(
    baseline: Baseline, base: Sequence[float], losses: Sequence[float], arithmetic: dict[str, str]
) -> Verdict:
    """Whether losses are those of the base commit, run on this very machine. base: its losses."""
    there = baseline.model_copy(update={"losses": list(base), "arithmetic": arithmetic})
    return trajectory(there, losses, arithmetic).model_copy(update={"kind": "losses of the base commit"})


def speed(
    recipe: str, what: str, base: Sequence[float], new: Sequence[float], level: float, factor: float = FACTOR
) -> Verdict:
    """Whether runs became slower: one-sided Mann-Whitney U test, and a ratio of medians above `factor`.

    base, new: seconds of runs of both states of the code, interleaved in one job on one machine.
    """
    from scipy import stats

    p = float(stats.mannwhitneyu(new, base, alternative="greater", method="exact").pvalue)
    least = smallest_p(len(base), len(new))
    if least >= level:
        raise DataError(f"{len(base)} and {len(new)} runs can't show a slowdown at {level:.2g}; take more --rounds")
    ratio = float(np.median(new) / np.median(base))
    ok = p >= level or ratio <= factor
    times = f"{what}: x {ratio:.3f} ({np.median(base):.4g} s -> {np.median(new):.4g} s, p = {p:.2g})"
    return Verdict(recipe=recipe, kind="speed", ok=ok, sentence=times if ok else f"slower, {times}", p=p, limit=level)


def smallest_p(base: int, new: int) -> float:
    """The smallest p that so many runs of each can give: all new ones slower than all old ones."""
    return 1 / math.comb(base + new, base)


def rounds_needed(level: float) -> int:
    """Runs of each state of the code from which on a slowdown can be shown at this level."""
    return next(count for count in itertools.count(2) if smallest_p(count, count) < level)


def as_markdown(verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> str:
    """A short comment for a pull request: failures first."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    head = f"**{len(failed)} of {len(verdicts)} checks failed**" if failed else f"**All {len(verdicts)} checks passed**"
    lines = [f"### Regression gate\n\n{head}\n"]
    rows = [
        ["ok" if one.ok else "**failed**", markdown.escape(one.recipe), one.kind, markdown.escape(one.sentence, 400)]
        for one in sorted(verdicts, key=lambda one: one.ok)
    ]
    lines.append(markdown.table(["", "recipe", "check", "found"], rows, "llll") + "\n")
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"
