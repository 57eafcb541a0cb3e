"""Pages made from run records: one run (`report.md`), and tables of many. Loads no torch, no matplotlib."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import markdown as md
from bench import record as run_record
from bench.errors import DataError
from bench.record import Record, Score

# The metric that ranks runs is the first of these that was measured.
MAIN_METRICS = ("accuracy", "f1_macro", "jaccard_samples")
OTHERS = ("jaccard_samples_empty0", "subset_accuracy", "hamming_accuracy", "f1_micro", "f1_weighted", "mcc")
# Columns of a table of runs beside the ranking metric.
TABLE_METRICS = ("f1_macro", "jaccard_samples", "mcc", "loss")
PER_LABEL = ("f1", "precision", "recall", "accuracy")
STAGES = {"before": "before training", "after": "after training"}
TEXT_COLUMNS = ("study / model / method", "overrides", "machine", "status")
# Characters of a reason or a note; what fails inside a library can be pages long.
LONG = 2000
TABLE_NOTES = (
    "An interval tells how far a score would move with other test examples; it does not cover other seeds.",
    "Scores are fractions. Of a failed run none is shown.",
    "Tokens are counted without padding, all processes together.",
    "GPU memory is what PyTorch allocated, RAM what was resident, of the process with the highest peak.",
)
Runs = list[tuple[Path, Record]]


def write_run_report(record: Record, folder: Path) -> Path:
    """Writes `report.md` into a run's folder; returns its path."""
    run_record.write_text(folder / "report.md", run_report(record, folder))
    return folder / "report.md"


