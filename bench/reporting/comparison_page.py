"""Render a comparison as a Markdown page, as JSON, and as tables for the terminal. Loads no torch."""

import dataclasses
import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bench.analysis import accessors
from bench.analysis.compare import ALPHA, INTERVALS, RANDOMISATION, SEEDS_AND_EXAMPLES, Comparison, Pair, System
from bench.reporting import local_paths, run_warnings
from bench.reporting import markdown as md
from bench.reporting.findings import MOST_NAMES, finding, shortened

SCHEMA = 1
TEXT = ("system", "seeds", "pair", "test", "interval", "covers", "verdict", "record", "reason")
# Columns that become a note where all pairs have the same value.
OFTEN_SAME = ("test", "interval", "covers")
TIER_NOTE = (
    "Tier 1: the best system and all systems without a significant difference from it; the best of the others starts "
    "the next tier. Two systems of one tier may differ significantly, and two of different tiers may not."
)
# With fewer examples, bootstrap intervals of a skewed difference are too short: see scripts/benchmarks/coverage.py.
FEW_EXAMPLES = 50


def as_markdown(comparison: Comparison) -> str:
    """Return the Markdown page; the same comparison gives the same text."""
    systems = [{key: md.escape(cell) for key, cell in _system_cells(system).items()} for system in comparison.systems]
    pairs = [{key: md.escape(cell) for key, cell in cells.items()} for cells in _pair_rows(comparison)]
    left_out = [[md.code(item.path), md.escape(item.reason, accessors.MAX_CHARACTERS)] for item in comparison.left_out]
    table = md.table_of(pairs, TEXT)
    parts = {
        "Systems": md.table_of(systems, TEXT),
        "Pairs": md.folded("All pairs", table, len(pairs)),
        "Not compared": md.table(["record", "reason"], left_out, "ll"),
        "Notes": md.bullets([md.escape(note, accessors.MAX_CHARACTERS) for note in notes(comparison)]),
    }
    sentences = [md.escape(text, accessors.MAX_CHARACTERS) for text in (headline(comparison), finding(comparison))]
    title, warned = f"# Comparison by {md.escape(comparison.metric)}", run_warnings.section(comparison.compared)
    page = md.joined([title, warned, *sentences, md.sections(parts)]) + "\n"
    return local_paths.hide(page, comparison.compared)


def as_json(comparison: Comparison) -> str:
    """Return everything in full precision, with a schema number."""
    plain = dataclasses.asdict(dataclasses.replace(comparison, compared=[]))
    del plain["compared"]  # whole records, which stand in their own files
    found = run_warnings.by_data_set(comparison.compared)
    warnings = [
        {"code": code, "data_set": data_set, "sentence": sentence, "runs": len(runs)}
        for (data_set, code, sentence), runs in found.items()
    ]
    content = {"schema": SCHEMA, "alpha": ALPHA, **plain, "warnings": warnings}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def as_tables(comparison: Comparison) -> list[Table]:
    """Return the tables for the terminal: systems, pairs, and the records that were not compared."""
    tables = [
        _table("systems", [_system_cells(system) for system in comparison.systems]),
        _table("pairs", _pair_rows(comparison)),
    ]
    if comparison.left_out:
        rows = [{"record": md.clean(str(item.path)), "reason": md.clean(item.reason)} for item in comparison.left_out]
        tables.append(_table("not compared", rows))
    return tables


_NOTE_OF_COLUMN = {
    "test": "Test of every pair: {}.",
    "interval": "Interval of every pair: {}.",
    "covers": "Tests and intervals of every pair generalise to other {}.",
}


