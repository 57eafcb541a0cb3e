"""Criteria of the regression gate: verdicts on quality, losses and speed, for continuous integration.

A baseline holds, for each recipe, the scores of several seeds, every step of the first one's training and some steps of
the others'. New runs with the same seeds are compared with it. Pure functions; `runs` executes the gate. No torch.

Power of a whole gate, as `scripts/benchmarks/gate_power.py` simulates it with these criteria: two points less on all
seeds of one recipe are caught in 100 of 100 gates, as are damages to gradients, losses, schedule and data, where
versions and processor are the baseline's, or a base commit is run beside (`--against`). On another processor without
it, scores are held to the spread between seeds only, and losses and gradients to their first 20 steps. A clean gate of
15 recipes of five seeds fails in at most 1 of 100, there too. Times share this rate, and are tested apart.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from bench.errors import DataError
from bench.records.record import Part
from bench.reporting import markdown
from bench.sweeps.gate.measured import Measured, Trajectory, first_difference, rounded
from bench.utils import files, numbers

# False alarm rate over all quality and speed tests of a gate.
ALPHA = 0.01
# With fewer seeds no drop can be significant.
FEWEST_SEEDS = 3
# A smaller drop (in the metric's unit), or a smaller slowdown, is not a regression, however significant.
MARGIN, FACTOR = 0.005, 1.15
# Relative tolerances of losses and gradient norms with the same arithmetic, at every step: a repetition has the same
# bits. A change of rounding on purpose may grow to more than that in a long training, and needs a new baseline.
SAME_LOSS, SAME_NORM = 1e-4, 1e-3
# A norm below this is compared as if it were this: at a minimum it is made of rounding.
LEAST = 1e-6
# Relative tolerance of learning rates, which are computed in float64 and kept with nine digits.
SAME_RATE = 1e-7
# Tolerances with other library versions or another processor, which change the order of summation. Other instruction
# sets move losses and norms of the shipped recipes by less than 1e-6 in the first 20 steps, and a chaotic one by its
# whole size after 100.
NEAR_LOSS, NEAR_NORM, NEAR_STEPS = 1e-2, 5e-2, 20
# Names of what decides the order of summation, beside the versions.
PROCESSOR = "processor"
MACHINE = (PROCESSOR, "instructions", "threads")
# Packages whose versions determine the arithmetic; major, minor and patch.
ARITHMETIC = ("torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes", "numpy")


# What is compared, the seed, and the values of its steps, old and new.
Series = tuple[str, int, Sequence[float | None], Sequence[float | None]]


class Baseline(Part):
    """Reference results of a recipe. scores: by seed. losses, grad_norms, …: every step of the first seed.

    arithmetic: versions and processor, which determine rounding. other_seeds: some steps of each seed but the first.
    all_scores: seed -> every scalar score. examples, data: count and digest of what was scored. What a baseline was
    written without is not compared.
    """

    recipe: str
    hash: str
    metric: str
    higher_is_better: bool
    scores: dict[int, float]
    losses: list[float]
    arithmetic: dict[str, str]
    grad_norms: list[float | None] = Field(default_factory=list)
    learning_rates: list[float | None] = Field(default_factory=list)
    tokens: list[float | None] = Field(default_factory=list)
    other_seeds: dict[int, Trajectory] = Field(default_factory=dict)
    all_scores: dict[int, dict[str, float]] = Field(default_factory=dict)
    examples: int | None = None
    data: str | None = None

    @property
    def first_seed(self) -> int:
        """Return the seed of which every step is kept."""
        return next(iter(self.scores))

    @property
    def missing(self) -> list[str]:
        """Return the quantities that are not compared, since the baseline was written without them."""
        left = {"data": self.data is None, "all scores": not self.all_scores}
        if self.losses:
            left |= {"gradient norms": not self.grad_norms, "learning rates": not self.learning_rates}
            left["losses of other seeds"] = not self.other_seeds
        return [name for name, is_missing in left.items() if is_missing]


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
    norms = [norm for norm in baseline.grad_norms if norm is not None]
    if not all(map(math.isfinite, [*baseline.scores.values(), *baseline.losses, *norms])):
        raise DataError(f"{path}: invalid baseline: a score, a loss or a gradient norm is not finite")
    series = (baseline.grad_norms, baseline.learning_rates, baseline.tokens)
    if any(len(values) not in (0, len(baseline.losses)) for values in series):
        raise DataError(f"{path}: invalid baseline: its lists of steps have different lengths")
    return baseline


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = baseline.model_dump(mode="json")
    # One line for each key: a list of every step would be a file of thousands of lines.
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    files.write_text(path, f"{{\n{lines}\n}}\n")


def baseline_of(runs: Sequence[Measured], *, recipe: str, hash: str, metric: str, higher_is_better: bool) -> Baseline:
    """Return the baseline that runs make, in the order of their seeds. hash: of the recipe."""
    first = runs[0]
    return Baseline(
        recipe=recipe,
        hash=hash,
        metric=metric,
        higher_is_better=higher_is_better,
        scores={one.seed: one.scores[metric] for one in runs},
        losses=first.trajectory.losses,
        arithmetic=dict(first.arithmetic),
        grad_norms=first.trajectory.grad_norms,
        learning_rates=first.trajectory.learning_rates,
        tokens=first.trajectory.tokens,
        other_seeds={one.seed: one.trajectory.sample for one in runs[1:] if one.trajectory.losses},
        all_scores={one.seed: {name: rounded(value) for name, value in one.scores.items()} for one in runs},
        examples=first.examples,
        data=first.data,
    )


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


def changed_arithmetic(baseline: Baseline, arithmetic: Mapping[str, str]) -> list[str]:
    """Return the names of versions and of parts of MACHINE that differ from the baseline's.

    What an older baseline does not name of the machine is taken for the same.
    """
    unnamed = set(MACHINE) - {PROCESSOR, *baseline.arithmetic}
    names = sorted({*arithmetic, *baseline.arithmetic} - unnamed)
    return [name for name in names if arithmetic.get(name) != baseline.arithmetic.get(name)]


def trajectory(
    baseline: Baseline,
    losses: Sequence[float],
    arithmetic: Mapping[str, str],
    others: Mapping[int, Trajectory] | None = None,
    *,
    stops_early: bool = False,
) -> Verdict:
    """Compare the losses of the first seed at every step, and those of the other seeds at the steps that are kept.

    The same code, versions and processor give the same bits, so that all steps count. With different arithmetic,
    rounding differences grow, so only the first steps count and the tolerance is larger; the base commit's losses tell
    more then. stops_early: with different arithmetic, the number of steps may differ.
    """
    series: list[Series] = [("loss", baseline.first_seed, baseline.losses, list(losses))]
    series += [
        ("loss", seed, *_paired(old, others or {}, seed, "losses")) for seed, old in baseline.other_seeds.items()
    ]
    return _stepwise(baseline, "losses", series, arithmetic, (SAME_LOSS, NEAR_LOSS), stops_early=stops_early)


def gradients(
    baseline: Baseline,
    norms: Sequence[float | None],
    arithmetic: Mapping[str, str],
    others: Mapping[int, Trajectory] | None = None,
    *,
    stops_early: bool = False,
) -> Verdict | None:
    """Compare gradient norms before clipping, as `trajectory` does losses: AdamW's steps do not show their scale.

    None for a baseline that was written without them.
    """
    if not baseline.grad_norms:
        return None
    what = "gradient norm"
    series: list[Series] = [(what, baseline.first_seed, baseline.grad_norms, list(norms))]
    series += [
        (what, seed, *_paired(old, others or {}, seed, "grad_norms")) for seed, old in baseline.other_seeds.items()
    ]
    return _stepwise(baseline, "gradient norms", series, arithmetic, (SAME_NORM, NEAR_NORM), stops_early=stops_early)


def _paired(
    old: Trajectory, new: Mapping[int, Trajectory], seed: int, name: str
) -> tuple[list[float | None], list[float | None]]:
    """Return the values of a seed's kept steps, old and new; nothing of a seed that is not there, or was not kept."""
    if seed not in new or not getattr(old, name):
        return [], []
    return getattr(old, name), getattr(new[seed].at(old.steps), name)