def write_table_report(paths: Sequence[Path], output: Path) -> Path:
    """Writes the tables of all records at or below `paths`; returns `output`. Unreadable ones are listed.

    Raises DataError for a path that does not exist, and when there is no record at all.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
    found = run_record.find(list(paths))
    if not found:
        raise DataError(f"no {run_record.FILE} in or below {', '.join(map(str, paths)) or 'nothing'}")
    records, unreadable = [], []
    for path in found:
        try:
            records.append((path, run_record.read(path)))
        except DataError as error:
            unreadable.append(str(error))
    output.parent.mkdir(parents=True, exist_ok=True)
    run_record.write_text(output, table_report(records, unreadable))
    return output


def _name(record: Record) -> str:
    return md.escape(record.name.replace("--", " / "))


def _metric_order(name: str) -> tuple[bool, int, str]:
    order = (*MAIN_METRICS, *OTHERS)
    return name == "loss", order.index(name) if name in order else len(order), name


def _scalars(record: Record, stage: str, split: str | None) -> dict[str, Score]:
    found = record.scores.get(stage, {}).get(split or "", {})
    return {name: item for name, item in found.items() if not isinstance(item.value, list)}


def _all_scores(record: Record) -> list[tuple[str, Score]]:
    return [pair for stage in record.scores.values() for split in stage.values() for pair in split.items()]


def _splits(record: Record) -> list[str]:
    """Scored splits: test first, the others in the order in which they were scored."""
    found = dict.fromkeys([*(name for stage in record.scores.values() for name in stage), *record.baselines])
    return sorted(found, key=lambda split: split != "test")


def _ranking_metric(names: Iterable[str]) -> str | None:
    """The first of MAIN_METRICS, else of all others; the loss only where there is nothing else."""
    return min(names, key=_metric_order, default=None)


def _shown(item: Score | None) -> str:
    return md.DASH if item is None else md.score(item.value, item.low, item.high)


def _machine(record: Record) -> str:
    launch = record.launch
    if launch is None:
        return md.DASH
    devices = f" ({md.counted(record.environment.devices)})" if record.environment else ""
    processes = "1 process" if launch.world_size == 1 else f"{launch.world_size} processes"
    precision = "full precision" if launch.mixed_precision == "no" else md.escape(launch.mixed_precision)
    return f"{processes} on {md.escape(launch.device)}{devices}, {precision}"


def _trainable_share(record: Record) -> str:
    found = record.model.parameters if record.model else {}
    return md.percent_of(found.get("trainable"), found.get("total"))


def _overridden(record: Record) -> list[tuple[str, str, str]]:
    """(key, value, who set it) of card values that were replaced, and of what the command line set."""
    typed = dict(text.partition("=")[::2] for text in record.recipe.overrides)
    cards = [pair for pair in sorted(record.recipe.card_overrides.items()) if pair[0] not in typed]
    rows = [(key, json.dumps(value, ensure_ascii=False, default=str), "recipe") for key, value in cards]
    return rows + [(key, value, "command line") for key, value in sorted(typed.items())]


def run_report(record: Record, folder: Path) -> str:
    """One run on one page. Links the figures in `folder`/figures; leaves out what is not known."""
    parts = {
        "Scores": md.joined(_scores(record, split) for split in _splits(record)),
        "Scores by label": md.joined(_scores_by_label(record, split) for split in _splits(record)),
        "Figures": md.images("figures", sorted(path.name for path in folder.glob("figures/*.png"))),
        "Training": md.fields("training", record.training.model_dump()) if record.training else "",
        "Speed": _speed(record),
        "Memory": md.grid("peak of a phase, largest of all processes", record.memory, skip=["per_rank"]),
        "Memory predicted": md.fields("phase", record.memory_predicted or {}),
        "Time": md.durations("phase", [(phase.name, phase.seconds) for phase in record.phases]),
        "Data": _data(record),
        "Model": _model(record),
        "Overrides": _override_table(record),
        "Notes": md.bullets([md.escape(note, LONG) for note in record.notes]),
        "Checks": _checks(record),
        "Environment and launch": _environment(record),
        "How the scores were made": _signatures(record),
    }
    title = f"# {_name(record)}, seed {md.escape(record.seed)}"
    return md.joined([title, _verdict(record), _summary(record), md.sections(parts)]) + "\n"


def _verdict(record: Record) -> str:
    if record.status == "ok":
        return "Status: **ok**"
    place = f" in {md.code(record.failed_in)}" if record.failed_in else ""
    lines = [f"**Status: {record.status}**{place}", md.escape(record.reason or "no reason is known", LONG)]
    failed = dict.fromkeys(check.name for check in record.checks if not check.ok)
    lines += [f"Failed checks: {', '.join(map(md.escape, failed))}"] if failed else []
    lines += ["The scores on this page must not be used."] if record.scores else []
    return md.alert(lines)


def _summary(record: Record) -> str:
    rows = [
        ("result", _result(record)),
        ("data set", md.escape(record.data and record.data.id)),
        ("model", md.escape(record.model and record.model.id)),
        ("method", md.escape(record.method or None)),
        ("machine", _machine(record)),
        ("recipe", md.code(record.recipe.path)),
        ("started, finished", f"{md.escape(record.started_at)}, {md.escape(record.finished_at)}"),
    ]
    return md.pairs("this run", rows)


def _result(record: Record) -> str:
    split = next(iter(_splits(record)), None)
    found = {stage: _scalars(record, stage, split) for stage in STAGES}
    name = _ranking_metric([*found["after"], *found["before"]])
    if name is None or split is None:
        return md.DASH
    shown = [f"{_shown(found[stage][name])} {when}" for stage, when in STAGES.items() if name in found[stage]]
    floor = record.baselines.get(split, {}).get("majority", {}).get(name)
    shown += [f"{md.fixed(floor)} for the majority baseline"] if floor is not None else []
    return f"{md.escape(name)} on {md.escape(split)}: {', '.join(shown)}"


def _scores(record: Record, split: str) -> str:
    kinds = dict.fromkeys((*STAGES, *record.scores))
    stages = {stage: found for stage in kinds if (found := _scalars(record, stage, split))}
    baselines = record.baselines.get(split, {})
    scored = {name for found in stages.values() for name in found}
    names = sorted(scored | {name for found in baselines.values() for name in found}, key=_metric_order)
    lines = [
        {"metric": md.escape(name)}
        | {f"{md.escape(kind)} baseline": md.fixed(found.get(name)) for kind, found in baselines.items()}
        | {STAGES.get(stage, md.escape(stage)): _shown(found.get(name)) for stage, found in stages.items()}
        for name in names
    ]
    examples = sorted({item.examples for found in stages.values() for item in found.values()})
    heading = f"### {md.escape(split)}, {' or '.join(map(md.count, examples)) or 'no'} examples"
    return md.joined([heading, md.table_of(lines, ["metric"])])


def _scores_by_label(record: Record, split: str) -> str:
    found = {
        f"{metric} {stage}": record.scores.get(stage, {}).get(split, {}).get(f"{metric}_per_label")
        for metric in PER_LABEL
        for stage in STAGES
    }
    columns = {name: item for name, item in found.items() if item and isinstance(item.value, list)}
    if not columns:
        return ""
    labels = list(record.data.labels) if record.data else []
    longest = max(len(item.value) for item in columns.values() if isinstance(item.value, list))
    labels += [f"label {index}" for index in range(len(labels), longest)]
    part = record.data.splits.get(split) if record.data else None
    rows = [
        [md.escape(label), md.count(part.labels.get(label) if part else None)]
        + [md.score_at(index, item.value, item.low, item.high) for item in columns.values()]
        for index, label in enumerate(labels)
    ]
    shown = md.table(["label", "examples", *columns], rows, "lr" + "r" * len(columns))
    return md.joined([f"### {md.escape(split)}, by label", md.folded("Scores by label", shown, len(rows))])


def _speed(record: Record) -> str:
    scored = {split: found for split, found in record.throughput.items() if split != "train"}
    trained = md.fields("training, all processes together", record.throughput.get("train", {}))
    return md.joined([trained, md.grid("scoring", scored)])


def _data(record: Record) -> str:
    if record.data is None:
        return ""
    parts = record.data.splits
    splits = {
        name: {"examples": part.examples}
        | {f"tokens {key}": part.tokens.get(key) for key in ("mean", "p50", "p99", "max")}
        | {"truncated": md.count_of(part.truncated, part.examples), "dropped": part.dropped or None}
        for name, part in parts.items()
    }
    totals = {name: part.examples for name, part in parts.items()}
    labels = md.distribution("label", {name: part.labels for name, part in parts.items()}, totals)
    source = md.fields("data set", record.data.model_dump(include={"id", "revision"}))
    return md.joined([source, md.grid("split", splits), labels])


def _model(record: Record) -> str:
    model = record.model
    if model is None:
        return ""
    shown = model.model_dump(by_alias=True)
    shown["parameters"] = {**model.parameters, "trainable share": _trainable_share(record)}
    return md.fields("model", shown)


def _override_table(record: Record) -> str:
    rows = [[md.code(key), md.code(value), by] for key, value, by in _overridden(record)]
    return md.table(["setting", "value", "set in"], rows, "lll")


def _checks(record: Record) -> str:
    checks = sorted(record.checks, key=lambda check: check.ok)
    rows = [[md.escape(c.name), "ok" if c.ok else "**failed**", md.escape(c.detail, LONG)] for c in checks]
    return md.table(["check", "result", "detail"], rows, "lll")


def _environment(record: Record) -> str:
    environment = record.environment.model_dump() if record.environment else {}
    packages = md.details("Package versions", md.fields("package", environment.pop("packages", {})))
    launch = md.fields("launch", record.launch.model_dump()) if record.launch else ""
    return md.joined([launch, md.fields("environment", environment), packages])


def _signatures(record: Record) -> str:
    found = dict(_all_scores(record))
    rows = [
        [md.escape(name), md.code(found[name].signature), md.escape(found[name].interval)]
        for name in sorted(found, key=_metric_order)
    ]
    shown = md.table(["metric", "signature", "interval"], rows, "lll")
    same = record.comparability
    keys = {"recipe_hash": record.recipe.hash, "comparability_key": same and same.key}
    keys |= {f"comparability of {name}": part for name, part in same.parts.items()} if same else {}
    return md.joined([md.details("Metric signatures and intervals", shown), md.fields("key", keys)])


def table_report(records: Runs, unreadable: Sequence[str] = ()) -> str:
    """Tables of runs by data set and comparability key, the best first and failed runs last.

    The same records give the same text, in any order. `unreadable`: sentences about other files.
    """
    tables = [_data_set(name, tables) for name, tables in sorted(_grouped(records).items())]
    broken = md.bullets([md.escape(sentence, LONG) for sentence in unreadable])
    rest = {"Records that could not be read": broken, "Notes": _notes(records, len(unreadable))}
    return md.joined(["# Runs", *tables, md.sections(rest)]) + "\n"


def _identity(pair: tuple[Path, Record]) -> tuple[str, int, str, str, str]:
    path, record = pair
    return record.name, record.seed or 0, record.recipe.hash or "", record.started_at, str(path)


def _card(record: Record) -> str:
    chosen = record.recipe.as_written.get("dataset")
    return str(chosen.get("card", "") if isinstance(chosen, dict) else chosen or "")


def _grouped(records: Runs) -> dict[str, dict[str, list[Record]]]:
    """Data set -> comparability key -> runs. A run that failed before it had them joins those of its card."""
    ordered = [record for _, record in sorted(records, key=_identity)]
    by_card = {_card(record): record.data.id for record in ordered if record.data and _card(record)}
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in ordered:
        card = _card(record)
        name = record.data.id if record.data else by_card.get(card, card) or "not known"
        key = record.comparability.key if record.comparability else ""
        groups.setdefault(name, {}).setdefault(key, []).append(record)
    for tables in groups.values():
        if len(tables) == 2 and all(record.status != "ok" for record in tables.get("", ordered)):
            tables[max(tables)] += tables.pop("")
    return groups


def _data_set(name: str, tables: dict[str, list[Record]]) -> str:
    parts = [f"## Data set {md.escape(name)}"]
    if len(tables) > 1:
        keys = [record.comparability for runs in tables.values() for record in runs if record.comparability]
        hashes = Counter(name for name, _ in {part for key in keys for part in key.parts.items()})
        differ = ", ".join(sorted(md.escape(name) for name, number in hashes.items() if number > 1))
        parts.append(
            "These runs were not all scored on the same examples in the same way, so they stand in "
            f"{len(tables)} tables: do not compare scores across them. What differs: {differ or 'not known'}."
        )
    for key, runs in sorted(tables.items(), key=lambda item: (not item[0], item[0])):
        shown = f"with comparability key {md.code(key)}" if key else "without a comparability key"
        parts += [f"### Runs {shown}" if len(tables) > 1 else "", _runs_table(runs)]
    return md.joined(parts)


def _runs_table(runs: list[Record]) -> str:
    valid = [record for record in runs if record.status == "ok"]
    split = next((split for record in valid for split in _splits(record)), None)
    names = {name for record in valid for stage in STAGES for name in _scalars(record, stage, split)}
    main = _ranking_metric(names)
    shown = [main or "score", *(name for name in TABLE_METRICS if name in names and name != main)]
    ordered = sorted(runs, key=lambda record: _rank(record, split, main))
    lines = [_line(record, split, shown) for record in ordered]
    if len({line["machine"] for line in lines} - {md.DASH}) < 2:
        lines = [{name: cell for name, cell in line.items() if name != "machine"} for line in lines]
    return md.joined([_caption(valid, split, main), md.table_of(lines, TEXT_COLUMNS)])


def _caption(valid: list[Record], split: str | None, main: str | None) -> str:
    if main is None or split is None:
        return "No run has a score."
    floors = {kind: found.get(main) for kind, found in valid[0].baselines.get(split, {}).items()}
    baselines = f" Baselines: {md.quantity('baselines', floors)}." if floors else ""
    order = "lowest" if main == "loss" else "highest"
    return f"Scores on {md.escape(split)}; {order} {md.escape(main)} after training first.{baselines}"


def _rank(record: Record, split: str | None, main: str | None) -> tuple[bool, float, str, int]:
    item = _scalars(record, "after", split).get(main or "") if record.status == "ok" else None
    value = md.finite(item.value) if item else None
    height = math.inf if value is None else value if main == "loss" else -value
    return record.status != "ok", height, record.name, record.seed or 0


def _line(record: Record, split: str | None, metrics: list[str]) -> dict[str, str]:
    # Scores of a failed run would be read as results.
    before, after = ({} if record.status != "ok" else _scalars(record, stage, split) for stage in STAGES)
    scored, trained = record.throughput.get(split or "", {}), record.throughput.get("train", {})
    trained_in = record.memory.get("train", {})
    seconds = [phase.seconds for phase in record.phases if phase.name == "train"]
    batch = f" (batch {md.count(scored['batch'])})" if scored.get("batch") is not None else ""
    overrides = "; ".join(f"{key}={value}" for key, value, _ in _overridden(record))
    return {
        "study / model / method": _name(record),
        "seed": md.escape(record.seed),
        f"{md.escape(metrics[0])} before": _shown(before.get(metrics[0])),
        f"{md.escape(metrics[0])} after": _shown(after.get(metrics[0])),
        **{md.escape(name): md.fixed(after[name].value if name in after else None) for name in metrics[1:]},
        "trainable share": _trainable_share(record),
        "real tokens/s": md.significant(trained.get("real_tokens_per_s")),
        "GPU peak in training, GiB": md.gib(trained_in.get("allocated_gib")),
        "RAM peak in training, GiB": md.gib(trained_in.get("rss_gib")),
        "training, s": md.seconds(sum(seconds) if seconds else None),
        "s per 100 examples": md.seconds(scored.get("seconds_per_100_examples")) + batch,
        "overrides": md.escape(overrides or None),
        "machine": _machine(record),
        "status": "ok" if record.status == "ok" else f"**{record.status}**: {md.escape(record.reason)}",
    }


def _notes(records: Runs, unreadable: int) -> str:
    statuses = Counter(record.status for _, record in records)
    failures = "".join(f", {n} {status}" for status, n in sorted(statuses.items()) if status != "ok")
    more = f"; {unreadable} more could not be read" if unreadable else ""
    intervals: dict[str, set[str]] = {}
    for name, item in (pair for _, record in records for pair in _all_scores(record)):
        if item.interval:
            intervals.setdefault(item.interval, set()).add(name)
    lines = [
        f"Records: {md.count(len(records))} ({statuses['ok']} ok{failures}){more}.",
        *(f"Interval {md.escape(kind)}: {', '.join(map(md.escape, sorted(names, key=_metric_order)))}."
          for kind, names in sorted(intervals.items())),
        *TABLE_NOTES,
    ]  # fmt: skip
    return md.bullets(lines)
