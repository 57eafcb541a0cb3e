"""A first comparison from two names: a recipe for each method, those that fit the GPU run as a sweep, and compared.

Every recipe is written beside the runs, with the commits that the names stood for, so that all of it can be repeated
and changed by hand. Loads torch only where memory is planned.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import console
from bench.analysis import accessors
from bench.config import card_text, named_cards, registry, resolve, without_model, yaml_loader
from bench.config.cards import DatasetCard, ModelCard
from bench.config.named_cards import MadeCard
from bench.config.validation import Problems
from bench.errors import BenchError, RecipeError, did_you_mean
from bench.records import store
from bench.sweeps import jobs
from bench.utils import files

# Written into the names of runs, and the folder of the recipes.
STUDY = "try"
# The last one reads no model: a baseline that costs seconds.
METHODS = ("full", "lora", "qlora", "zero_shot", "tfidf")
# As in the shipped recipes: a warm-up, and adapters with a rate ten times that of all weights.
_ADAPTER = {"config": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}}
_OPTIONS: dict[str, dict[str, Any]] = {"lora": _ADAPTER, "qlora": _ADAPTER}
# Three epochs of a few hundred rows are a few dozen steps, after which a small learning rate has changed little
# (Mosbach et al. 2021, "On the Stability of Fine-tuning BERT": small data sets need more epochs, not fewer).
MIN_STEPS = 100
_RATES = {"full": 2e-5, "last_layers": 5e-5, "lora": 2e-4, "qlora": 2e-4, "head": 1e-3, "scratch": 5e-4}
# Of labels alone; what is answered otherwise has a wording of its own, or none.
_PROMPT = {"instruction": "Name the label of each text, one of: {labels}.", "template": "Text: {text}\nLabel:"}
_SEVERAL_PROMPT = {**_PROMPT, "instruction": "Name all labels of each text, out of: {labels}; separate them by commas."}
_PAIR_TEMPLATE = "Text: {text}\nSecond text: {text_pair}\nLabel:"


@dataclass(frozen=True, kw_only=True)
class TryRequest:
    """The request of a try. limit: at most so many rows of each split. gpu: a size or a device; None for what is there.

    sets: overrides of every run.
    """

    model: str
    data: str
    out: Path
    methods: tuple[str, ...] = METHODS
    limit: int | None = None
    gpu: str | None = None
    sets: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Tried:
    """The recipes to run, and sentences on what was left out or decided."""

    recipes: list[Path] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model or data set as it is written into the recipes, its name in those of folders, and its card."""

    written: Any
    name: str
    card: Any


def write_recipes(request: TryRequest) -> Tried:
    """Write a recipe for each method, and leave out those that the model or the data can't have.

    Every recipe is resolved with its overrides: one that is refused is left out with the reason. Raises RecipeError for
    names without anything behind them, and where no method is left.
    """
    problems = Problems()
    for name in request.methods:
        if name not in registry.names("methods"):
            hint = did_you_mean(name, registry.names("methods"))
            problems.add([f"--methods: there is no method {name!r}.{hint}"])
    found: dict[str, Named] = {}
    for kind, text, option in (("model", request.model, "MODEL"), ("dataset", request.data, "--on")):
        with problems.collect():
            found[kind] = _named(kind, text, option, request.sets)
    problems.raise_any()
    model, data, tried = found["model"], found["dataset"], Tried()
    (request.out / STUDY).mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    for method in request.methods:
        path = request.out / STUDY / f"{method}.yaml"
        path.unlink(missing_ok=True)
        for objective in _objectives(method, model.card, data.card):
            files.write_text(path, _recipe(method, objective, model, data, request))
            refused = _refusal(path, request.sets)
            if refused is None:
                tried.recipes.append(path)
                break
            reasons.setdefault(method, refused)
            path.unlink()
        else:
            left_out.setdefault(reasons.get(method) or _why_not(method, model.card, data.card), []).append(method)
    for why, methods in left_out.items():
        tried.sentences.append(f"{', '.join(methods)} {'is' if len(methods) == 1 else 'are'} left out: {why}")
    if not tried.recipes:
        # What is wrong with the data or the command line is so for every method.
        same = len(left_out) == 1 and len(request.methods) > 1
        raise RecipeError("\n".join([*(left_out if same else tried.sentences), "no method is left to try"]))
    return tried


def _refusal(path: Path, sets: Iterable[str]) -> str | None:
    """Return why a recipe that was written here is refused, in one line, without its name; None where it is not."""
    try:
        resolve.load(path, tuple(sets) if path.stem in _RATES else _of_every_method(sets))
    except RecipeError as error:
        lines = [re.sub(rf"^.*?{re.escape(path.name)}:(\d+:)? ", "", line) for line in str(error).splitlines()]
        return "; ".join(lines)
    return None