def _stepwise(
    baseline: Baseline,
    kind: str,
    series: Sequence[Series],
    arithmetic: Mapping[str, str],
    tolerances: tuple[float, float],
    *,
    stops_early: bool,
) -> Verdict:
    """Compare values step by step. tolerances: relative, with the same arithmetic and with another one."""
    changed = changed_arithmetic(baseline, arithmetic)
    tolerance = tolerances[bool(changed)]
    within = f"within {tolerance:g}" + (f", since {', '.join(changed)} changed" if changed else "")
    compared = 0
    for name, seed, old, new in series:
        if len(old) != len(new) and not (changed and stops_early):
            sentence = f"{len(new)} {kind} were logged with seed {seed}, but {len(old)} in the baseline"
            return Verdict(recipe=baseline.recipe, kind=kind, ok=False, sentence=sentence)
        steps = _steps_of(baseline, seed, len(old))
        count = sum(step <= NEAR_STEPS for step in steps) if changed else len(old)
        count = min(count, len(old), len(new))
        off = first_difference(old[:count], new[:count], tolerance, LEAST)
        if off is not None:
            values = [f"{value:.6f}" if value is not None else "not logged" for value in (new[off], old[off])]
            where = f"at step {steps[off]}" + (f" of seed {seed}" if seed != baseline.first_seed else "")
            sentence = f"the {name} {where} is {values[0]}, expected {values[1]}; they must agree {within}"
            return Verdict(recipe=baseline.recipe, kind=kind, ok=False, sentence=sentence)
        compared += count
    seeds = sum(bool(old) for _, _, old, _ in series)
    which = f"the {kind} of the first {NEAR_STEPS} steps" if changed else f"all {compared} {kind}"
    of = f" of {seeds} seeds" if seeds > 1 else ""
    return Verdict(recipe=baseline.recipe, kind=kind, ok=True, sentence=f"{which}{of} agree {within}")


