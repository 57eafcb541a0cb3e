"""Render the report of one run, `report.md`, from its record. Loads no torch, no matplotlib.

First what was run, its result, its warnings and how to run it again; then scores, examples, figures and cost; the rest
is folded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis import accessors
from bench.data import tagging
from bench.errors import DataError
from bench.records import store
from bench.records.record import Published, Record, Score
from bench.reporting import (
    calibration_table,
    cells,
    energy_and_money,
    local_paths,
    retention_table,
    run_examples,
    run_summary,
    run_warnings,
)
from bench.reporting import markdown as md
from bench.utils import files, numbers
from bench.utils.hardware import GIB

if TYPE_CHECKING:  # they load NumPy, which a page without examples does not need
    from bench.analysis.disagreements import TextSource
    from bench.data.dataset import Corpus

PAGE = "report.md"
_FIRST_LINE = re.compile(rb"# .+, seed (\d+|" + md.DASH.encode() + rb")$", re.MULTILINE)
PER_LABEL = ("f1", "precision", "recall", "accuracy")
PER_TYPE = ("f1", "precision", "recall")
# A value by label -> one that is the same where the two are equal.
SAME_BY_LABEL = {"accuracy": "recall"}
# The same of single labels.
SAME = {"f1_micro": "accuracy"}


def refuse_foreign(folder: Path, *, overwrite: bool) -> None:
    """Raise DataError for the folder of another run, a file, and a report.md that is not the page of a run.

    overwrite: such a report.md may be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; pass a folder")
    if (folder / store.FILE).exists():
        raise DataError(f"{folder} is the folder of another run: its own page would be overwritten; pass another -o")
    path = folder / PAGE
    try:
        with files.open_regular(path) as stream:
            is_own = _FIRST_LINE.match(stream.readline(10_000)) is not None
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    if not is_own and not overwrite:
        raise DataError(f"{path} is not the page of a run; pass another -o, or --overwrite to replace it")


def write_run_report(record: Record, folder: Path, *, corpus: Corpus | None = None) -> Path:
    """Write `report.md` into a run's folder; return its path. corpus: the run's data, where they are loaded."""
    path = folder / PAGE
    files.write_text(path, run_report(record, folder, corpus=corpus))
    return path


def run_report(record: Record, folder: Path, *, texts_from: TextSource = "files", corpus: Corpus | None = None) -> str:
    """Return the page of one run, with links to `folder`/figures; unknown values are omitted.

    texts_from: where texts of examples may be read. corpus: the run's data, where they are loaded.
    """
    splits = accessors.splits(record)
    parts = {
        "Out of memory": _out_of_memory(record),
        "Scores": md.joined(_scores(record, split) for split in splits),
        "Published results": md.joined(
            _published(results, f"{split}{when}")
            for when, bands in ((" before training", record.published_before), ("", record.published))
            for split, results in bands.items()
        ),
        "Scores by label": md.joined(
            part(record, split) for split in splits for part in (_scores_by_label, _scores_by_type)
        ),
        "Temperature": calibration_table.of_run(record),
        "Retention": retention_table.of_run(record),
        "Examples": run_examples.section(record, folder, texts_from, corpus),
        "Figures": md.images("figures", sorted(path.name for path in folder.glob("figures/*.png"))),
        "Cost": _cost(record),
        "Details": _details(record, shows_prompt=texts_from != "nowhere"),
    }
    title = f"# {cells.title(record)}, seed {md.escape(record.seed)}"
    page = md.joined([title, _verdict(record), _first_screen(record), md.sections(parts)]) + "\n"
    return local_paths.hide(page, [record])


def _details(record: Record, *, shows_prompt: bool) -> str:
    """Return all that few readers want, each part folded."""
    notes = [md.escape(note, accessors.MAX_CHARACTERS) for note in record.notes]
    training = record.training.model_dump(exclude={"in_force"}) if record.training else {}
    parts = {
        "Prompt": _prompt(record, shows_prompt=shows_prompt),
        "Training": md.fields("training", training),
        "Speed": _speed(record),
        "Memory": md.grid("peak by phase, maximum over processes", record.memory, skip=["per_rank"]),
        "Memory predicted": _memory_predicted(record),
        "Energy and money": energy_and_money.run_section(record),
        "Time": md.durations("phase", accessors.timed(record)),
        "Data": _data(record),
        "Model": _model(record),
        "Overrides": _override_table(record),
        f"Notes ({len(notes)})": md.bullets(notes),
        f"Checks ({len(record.checks)})": _checks(record),
        "Environment and launch": _environment(record),
        "Metric signatures and intervals": _signatures(record),
    }
    return md.joined(md.details(name, body) for name, body in parts.items())