def headline(comparison: Comparison) -> str:
    """Return a sentence with metric, split, stage and number of examples."""
    better = "higher" if comparison.higher_is_better else "lower"
    others = f"; {comparison.others:,} others are excluded, since not all runs scored them" if comparison.others else ""
    return (
        f"{comparison.metric} ({better} is better) on {comparison.split}, stage {comparison.stage}, on "
        f"{comparison.examples:,} examples {comparison.scored}{others}."
    )


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(map(shortened, names[:MOST_NAMES]))
    return shown + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def notes(comparison: Comparison) -> list[str]:
    """Return notes that explain the tables and their limits."""
    pairs, number = comparison.pairs, len(comparison.pairs)
    lines = [*comparison.notes]
    for name in OFTEN_SAME:
        values = {getattr(pair, name) for pair in pairs}
        lines += [_NOTE_OF_COLUMN[name].format(values.pop())] if len(values) == 1 else []
    if comparison.examples < FEW_EXAMPLES and any(pair.interval == INTERVALS[RANDOMISATION] for pair in pairs):
        lines.append(
            f"With fewer than {FEW_EXAMPLES} examples, bootstrap intervals are approximate and often too short."
        )
    drawn = any(pair.test == RANDOMISATION for pair in pairs)
    family = f" after Holm's correction over {number} pairs" if number > 1 else ""
    unvaried = [f"{pair.first} − {pair.second}" for pair in pairs if pair.low is None]
    if unvaried:
        lines.append(
            f"No interval and no equivalence for {_listed(unvaried)}: their answers differ by the same amount on all "
            "examples, but may differ otherwise on other examples."
        )
    lines += [
        f"Better: p ≤ {ALPHA:g}{family}. No significant difference does not mean no difference: see the minimum "
        "detectable difference.",
        "Intervals: 95 %, for each pair alone"
        + (f"; bootstrap and randomisation use {comparison.draws:,} draws over examples." if drawn else "."),
        "Min. detectable: the true difference that such data detect with 80 % power, two-sided at 5 % divided by the "
        "number of pairs; a dash if larger than the metric's range.",
        TIER_NOTE,
        *_beside_their_intervals(pairs),
    ]
    if any(pair.covers == SEEDS_AND_EXAMPLES for pair in pairs):
        lines.append(
            "Between systems of several seeds, test and interval are Student's, from the variances over seeds and over "
            "examples. Few seeds can agree by chance, so a difference must also be significant with the seed variance "
            "pooled over all systems, and over examples alone."
        )
    if comparison.margin is not None:
        lines.append(
            f"Equivalent: the difference is smaller than {comparison.margin:g} in either direction, by two one-sided "
            "tests at 5 % divided by the number of pairs."
        )
    return lines


def _beside_their_intervals(pairs: Sequence[Pair]) -> list[str]:
    """Return a note on pairs whose interval leaves 0 out though the test decides nothing; usually none."""
    found = [
        f"{pair.first} − {pair.second}"
        for pair in pairs
        if pair.low is not None and pair.high is not None and (pair.low > 0 or pair.high < 0) and pair.p_holm > ALPHA
    ]
    if not found:
        return []
    return [
        f"The interval of {_listed(found)} leaves out 0, but its test is not significant: the verdict is the "
        "test's, which is corrected for all pairs and is stricter in small samples."
    ]


def _system_cells(system: System) -> dict[str, str]:
    return {
        "tier": str(system.tier),
        "": system.letter,
        "system": system.name,
        "score": md.fixed(system.score, 4),
        "seeds": ", ".join("?" if seed is None else str(seed) for seed in system.seeds),
        "std over seeds": md.fixed(system.seed_deviation, 4),
    }


def _pair_rows(comparison: Comparison) -> list[dict[str, str]]:
    rows = [_pair_cells(pair) for pair in comparison.pairs]
    same = {name for name in OFTEN_SAME if len({row[name] for row in rows}) == 1}
    return [{name: cell for name, cell in row.items() if name not in same} for row in rows]


def _pair_cells(pair: Pair) -> dict[str, str]:
    return {
        "pair": f"{pair.first} − {pair.second}",
        "difference": md.signed(pair.difference),
        "95 % interval": interval(pair),
        "p": probability(pair.p),
        "p, Holm": probability(pair.p_holm),
        "min. detectable": md.fixed(pair.detectable, 4),
        "test": pair.test,
        "interval": pair.interval,
        "covers": pair.covers,
        "verdict": pair.verdict,
    }


def interval(pair: Pair) -> str:
    """Return the interval of the difference; a dash without variance."""
    ends = [md.signed(end) for end in (pair.low, pair.high) if end is not None]
    return " to ".join(ends) or md.DASH


def probability(value: float) -> str:
    """Return a p-value as text: <0.0001, 0.0123, 1."""
    return "<0.0001" if value < 0.0001 else "1" if value == 1 else f"{value:.4f}"


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in TEXT else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(md.clean(cell)) for cell in row.values()))
    return table
