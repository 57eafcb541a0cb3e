"""Short table of many runs, one row per run, from records alone: one table per comparability key. Loads no NumPy."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.analysis import accessors
from bench.analysis.accessors import LeftOut, training_s
from bench.records.record import Record
from bench.reporting import cells, local_paths, run_warnings
from bench.reporting import markdown as md
from bench.utils import numbers

# Metric columns beside the ranking metric.
TABLE_METRICS = (
    *("f1_macro", "jaccard_samples", "mcc", "squad_exact_match", "squad_v2_exact", "spearman", "mse", "token_accuracy"),
    "loss",
)
NAME_COLUMN, SEEDS_COLUMN = "study / model / method", "aggregated over seeds"
TEXT_COLUMNS = (NAME_COLUMN, "overrides", "prompt", "machine", "status")
TABLE_NOTES = (
    "Intervals cover other test examples, not other seeds.",
    "Scores are fractions, not percentages; BLEU is on a scale of 0 to 100. Scores of failed runs are not shown.",
    "Scores are those of the records; they are not recomputed from predictions here.",
    "Tokens: without padding, all processes together.",
    "Peak memory: maximum over processes of GPU memory allocated by PyTorch, and of resident memory (RAM).",
)
# Value -> what a reader must know where runs have it.
NOTES_OF = {
    "chrf": "chrF is on a scale of 0 to 100.",
    "perplexity": (
        "Loss and perplexity of references are means over the tokens of a model's own tokenizer: models with another "
        "one can't be compared by them."
    ),
}
RESUMED_NOTE = "Training, s: not given for a resumed run, whose record covers only the last launch."
PREDICTED = "predicted peak in training, GiB"
PREDICTED_NOTE = (
    "Predicted peak: planned before training, tensors of the largest micro-batch only. RAM also holds the program and "
    "its libraries."
)
Runs = list[tuple[Path, Record]]


@dataclass(frozen=True, kw_only=True)
class RunsTable:
    """The runs of one comparability key, as Markdown cells by column: best first, failed last; and those over seeds.

    caption: what is scored and ranked. common: a sentence on the overrides that all runs share, if any.
    """

    key: str
    caption: str
    lines: list[dict[str, str]]
    common: str
    seeds: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class DataSetTables:
    """The tables of one data set. differs: in what the runs differ, so that their scores can't be compared; or ""."""

    name: str
    tables: list[RunsTable]
    differs: str


def table_report(records: Runs, unreadable: Sequence[LeftOut] = (), metric: str | None = None) -> str:
    """Return tables of runs by data set and comparability key, best runs first and failed ones last.

    The same records give the same text, in any order.
    """
    sections = [_data_set(one) for one in tables(records, metric)]
    broken = md.bullets(
        [f"{md.code(item.path)}: {md.escape(item.reason, accessors.MAX_CHARACTERS)}" for item in unreadable]
    )
    warned = run_warnings.section([record for _, record in records])
    rest = {"Warnings": warned, "Unreadable records": broken, "Notes": _notes(records, len(unreadable))}
    page = md.joined(["# Runs", *sections, md.sections(rest)]) + "\n"
    return local_paths.hide(page, [record for _, record in records])


def tables(records: Runs, metric: str | None = None) -> list[DataSetTables]:
    """Return the tables of each data set, by comparability key. metric: ranks; None for the first of the usual ones."""
    found = []
    for name, by_key in sorted(accessors.by_data_set(records).items()):
        differs = (", ".join(accessors.differing_parts(by_key)) or "unknown") if len(by_key) > 1 else ""
        ordered = sorted(by_key.items(), key=lambda item: (not item[0], item[0]))
        own = [_runs_table(key, [record for _, record in runs], metric) for key, runs in ordered]
        found.append(DataSetTables(name=name, tables=own, differs=differs))
    return found


def why_apart(found: DataSetTables) -> str:
    """Return why the runs of a data set are in several tables; "" where they are in one."""
    if not found.differs:
        return ""
    return (
        "These runs were not all scored on the same examples with the same metrics, so they are reported in "
        f"{len(found.tables)} tables. Do not compare scores across them. They differ in: {md.escape(found.differs)}."
    )