def _first_screen(record: Record) -> str:
    """Return what was run, its result, its warnings, and how to run it again."""
    result = run_summary.result(record) if record.status == "ok" else ""
    again = run_summary.command(record)
    # A recipe that comes with the package is found from anywhere.
    is_named = run_summary.recipe_name(Path(record.recipe.path)) != record.recipe.path
    where = "" if is_named or Path(record.recipe.path).is_absolute() else ", in the folder that it was started in"
    return md.joined(
        [
            run_summary.sentence(record),
            f"Result: {result}" if result else "",
            run_warnings.alert(record),
            "" if again is None else f"To run it again{where}:\n\n{md.verbatim(again)}",
            _where(record),
        ]
    )


def _where(record: Record) -> str:
    """Return status, machine, duration and dates."""
    total_s = sum(seconds for _, seconds in accessors.timed(record))
    rows = [
        ("status", md.escape(record.status)),
        *_settings_of_others(record),
        ("recipe", md.code(local_paths.recipe(record.recipe.path))),
        ("machine", cells.machine(record)),
        ("started, finished", f"{md.escape(record.started_at)}, {md.escape(record.finished_at)}"),
        ("duration, s", md.seconds(total_s) if total_s else md.DASH),
    ]
    return md.pairs("this run", rows)


def _verdict(record: Record) -> str:
    if record.status == "ok":
        return ""
    place = f" in {md.code(record.failed_in)}" if record.failed_in else ""
    lines = [
        f"**Status: {record.status}**{place}",
        md.escape(record.reason or "unknown reason", accessors.MAX_CHARACTERS),
    ]
    failed = dict.fromkeys(check.name for check in record.checks if not check.ok)
    lines += [f"Failed checks: {', '.join(map(md.escape, failed))}"] if failed else []
    lines += ["Do not use the scores on this page."] if record.scores else []
    return md.alert(lines)


def _settings_of_others(record: Record) -> list[tuple[str, str]]:
    """Return a row that says where the settings are from, for a run with published settings."""
    of_others = record.recipe.resolved.get("as_published")
    if not of_others:
        return []
    changed = f"; but for {'; '.join(of_others['but_for'])}" if of_others["but_for"] else ""
    return [("settings", md.escape(f"as published: {of_others['source']}{changed}", accessors.MAX_CHARACTERS))]


def _scores(record: Record, split: str) -> str:
    kinds = dict.fromkeys((*accessors.STAGES, *record.scores))
    stages = {stage: scores for stage in kinds if (scores := accessors.scalars(record, stage, split))}
    baselines = record.baselines.get(split, {})
    scored = {name for scores in stages.values() for name in scores}
    names = sorted(scored | {name for values in baselines.values() for name in values}, key=accessors.metric_order)
    names = [name for name in names if not _says_the_same(name, stages, baselines)]
    lines = [
        {"metric": md.escape(name)}
        | {f"{md.escape(kind)} baseline": md.fixed(values.get(name)) for kind, values in baselines.items()}
        | {
            accessors.stage_names(record).get(stage, md.escape(stage)): cells.shown_score(scores.get(name))
            for stage, scores in stages.items()
        }
        for name in names
    ]
    examples = sorted({item.examples for scores in stages.values() for item in scores.values()})
    heading = f"### {md.escape(split)}, {' or '.join(map(md.count, examples)) or 'no'} examples"
    return md.joined([heading, md.table_of(lines, ["metric"]), md.bullets(_not_rewarded(stages.values()))])


