"""The first screen of a run's page: what was run in one sentence, its result, and the command that runs it again."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis import accessors
from bench.config import resolve
from bench.records.record import Record, Score
from bench.reporting import cells, local_paths
from bench.reporting import markdown as md
from bench.utils import numbers

METHODS = {
    "full": "Full fine-tuning",
    "head": "Training of the task head alone",
    "probe": "A linear probe",
    "scratch": "Training from random weights",
    "tfidf": "TF-IDF features with a linear classifier",
    "untouched": "The pretrained model with an untrained head",
    "zero_shot": "Zero-shot prompting",
}
# Of methods that PEFT has adapters for.
ADAPTERS = ("lora", "qlora")
VARIANTS = {"use_dora": "DoRA", "use_rslora": "rsLoRA"}
RECIPES = "recipes"
CONFIGS = "accelerate_configs"
PROGRAM = "run.py"
# Options of accelerate's launcher that `bench run` has as well, or that change nothing.
_CONFIG, _PROCESSES, _QUIET = ("--config_file", "--config-file"), ("--num_processes", "--num-processes"), ("--quiet",)


def sentence(record: Record) -> str:
    """Return what was run and its main settings: method, model, data with sizes, and how it was trained."""
    method = md.escape(_method(record))
    model, data = _model(record), _data(record)
    settings = ", ".join(md.escape(setting) for setting in _settings(record))
    tool = md.escape(record.imported.get("tool", "another tool")) if record.imported is not None else ""
    return f"{f'Imported from {tool}. ' if tool else ''}{method}{model}{data}{f': {settings}' if settings else ''}."


def _method(record: Record) -> str:
    """Return the method in the field's words, with its own settings: LoRA fine-tuning (rank 16, alpha 32)."""
    chosen = _part(record.recipe.resolved, "method")
    name = str(chosen.get("name") or record.method or "")
    if name in ADAPTERS:
        return _adapter(record, chosen, name)
    if name == "last_layers":
        return f"Fine-tuning of the last {chosen.get('blocks', 1)} transformer block(s)"
    if name == "few_shot":
        return f"Prompting with {chosen.get('shots', 4)} examples (few-shot)"
    shown = METHODS.get(name, f"The method {name}" if name else "A run of an unknown method")
    if name == "probe":
        shown += f" (logistic regression on {chosen.get('pooling', 'mean')}-pooled frozen features)"
    return f"{shown} (weights in 4 bits)" if chosen.get("quantized") else shown


def _adapter(record: Record, chosen: Mapping[str, Any], name: str) -> str:
    config = _part(chosen, "config")
    in_force: Mapping[str, Any] = (record.model.adapter if record.model else None) or {}
    kind = str(chosen.get("peft", "LoraConfig")).removesuffix("Config")
    shown = {"Lora": "LoRA"}.get(kind, kind)
    shown = next((variant for key, variant in VARIANTS.items() if config.get(key)), shown)
    found = {
        "rank": in_force.get("r", config.get("r")),
        "alpha": in_force.get("lora_alpha", config.get("lora_alpha")),
        "dropout": in_force.get("lora_dropout", config.get("lora_dropout")),
    }
    settings = [f"{key} {value:g}" for key, value in found.items() if numbers.finite(value) is not None]
    targets = config.get("target_modules")
    settings += [f"on {targets if isinstance(targets, str) else ', '.join(map(str, targets))}"] if targets else []
    if name == "qlora":
        shown = f"Q{shown}"
        settings.append(f"base weights in 4 bits ({str(chosen.get('quant_type', 'nf4')).upper()})")
    return f"{shown} fine-tuning" + (f" ({', '.join(settings)})" if settings else "")


def _model(record: Record) -> str:
    model = record.model
    if model is None:
        return ""
    total, trainable = (numbers.finite(model.parameters.get(key)) for key in ("total", "trainable"))
    size = "" if total is None else f" ({_millions(total)} parameters, {md.count(trainable)} trainable)"
    return f" of {md.code(local_paths.name_of(model.id))}{size}"


def _millions(number: float) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return md.count(number)


def _data(record: Record) -> str:
    if record.data is None:
        return ""
    scored = next(iter(accessors.splits(record)), "test")
    sizes = {name: part.examples for name, part in record.data.splits.items() if name in ("train", scored)}
    names = {"train": "training"}
    counts = " and ".join(f"{md.count(size)} {md.escape(names.get(name, name))}" for name, size in sizes.items())
    return f" on {md.code(record.data.id)}{f' ({counts} examples)' if counts else ''}"


def _settings(record: Record) -> list[str]:
    """Return learning rate, schedule, length, batch, optimiser and precision; of prompts, how they are answered."""
    settings = []
    if record.training is not None and record.training.engine != "scikit-learn":
        settings += _training(record)
    if record.prompts is not None:
        settings.append(f"answers by {record.prompts.answer.replace('_', ' ')}")
    if record.launch is not None and record.model is not None:
        precision = record.launch.mixed_precision
        types = ", ".join(record.model.dtypes) or "full precision"
        settings.append(f"{precision} mixed precision" if precision != "no" else types)
    return settings


