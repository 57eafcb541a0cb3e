"""The section on label curves of the report of many runs: scores, crossings, equal scores, what more labels give."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.analysis import label_curves
from bench.analysis.accessors import MAX_CHARACTERS, Located
from bench.analysis.label_curves import Crossing, Curve, Equivalent, Estimate, LabelCurves, Unmade
from bench.analysis.stats.power_law import LEAST_SEEDS
from bench.reporting import markdown as md
from bench.reporting.figures import charts as charts_of
from bench.reporting.figures import label_curve
from bench.reporting.figures.sections import Gallery, prefix
from bench.reporting.study_sections import NAME_CHARACTERS, Shorten

# Share of the draws in which one system must be ahead, so that a sentence says so without a doubt.
SURE = 0.975
METHOD = (
    "Law: error(n) = a + b · (n / n₀)^−c with a, b ≥ 0 and n₀ the smallest size (inverse power law with a floor, "
    "Figueroa et al. 2012, BMC Med Inform Decis Mak 12:8), by least squares weighted with the inverse variance of each "
    "mean. Error: the distance from the metric's best value, or the metric itself where lower is better.",
    "Intervals of fitted values: 95 %, of a bootstrap over test examples and seeds, the same draws for all systems and "
    "sizes; seeds by the bootknife (Hesterberg 2004), percentiles expanded for their number (Hesterberg 2015). They do "
    "not cover that the law itself may be wrong. Intervals of points are those of leaderboards.",
    "Crossings and equal scores are of the fitted laws, inside of the measured sizes; an end outside of these is given "
    "as fewer or more than.",
)


def sections(
    records: Sequence[Located], folder: Path, metric: str | None, shorten: Shorten, charts: dict[str, Any] | None = None
) -> list[str]:
    """Return a section for each data set with runs over sizes; its figures are drawn into `folder`/figures.

    charts: is given the numbers of the figures, see `figures.charts`.
    """
    runs, _ = label_curves.take(records)
    parts, drawn = [], {} if charts is None else charts
    for number, found in enumerate(label_curves.label_curves(runs, metric) if runs else [], 1):
        heading = f"## Label curves: {md.escape(found.data_set)}"
        if isinstance(found, Unmade):
            reason = md.escape(shorten(found.reason), MAX_CHARACTERS)
            parts.append(md.joined([heading, f"No curve can be made of these runs: {reason}."]))
        else:
            gallery = Gallery(folder, prefix(number, found.data_set))
            parts.append(md.joined([heading, _section(found, gallery, shorten)]))
            drawn |= gallery.charts
    return parts


def _section(found: LabelCurves, gallery: Gallery, shorten: Shorten) -> str:
    seeds = f"mean of {len(found.seeds)} seeds" if len(found.seeds) > 1 else "one seed"
    caption = (
        f"{md.escape(found.metric)} on {md.escape(found.split)} ({md.count(found.scored)} examples, {seeds}) over the "
        "number of labelled training examples. Of one seed all systems learned from the same examples, and each size "
        "holds all smaller ones."
    )
    if len(found.seeds) < LEAST_SEEDS:
        caption += (
            f" With {len(found.seeds)} seed{'s' * (len(found.seeds) > 1)}, of {LEAST_SEEDS} or more that their "
            "variance needs, intervals of crossings and other fitted values cover other test examples alone, not "
            "other seeds."
        )
    parts = {
        "Scores by number of labels": _scores(found.curves),
        "Where they cross": md.bullets([crossing_sentence(one) for one in found.crossings]),
        "Equal scores": md.bullets([equivalent_sentence(one) for one in found.equivalents]),
        "Twice the labels": md.bullets([doubling_sentence(one, found.metric) for one in found.curves]),
        "Fitted laws": _laws(found),
        "Not counted": md.bullets(_not_counted(found, shorten)),
    }
    bodies = (f"### {name}\n\n{body}" for name, body in parts.items() if body)
    draw = partial(label_curve.draw, found.curves, score=found.metric)
    chart = partial(charts_of.sizes, found.curves, metric=found.metric)
    return md.joined([caption, gallery.show("sizes", "Score over labels", draw, chart), *bodies])


def _scores(curves: Sequence[Curve]) -> str:
    sizes = sorted({point.examples for curve in curves for point in curve.points})
    lines = []
    for curve in curves:
        known = {point.examples: md.score(point.score, point.low, point.high) for point in curve.points}
        cells = {md.count(size): known.get(size, md.DASH) for size in sizes}
        lines.append({"system": md.escape(curve.name, NAME_CHARACTERS), **cells})
    return md.table_of(lines, ("system",))


def about(number: float) -> str:
    """Return a number of examples to two significant digits: 680, 1,500."""
    digits = 1 - math.floor(math.log10(number)) if number >= 1 else 0
    return f"{round(number, digits):,.0f}"


def _range(estimate: Estimate, least: int, most: int) -> str:
    """Return an interval of numbers of examples, of which an end outside of the measured sizes is said to be so."""
    low, high = (
        f"fewer than {least:,}" if end < least else f"more than {most:,}" if end > most else about(end)
        for end in (estimate.low, estimate.high)
    )
    return f"95 % interval {low} to {high}" if low != high else f"95 % interval: {low}"


def crossing_sentence(one: Crossing) -> str:
    """Say where one system passes another, or that none does in the measured range, or that neither is established.

    A crossing is established where in nearly all draws one system is behind somewhere, and ahead at the end.
    """
    first, last = md.escape(one.first, NAME_CHARACTERS), md.escape(one.last, NAME_CHARACTERS)
    between = f"between {one.least:,} and {one.most:,} labels"
    if one.at is None and one.agreeing == 0:
        return f"{last} and {first}: no crossing {between}, where neither is ahead."
    if one.at is None and one.ahead_throughout >= SURE:
        return f"{last} is ahead of {first} everywhere {between}: no crossing there."
    ends = f"{last} is ahead at {one.most:,} in {md.percent(one.agreeing)} of the draws"
    if one.at is None:
        everywhere = f"ahead everywhere, but so in only {md.percent(one.ahead_throughout)} of the draws"
        return (
            f"{last} and {first}: whether they cross {between} is not established. By its law {last} is {everywhere}; "
            f"{ends}."
        )
    place = f"about {about(one.at.value)} labels ({_range(one.at, one.least, one.most)})"
    again = "; they cross more than once, and this is the last time" if one.several else ""
    is_open = one.at.low < one.least and one.at.high > one.most
    if one.agreeing >= SURE and one.ahead_throughout <= 1 - SURE and not is_open:
        return f"{last} passes {first} at {place}{again}."
    return f"{last} and {first}: no crossing is established {between}. The laws cross at {place}{again}; {ends}."


def equivalent_sentence(one: Equivalent) -> str:
    """Say with how many labels the better system reaches what the other has with the most, or that none is known."""
    better, other = md.escape(one.name, NAME_CHARACTERS), md.escape(one.other, NAME_CHARACTERS)
    if one.needed.low < one.least and one.needed.high > one.most:
        return (
            f"{other} with {one.examples:,} labels and {better}: no number of labels for an equal score is established "
            "(its 95 % interval covers all that were measured)."
        )
    known = one.needed.value >= one.least
    needed = f"about {about(one.needed.value)}" if known else f"fewer than {one.least:,}"
    place = f"{needed} ({_range(one.needed, one.least, one.most)})"
    return f"{other} with {one.examples:,} labels equals {better} with {place}."


def doubling_sentence(curve: Curve, metric: str) -> str:
    """Say what twice the largest number of labels is predicted to give, or why nothing is."""
    name, most = md.escape(curve.name, NAME_CHARACTERS), curve.points[-1].examples
    if curve.law is None:
        return f"{name}: no law is fitted ({md.escape(curve.why_not or '')})."
    if not curve.law.falls:
        return f"{name}: its error does not fall with more labels, so that no gain is predicted."
    gain = curve.law.doubled
    interval = f"{md.fixed(gain.low, 4)} to {md.fixed(gain.high, 4)}"
    return (
        f"{name}: {2 * most:,} labels instead of {most:,} would improve {md.escape(metric)} by about "
        f"{md.fixed(gain.value, 4)} ({interval}): an extrapolation by the law."
    )


def _laws(found: LabelCurves) -> str:
    lines, notes = [], list(METHOD)
    for curve in found.curves:
        law, name = curve.law, md.escape(curve.name, NAME_CHARACTERS)
        if law is None:
            notes.append(f"{name}: no law is fitted: {md.escape(curve.why_not or '')}.")
            continue
        lines.append(
            {
                "system": name,
                "a, error with endless labels": md.score(law.floor.value, law.floor.low, law.floor.high),
                f"b, above that at {curve.points[0].examples:,}": md.score(
                    law.scale.value, law.scale.low, law.scale.high
                ),
                "c": md.score(law.exponent.value, law.exponent.low, law.exponent.high) if law.falls else md.DASH,
                "RMSE": md.fixed(law.rmse, 4),
            }
        )
        if law.missed:
            sizes = ", ".join(map(md.count, law.missed))
            notes.append(f"{name}: the law misses the interval of the points at {sizes}, so that it fits badly there.")
    return md.joined([md.table_of(lines, ("system",)), md.bullets(notes)])


def _not_counted(found: LabelCurves, shorten: Shorten) -> list[str]:
    left_out = [f"{md.code(shorten(str(one.path)))}: {md.escape(shorten(one.reason), MAX_CHARACTERS)}"
                for one in found.left_out]  # fmt: skip
    return [*(md.escape(shorten(note), MAX_CHARACTERS) for note in found.notes), *left_out]