def _says_the_same(
    name: str, stages: Mapping[str, Mapping[str, Score]], baselines: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Return whether a metric's row would be that of another one: micro F1 of single labels is accuracy."""
    other = SAME.get(name, "")
    columns = [{metric: item.value for metric, item in scores.items()} for scores in stages.values()]
    pairs = [(values.get(name), values.get(other)) for values in (*columns, *baselines.values())]
    return any(same is not None for _, same in pairs) and all(one == same for one, same in pairs)


def _not_rewarded(stages: Iterable[Mapping[str, Score]]) -> list[str]:
    """Return a line for each metric that can't give all right answers full marks."""
    known = {name: item for scores in stages for name, item in scores.items() if item.unrewardable}
    return [
        f"{md.escape(name)} can't give full marks to {md.count(item.unrewardable)} right answers: "
        f"all questions answered right score {md.fixed(item.ceiling)}."
        for name, item in sorted(known.items(), key=lambda pair: accessors.metric_order(pair[0]))
    ]


def _published(results: dict[str, Published], split: str) -> str:
    """Return a table of this run's scores beside published ones."""
    measures = ["it measures"] if any(item.measures for item in results.values()) else []
    rows = [
        [
            md.escape(metric),
            md.fixed(item.value),
            f"{md.fixed(item.low)} to {md.fixed(item.high)}",
            _place(item),
            *([md.escape(item.measures)] if measures else []),
            md.escape(item.source),
        ]
        for metric, item in results.items()
    ]
    header = [md.escape(split), "this run", "published", "this run is", *measures, "source"]
    return md.table(header, rows, "lrrll" + "l" * len(measures))


def _place(item: Published) -> str:
    if item.inside is None or item.value is None:
        return md.DASH
    return "inside" if item.inside else "**below**" if item.value < item.low else "**above**"


def _scores_by_label(record: Record, split: str) -> str:
    scores = {
        f"{metric} {stage}": record.scores.get(stage, {}).get(split, {}).get(f"{metric}_per_label")
        for metric in PER_LABEL
        for stage in accessors.STAGES
    }
    columns = {name: item for name, item in scores.items() if item and isinstance(item.value, list)}
    for name, other in SAME_BY_LABEL.items():
        for stage in accessors.STAGES:
            one, same = columns.get(f"{name} {stage}"), columns.get(f"{other} {stage}")
            if one is not None and same is not None and one.value == same.value:
                del columns[f"{name} {stage}"]
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


def _scores_by_type(record: Record, split: str) -> str:
    """Return the scores of entities by their type, of tags of words."""
    kinds = tagging.kinds_of(record.data.labels) if record.data else ()
    columns = {
        f"{metric} {stage}": item
        for metric in PER_TYPE
        for stage in accessors.STAGES
        if (item := record.scores.get(stage, {}).get(split, {}).get(f"entity_{metric}_per_type")) is not None
        and isinstance(item.value, list)
        and len(item.value) == len(kinds)
    }
    if not columns:
        return ""
    rows = [
        [md.escape(kind), *(md.score_at(index, item.value, item.low, item.high) for item in columns.values())]
        for index, kind in enumerate(kinds)
    ]
    shown = md.table(["type", *columns], rows, "l" + "r" * len(columns))
    return md.joined([f"### {md.escape(split)}, by type", md.folded("Scores by type of entity", shown, len(rows))])


def _cost(record: Record) -> str:
    """Return time, memory and size: what the run took, and what an answer takes."""
    split = next(iter(accessors.splits(record)), "")
    trained, scored = record.throughput.get("train", {}), record.throughput.get(split, {})
    memory = {
        f"{name} in {when}, GiB": md.gib(record.memory.get(phase, {}).get(key))
        for when, phase in (("training", "train"), ("scoring", "score_after"))
        for name, key in (("GPU memory peak", "allocated_gib"), ("RAM peak", "rss_gib"))
    }
    parameters = record.model.parameters if record.model else {}
    rows = [
        ("training, s", md.seconds(accessors.training_s(record))),
        ("tokens/s in training", md.significant(trained.get("real_tokens_per_s"))),
        ("scoring, s per 100 examples", md.seconds(scored.get("seconds_per_100_examples"))),
        *memory.items(),
        ("trainable parameters", md.count_of(parameters.get("trainable"), parameters.get("total"))),
    ]
    return md.pairs("cost", rows)


def _prompt(record: Record, *, shows_prompt: bool) -> str:
    prompts = record.prompts
    if prompts is None:
        return ""
    fields = md.fields("prompt and answers", prompts.model_dump(exclude={"example", "answers"}))
    generated = {
        f"{stage}, {split}": counts for stage, splits in prompts.answers.items() for split, counts in splits.items()
    }
    quotes = shows_prompt and accessors.card_of(record).get("quote") is not False
    example = md.joined(["The first prompt, as the model reads it:", md.verbatim(prompts.example)])
    shown = example if quotes and prompts.example else ""
    return md.joined([fields, md.grid("generated answers", generated), shown])


def _speed(record: Record) -> str:
    scored = {split: throughput for split, throughput in record.throughput.items() if split != "train"}
    trained = md.fields("training, all processes together", _named_rates(record.throughput.get("train", {})))
    return md.joined([trained, md.grid("scoring", scored), md.fields("fast path", record.speed), *_backend(record)])


def _backend(record: Record) -> list[str]:
    """Return what scored in place of torch, and what torch gave beside it; nothing without one."""
    if (found := record.backend) is None:
        return []
    samples = {split: sample.model_dump() for split, sample in found.samples.items()}
    return [md.fields("backend", found.model_dump(exclude={"samples"})), md.grid("also by torch", samples)]


def _named_rates(rates: dict[str, Any]) -> dict[str, Any]:
    """Return the rates under the names of what was counted; a record of before does not tell."""
    counted = rates.get("counted")
    if not isinstance(counted, dict):
        return rates
    names = {"examples_per_s": counted.get("examples"), "loss_tokens_per_s": counted.get("loss_items")}
    return {f"{names[key]}_per_s" if names.get(key) else key: value for key, value in rates.items() if key != "counted"}


def _memory_predicted(record: Record) -> str:
    """Return predicted and measured peak memory in a sentence, and the parts of the prediction."""
    prediction, recorded = accessors.predicted(record), record.memory_predicted or {}
    if not prediction:
        reason = recorded.get("reason")
        return f"Peak memory was not predicted: {md.escape(reason, accessors.MAX_CHARACTERS)}" if reason else ""
    sentence, measured = f"Peak memory: predicted {_size(accessors.predicted_gib(record))}", accessors.measured(record)
    basis = md.escape(measured.get("of"), accessors.MAX_CHARACTERS)
    if numbers.finite(measured.get("gib")) is not None:
        error = md.percent(recorded.get("error"))
        sentence += f", measured {_size(measured['gib'])} (error {error}). Measured: {basis}"
    elif recorded.get("no_error"):
        sentence += f"; no comparable measurement: {md.escape(recorded['no_error'], accessors.MAX_CHARACTERS)}"
    if numbers.finite(measured.get("grown_gib")) is not None:
        sentence += f". The process grew by {_size(measured['grown_gib'])}: {basis}"
    parts = prediction.get("parts")
    rows = [[md.escape(name), _size(size)] for name, size in (parts if isinstance(parts, dict) else {}).items()]
    shape = {name: prediction.get(name) for name in ("rows", "length", "accumulation", "moment", "host_parts")}
    return md.joined([f"{sentence}.", md.table(["part", "size"], rows, "lr"), md.fields("predicted for", shape)])


def _size(gib: Any) -> str:
    """Return a size in a readable unit; a dash if it is not finite."""
    number = numbers.finite(gib)
    return md.DASH if number is None else numbers.format_bytes(round(number * GIB))


def _out_of_memory(record: Record) -> str:
    oom = record.oom
    if oom is None:
        return ""
    sizes = {"requested": oom.asked_bytes, "capacity": oom.capacity_bytes, "in use": oom.allocated_bytes}
    sizes |= {"in use before model creation": oom.before_bytes, "in use by other processes": oom.others_bytes}
    rows = [("phase", md.escape(oom.phase)), ("step", md.count(oom.step)), ("process", md.count(oom.rank))]
    if oom.rows is not None:
        rows.append(("micro-batch", f"{md.count(oom.rows)} × {md.count(oom.length)} tokens"))
    rows += [(name, md.DASH if size is None else numbers.format_bytes(size)) for name, size in sizes.items()]
    rows += [
        ("device", md.escape(oom.device)),
        ("limit", md.escape(oom.limit)),
        ("predicted for training", _size(oom.predicted_gib)),
        ("largest micro-batch that fits, rows", md.count(oom.largest_rows)),
        ("remark", md.escape(oom.unadvised, accessors.MAX_CHARACTERS)),
    ]
    advice = [[md.code(one.change), md.escape(one.costs, accessors.MAX_CHARACTERS)] for one in oom.advice]
    return md.joined([md.pairs("out of memory", rows), md.table(["changes, all together", "cost"], advice, "ll")])


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
    shown["id"] = local_paths.name_of(model.id)
    shown["parameters"] = {**model.parameters, "trainable share": cells.trainable_share(record)}
    return md.fields("model", shown)


def _override_table(record: Record) -> str:
    rows = [[md.code(key), md.code(value), by] for key, value, by in accessors.overridden(record)]
    return md.table(["setting", "value", "set in"], rows, "lll")


def _checks(record: Record) -> str:
    checks = sorted(record.checks, key=lambda check: check.ok)
    rows = [
        [md.escape(c.name), "ok" if c.ok else "**failed**", md.escape(c.detail, accessors.MAX_CHARACTERS)]
        for c in checks
    ]
    return md.table(["check", "result", "detail"], rows, "lll")


def _environment(record: Record) -> str:
    environment = record.environment.model_dump() if record.environment else {}
    packages = md.fields("package", environment.pop("packages", {}))
    launch = md.fields("launch", record.launch.model_dump(), skip=("command",)) if record.launch else ""
    if record.launch and record.launch.command:
        launch = md.joined([launch, f"Started by {md.code(shlex.join(record.launch.command))}"])
    return md.joined([launch, md.fields("environment", environment), packages])


def _signatures(record: Record) -> str:
    scores = dict(accessors.all_scores(record))
    rows = [
        [md.escape(name), md.code(scores[name].signature), md.escape(scores[name].interval)]
        for name in sorted(scores, key=accessors.metric_order)
    ]
    shown = md.table(["metric", "signature", "interval"], rows, "lll")
    same = record.comparability
    keys = {"recipe_hash": record.recipe.hash, "comparability_key": same and same.key}
    keys |= {f"comparability of {name}": part for name, part in same.parts.items()} if same else {}
    return md.joined([shown, md.fields("key", keys)])
