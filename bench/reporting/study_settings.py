"""Settings of the systems of a report: those that differ as columns, those that all have said once. Loads no torch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis import accessors
from bench.analysis.costs import is_trained_by_steps
from bench.analysis.leaderboard import Group, RankedSystem
from bench.config import without_effect
from bench.records.record import Record
from bench.reporting import local_paths
from bench.reporting import markdown as md

# Key of the resolved recipe -> its name in the field, in the order of the columns.
NAMES = {
    "model": "model",
    "method.name": "method",
    "method.config.r": "rank",
    "method.config.lora_alpha": "alpha",
    "method.config.lora_dropout": "LoRA dropout",
    "method.config.target_modules": "target modules",
    "training.learning_rate": "learning rate",
    "training.schedule": "schedule",
    "training.warmup": "warm-up",
    "training.epochs": "epochs",
    "training.steps": "steps",
    "training.global_batch": "batch",
    "training.per_device_batch": "micro-batch",
    "training.optimizer": "optimiser",
    "training.weight_decay": "weight decay",
    "training.clip_norm": "gradient clipping",
    "training.label_smoothing": "label smoothing",
    "precision": "precision",
    "max_length": "maximum length",
    "train": "training examples",
    "limit.train": "limit of training examples",
    "objective": "objective",
    "prompting.format": "prompt format",
    "prompting.answer": "answered by",
    "method.shots": "shots",
}
# Said in the sentence on what all systems have in common; anything else that is the same goes without saying.
COMMON = (
    *("model", "train", "method.name", "method.config.r", "method.config.lora_alpha"),
    *("method.config.lora_dropout", "method.config.target_modules", "training.learning_rate"),
    *("training.schedule", "training.warmup", "training.epochs", "training.steps", "training.global_batch"),
    *("training.per_device_batch", "training.optimizer", "training.weight_decay", "precision", "max_length"),
)
# What decides no result or is told elsewhere, by its first part or as a whole.
LEFT_OUT = (
    *("seed", "save", "trackers", "checkpoints", "published", "published_before", "as_published", "evaluation"),
    *("dataset", "limit", "speed"),
)
# More columns than this are folded; the first ones are in the table.
MOST_COLUMNS = 10


def section(group: Group) -> str:
    """Return the settings that all systems share in a sentence, and a table of those in which they differ."""
    models = local_paths.names_of(one.model.id for system in group.systems for one in system.records[:1] if one.model)
    settings = [_settings(system, models) for system in group.systems]
    keys = sorted({key for each in settings for key in each}, key=_order)
    differing = [key for key in keys if _differs([(each["method.name"], each.get(key, md.DASH)) for each in settings])]
    values = {key: {each[key] for each in settings if each.get(key, md.DASH) != md.DASH} for key in COMMON}
    common = [f"{NAMES[key]} {next(iter(found))}" for key, found in values.items() if found and key not in differing]
    sentence = f"All systems to which it applies: {', '.join(common)}." if common and len(settings) > 1 else ""
    shown, rest = differing[:MOST_COLUMNS], differing[MOST_COLUMNS:]
    folded = md.details(f"{len(rest)} more settings that differ", _table(group.systems, settings, rest)) if rest else ""
    return md.joined([sentence, _table(group.systems, settings, shown) if shown else "", folded])


def _differs(values: Sequence[tuple[str, str]]) -> bool:
    """Return whether a setting has two values, or some systems of one method have it and others not.

    values: the method and the value of each system, a dash where there is none, as of the rank where no LoRA is.
    """
    known = {value for _, value in values} - {md.DASH}
    return len(known) > 1 or any(len({value for other, value in values if other == method}) > 1 for method, _ in values)


def _table(systems: Sequence[RankedSystem], settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> str:
    lines = [
        {"system": md.escape(system.label, 80)} | {_name(key): each.get(key, md.DASH) for key in keys}
        for system, each in zip(systems, settings, strict=True)
    ]
    numeric = {_name(key) for key in keys if all(_is_number(each.get(key, md.DASH)) for each in settings)}
    return md.table_of(lines, {"system", *map(_name, keys)} - numeric)


def _is_number(text: str) -> bool:
    return text == md.DASH or text.replace(",", "").replace(".", "").replace("e-", "").isdigit()


def _name(key: str) -> str:
    return md.escape(NAMES.get(key, key.removeprefix("method.config.").removeprefix("training.").replace("_", " ")))


def _order(key: str) -> tuple[int, str]:
    known = list(NAMES)
    return (known.index(key) if key in known else len(known)), key


def _settings(system: RankedSystem, models: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a system by key, as cells, without those that have no effect for its method.

    models: id or path of a model -> its name.
    """
    record = system.records[0]
    idle = without_effect.of_resolved(record.recipe.resolved)
    flat = {key: value for key, value in _flat(record.recipe.resolved).items() if key not in idle}
    trained = is_trained_by_steps(record)
    kept = {
        key: _shown(value) for key, value in flat.items()
        if not key.startswith(tuple(f"{part}." for part in LEFT_OUT)) and key not in LEFT_OUT
        and not key.startswith(("model.", "prompting." if record.prompts is None else "model."))
        and (trained or record.imported is not None or not key.startswith("training."))
    }  # fmt: skip
    kept |= {f"method.{key}": value for key, value in _adapter(record).items() if f"method.{key}" not in kept}
    kept |= {"model": md.escape(models[record.model.id]) if record.model else md.DASH, "train": _trained_on(record)}
    if flat.get("method.name", record.method) == record.method:
        kept["method.name"] = md.escape(accessors.method_label(record))
    kept |= {"precision": md.escape(_precision(record))}
    if trained and record.launch is not None:
        kept["training.per_device_batch"] = md.count(record.launch.per_device_batch)
    return kept


def _adapter(record: Record) -> dict[str, str]:
    """Return rank, alpha, dropout and the adapted modules where the recipe leaves them to PEFT's defaults."""
    adapter: Mapping[str, Any] = (record.model.adapter if record.model else None) or {}
    names = {"r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "modules": "target_modules"}
    return {f"config.{name}": _shown(adapter[key]) for key, name in names.items() if key in adapter}


def _precision(record: Record) -> str | None:
    if record.launch is None:
        return None
    return "float32" if record.launch.mixed_precision == "no" else record.launch.mixed_precision


def _trained_on(record: Record) -> str:
    part = record.data.splits.get("train") if record.data and record.training else None
    return md.count(part.examples) if part else md.DASH


def _flat(values: Any, key: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys."""
    if not isinstance(values, dict):
        return {key: values}
    return {name: value for part, inner in values.items()
            for name, value in _flat(inner, f"{key}.{part}" if key else str(part)).items()}  # fmt: skip


def _shown(value: Any) -> str:
    if value is None:
        return md.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return md.count(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return md.escape(", ".join(value)) if value else md.DASH
    return md.escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