def _training(record: Record) -> list[str]:
    asked, done = _part(record.recipe.resolved, "training"), record.training
    assert done is not None
    rate, warmup = numbers.finite(asked.get("learning_rate")), numbers.finite(asked.get("warmup"))
    settings = [] if rate is None else [f"learning rate {rate:g}"]
    if asked.get("schedule"):
        warm_up = (
            ""
            if not warmup
            else f" with {100 * warmup:g} % warm-up"
            if warmup < 1
            else f" with {warmup:g} warm-up steps"
        )
        settings.append(f"{str(asked['schedule']).replace('_', ' ')} schedule{warm_up}")
    settings.append(f"{done.epochs:.3g} epochs ({md.count(done.steps)} steps)")
    if done.best_step is not None:
        settings.append(f"step {md.count(done.best_step)} kept as the best")
    batch = record.launch.global_batch if record.launch else asked.get("global_batch")
    settings += [f"batch size {batch}"] if batch else []
    settings += [f"optimizer {asked['optimizer']}"] if asked.get("optimizer") else []
    return settings


def _part(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}


def result(record: Record) -> str:
    """Return the ranking metric's score with its interval, before training, and of the best constant baseline."""
    split = next(iter(accessors.splits(record)), None)
    stages = accessors.stage_names(record)
    scores = {stage: accessors.scalars(record, stage, split) for stage in accessors.STAGES}
    name = accessors.ranking_metric([*scores["after"], *scores["before"]])
    if name is None or split is None:
        return ""
    last = "after" if name in scores["after"] else "before"
    shown = [
        f"**{md.escape(name)} {_with_interval(scores[last][name])}** on {md.escape(split)} {stages.get(last, last)}"
    ]
    if last == "after" and name in scores["before"]:
        shown.append(f"{cells.shown_score(scores['before'][name])} before training")
    floor = accessors.constant_baseline(record, split, name)
    shown += [f"{md.fixed(floor[1])} for the {md.escape(floor[0])} baseline"] if floor is not None else []
    return f"{'; '.join(shown)}."


def _with_interval(item: Score) -> str:
    low, high = numbers.finite(item.low), numbers.finite(item.high)
    if low is None or high is None or low == high:
        return md.fixed(item.value)
    return f"{md.fixed(item.value)} (95 % interval {md.fixed(low)} to {md.fixed(high)})"


def command(record: Record) -> str | None:
    """Return the shell command that runs the same again, into the usual folder; None for a recipe that is in no file.

    With the launcher's config, the overrides and the seed. Where the launcher had options that `bench run` lacks, it is
    the launcher's command. A recipe that comes with the package is called by its name, which works anywhere.
    """
    path = Path(record.recipe.path)
    if record.imported is not None or path.suffix not in (".yaml", ".yml", ".json"):
        return None
    words = list(record.launch.command) if record.launch else []
    place = next((place for place, word in enumerate(words) if Path(word).name == PROGRAM), None)
    launcher, own = (words[:place], words[place + 1 :]) if place is not None else ([], [])
    options, others = _launcher_options(launcher)
    arguments = [recipe_name(path), *record.recipe.overrides]
    arguments += [] if record.seed is None else ["--seed", str(record.seed)]
    arguments += _kept(own)
    if others:
        return shlex.join([*launcher, words[place or 0], *arguments])
    config = options.get("config") or _usual_config(record)
    chosen = [] if config is None else ["--config", _config_name(config)]
    chosen += ["--num-processes", options["processes"]] if "processes" in options else []
    return shlex.join(["python", "-m", "bench", "run", *arguments, *chosen])


def recipe_name(path: Path) -> str:
    """Return the name of a recipe of `recipes/`, which is found from anywhere; another one's path."""
    parts = path.parts[-3:]
    is_named = len(parts) == 3 and parts[0] == RECIPES and (path.parts == parts or path.is_relative_to(resolve.SHIPPED))
    return f"{parts[1]}/{path.stem}" if is_named and parts[1] != "studies" else str(path)


def _launcher_options(words: Sequence[str]) -> tuple[dict[str, str], bool]:
    """Return config file and number of processes of a launcher's command, and whether it has other options."""
    found: dict[str, str] = {}
    if not words:
        return found, False
    if words[:1] not in (["accelerate"], ["accelerate-launch"]):
        return found, True
    rest = [word for word in words[1:] if word != "launch"]
    while rest:
        option, _, value = rest.pop(0).partition("=")
        if option in _QUIET:
            continue
        name = "config" if option in _CONFIG else "processes" if option in _PROCESSES else None
        if name is None:
            return found, True
        found[name] = value or (rest.pop(0) if rest else "")
    return found, False


def _kept(words: Sequence[str]) -> list[str]:
    """Return the options of a run that change what it finds: folders of drop-ins, and the consent to their code."""
    kept: list[str] = []
    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option == "--include":
            kept += ["--include", value or "".join(words[place + 1 : place + 2])]
        elif word == "--trust-remote-code":
            kept.append(word)
    return kept


def _usual_config(record: Record) -> str | None:
    """Return the config of one process as its record tells; None where several processes' one is not known."""
    launch = record.launch
    if launch is None or launch.world_size != 1:
        return None
    known = {("cpu", "no"): "cpu", ("cpu", "bf16"): "cpu_bf16", ("cuda", "bf16"): "gpu1", ("cuda", "fp16"): "gpu1_fp16"}
    return known.get((launch.device.partition(":")[0], launch.mixed_precision))


def _config_name(config: str) -> str:
    path = Path(config)
    return path.stem if path.parent.name == CONFIGS else config
