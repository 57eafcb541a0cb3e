"""The page of one run, `report.md`, made from its record. Loads no torch, no matplotlib."""

from pathlib import Path
from typing import Any

from bench.analysis import accessors
from bench.records.record import Published, Record
from bench.reporting import cells
from bench.reporting import markdown as md
from bench.utils import files, numbers
from bench.utils.hardware import GIB

PER_LABEL = ("f1", "precision", "recall", "accuracy")


def write_run_report(record: Record, folder: Path) -> Path:
    """Writes `report.md` into a run's folder; returns its path."""
    path = folder / "report.md"
    files.write_text(path, run_report(record, folder))
    return path


def run_report(record: Record, folder: Path) -> str:
    """One run on one page. Links the figures in `folder`/figures; leaves out what is not known."""
    parts = {
        "Out of memory": _out_of_memory(record),
        "Scores": md.joined(_scores(record, split) for split in accessors.splits(record)),
        "Scores by label": md.joined(_scores_by_label(record, split) for split in accessors.splits(record)),
        "Published results": md.joined(_published(found, split) for split, found in record.published.items()),
        "Prompt": _prompt(record),
        "Figures": md.images("figures", sorted(path.name for path in folder.glob("figures/*.png"))),
        "Training": md.fields("training", record.training.model_dump()) if record.training else "",
        "Speed": _speed(record),
        "Memory": md.grid("peak of a phase, largest of all processes", record.memory, skip=["per_rank"]),
        "Memory predicted": _memory_predicted(record),
        "Time": md.durations("phase", [(phase.name, phase.seconds) for phase in record.phases]),
        "Data": _data(record),
        "Model": _model(record),
        "Overrides": _override_table(record),
        "Notes": md.bullets([md.escape(note, accessors.LONG) for note in record.notes]),
        "Checks": _checks(record),
        "Environment and launch": _environment(record),
        "How the scores were made": _signatures(record),
    }
    title = f"# {cells.title(record)}, seed {md.escape(record.seed)}"
    return md.joined([title, _verdict(record), _summary(record), md.sections(parts)]) + "\n"


def _verdict(record: Record) -> str:
    if record.status == "ok":
        return "Status: **ok**"
    place = f" in {md.code(record.failed_in)}" if record.failed_in else ""
    lines = [f"**Status: {record.status}**{place}", md.escape(record.reason or "no reason is known", accessors.LONG)]
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
        ("machine", cells.machine(record)),
        ("recipe", md.code(record.recipe.path)),
        ("started, finished", f"{md.escape(record.started_at)}, {md.escape(record.finished_at)}"),
    ]
    return md.pairs("this run", rows)


def _result(record: Record) -> str:
    split = next(iter(accessors.splits(record)), None)
    stages = accessors.stages(record)
    found = {stage: accessors.scalars(record, stage, split) for stage in accessors.STAGES}
    name = accessors.ranking_metric([*found["after"], *found["before"]])
    if name is None or split is None:
        return md.DASH
    shown = [
        f"{cells.shown_score(found[stage][name])} {when}" for stage, when in stages.items() if name in found[stage]
    ]
    floor = record.baselines.get(split, {}).get("majority", {}).get(name)
    shown += [f"{md.fixed(floor)} for the majority baseline"] if floor is not None else []
    return f"{md.escape(name)} on {md.escape(split)}: {', '.join(shown)}"


def _scores(record: Record, split: str) -> str:
    kinds = dict.fromkeys((*accessors.STAGES, *record.scores))
    stages = {stage: found for stage in kinds if (found := accessors.scalars(record, stage, split))}
    baselines = record.baselines.get(split, {})
    scored = {name for found in stages.values() for name in found}
    names = sorted(scored | {name for found in baselines.values() for name in found}, key=accessors.metric_order)
    lines = [
        {"metric": md.escape(name)}
        | {f"{md.escape(kind)} baseline": md.fixed(found.get(name)) for kind, found in baselines.items()}
        | {
            accessors.stages(record).get(stage, md.escape(stage)): cells.shown_score(found.get(name))
            for stage, found in stages.items()
        }
        for name in names
    ]
    examples = sorted({item.examples for found in stages.values() for item in found.values()})
    heading = f"### {md.escape(split)}, {' or '.join(map(md.count, examples)) or 'no'} examples"
    return md.joined([heading, md.table_of(lines, ["metric"])])


def _published(found: dict[str, Published], split: str) -> str:
    """Whether the scores after training lie where others found them."""
    rows = [
        [
            md.escape(metric),
            md.fixed(item.value),
            f"{md.fixed(item.low)} to {md.fixed(item.high)}",
            _place(item),
            md.escape(item.source),
        ]
        for metric, item in found.items()
    ]
    return md.table([md.escape(split), "this run", "published", "this run is", "source"], rows, "lrrll")


def _place(item: Published) -> str:
    if item.inside is None or item.value is None:
        return md.DASH
    return "inside" if item.inside else "**below**" if item.value < item.low else "**above**"


