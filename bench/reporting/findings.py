"""State in one or two sentences what paired tests found, with its strength. Loads no torch."""

from collections.abc import Mapping, Sequence

from bench.analysis import accessors
from bench.analysis.compare import ALPHA, SEEDS_AND_EXAMPLES, Comparison, Pair, System
from bench.analysis.costs import Costs
from bench.reporting import markdown as md

# Systems that a sentence names, and characters of a name: the tables have them all.
MOST_NAMES, NAME_CHARACTERS = 4, 60
# Systems whose costs the sentence names.
MOST_COSTS = 6


def finding(comparison: Comparison, names: Mapping[str, str] | None = None) -> str:
    """Return which systems the best one beats and by how much, and from which it does not differ significantly.

    names: letter of a system -> a shorter name. Differences of a score between 0 and 1 are in points of 0.01.
    """
    told = {system.letter: shortened((names or {}).get(system.letter, system.name)) for system in comparison.systems}
    best, *others = comparison.systems
    tied = [system for system in others if system.tier == 1]
    beaten = [system for system in others if system.tier != 1]
    scale, unit = _unit(comparison)
    pairs = {(pair.first, pair.second): pair for pair in comparison.pairs}
    parts = []
    if beaten:
        amounts = [f"{told[one.letter]} by {_amount(pairs[best.letter, one.letter], scale, unit)}" for one in beaten]
        parts.append(f"{told[best.letter]} beats {_some(amounts)}")
    if tied:
        parts.append(_tie(best, tied, pairs, told, scale, unit))
    text = "; ".join(parts)
    return f"{text[:1].upper() if not beaten else text[:1]}{text[1:]}. {_strength(comparison, told)}"


def costs_in_words(names: Sequence[str], costs: Sequence[Costs], reference: int) -> str:
    """Return how many times the training time and memory of one system others took; empty where that can't be said.

    Only of systems that are trained by steps, as the reference is, all on one machine. reference: its place.
    """
    base = costs[reference]
    if not base.steps or not base.machine:
        return ""
    parts = []
    for place, (name, cost) in enumerate(zip(names, costs, strict=True)):
        if place == reference or not cost.steps or cost.machine != base.machine:
            continue
        on_gpu = cost.gpu is not None and base.gpu is not None and cost.gpu.kind == base.gpu.kind
        sizes = (cost.gpu.least, base.gpu.least) if on_gpu and cost.gpu and base.gpu else (cost.ram_gib, base.ram_gib)
        memory = f"GPU memory, {base.gpu.kind}," if on_gpu and base.gpu else "RAM"
        ratios = [("training time", _times(cost.training_s, base.training_s)), (memory, _times(*sizes))]
        known = [f"{ratio} times the {what}" for what, ratio in ratios if ratio]
        parts += [f"{shortened(name)} took {' and '.join(known)}".rstrip(",")] if known else []
    more = len(parts) - MOST_COSTS
    told = "; ".join(parts[:MOST_COSTS]) + (f"; {more} more in the table" if more > 0 else "")
    return f"Compared with {shortened(names[reference])}: {told}." if parts else ""


def _times(value: float | None, base: float | None) -> str:
    ratio = value / base if value and base else 0.0
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2g}" if ratio else ""


def _unit(comparison: Comparison) -> tuple[float, str]:
    """Return what a difference is multiplied by, and the unit: points of 0.01 for a score between 0 and 1."""
    scale = accessors.points_of_one(comparison.metric)
    return (1.0, f" in {comparison.metric}") if scale is None else (scale, " points")


def _shown(value: float, scale: float) -> str:
    return f"{value * scale:.1f}".replace("-", "−") if scale > 1 else md.significant(value).replace("-", "−")


def _amount(pair: Pair, scale: float, unit: str) -> str:
    """Return 5.3 points (95 % interval 3.1 to 7.5): how far the better of two is ahead, also where lower is better."""
    sign = -1 if pair.difference < 0 else 1
    amount = f"{_shown(sign * pair.difference, scale)}{unit}"
    if pair.low is None or pair.high is None:
        return amount
    low, high = sorted((sign * pair.low, sign * pair.high))
    return f"{amount} (95 % interval {_shown(low, scale)} to {_shown(high, scale)})"


def _tie(
    best: System, tied: Sequence[System], pairs: Mapping[tuple[str, str], Pair], told: Mapping[str, str], scale: float,
    unit: str,
) -> str:  # fmt: skip
    """Return which systems do not differ significantly, and what difference such data would have detected."""
    letters = [best.letter, *(system.letter for system in tied)]
    among = [pair for names, pair in pairs.items() if {*names} <= {*letters}]
    all_tie = all(pair.p_holm > ALPHA for pair in among)
    tests = among if all_tie else [pairs[best.letter, system.letter] for system in tied]
    known = [pair.detectable for pair in tests if pair.detectable is not None]
    limit = f" (minimum detectable difference {_shown(max(known), scale)}{unit})" if len(known) == len(tests) else ""
    if all_tie:
        return f"no significant difference between {_some([told[letter] for letter in letters])}{limit}"
    others = _some([told[system.letter] for system in tied])
    return f"no significant difference between the best, {told[best.letter]}, and {others}{limit}"


def _strength(comparison: Comparison, told: Mapping[str, str]) -> str:
    """Return by what tests, on how many examples, and what the result generalises to."""
    pairs = comparison.pairs
    corrected = f", Holm's correction over {len(pairs)} pairs" if len(pairs) > 1 else ""
    tests = f"Paired tests on {comparison.examples:,} examples{corrected}"
    if all(pair.covers == SEEDS_AND_EXAMPLES for pair in pairs):
        seeds = sorted({len(system.seeds) for system in comparison.systems})
        number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        return f"{tests}, {number} seeds of each system: this covers other seeds and other examples."
    single = [system for system in comparison.systems if len(system.seeds) == 1]
    whose = "each system" if len(single) == len(comparison.systems) else _some([told[one.letter] for one in single])
    return f"{tests}; one seed of {whose}: this covers other examples for these trained models, not other seeds."


def _some(names: Sequence[str]) -> str:
    """Return the first names joined as a person would, and how many more there are."""
    shown = list(names[:MOST_NAMES])
    more = len(names) - len(shown)
    shown += [f"{more} more"] if more else []
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def shortened(name: str) -> str:
    """Cut a long name in the middle: overrides stand at its end, and many names begin alike."""
    half = NAME_CHARACTERS // 2
    return name if len(name) <= NAME_CHARACTERS else f"{name[:half]}…{name[-half:]}"