def _steps_of(baseline: Baseline, seed: int, count: int) -> Sequence[int]:
    """Return the numbers of a seed's compared steps."""
    return baseline.other_seeds[seed].steps if seed in baseline.other_seeds else range(1, count + 1)


def schedule(
    baseline: Baseline, new: Trajectory, arithmetic: Mapping[str, str], *, stops_early: bool
) -> Verdict | None:
    """Compare learning rates and the tokens trained on, step by step: no rounding and no processor changes them.

    Tokens are compared with the same versions only, since those of a tokenizer may change. None for a baseline that was
    written without them.
    """
    changed = changed_arithmetic(baseline, arithmetic)
    same_versions = not set(changed) - set(MACHINE)
    compared = {"learning rate": (baseline.learning_rates, new.learning_rates)}
    if same_versions and baseline.tokens:
        compared["number of tokens"] = (baseline.tokens, new.tokens)
    if not baseline.learning_rates:
        return None
    for what, (old, values) in compared.items():
        count = min(len(old), len(values))
        off = first_difference(old[:count], values[:count], SAME_RATE, 0.0)
        if off is None and len(old) != len(values) and not (changed and stops_early):
            sentence = f"{len(values)} steps were logged, but {len(old)} in the baseline"
            return Verdict(recipe=baseline.recipe, kind="schedule", ok=False, sentence=sentence)
        if off is not None:
            sentence = f"the {what} at step {off + 1} is {values[off]}, expected {old[off]}"
            return Verdict(recipe=baseline.recipe, kind="schedule", ok=False, sentence=sentence)
    sentence = f"learning rates{' and numbers of tokens' if same_versions else ''} are the same at all steps"
    return Verdict(recipe=baseline.recipe, kind="schedule", ok=True, sentence=sentence)


def data(baseline: Baseline, runs: Sequence[Measured]) -> Verdict | None:
    """Check that the same examples, with the same labels, were scored by all metrics.

    None for a baseline that does not name them.
    """
    if baseline.data is None:
        return None
    for one in runs:
        lost = sorted(set(baseline.all_scores.get(one.seed, ())) - set(one.scores))
        if lost:
            sentence = f"with seed {one.seed} there is no score of {'; '.join(lost)}"
            return Verdict(recipe=baseline.recipe, kind="data", ok=False, sentence=sentence)
        if one.examples != baseline.examples:
            sentence = f"{one.examples} examples were scored with seed {one.seed}, expected {baseline.examples}"
            return Verdict(recipe=baseline.recipe, kind="data", ok=False, sentence=sentence)
        if one.data != baseline.data:
            sentence = f"with seed {one.seed} other examples or labels were scored than in the baseline"
            return Verdict(recipe=baseline.recipe, kind="data", ok=False, sentence=sentence)
    sentence = f"the same {baseline.examples} examples were scored"
    return Verdict(recipe=baseline.recipe, kind="data", ok=True, sentence=sentence)