def heading(table: RunsTable) -> str:
    """Return the heading of one of several tables of a data set."""
    shown = f"with comparability key {md.code(table.key)}" if table.key else "without a comparability key"
    return f"Runs {shown}"


def _data_set(found: DataSetTables) -> str:
    parts = [f"## Data set {md.escape(found.name)}", why_apart(found)]
    for table in found.tables:
        parts += [
            f"### {heading(table)}" if found.differs else "",
            table.caption,
            md.table_of(table.lines, TEXT_COLUMNS),
            table.common,
            md.table_of(table.seeds, (SEEDS_COLUMN,)),
        ]
    return md.joined(parts)


def _runs_table(key: str, runs: list[Record], metric: str | None) -> RunsTable:
    valid = [record for record in runs if record.status == "ok"]
    split = next((split for record in valid for split in accessors.splits(record)), None)
    names = {name for record in valid for stage in accessors.STAGES for name in accessors.scalars(record, stage, split)}
    main = accessors.ranking_metric(names) if metric is None else metric if metric in names else None
    shown = [main or "score", *(name for name in TABLE_METRICS if name in names and name != main)]
    higher = accessors.higher_is_better(valid, main)
    ordered = sorted(runs, key=lambda record: _rank(record, split, main, higher=higher))
    titles, common = _titles(runs), _common_overrides(runs)
    lines = [_line(record, split, shown, titles[accessors.system_key(record)], common) for record in ordered]
    often_empty = (PREDICTED, "overrides", run_warnings.COLUMN)
    alone = {name for name in often_empty if {line[name] for line in lines} == {md.DASH}}
    alone |= {name for name in ("prompt", "machine") if len({line[name] for line in lines} - {md.DASH}) < 2}
    whose = "all these runs" if len(runs) > 1 else "this run"
    alike = f"Overrides of {whose}: {md.escape('; '.join(common), accessors.MAX_CHARACTERS)}."
    return RunsTable(
        key=key,
        caption=_caption(valid, split, main, metric, higher=higher),
        lines=[{name: cell for name, cell in line.items() if name not in alone} for line in lines],
        common=alike if common else "",
        seeds=_seeds_lines(valid, split, main, titles),
    )


def _titles(runs: list[Record]) -> dict[tuple[str, str], str]:
    """Return a unique name for each system, by its key."""
    firsts = {accessors.system_key(record): record for record in reversed(runs)}
    titles = {}
    for key, ending in accessors.endings(firsts).items():
        # The part that differs may be cut from a long ending.
        mark = f" [{key[1][:8]}]" if len(ending) > md.CELL_LIMIT else ""
        titles[key] = cells.title(firsts[key]) + (f" {md.escape(ending.strip())}" if ending else "") + mark
    return titles


def _overrides(record: Record) -> list[str]:
    """Return overrides without the seed, which has its own column."""
    return [f"{key}={value}" for key, value, _ in accessors.overridden(record) if key != "seed"]


def _common_overrides(runs: list[Record]) -> list[str]:
    """Return the overrides that all runs share, in their order."""
    return [item for item in _overrides(runs[0]) if all(item in _overrides(record) for record in runs)]


def _seeds_lines(
    runs: list[Record], split: str | None, main: str | None, titles: dict[tuple[str, str], str]
) -> list[dict[str, str]]:
    """Return mean, sample standard deviation, minimum and maximum over the seeds of each recipe."""
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    for record in runs:
        # Of several runs with the same seed the last counts: they are not independent.
        groups.setdefault(accessors.system_key(record), {})[record.seed or 0] = record
    lines = []
    for key, seeds in groups.items():
        values = accessors.finite_values(seeds.values(), "after", split, main or "")
        if len(values) < 2:
            continue
        lines.append(
            {
                SEEDS_COLUMN: titles[key],
                "seeds": md.count(len(values)),
                f"mean {md.escape(main)}": md.fixed(statistics.mean(values)),
                "std over seeds": md.fixed(statistics.stdev(values)),
                "min": md.fixed(min(values)),
                "max": md.fixed(max(values)),
            }
        )
    return sorted(lines, key=str)


