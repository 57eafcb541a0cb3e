"""YAML files and `key=value` overrides -> one frozen, fully validated `Resolved` recipe. Does not import torch.

Order of precedence: default < card < recipe < command line. There is no inheritance between recipes.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench import dropin, strictyaml
from bench.errors import RecipeError, did_you_mean
from bench.settings import DatasetCard, ModelCard, Recipe
from bench.strictyaml import Path_

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
CARD_FOLDERS = {"dataset": "datasets", "model": "models"}
# What a dataset card may preset: its usual budget, not the method or the model.
DEFAULTABLE = ("training", "evaluation", "max_length")
COMMAND_LINE = "command line"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe ready to run, and where it came from."""

    recipe: Recipe
    options: Any
    path: str
    study: str
    dataset_name: str
    model_name: str
    as_written: dict[str, Any]
    overrides: tuple[str, ...]
    card_overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """`<study>--<model>--<method>`, as in the default output folder."""
        return f"{self.study}--{self.model_name}--{self.recipe.method.name}"

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the result: the seed and the place of the files are not part of it."""
        content = json.loads(self.recipe.model_dump_json(exclude={"seed": True, "save": True, "trackers": True}))
        content["dataset"]["source"].pop("folder")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Metrics to compute: the recipe's, else the card's, else the task's own."""
        default = dropin.literals("tasks", self.recipe.dataset.task)["METRICS"]
        kind = "multi_label" if self.recipe.dataset.multi_label else "single_label"
        return self.recipe.evaluation.metrics or self.recipe.dataset.metrics or tuple(default[kind])


@dataclass
class _Layers:
    """Nested settings laid over one another, with the place (file, line, key) that each value came from."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, str] = field(default_factory=dict)

    def lay(self, value: Any, prefix: Path_, document: strictyaml.Document, inside: Path_ = ()) -> None:
        """Puts `value`, which stands at `inside` of the document, at `prefix`; mappings merge, the rest replaces."""
        self.places[prefix] = document.where(inside)
        if isinstance(value, dict) and prefix:
            self._drop_rival(prefix, value)
        if not isinstance(value, dict):
            self._put(prefix, value)
            return
        if not isinstance(self._get(prefix), dict):
            self._put(prefix, {})
        for key, child in value.items():
            self.lay(child, (*prefix, key), document, (*inside, key))

    def _drop_rival(self, prefix: Path_, value: dict[str, Any]) -> None:
        # A recipe that sets `steps` replaces a card's `epochs`; setting both in one place stays an error.
        here = self._get(prefix)
        if prefix == ("training",) and isinstance(here, dict):
            for key, rival in (("steps", "epochs"), ("epochs", "steps")):
                if key in value and rival not in value:
                    here.pop(rival, None)

    def _get(self, path: Path_) -> Any:
        here: Any = self.data
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def _put(self, path: Path_, value: Any) -> None:
        if not path:
            self.data = value
            return
        here = self.data
        for key in path[:-1]:
            if not isinstance(here.get(key), dict):
                here[key] = {}  # type: ignore[index]
            here = here[key]  # type: ignore[index]
        here[path[-1]] = value  # type: ignore[index]

    def place(self, path: Path_) -> str:
        """'file:line: a.b', from the nearest known parent of a key path."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, "")
        rest = ".".join(str(part) for part in path[len(known) :])
        if not rest:
            return place
        return f"{place}.{rest}" if known else f"{place}: {rest}"


def load(path: Path, overrides: tuple[str, ...] = (), seed: int | None = None) -> Resolved:
    """Reads, resolves and checks a recipe. Raises RecipeError whose text holds file, line, key and what to do."""
    document = strictyaml.read(path, _shown(path))
    extra = _parse_overrides(overrides)
    names = {kind: _card_name(kind, document, extra) for kind in CARD_FOLDERS}
    cards = {kind: _read_card(kind, names[kind], path, document) for kind in CARD_FOLDERS}
    layers = _Layers()
    for kind, card in cards.items():
        layers.lay(card.data, (kind,), card)
    _lay_defaults(layers, cards)
    written = {key: value for key, value in document.data.items() if key not in CARD_FOLDERS}
    layers.places[()] = document.where(())
    if isinstance(written.get("method"), str):
        written["method"] = {"name": written["method"]}
    for key, value in written.items():
        layers.lay(value, (key,), document, (key,))
    changed = _lay_card_overrides(layers, document)
    for (key, value), text in zip(extra, overrides, strict=True):
        if len(key) == 1 and key[0] in CARD_FOLDERS:
            continue  # another card was chosen; it is already laid
        layers.lay(value, key, strictyaml.Document("{}", f"{COMMAND_LINE}: {text.split('=')[0]}"))
        if key[0] in CARD_FOLDERS and len(key) > 1:
            changed[".".join(str(part) for part in key)] = value
    if seed is not None:
        layers.lay(seed, ("seed",), strictyaml.Document("{}", f"{COMMAND_LINE}: --seed"))
    recipe = _validate(Recipe, layers.data, layers, ())
    resolved = Resolved(
        recipe=recipe,
        options=_validate_method(recipe, layers),
        path=_shown(path),
        study=path.resolve().parent.name,
        dataset_name=names["dataset"],
        model_name=names["model"],
        as_written=document.data,
        overrides=overrides,
        card_overrides=changed,
    )
    _check_meaning(resolved, layers)
    return resolved