def _of_every_method(sets: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in sets if not resolve.is_for_gradients(text))


def _named(kind: str, text: str, option: str, sets: Iterable[str]) -> Named:
    """Return a model or data set by its name, pinned to the commit that it stands for now. Raises RecipeError."""
    cards = {path.stem: path for path in resolve.find_cards(kind)}
    chosen: Any = yaml_loader.override((kind,), text, option).data if text.startswith("{") else text
    card = chosen.get("card") if isinstance(chosen, dict) else chosen
    starts = named_cards.starts_of(None)
    meant = named_cards.meant(kind, chosen, option, starts=starts, cards=cards, is_card=card in cards)
    if meant.card is not None:
        return Named(written=chosen, name=meant.card, card=resolve.load_card(kind, cards[meant.card]))
    given = [text for text in sets if text.startswith(f"{kind}.")]
    made, layers = card_text.made(meant, [text.partition(".")[2] for text in given], cards)
    written = _pinned(meant.spec, made)
    return Named(written=written, name=named_cards.short_name(meant.spec), card=card_text.checked(kind, layers))


def _pinned(spec: Mapping[str, Any], made: MadeCard) -> Any:
    pinned = {**spec, **({"revision": made.commit} if made.commit and "id" in spec else {})}
    return pinned["path"] if set(pinned) == {"path"} else pinned


def _objectives(method: str, model: ModelCard, data: DatasetCard) -> list[str]:
    """Return head or text, those that the model, the task and the method have, the better first.

    A model that can write is asked in words: so it has a score before training, by the same prompt.
    """
    of_task = registry.literals("tasks", data.task)["OBJECTIVES"]
    of_method = registry.literals("methods", method)["OBJECTIVES"]
    if not without_model.uses_model(method):
        return [one for one in of_method if one in of_task]
    order = ("head",) if model.family == "encoder" else ("text", "head")
    return [one for one in order if one in of_task and one in of_method]


def _why_not(method: str, model: ModelCard, data: DatasetCard) -> str:
    if not without_model.uses_model(method):
        return f"task {data.task!r} has no labels of whole texts"
    if model.family == "encoder" and registry.literals("methods", method)["OBJECTIVES"] == ("text",):
        return "an encoder can't write or score answers; the other methods are scored before training too"
    return f"task {data.task!r} has no objective that method {method!r} has, with a model that is {model.family}"


def _recipe(method: str, objective: str, model: Named, data: Named, request: TryRequest) -> str:
    """Return the text of a recipe."""
    card, options = data.card, _OPTIONS.get(method, {})
    keys: dict[str, Any] = {"dataset": data.written}
    if without_model.uses_model(method):
        keys["model"] = model.written
    if objective == "text" and card.prompt is None and card.task == "text_classification":
        where = data.written if isinstance(data.written, dict) else {_kind_of_name(data): data.written}
        several = _SEVERAL_PROMPT if card.multi_label else _PROMPT
        keys["dataset"] = {**where, "prompt": {**several, "template": _template(card)}}
    keys["method"] = {"name": method, **options} if options else method
    keys["objective"] = objective
    if objective == "text" and _is_written(card):
        chat = {"format": "chat"} if card.columns.messages is not None and _has_chat_template(model.card) else {}
        keys["prompting"] = {**chat, "answer": "generate"}
    splits = _scored(card)
    keys |= {"evaluation": {"splits": splits}} if splits else {}
    if request.limit is not None:
        keys["limit"] = dict.fromkeys(dict.fromkeys(["train", *(splits or ("test",))]), request.limit)
    if method in _RATES:
        least = {} if any(map(_sets_steps, request.sets)) else {"min_steps": MIN_STEPS}
        keys["training"] = {"learning_rate": _RATES[method], "warmup": 0.06, **least}
    command = " ".join(f"python -m bench try {request.model} --on {request.data}".split())  # a comment is one line
    head = f"# Written by `{command}`."
    return "\n".join([head, *(f"{key}: {card_text.flow(value)}" for key, value in keys.items())]) + "\n"


def _sets_steps(override: str) -> bool:
    """Return whether an override says how many steps are trained."""
    return re.match(r"training(\.(min_)?steps=|=.*\bsteps\b)", override) is not None


