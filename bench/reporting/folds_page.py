"""The section on cross-validation of the report of many runs: scores over folds and the corrected tests."""

import statistics
from collections.abc import Sequence

from bench.analysis import folds
from bench.analysis.accessors import MAX_CHARACTERS, Located
from bench.analysis.folds import FoldResult
from bench.analysis.predictions import CompareRequest
from bench.errors import DataError
from bench.reporting import comparison_page, run_warnings
from bench.reporting import markdown as md
from bench.reporting.study_sections import NAME_CHARACTERS, Shorten


def sections(records: Sequence[Located], metric: str | None, shorten: Shorten) -> list[str]:
    """Return a section for each data set with runs on folds."""
    parts = []
    for data_set, runs in folds.by_data_set(records):
        heading = f"## Folds: {md.escape(data_set)}"
        try:
            body = _section(folds.result(data_set, runs, CompareRequest(metric=metric)), shorten)
        except DataError as error:
            body = f"These runs can't be compared: {md.escape(shorten(str(error)), MAX_CHARACTERS)}."
        parts.append(md.joined([heading, run_warnings.section([record for _, record in runs]), body]))
    return parts


def _section(found: FoldResult, shorten: Shorten) -> str:
    comparison, metric = found.comparison, md.escape(found.comparison.metric)
    seeds = len(found.counted) // found.folds
    caption = (
        f"{metric} on {md.count(comparison.examples)} examples of {md.escape(', '.join(found.of))}, each scored in one "
        f"of {found.folds} folds{f', dealt anew by each of {seeds} seeds' if seeds > 1 else ''}."
    )
    systems = [
        {
            "tier": md.count(system.tier),
            "": system.letter,
            "system": md.escape(system.name, NAME_CHARACTERS),
            f"{metric} (95 % interval)": md.score(system.score, system.low, system.high),
            "std over folds": md.fixed(statistics.stdev(system.scores), 4),
            "lowest to highest fold": f"{md.fixed(min(system.scores))} to {md.fixed(max(system.scores))}",
        }
        for system in comparison.systems
    ]
    pairs = [
        {
            "pair": f"{pair.first} − {pair.second}",
            "difference": md.signed(pair.difference),
            "95 % interval": comparison_page.interval(pair),
            "p": comparison_page.probability(pair.p),
            "p, Holm": comparison_page.probability(pair.p_holm),
            "min. detectable": md.fixed(pair.detectable, 4),
            "verdict": md.escape(pair.verdict),
        }
        for pair in comparison.pairs
    ]
    left_out = [f"{md.code(shorten(str(one.path)))}: {md.escape(shorten(one.reason), MAX_CHARACTERS)}"
                for one in comparison.left_out]  # fmt: skip
    notes = [*(md.escape(shorten(note), MAX_CHARACTERS) for note in comparison.notes), *left_out]
    return md.joined(
        [
            caption,
            md.table_of(systems, ("", "system")),
            md.folded("All pairs", md.table_of(pairs, ("pair", "verdict")), len(pairs)),
            md.bullets(notes),
        ]
    )