def scoring(
    baseline: Baseline,
    new: dict[int, float],
    losses: Sequence[float],
    arithmetic: Mapping[str, str],
    margin: float = MARGIN,
    runs: Sequence[Measured] = (),
) -> Verdict | None:
    """Check whether the same model gets another score: a bug in scoring that `quality` may attribute to seeds.

    None where the model may differ: a loss at any step that is not the baseline's to SAME_LOSS, which no rounding
    that grew to a change of answers would be; or no gradient training and different arithmetic. The mean over seeds may
    move by less than the margin, up or down, and a single seed by less than twice the margin. runs: where given, all
    of their scores are compared, the others with twice these limits.
    """
    unknown = not baseline.losses and changed_arithmetic(baseline, arithmetic)
    if unknown or not _same_training(baseline, losses, runs):
        return None
    tables: dict[str, tuple[dict[int, float], dict[int, float]]] = {baseline.metric: (baseline.scores, new)}
    for name in sorted({name for scores in baseline.all_scores.values() for name in scores} - {baseline.metric}):
        old_scores = {seed: scores[name] for seed, scores in baseline.all_scores.items() if name in scores}
        tables[name] = (old_scores, {one.seed: one.scores[name] for one in runs if name in one.scores})
    model = f"the same losses at all {len(losses)} steps" if losses else "no gradient training"
    for name, (before, after) in tables.items():
        seeds = sorted(set(before) & set(after))
        if not seeds:
            continue
        gains = np.array([after[seed] - before[seed] for seed in seeds])
        mean, most = float(gains.mean()), float(gains[np.abs(gains).argmax()])
        # Few answers that rounding changes move MCC, or the F1 of a rare label, further than the accuracy.
        limit = margin if name == baseline.metric else 2 * margin
        if abs(mean) < limit and abs(most) < 2 * limit:
            continue
        moved = mean if abs(mean) >= limit else most
        over = f"over {len(seeds)} seeds" if abs(mean) >= limit else f"with seed {seeds[np.abs(gains).argmax()]}"
        sentence = f"{model}, and {name} {'dropped' if moved < 0 else 'rose'} by {abs(moved):.4f} {over}"
        return Verdict(recipe=baseline.recipe, kind="scoring", ok=False, sentence=sentence)
    others = f", nor did {len(tables) - 1} other scores" if len(tables) > 1 else ""
    sentence = f"{model}, and {baseline.metric} moved by less than {margin:g} over {len(new)} seeds{others}"
    return Verdict(recipe=baseline.recipe, kind="scoring", ok=True, sentence=sentence)


def _same_training(baseline: Baseline, losses: Sequence[float], runs: Sequence[Measured]) -> bool:
    """Return whether all that is known of the trainings agrees to rounding, so that the models are the same."""
    if len(losses) != len(baseline.losses) or first_difference(baseline.losses, losses, SAME_LOSS) is not None:
        return False
    new = {one.seed: one.trajectory for one in runs}
    for seed, old in baseline.other_seeds.items():
        values = new[seed].at(old.steps).losses if seed in new else old.losses
        if len(values) != len(old.losses) or first_difference(old.losses, values, SAME_LOSS) is not None:
            return False
    return True


def same_as_base(
    baseline: Baseline, base: Sequence[float], losses: Sequence[float], arithmetic: Mapping[str, str]
) -> Verdict:
    """Compare losses with those of the base commit on the same machine. base: its losses."""
    there = baseline.model_copy(update={"losses": list(base), "arithmetic": dict(arithmetic), "other_seeds": {}})
    return trajectory(there, losses, arithmetic).model_copy(update={"kind": "losses of the base commit"})


def verdicts(
    baseline: Baseline,
    runs: Sequence[Measured],
    level: float,
    margin: float = MARGIN,
    *,
    stops_early: bool = False,
) -> list[Verdict]:
    """Return all verdicts on a recipe's runs but those on speed. runs: in the order of the baseline's seeds.

    level: false alarm rate of the test of quality; the other checks have none, since they allow for rounding only.
    stops_early: the recipe's training may end before its last step.
    """
    first, arithmetic = runs[0], runs[0].arithmetic
    scores = {one.seed: one.scores[baseline.metric] for one in runs}
    others = {one.seed: one.trajectory for one in runs[1:]}
    losses = first.trajectory.losses
    found = [quality(baseline, scores, level, margin), data(baseline, runs)]
    if baseline.losses:
        norms = first.trajectory.grad_norms
        found += [
            trajectory(baseline, losses, arithmetic, others, stops_early=stops_early),
            gradients(baseline, norms, arithmetic, others, stops_early=stops_early),
            schedule(baseline, first.trajectory, arithmetic, stops_early=stops_early),
        ]
    found.append(scoring(baseline, scores, losses, arithmetic, margin, runs))
    return [verdict for verdict in found if verdict is not None]


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


def _head(verdicts: Sequence[Verdict]) -> str:
    failed = sum(not verdict.ok for verdict in verdicts)
    return f"{failed} of {len(verdicts)} checks failed" if failed else f"All {len(verdicts)} checks passed"


def _failures_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda one: one.ok)


def as_markdown(verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> str:
    """Return a short comment for a pull request, failures first."""
    lines = [f"### Regression gate\n\n**{_head(verdicts)}**\n"]
    rows = [
        ["ok" if one.ok else "**failed**", markdown.escape(one.recipe), one.kind, markdown.escape(one.sentence, 400)]
        for one in _failures_first(verdicts)
    ]
    lines.append(markdown.table(["", "recipe", "check", "result"], rows, "llll") + "\n")
    lines.append(markdown.bullets([markdown.escape(note, 400) for note in notes]))
    return "\n".join(lines) + "\n"


def as_text(verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> str:
    """Return the same for a terminal, where nothing is marked up."""
    lines = [f"Regression gate: {_head(verdicts)}"]
    for one in _failures_first(verdicts):
        lines.append(f"{'ok' if one.ok else 'FAILED':6}  {one.recipe}, {one.kind}: {one.sentence}")
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines)