def _has_chat_template(card: ModelCard) -> bool:
    """Return whether a model has a template of conversations; not so where no tokenizer is found: the run says why."""
    if card.tokenizer.chat_template is not None or card.tokenizer.train is not None:
        return card.tokenizer.chat_template is not None
    from bench.data import tokenizer

    try:
        found = tokenizer.load(card.tokenizer.id or card.id, card.tokenizer.revision or card.revision, card)
    except BenchError:
        return False
    return bool(found.chat_template)


def _template(card: DatasetCard) -> str:
    return _PAIR_TEMPLATE if card.columns.text_pair else _PROMPT["template"]


def _is_written(card: DatasetCard) -> bool:
    """Return whether answers are texts, numbers or several labels, of which none is chosen by its likelihood."""
    reads = registry.literals("tasks", card.task)["READS"]
    return card.source.kind != "lm_eval" and (card.multi_label or reads in ("answers", "numbers"))


def _kind_of_name(data: Named) -> str:
    return "card" if data.written == data.name else "path"


def _scored(card: DatasetCard) -> tuple[str, ...]:
    """Return the splits to score, where a recipe must say it: without a `test`, the last one that is not trained on."""
    asked = card.defaults.get("evaluation", {}).get("splits", ())
    if asked or "test" in card.split_names:
        return tuple(asked)
    return tuple(name for name in card.split_names if name != "train")[-1:] or card.split_names


# ---------------------------------------------------------------- what fits


def fit(tried: Tried, request: TryRequest) -> None:
    """Leave out what does not fit the GPU, and give the others the largest micro-batch that does, in place.

    Without a GPU, asked for or there, nothing is planned.
    """
    size = request.gpu or _memory_here()
    if size is None:
        tried.sentences.append("there is no GPU here, and no --gpu was given: memory is not planned")
        return
    console.quiet_libraries()
    from bench.memory import fitting

    kept, planned = [], any(without_model.uses_model(path.stem) for path in tried.recipes)
    for path in tried.recipes:
        if not without_model.uses_model(path.stem):
            kept.append(path)
            continue
        trains = resolve.load(path, _of_every_method(request.sets)).by_gradients
        sets = (text for text in request.sets if trains or not resolve.is_for_gradients(text))
        found = fitting.fit(path, tuple(sets), size)
        tried.sentences.append(f"{path.stem}: {found.sentence}" if found.fits else found.sentence)
        if not found.fits:
            continue
        for line in found.overrides:
            _add(path, line)
        kept.append(path)
    tried.recipes = kept
    # A baseline of words alone is no comparison of what the model could do.
    if not kept or (planned and not any(without_model.uses_model(path.stem) for path in kept)):
        raise RecipeError("no method is left to try; take a larger GPU or a smaller model")


def _add(path: Path, override: str) -> None:
    """Put a key of `training` into a recipe that was written here."""
    key, _, value = override.partition("=")
    text = files.read_text(path)
    part = key.removeprefix("training.")
    files.write_text(path, text.replace("training: {", f"training: {{{part}: {value}, ", 1))


def _memory_here() -> str | None:
    """Return what this machine's first GPU gives, as a size: without what its driver keeps. None without a GPU."""
    gpus = jobs.visible_gpus()
    if not gpus or shutil.which("nvidia-smi") is None:
        return None
    asked = "--query-gpu=memory.total,memory.reserved"
    query = ["nvidia-smi", f"--id={gpus[0]}", asked, "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    words = [word for word in done.stdout.replace(",", " ").split() if word.isdecimal()]
    # An old driver does not say what it keeps.
    kept = int(words[1]) if len(words) > 1 else 0
    return f"{int(words[0]) - kept}MiB" if done.returncode == 0 and words else None


# ---------------------------------------------------------------- what came out


def is_ok(folder: Path) -> bool:
    """Return whether a run's folder holds the record of one that ended well."""
    try:
        return store.read(folder).status == "ok"
    except BenchError:
        return False


def before_and_after(folders: Iterable[Path]) -> Table:
    """Return a table of the runs: their score before training and after it, on the first split."""
    records = [store.read(folder) for folder in folders]
    split = next((name for record in records for name in record.scores.get("after", {})), None)
    metric = accessors.ranking_metric(name for record in records for name in accessors.scalars(record, "after", split))
    table = Table(title=f"{metric}, {split}", title_justify="left", box=None, pad_edge=False)
    for heading in ("method", "seed", "before", "after", "training, s"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for record in records:
        values = [accessors.finite_values([record], stage, split, metric or "") for stage in accessors.STAGES]
        shown = ["".join(f"{value:.4f}" for value in one) for one in values]
        seconds = accessors.training_s(record)
        table.add_row(record.method, str(record.seed), *shown, "" if seconds is None else f"{seconds:.0f}")
    return table
