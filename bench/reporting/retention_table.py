"""Tables of what a training kept of other abilities (`evaluation.also`), of one run and of many."""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from bench.analysis import accessors
from bench.config import registry
from bench.records.record import Kept, Record, Retention
from bench.reporting import markdown as md

if TYPE_CHECKING:  # it loads NumPy, which the page of one run does not need
    from bench.analysis.leaderboard import Group

NOTE = (
    "kept: the score after training as a share of that before, of a loss or perplexity the other way round. p: paired "
    "test on the same examples before and after; it knows nothing of other seeds. A perplexity is per token of the "
    "model's own tokenizer; the record has it per word and in bits per byte too, by which other tokenizers compare."
)
LEVEL = 0.05


def of_run(record: Record) -> str:
    """Return the table of one run; empty without `evaluation.also`."""
    rows = [
        [
            md.escape(one.name),
            md.count(one.examples),
            md.escape(kept.metric),
            md.fixed(kept.before),
            md.fixed(kept.after),
            _share(kept),
            f"{md.signed(float(kept.difference or 0))}{_interval(kept)}",
            _counted(kept),
            md.escape(_p_value(kept)),
            md.escape(kept.test),
        ]
        for one, kept in _compared([record])
    ]
    header = ["data", "examples", "metric", "before training", "after training", "kept"]
    header += ["difference, 95 % interval", "lost, gained", "p", "test"]
    table = md.table(header, rows, "lrlrrrrrrl")
    without = [md.escape(one.name) for one in record.retention.values() if one.kept is None]
    missing = f"Not compared (see the notes): {', '.join(without)}." if without else ""
    return md.joined([table, missing, NOTE if rows else ""])


def of_group(group: "Group") -> str:
    """Return the table of the systems of a report, means over their runs; empty where no run has `evaluation.also`."""
    rows = []
    for system in group.systems:
        by_data: dict[tuple[str, str], list[Kept]] = {}
        for one, kept in _compared(system.records):
            by_data.setdefault((one.name, kept.metric), []).append(kept)
        for (name, metric), found in by_data.items():
            shares = [share for kept in found if (share := share_kept(kept)) is not None]
            clear = sum(kept.p is not None and kept.p < LEVEL and _is_worse(kept) for kept in found)
            rows.append(
                [
                    md.escape(system.label),
                    md.escape(name),
                    md.escape(metric),
                    md.fixed(mean(float(kept.before or 0) for kept in found)),
                    md.fixed(mean(float(kept.after or 0) for kept in found)),
                    md.percent(mean(shares)) if len(shares) == len(found) else md.DASH,
                    f"{md.count(clear)} of {md.count(len(found))}",
                ]
            )
    header = ["system", "data", "metric", "before training", "after training", "kept", "runs that lost (p < 0.05)"]
    return md.joined([md.table(header, rows, "lllrrrr"), f"{NOTE} Scores are means over runs." if rows else ""])


def share_kept(kept: Kept) -> float | None:
    """Return the score after training as a share of that before; None of a score that is not positive."""
    first, second = float(kept.before or 0), float(kept.after or 0)
    if not registry.higher_is_better(kept.metric):
        first, second = second, first
    low, _ = accessors.metric_bounds(kept.metric)
    return second / first if first > 0 and low >= 0 else None


def _compared(records: Sequence[Record]) -> list[tuple[Retention, Kept]]:
    return [(one, one.kept) for record in records for one in record.retention.values() if one.kept is not None]


def _is_worse(kept: Kept) -> bool:
    difference = float(kept.difference or 0)
    return difference < 0 if registry.higher_is_better(kept.metric) else difference > 0


def _share(kept: Kept) -> str:
    share = share_kept(kept)
    return md.DASH if share is None else md.percent(share)


def _interval(kept: Kept) -> str:
    if kept.low is None or kept.high is None:
        return ""
    return f" ({md.signed(float(kept.low))} to {md.signed(float(kept.high))})"


def _counted(kept: Kept) -> str:
    return md.DASH if kept.lost is None else f"{md.count(kept.lost)}, {md.count(kept.gained)}"


def _p_value(kept: Kept) -> str:
    if kept.p is None:
        return md.DASH
    return "< 0.001" if kept.p < 0.001 else f"{kept.p:.3f}"