def _caption(valid: list[Record], split: str | None, main: str | None, metric: str | None, *, higher: bool) -> str:
    if main is None and metric is not None and split is not None:
        return f"No run has a single-valued score of the metric {md.escape(metric)} on {md.escape(split)}."
    if main is None or split is None:
        return "No run has a score."
    floors = {kind: values.get(main) for kind, values in valid[0].baselines.get(split, {}).items()}
    baselines = f" Baselines: {md.quantity('baselines', floors)}." if floors else ""
    order = "highest" if higher else "lowest"
    return f"Scores on {md.escape(split)}; {order} {md.escape(main)} after training first.{baselines}"


def _rank(record: Record, split: str | None, main: str | None, *, higher: bool) -> tuple[bool, float, str, int]:
    item = accessors.scalars(record, "after", split).get(main or "") if record.status == "ok" else None
    value = numbers.finite(item.value) if item else None
    height = math.inf if value is None else -value if higher else value
    return record.status != "ok", height, record.name, record.seed or 0


def _line(record: Record, split: str | None, metrics: list[str], title: str, common: Sequence[str]) -> dict[str, str]:
    # Scores of a failed run could be mistaken for results.
    before, after = (
        {} if record.status != "ok" else accessors.scalars(record, stage, split) for stage in accessors.STAGES
    )
    scored, trained = record.throughput.get(split or "", {}), record.throughput.get("train", {})
    trained_in = record.memory.get("train", {})
    # Older records hold the rows of a batch, not its tokens.
    sizes = {"batch": scored.get("batch"), "batch tokens": scored.get("batch_tokens")}
    batch = "".join(f" ({name} {md.count(size)})" for name, size in sizes.items() if size is not None)
    overrides = "; ".join(item for item in _overrides(record) if item not in common)
    shown = [cells.shown_score(scores.get(metrics[0])) for scores in (before, after)]
    if record.status == "oom":
        shown = [cells.does_not_fit(record)] * 2
    return {
        NAME_COLUMN: title,
        "seed": md.escape(record.seed),
        f"{md.escape(metrics[0])} before": shown[0],
        f"{md.escape(metrics[0])} after": shown[1],
        **{md.escape(name): md.fixed(after[name].value if name in after else None) for name in metrics[1:]},
        "trainable share": cells.trainable_share(record),
        "real tokens/s": md.significant(trained.get("real_tokens_per_s")),
        PREDICTED: md.gib(accessors.predicted_gib(record)),
        "GPU peak in training, GiB": md.gib(trained_in.get("allocated_gib")),
        "RAM peak in training, GiB": md.gib(trained_in.get("rss_gib")),
        "training, s": md.seconds(training_s(record)),
        "s per 100 examples": md.seconds(scored.get("seconds_per_100_examples")) + batch,
        "overrides": md.escape(overrides or None),
        "prompt": md.DASH if record.prompts is None else md.code(record.prompts.template_hash[:6]),
        "machine": cells.machine(record),
        run_warnings.COLUMN: run_warnings.count([record]),
        "status": "ok" if record.status == "ok" else f"**{record.status}**: {md.escape(record.reason)}",
    }


def _notes(records: Runs, unreadable: int) -> str:
    intervals: dict[str, set[str]] = {}
    for name, item in (pair for _, record in records for pair in accessors.all_scores(record)):
        if item.interval:
            intervals.setdefault(item.interval, set()).add(name)
    lines = [
        cells.record_counts([record for _, record in records], unreadable),
        *(f"Interval {md.escape(kind)}: {', '.join(map(md.escape, sorted(names, key=accessors.metric_order)))}."
          for kind, names in sorted(intervals.items())),
        *TABLE_NOTES,
        *(note for name, note in NOTES_OF.items() if any(name in names for names in intervals.values())),
        *accessors.selection_notes(record for _, record in records),
        *([RESUMED_NOTE] if any(record.resumed for _, record in records) else []),
        *([PREDICTED_NOTE] if any(accessors.predicted_gib(record) is not None for _, record in records) else []),
    ]  # fmt: skip
    return md.bullets(lines)
