"""A comparison as a page of Markdown, as JSON, and as tables for the terminal. Loads no torch."""

import dataclasses
import json

from rich.table import Table
from rich.text import Text

from bench.analysis import accessors
from bench.analysis.compare import ALPHA, INTERVALS, RANDOMISATION, SEEDS_AND_EXAMPLES, Comparison, Pair, System
from bench.reporting import markdown as md

SCHEMA = 1
TEXT = ("system", "seeds", "pair", "test", "interval", "covers", "verdict", "record", "reason")
# Columns that are left out, and said in a note, where all pairs have the same.
OFTEN_SAME = ("test", "interval", "covers")
TIER_NOTE = (
    "Tier 1 holds the best score and all that the paired tests do not show to differ from it, so that one of them may "
    "stand below one of tier 2; the best of the others begins the next tier in the same way. Two of one tier may be "
    "shown to differ, and two of different tiers not."
)
# Below, a bootstrap interval of a skewed difference is too short: see scripts/benchmarks/coverage.py.
FEW_EXAMPLES = 50


def as_markdown(found: Comparison) -> str:
    """The page. The same comparison gives the same text."""
    systems = [{key: md.escape(cell) for key, cell in _system_cells(system).items()} for system in found.systems]
    pairs = [{key: md.escape(cell) for key, cell in cells.items()} for cells in _pair_rows(found)]
    left_out = [[md.code(item.path), md.escape(item.reason, accessors.LONG)] for item in found.left_out]
    table = md.table_of(pairs, TEXT)
    parts = {
        "Systems": md.table_of(systems, TEXT),
        "Pairs": md.folded("All pairs", table, len(pairs)),
        "Not compared": md.table(["record", "reason"], left_out, "ll"),
        "Notes": md.bullets([md.escape(note, accessors.LONG) for note in notes(found)]),
    }
    return (
        md.joined([f"# Comparison by {md.escape(found.metric)}", md.escape(headline(found)), md.sections(parts)]) + "\n"
    )


def as_json(found: Comparison) -> str:
    """Everything in full precision, with a schema number."""
    content = {"schema": SCHEMA, "alpha": ALPHA, **dataclasses.asdict(found)}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def as_tables(found: Comparison) -> list[Table]:
    """Systems, pairs, and what is not compared, for the terminal."""
    tables = [
        _table("systems", [_system_cells(system) for system in found.systems]),
        _table("pairs", _pair_rows(found)),
    ]
    if found.left_out:
        rows = [{"record": md.clean(str(item.path)), "reason": md.clean(item.reason)} for item in found.left_out]
        tables.append(_table("not compared", rows))
    return tables


_SAID = {"test": "Test", "interval": "Interval", "covers": "What may differ next time, in test and interval"}


def headline(found: Comparison) -> str:
    """What was compared, and on how many examples."""
    better = "higher" if found.higher_is_better else "lower"
    others = f"; {found.others:,} others were not scored by all and are left out" if found.others else ""
    return (
        f"{found.metric} ({better} is better) on {found.split}, stage {found.stage}, on {found.examples:,} examples "
        f"that all runs scored{others}."
    )


def notes(found: Comparison) -> list[str]:
    """How to read the tables, and what is not known."""
    lines = [*found.notes]
    for name in OFTEN_SAME:
        said = {getattr(pair, name) for pair in found.pairs}
        lines += [f"{_SAID[name]} of every pair: {said.pop()}."] if len(said) == 1 else []
    if found.examples < FEW_EXAMPLES and any(pair.interval == INTERVALS[RANDOMISATION] for pair in found.pairs):
        lines.append(f"With fewer than {FEW_EXAMPLES} examples bootstrap intervals are rough, and mostly too short.")
    drawn = any(pair.test == RANDOMISATION for pair in found.pairs)
    number = len(found.pairs)
    family = f", corrected by Holm over the {number} pairs," if number > 1 else ""
    unvaried = [f"{pair.first} − {pair.second}" for pair in found.pairs if pair.low is None]
    if unvaried:
        lines.append(
            f"Nothing varies between the answers of {', '.join(unvaried)}, so there is no interval and no equivalence: "
            "on other examples they may differ."
        )
    lines += [
        f"Better: the p-value{family} is at most {ALPHA:g}. "
        "No difference shown does not mean that there is none: see the detectable difference.",
        "Intervals are of 95 %, each of its pair alone"
        + (f"; bootstrap and randomisation take {found.draws:,} draws by example." if drawn else "."),
        "Detectable: the smallest true difference that such data show with a power of 80 %, two-sided at 5 % divided "
        "by the number of pairs; a dash where not even the largest would be shown.",
        TIER_NOTE,
    ]
    if any(pair.covers == SEEDS_AND_EXAMPLES for pair in found.pairs):
        lines.append(
            "Between systems of several seeds, test and interval are Student's, from the variances of seeds and of "
            "examples; they hold for other seeds too. Seeds can be alike by luck, so a difference must also show with "
            "the spread that seeds have in all systems on average, and, of these very runs, over examples."
        )
    if found.margin is not None:
        lines.append(
            f"Equivalent: the difference is shown to be smaller than {found.margin:g} in either direction, by two "
            "one-sided tests at 5 % divided by the number of pairs."
        )
    return lines


def _system_cells(system: System) -> dict[str, str]:
    return {
        "tier": str(system.tier),
        "": system.letter,
        "system": system.name,
        "score": md.fixed(system.score, 4),
        "seeds": ", ".join("?" if seed is None else str(seed) for seed in system.seeds),
        "deviation of seeds": md.fixed(system.seed_deviation, 4),
    }


def _pair_rows(found: Comparison) -> list[dict[str, str]]:
    rows = [_pair_cells(pair) for pair in found.pairs]
    same = {name for name in OFTEN_SAME if len({row[name] for row in rows}) == 1}
    return [{name: cell for name, cell in row.items() if name not in same} for row in rows]


def _pair_cells(pair: Pair) -> dict[str, str]:
    return {
        "pair": f"{pair.first} − {pair.second}",
        "difference": md.signed(pair.difference),
        "95 % interval": interval(pair),
        "p": probability(pair.p),
        "p, Holm": probability(pair.p_holm),
        "detectable": md.fixed(pair.detectable, 4),
        "test": pair.test,
        "interval": pair.interval,
        "covers": pair.covers,
        "verdict": pair.verdict,
    }


def interval(pair: Pair) -> str:
    """Of the difference; a dash where nothing varies."""
    ends = [md.signed(end) for end in (pair.low, pair.high) if end is not None]
    return " to ".join(ends) or md.DASH


def probability(value: float) -> str:
    """A p-value: <0.0001, 0.0123, 1."""
    return "<0.0001" if value < 0.0001 else "1" if value == 1 else f"{value:.4f}"


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in TEXT else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(md.clean(cell)) for cell in row.values()))
    return table