def load_card(kind: str, path: Path) -> DatasetCard | ModelCard:
    """Reads and checks one dataset or model card by itself."""
    document = strictyaml.read(path, _shown(path))
    layers = _Layers()
    layers.lay(document.data, (), document)
    model = DatasetCard if kind == "dataset" else ModelCard
    return _validate(model, layers.data, layers, ())


def find_recipes(folder: Path = SHIPPED) -> list[Path]:
    """All runnable recipes below a folder, sorted; cards are not among them."""
    cards = {folder / name for name in CARD_FOLDERS.values()}
    return sorted(path for path in folder.glob("*/*.yaml") if path.parent not in cards)


def find_cards(kind: str, folder: Path = SHIPPED) -> list[Path]:
    """All cards of a kind ("dataset", "model"), sorted."""
    return sorted((folder / CARD_FOLDERS[kind]).glob("*.yaml"))


def _shown(path: Path) -> str:
    # Messages and records show short paths: relative to the working folder where that is possible.
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _parse_overrides(overrides: tuple[str, ...]) -> list[tuple[Path_, Any]]:
    parsed: list[tuple[Path_, Any]] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"{COMMAND_LINE}: {text!r} is not of the form key.path=value")
        data = strictyaml.scalar(value, f"{COMMAND_LINE}: {key}")
        path: Path_ = tuple(key.split("."))
        parsed.append((("method", "name") if path == ("method",) and isinstance(data, str) else path, data))
    return parsed


def _card_name(kind: str, document: strictyaml.Document, extra: list[tuple[Path_, Any]]) -> str:
    chosen = document.data.get(kind)
    for key, value in extra:
        chosen = value if key == (kind,) else chosen
    if chosen is None:
        raise RecipeError(f"{document.where(())}: {kind}: this key is required: the name of a {kind} card")
    name = chosen.get("card") if isinstance(chosen, dict) else chosen
    if not isinstance(name, str) or "/" in name or name.startswith("."):
        raise RecipeError(f"{document.where((kind,))}: expected the name of a {kind} card, got {name!r}")
    return name


def _read_card(kind: str, name: str, recipe_path: Path, document: strictyaml.Document) -> strictyaml.Document:
    # Cards beside the recipe's own study come first, so that a folder of one's own needs no copy of the shipped ones.
    roots = [recipe_path.resolve().parent.parent, SHIPPED]
    for root in roots:
        path = root / CARD_FOLDERS[kind] / f"{name}.yaml"
        if path.is_file():
            return strictyaml.read(path, _shown(path))
    known = {path.stem for root in roots for path in find_cards(kind, root)}
    raise RecipeError(f"{document.where((kind,))}: there is no {kind} card {name!r}.{did_you_mean(name, known)}")


def _lay_defaults(layers: _Layers, cards: dict[str, strictyaml.Document]) -> None:
    limit = cards["model"].data.get("max_length")
    if isinstance(limit, int):
        default = Recipe.model_fields["max_length"].default
        layers.lay(min(limit, default), ("max_length",), cards["model"], ("max_length",))
    defaults = cards["dataset"].data.get("defaults", {})
    for key, value in defaults.items() if isinstance(defaults, dict) else ():
        if key not in DEFAULTABLE:
            place = cards["dataset"].where(("defaults", key))
            raise RecipeError(f"{place}: a card may preset only {', '.join(DEFAULTABLE)}")
        if key == "max_length" and isinstance(limit, int) and isinstance(value, int):
            value = min(value, limit)
        layers.lay(value, (key,), cards["dataset"], ("defaults", key))


def _lay_card_overrides(layers: _Layers, document: strictyaml.Document) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for kind in CARD_FOLDERS:
        chosen = document.data.get(kind)
        for key, value in chosen.items() if isinstance(chosen, dict) else ():
            if key != "card":
                layers.lay(value, (kind, key), document, (kind, key))
                changed[f"{kind}.{key}"] = value
    return changed


def _validate(model: type[BaseModel], data: Any, layers: _Layers, prefix: Path_) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        sentences = list(dict.fromkeys(_sentence(problem, model, data, layers, prefix) for problem in error.errors()))
        more = f" (and {len(sentences) - 1} more like it)" if len(sentences) > 1 else ""
        raise RecipeError(sentences[0] + more) from error


