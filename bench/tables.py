"""Tables of many runs, made from their records: one per data set and way of scoring. Loads no torch."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import markdown as md
from bench import readings
from bench import record as run_record
from bench.errors import DataError
from bench.record import Record

# Columns of a table of runs beside the ranking metric.
TABLE_METRICS = ("f1_macro", "jaccard_samples", "mcc", "squad_exact_match", "squad_v2_exact", "loss")
TEXT_COLUMNS = ("study / model / method", "overrides", "prompt", "machine", "status")
# A probe has the first only.
TRAINING_PHASES = ("train", "warm_up", "train_steps")
TABLE_NOTES = (
    "An interval tells how far a score would move with other test examples; it does not cover other seeds.",
    "Scores are fractions. Of a failed run none is shown.",
    "Tokens are counted without padding, all processes together.",
    "GPU memory is what PyTorch allocated, RAM what was resident, of the process with the highest peak.",
)
PREDICTED = "predicted peak in training, GiB"
PREDICTED_NOTE = (
    "The predicted peak is the plan's, made before training, of the tensors of the heaviest micro-batch. RAM holds the "
    "program and its libraries as well."
)
Runs = list[tuple[Path, Record]]


def write_table_report(paths: Sequence[Path], output: Path) -> Path:
    """Writes the tables of all records at or below `paths`; returns `output`. Unreadable ones are listed.

    Raises DataError for a path that does not exist, and when there is no record at all.
    """
    records, unreadable = [], []
    for path in run_record.locate(paths):
        try:
            records.append((path, run_record.read(path)))
        except DataError as error:
            unreadable.append(str(error))
    output.parent.mkdir(parents=True, exist_ok=True)
    run_record.write_text(output, table_report(records, unreadable))
    return output


def table_report(records: Runs, unreadable: Sequence[str] = ()) -> str:
    """Tables of runs by data set and comparability key, the best first and failed runs last.

    The same records give the same text, in any order. `unreadable`: sentences about other files.
    """
    tables = [_data_set(name, tables) for name, tables in sorted(readings.by_key(records).items())]
    broken = md.bullets([md.escape(sentence, readings.LONG) for sentence in unreadable])
    rest = {"Records that could not be read": broken, "Notes": _notes(records, len(unreadable))}
    return md.joined(["# Runs", *tables, md.sections(rest)]) + "\n"


def _data_set(name: str, tables: dict[str, Runs]) -> str:
    parts = [f"## Data set {md.escape(name)}"]
    if len(tables) > 1:
        differ = ", ".join(map(md.escape, readings.differing_parts(tables)))
        parts.append(
            "These runs were not all scored on the same examples in the same way, so they stand in "
            f"{len(tables)} tables: do not compare scores across them. What differs: {differ or 'not known'}."
        )
    for key, runs in sorted(tables.items(), key=lambda item: (not item[0], item[0])):
        shown = f"with comparability key {md.code(key)}" if key else "without a comparability key"
        parts += [f"### Runs {shown}" if len(tables) > 1 else "", _runs_table([record for _, record in runs])]
    return md.joined(parts)


def _runs_table(runs: list[Record]) -> str:
    valid = [record for record in runs if record.status == "ok"]
    split = next((split for record in valid for split in readings.splits(record)), None)
    names = {name for record in valid for stage in readings.STAGES for name in readings.scalars(record, stage, split)}
    main = readings.ranking_metric(names)
    shown = [main or "score", *(name for name in TABLE_METRICS if name in names and name != main)]
    ordered = sorted(runs, key=lambda record: _rank(record, split, main))
    lines = [_line(record, split, shown) for record in ordered]
    if {line[PREDICTED] for line in lines} == {md.DASH}:
        lines = [{name: cell for name, cell in line.items() if name != PREDICTED} for line in lines]
    if len({line["prompt"] for line in lines} - {md.DASH}) < 2:
        lines = [{name: cell for name, cell in line.items() if name != "prompt"} for line in lines]
    if len({line["machine"] for line in lines} - {md.DASH}) < 2:
        lines = [{name: cell for name, cell in line.items() if name != "machine"} for line in lines]
    return md.joined([_caption(valid, split, main), md.table_of(lines, TEXT_COLUMNS), _seeds_table(valid, split, main)])


def _seeds_table(runs: list[Record], split: str | None, main: str | None) -> str:
    """Runs of one recipe with several seeds, summed up: mean, sample standard deviation, lowest and highest score."""
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    for record in runs:
        # Of several runs with one seed the last counts: they say the same.
        groups.setdefault((record.name, record.recipe.hash or ""), {})[record.seed or 0] = record
    lines = []
    for seeds in groups.values():
        found = [readings.scalars(record, "after", split).get(main or "") for record in seeds.values()]
        values = [value for item in found if item and (value := md.finite(item.value)) is not None]
        if len(values) < 2:
            continue
        lines.append(
            {
                "all seeds of": readings.title(next(iter(seeds.values()))),
                "seeds": md.count(len(values)),
                f"mean {md.escape(main)}": md.fixed(statistics.mean(values)),
                "standard deviation": md.fixed(statistics.stdev(values)),
                "lowest": md.fixed(min(values)),
                "highest": md.fixed(max(values)),
            }
        )
    return md.table_of(sorted(lines, key=str), ("all seeds of",))


def _caption(valid: list[Record], split: str | None, main: str | None) -> str:
    if main is None or split is None:
        return "No run has a score."
    floors = {kind: found.get(main) for kind, found in valid[0].baselines.get(split, {}).items()}
    baselines = f" Baselines: {md.quantity('baselines', floors)}." if floors else ""
    order = "lowest" if main == "loss" else "highest"
    return f"Scores on {md.escape(split)}; {order} {md.escape(main)} after training first.{baselines}"


def _rank(record: Record, split: str | None, main: str | None) -> tuple[bool, float, str, int]:
    item = readings.scalars(record, "after", split).get(main or "") if record.status == "ok" else None
    value = md.finite(item.value) if item else None
    height = math.inf if value is None else value if main == "loss" else -value
    return record.status != "ok", height, record.name, record.seed or 0


def _line(record: Record, split: str | None, metrics: list[str]) -> dict[str, str]:
    # Scores of a failed run would be read as results.
    before, after = (
        {} if record.status != "ok" else readings.scalars(record, stage, split) for stage in readings.STAGES
    )
    scored, trained = record.throughput.get(split or "", {}), record.throughput.get("train", {})
    trained_in = record.memory.get("train", {})
    seconds = [phase.seconds for phase in record.phases if phase.name in TRAINING_PHASES]
    # Until batches were counted in tokens, a record held their rows.
    sizes = {"batch": scored.get("batch"), "batch tokens": scored.get("batch_tokens")}
    batch = "".join(f" ({name} {md.count(size)})" for name, size in sizes.items() if size is not None)
    overrides = "; ".join(f"{key}={value}" for key, value, _ in readings.overridden(record))
    shown = [readings.shown_score(found.get(metrics[0])) for found in (before, after)]
    if record.status == "oom":
        shown = [readings.does_not_fit(record)] * 2
    return {
        "study / model / method": readings.title(record),
        "seed": md.escape(record.seed),
        f"{md.escape(metrics[0])} before": shown[0],
        f"{md.escape(metrics[0])} after": shown[1],
        **{md.escape(name): md.fixed(after[name].value if name in after else None) for name in metrics[1:]},
        "trainable share": readings.trainable_share(record),
        "real tokens/s": md.significant(trained.get("real_tokens_per_s")),
        PREDICTED: md.gib(readings.predicted_gib(record)),
        "GPU peak in training, GiB": md.gib(trained_in.get("allocated_gib")),
        "RAM peak in training, GiB": md.gib(trained_in.get("rss_gib")),
        "training, s": md.seconds(sum(seconds) if seconds else None),
        "s per 100 examples": md.seconds(scored.get("seconds_per_100_examples")) + batch,
        "overrides": md.escape(overrides or None),
        "prompt": md.DASH if record.prompts is None else md.code(record.prompts.template_hash[:6]),
        "machine": readings.machine(record),
        "status": "ok" if record.status == "ok" else f"**{record.status}**: {md.escape(record.reason)}",
    }


def _notes(records: Runs, unreadable: int) -> str:
    statuses = Counter(record.status for _, record in records)
    failures = "".join(f", {n} {status}" for status, n in sorted(statuses.items()) if status != "ok")
    more = f"; {unreadable} more could not be read" if unreadable else ""
    intervals: dict[str, set[str]] = {}
    for name, item in (pair for _, record in records for pair in readings.all_scores(record)):
        if item.interval:
            intervals.setdefault(item.interval, set()).add(name)
    lines = [
        f"Records: {md.count(len(records))} ({statuses['ok']} ok{failures}){more}.",
        *(f"Interval {md.escape(kind)}: {', '.join(map(md.escape, sorted(names, key=readings.metric_order)))}."
          for kind, names in sorted(intervals.items())),
        *TABLE_NOTES,
        *([PREDICTED_NOTE] if any(readings.predicted_gib(record) is not None for _, record in records) else []),
    ]  # fmt: skip
    return md.bullets(lines)