def _scores_by_label(record: Record, split: str) -> str:
    found = {
        f"{metric} {stage}": record.scores.get(stage, {}).get(split, {}).get(f"{metric}_per_label")
        for metric in PER_LABEL
        for stage in accessors.STAGES
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


def _prompt(record: Record) -> str:
    asked = record.prompts
    if asked is None:
        return ""
    fields = md.fields("way to ask and to answer", asked.model_dump(exclude={"example", "answers"}))
    written = {f"{stage}, {split}": counts for stage, found in asked.answers.items() for split, counts in found.items()}
    shown = md.details("The first prompt, as the model reads it", md.verbatim(asked.example))
    return md.joined([fields, md.grid("written answers", written), shown])


def _speed(record: Record) -> str:
    scored = {split: found for split, found in record.throughput.items() if split != "train"}
    trained = md.fields("training, all processes together", record.throughput.get("train", {}))
    return md.joined([trained, md.grid("scoring", scored), md.fields("fast path", record.speed)])


def _memory_predicted(record: Record) -> str:
    """Predicted against measured in a sentence, and the prediction's parts."""
    found, told = accessors.predicted(record), record.memory_predicted or {}
    if not found:
        reason = told.get("reason")
        return f"memory: not predicted: {md.escape(reason, accessors.LONG)}" if reason else ""
    said, measured = f"memory: predicted {_size(accessors.predicted_gib(record))}", accessors.measured(record)
    basis = md.escape(measured.get("of"), accessors.LONG)
    if numbers.finite(measured.get("gib")) is not None:
        error = md.percent(told.get("error"))
        said += f", measured {_size(measured['gib'])} (error {error}). Measured is the {basis}"
    elif told.get("no_error"):
        said += f"; nothing that compares was measured: {md.escape(told['no_error'], accessors.LONG)}"
    if numbers.finite(measured.get("grown_gib")) is not None:
        said += f". The process grew by {_size(measured['grown_gib'])}: {basis}"
    parts = found.get("parts")
    rows = [[md.escape(name), _size(size)] for name, size in (parts if isinstance(parts, dict) else {}).items()]
    shape = {name: found.get(name) for name in ("rows", "length", "accumulation", "moment", "host_parts")}
    return md.joined([f"{said}.", md.table(["part", "size"], rows, "lr"), md.fields("predicted for", shape)])


def _size(gib: Any) -> str:
    """GiB in the unit that shows some digits of it; a dash for what is no number."""
    number = numbers.finite(gib)
    return md.DASH if number is None else numbers.format_bytes(round(number * GIB))


def _out_of_memory(record: Record) -> str:
    oom = record.oom
    if oom is None:
        return ""
    sizes = {"asked for": oom.asked_bytes, "capacity": oom.capacity_bytes, "in use": oom.allocated_bytes}
    sizes |= {"in use before the model was built": oom.before_bytes, "held by other processes": oom.others_bytes}
    rows = [("phase", md.escape(oom.phase)), ("step", md.count(oom.step)), ("process", md.count(oom.rank))]
    if oom.rows is not None:
        rows.append(("micro-batch", f"{md.count(oom.rows)} × {md.count(oom.length)} tokens"))
    rows += [(name, md.DASH if size is None else numbers.format_bytes(size)) for name, size in sizes.items()]
    rows += [
        ("device", md.escape(oom.device)),
        ("limit", md.escape(oom.limit)),
        ("predicted for training", _size(oom.predicted_gib)),
        ("rows of the largest micro-batch that fits", md.count(oom.largest_rows)),
        ("remark", md.escape(oom.unadvised, accessors.LONG)),
    ]
    advice = [[md.code(one.change), md.escape(one.costs, accessors.LONG)] for one in oom.advice]
    return md.joined([md.pairs("out of memory", rows), md.table(["to make it fit", "costs"], advice, "ll")])


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
    shown["parameters"] = {**model.parameters, "trainable share": cells.trainable_share(record)}
    return md.fields("model", shown)


def _override_table(record: Record) -> str:
    rows = [[md.code(key), md.code(value), by] for key, value, by in accessors.overridden(record)]
    return md.table(["setting", "value", "set in"], rows, "lll")


def _checks(record: Record) -> str:
    checks = sorted(record.checks, key=lambda check: check.ok)
    rows = [[md.escape(c.name), "ok" if c.ok else "**failed**", md.escape(c.detail, accessors.LONG)] for c in checks]
    return md.table(["check", "result", "detail"], rows, "lll")


def _environment(record: Record) -> str:
    environment = record.environment.model_dump() if record.environment else {}
    packages = md.details("Package versions", md.fields("package", environment.pop("packages", {})))
    launch = md.fields("launch", record.launch.model_dump()) if record.launch else ""
    return md.joined([launch, md.fields("environment", environment), packages])


def _signatures(record: Record) -> str:
    found = dict(accessors.all_scores(record))
    rows = [
        [md.escape(name), md.code(found[name].signature), md.escape(found[name].interval)]
        for name in sorted(found, key=accessors.metric_order)
    ]
    shown = md.table(["metric", "signature", "interval"], rows, "lll")
    same = record.comparability
    keys = {"recipe_hash": record.recipe.hash, "comparability_key": same and same.key}
    keys |= {f"comparability of {name}": part for name, part in same.parts.items()} if same else {}
    return md.joined([md.details("Metric signatures and intervals", shown), md.fields("key", keys)])