def _sentence(problem: Any, model: type[BaseModel], data: Any, layers: _Layers, prefix: Path_) -> str:
    location = _real_path(problem["loc"], data, keep_last=problem["type"] == "missing")
    place = layers.place((*prefix, *location))
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key.{did_you_mean(str(location[-1]), _fields_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{place}: this key is required"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    value = problem["input"]
    expected = problem["msg"].replace("Input should be ", "expected ")
    hint = ""
    if problem["type"] == "literal_error" and isinstance(value, str):
        hint = did_you_mean(value, problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        hint = hint if "mean" in hint else ""
    return f"{place}: {expected}, got {value!r}.{hint}".replace("..", ".")


def _real_path(location: tuple[str | int, ...], data: Any, *, keep_last: bool) -> Path_:
    # pydantic adds the names of union members to the path; they are not keys of the file.
    path: list[str | int] = []
    for part in location:
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, tuple) and isinstance(part, int))
        if not inside:
            return (*path, part) if keep_last and part == location[-1] else tuple(path)
        path.append(part)
        data = data[part]
    return tuple(path)


def _fields_at(model: Any, path: Path_) -> list[str]:
    for part in path:
        annotation = getattr(model, "model_fields", {}).get(part)
        model = annotation.annotation if annotation is not None else None
        args = [arg for arg in getattr(model, "__args__", ()) if hasattr(arg, "model_fields")]
        model = args[0] if args else model
    return list(getattr(model, "model_fields", {}))


def _validate_method(recipe: Recipe, layers: _Layers) -> Any:
    try:
        module = dropin.load("methods", recipe.method.name)
    except RecipeError as error:
        raise RecipeError(f"{layers.place(('method', 'name'))}: {error}") from error
    return _validate(module.Options, dict(recipe.method.model_extra or {}), layers, ("method",))


def _check_meaning(resolved: Resolved, layers: _Layers) -> None:
    """Rules that span several keys and need no data."""
    recipe = resolved.recipe
    _check_task(recipe, layers)
    known = {name for metric in resolved.metric_names for name in metric_values(metric, resolved, layers)}
    best, open_ended = recipe.training.best, any(name.startswith("evaluate:") for name in resolved.metric_names)
    if best is not None and best not in known and not open_ended:
        raise RecipeError(f"{layers.place(('training', 'best'))}: no metric gives {best!r}.{did_you_mean(best, known)}")
    splits = {*recipe.dataset.splits, *(name for part in recipe.dataset.divide for name in part.into)}
    asked: list[tuple[Path_, str]] = [(("evaluation", "splits"), name) for name in recipe.evaluation.splits]
    asked += [(("limit",), name) for name in recipe.limit]
    if recipe.training.evaluate_every is not None:
        asked.append((("evaluation", "validation"), recipe.evaluation.validation))
    for path, name in asked:
        if name not in splits:
            raise RecipeError(f"{layers.place(path)}: the data set has no split {name!r}.{did_you_mean(name, splits)}")
    limit = recipe.model.max_length
    if limit is not None and recipe.max_length > limit:
        place = layers.place(("max_length",))
        raise RecipeError(f"{place}: {recipe.max_length} is more than the model's context of {limit} tokens")
    per_device = recipe.training.per_device_batch
    if per_device is not None and recipe.training.global_batch % per_device:
        raise RecipeError(
            f"{layers.place(('training', 'global_batch'))}: {recipe.training.global_batch} is not a multiple of "
            f"per_device_batch {per_device}"
        )


def _check_task(recipe: Recipe, layers: _Layers) -> None:
    task = recipe.dataset.task
    if task not in dropin.names("tasks"):
        hint = did_you_mean(task, dropin.names("tasks"))
        raise RecipeError(f"{layers.place(('dataset', 'task'))}: there is no task {task!r}.{hint}")
    objectives = dropin.literals("tasks", task)["OBJECTIVES"]
    if recipe.objective not in objectives:
        raise RecipeError(
            f"{layers.place(('objective',))}: task {task!r} has no objective {recipe.objective!r}; "
            f"it has {', '.join(objectives)}"
        )


def metric_values(name: str, resolved: Resolved, layers: _Layers | None = None) -> list[str]:
    """Names of the scalar values that a metric gives; [] for a metric of the evaluate library."""
    if name.startswith("evaluate:"):
        return []
    try:
        found = dropin.literals("metrics", name)
    except RecipeError as error:
        place = (layers or _Layers()).place(("evaluation", "metrics"))
        raise RecipeError(f"{place}: {error}") from error
    wanted = "multilabel" if resolved.recipe.dataset.multi_label else "default"
    if wanted not in found["configs"]:
        kind = "several labels" if wanted == "multilabel" else "one label"
        raise RecipeError(f"metric {name!r} is not defined for data with {kind} per example")
    return list(found["higher_is_better"])
