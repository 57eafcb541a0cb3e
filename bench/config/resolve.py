"""YAML files and `key=value` overrides -> one frozen, fully validated `Resolved` recipe. Does not import torch.

Order of precedence: default < card < recipe < command line. There is no inheritance between recipes.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.config import (
    architecture,
    card_overrides,
    data_folder,
    foreign_code,
    model_paths,
    named_cards,
    recipe_hash,
    registry,
    rules,
    study_file,
    unused,
    without_model,
    yaml_loader,
)
from bench.config.cards import DatasetCard, ModelCard, Presets
from bench.config.layers import Layers
from bench.config.named_cards import MadeCard, Meant
from bench.config.overrides import as_yaml, dropped_options
from bench.config.recipe import MethodChoice, Recipe
from bench.config.validation import Problems, unknown_keys, validate, validate_rest
from bench.config.yaml_loader import Document, KeyPath, items
from bench.errors import RecipeError
from bench.records.record import RecipePart, Record
from bench.utils import secret_formats, shipped
from bench.utils.files import read_bytes
from bench.utils.system import utc_now

SHIPPED = shipped.folder("recipes")
CARD_FOLDERS = {"dataset": "datasets", "model": "models"}
COMMAND_LINE = "command line"
# Cards by which the types of all other keys are checked where one is not there.
_ANY_CARD: dict[str, dict[str, Any]] = {
    "dataset": {
        "task": "text_classification",
        "source": {"kind": "builtin", "id": "none"},
        "splits": {"train": "train"},
    },
    "model": {"family": "encoder", "id": "none"},
}
# What a published result was found with; where the command line names another, there is nothing to hold a run against.
_PUBLISHED_WITH = ("dataset", "model", "method", "objective", "head", "prompting", "limit", "data", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe ready to run, and where it came from.

    model_name: the card's, or that of the model which is named in place of the card's own. made: kind -> the card that
    was made for a name that has none.
    """

    recipe: Recipe
    options: Any
    path: str
    study: str
    dataset_name: str
    model_name: str
    model_card: str
    as_written: dict[str, Any]
    overrides: tuple[str, ...]
    card_overrides: dict[str, Any]
    unused_notes: tuple[str, ...] = ()
    made: Mapping[str, MadeCard] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<study>--<model>--<method>`, as in the default output folder; settings of others are marked as such."""
        study = self.study if self.recipe.as_published is None else f"{self.study}-as_published"
        return f"{study}--{self.model_name}--{self.recipe.method.name}"

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the result: the seed and the place of the files are not part of it."""
        task_file = None if self._task_file is None else hashlib.sha256(read_bytes(self._task_file)).hexdigest()
        return recipe_hash.of(self.recipe, self.options, registry.included_code(self._drop_ins), task_file)

    @property
    def series_hash(self) -> str | None:
        """Return the hash without the size of the training part and the fold; None of a recipe with neither."""
        return replace(self, recipe=bare).hash if (bare := recipe_hash.without_part(self.recipe)) else None

    @property
    def files(self) -> dict[str, str]:
        """Return the SHA-256 of the recipe's file and of each card and drop-in in use, as "<kind>/<file name>"."""
        used: dict[str, Path | None] = {f"recipe/{Path(self.path).name}": Path(self.path)}
        for kind, name in (("dataset", self.dataset_name), ("model", self.model_name)):
            if kind not in self.made:
                used[f"{CARD_FOLDERS[kind]}/{name}.yaml"] = _find_card(kind, name, Path(self.path), self.path)
        for kind, names in self._drop_ins.items():
            known = registry.files(kind)
            used |= {f"{kind}/{name}.py": known.get(name) for name in names}
        if self._task_file is not None:
            used[f"lm_eval/{self._task_file.name}"] = self._task_file
        hashes = {}
        for name, path in used.items():
            with contextlib.suppress(OSError):  # a recipe may come from a pipe, which is read once
                if path is not None:
                    hashes[name] = hashlib.sha256(read_bytes(path)).hexdigest()
        return hashes

    @property
    def _task_file(self) -> Path | None:
        """Return the file of a task of lm_eval that is not lm_eval's own."""
        source = self.recipe.dataset.source
        named = source.files.get("task")
        if source.kind != "lm_eval" or source.folder is None or not isinstance(named, str):
            return None
        path = Path(source.folder) / named
        return path if path.is_file() else None

    @property
    def by_gradients(self) -> bool:
        """Return whether the method trains by gradients."""
        module = registry.load("methods", self.recipe.method.name)
        return bool(module.load_plan(self.options).trains == "gradient")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return the metrics to compute: the recipe's, else the card's, else the task's own."""
        default = registry.literals("tasks", self.recipe.dataset.task)["METRICS"]
        kind = "multi_label" if self.recipe.dataset.multi_label else "single_label"
        names = self.recipe.evaluation.metrics or self.recipe.dataset.metrics or tuple(default[kind])
        chosen = [name for name in names if rules.is_defined(name, self.recipe) or self.recipe.evaluation.metrics]
        return tuple(dict.fromkeys([*chosen, *rules.metrics_always(self.recipe)]))

    @property
    def included_notes(self) -> list[str]:
        """A sentence for each drop-in or card that is from an included folder, with its SHA-256."""
        names = {"dataset": self.dataset_name, "model": self.model_card}
        cards = {CARD_FOLDERS[kind]: [name] for kind, name in names.items() if kind not in self.made}
        return registry.included_notes({**cards, **self._drop_ins})

    @property
    def made_notes(self) -> list[str]:
        """Return what is to be noted of the cards that were made."""
        return [note for kind in CARD_FOLDERS if kind in self.made for note in self.made[kind].notes]

    @property
    def pins(self) -> tuple[str, ...]:
        """Return overrides by which a later start takes the same commits of what is named on the Hub as this one."""
        commits = {f"{kind}.revision": made.commit for kind, made in self.made.items()}
        told = {text.partition("=")[0] for text in self.overrides}
        return tuple(f"{key}={as_yaml(commit)}" for key, commit in commits.items() if commit and key not in told)

    @property
    def _drop_ins(self) -> dict[str, list[str]]:
        """Return kind -> names of the drop-ins in use. Cards are part of the recipe as it is resolved."""
        return {
            "methods": [self.recipe.method.name],
            "tasks": [self.recipe.dataset.task],
            "metrics": [*self.metric_names, *self.metrics_left_out],
        }

    @property
    def metrics_left_out(self) -> tuple[str, ...]:
        """Return the card's or the task's metrics that can't be computed from the answers of this recipe."""
        default = registry.literals("tasks", self.recipe.dataset.task)["METRICS"]
        kind = "multi_label" if self.recipe.dataset.multi_label else "single_label"
        names = self.recipe.dataset.metrics or tuple(default[kind])
        return tuple(name for name in names if not rules.is_defined(name, self.recipe))


def load(
    path: Path, overrides: tuple[str, ...] = (), seed: int | None = None, *, document: Document | None = None
) -> Resolved:
    """Read, resolve and check a recipe. Raises RecipeError with a line for each problem: file, line, key, advice.

    document: the recipe, where it is not in a file; the path is then only where it would be.
    """
    given_document = document
    document = yaml_loader.read(path, _shown(path)) if document is None else document
    written, given = document.data, _parse_overrides(overrides)
    layers, problems = Layers(places={(): (document.head(()), ())}), Problems()
    without = without_model.stripped(document, given)
    document, given = without.document, without.given
    problems.add(without.problems)
    names, made = _lay_cards(path, document, given, layers, problems, without.kinds)
    if not names and document.data.keys().isdisjoint(CARD_FOLDERS):
        problems.raise_any()  # another kind of file: nothing else in it is a recipe's
    changed: dict[str, Any] = {}
    is_other = "model" not in made and card_overrides.drop_facts_of_other(document, given, layers)
    with problems.collect():
        changed = card_overrides.lay(document, given, layers, made.keys() | (CARD_FOLDERS.keys() - names.keys()))
    with problems.collect():
        _lay_defaults(layers)
        _lay_task_defaults(layers)
    _lay_recipe(document, layers)
    if any(parts_from_published(".".join(map(str, override.inside))) for override in given):
        layers.data = {key: value for key, value in layers.data.items() if not key.startswith("published")}
    method = layers.get(("method",))
    _lay_overrides(given, layers)
    if seed is not None:
        layers.data["seed"], layers.places[("seed",)] = seed, (COMMAND_LINE, ("--seed",))
    data_folder.settle(layers, COMMAND_LINE)
    model_paths.resolve_paths(layers)
    if without.applies:
        without_model.lay(layers, names)
    with problems.collect():
        if "model" in names:  # else that is told already
            named_cards.fill_family(layers)
    recipe, options = _validated(layers, problems, missing=CARD_FOLDERS.keys() - names.keys())
    if recipe is None or options is None:
        problems.raise_any()
    assert recipe is not None
    resolved = Resolved(
        recipe=recipe,
        options=options,
        path=_shown(path),
        study=path.resolve().parent.name,
        dataset_name=names["dataset"],
        model_name=card_overrides.last_part(recipe) if is_other else names["model"],
        model_card=names["model"],
        as_written=written,
        overrides=overrides,
        card_overrides=changed,
        unused_notes=(*without.notes, *dropped_options(method, layers.get(("method",)), options)),
        made=made,
    )
    alone = functools.partial(_problems_alone, path, given_document)
    return _checked(resolved, alone, document, given, layers, problems)


def _checked(
    resolved: Resolved,
    alone: Callable[[], list[str]],
    document: Document,
    given: list[Document],
    layers: Layers,
    problems: Problems,
) -> Resolved:
    """Return the recipe with notes on keys without effect. Raises RecipeError with all problems, also earlier ones.

    alone: returns the problems that the file has without any override.
    """
    recipe = resolved.recipe
    problems.add(rules.card_problems(recipe.dataset, layers))
    problems.add(architecture.problems(recipe.model, layers))
    problems.add(_class_problems(resolved, layers))
    if recipe.dataset.task in registry.names("tasks"):
        typed = _typed(document, given)
        problems.add(rules.problems(recipe, resolved.options, resolved.metric_names, typed, layers))
        unconfirmed = foreign_code.problems(recipe.model, resolved.metric_names)
        problems.add(f"{resolved.path}: {sentence}" for sentence in unconfirmed)
        resolved = _without_unused(resolved, alone, document, given, layers, problems)
    problems.raise_any()
    return resolved


def _validated(layers: Layers, problems: Problems, missing: Set[str]) -> tuple[Recipe | None, Any]:
    """Return the recipe and its method's options, without the keys that are wrong, whose problems are added.

    missing: kinds of cards that are not there; without them only types are checked. None for what the rules between
    keys can't be held against.
    """
    for kind in missing:
        card = layers.data.get(kind) or {}
        problems.add(unknown_keys(ModelCard if kind == "model" else DatasetCard, card, layers, (kind,)))
    given = {**layers.data, **{kind: _ANY_CARD[kind] for kind in missing}}
    recipe = validate_rest(Recipe, given, layers, (), problems)
    options = None
    with problems.collect():
        options = _validate_method(layers, problems)
    return (None if missing else recipe), options


def _class_problems(resolved: Resolved, layers: Layers) -> Iterator[str]:
    """Yield that a model without a hand-written card can't get the head of the recipe's task."""
    recipe, made = resolved.recipe, resolved.made.get("model")
    if made is None or recipe.objective != "head" or recipe.dataset.task not in registry.names("tasks"):
        return
    auto_class = registry.literals("tasks", recipe.dataset.task)["AUTO_CLASS"]
    if (refused := named_cards.class_refusal(made, recipe.model.family, auto_class)) is not None:
        yield f"{layers.place(('model',))}: {refused}"


def _without_unused(
    resolved: Resolved,
    alone: Callable[[], list[str]],
    document: Document,
    given: list[Document],
    layers: Layers,
    problems: Problems,
) -> Resolved:
    """Add a problem for each key without effect that the file sets; return the recipe with notes on all others.

    alone: returns the problems that the file has without any override.
    """
    plan = registry.load("methods", resolved.recipe.method.name).load_plan(resolved.options)
    facts = unused.Facts(recipe=resolved.recipe, options=resolved.options, plan=plan)
    used = {(kind, key) for kind in resolved.made for key in named_cards.found_by(kind)}  # by the maker of a card
    by_line = {key: value for key, value in _set_keys(document, (), ()) if key not in used}
    on_line = [pair for override in given for pair in _set_keys(override, override.inside, ()) if pair[0] not in used]
    defaults = unused.leaves(layers.get(("dataset", "defaults")) or {}, ())
    elsewhere = [*on_line, *((key, value) for key, value in defaults if key and key not in by_line)]
    notes = [unused.note(key) for key in unused.unused(facts, elsewhere)]
    replaced = {key for key, _ in on_line}
    for key in unused.unused(facts, ((one, value) for one, value in by_line.items() if one not in replaced)):
        line = unused.sentence(key, layers)
        # What only the command line leaves without effect is no fault of the file.
        if not given or line in alone():
            problems.add([line])
        else:
            notes.append(unused.note(key))
    return replace(resolved, unused_notes=tuple(dict.fromkeys([*resolved.unused_notes, *notes])))


def _set_keys(document: Document, prefix: KeyPath, inside: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (key path, value) of each key that a document sets, but for the names of cards and methods."""
    for path, value in unused.leaves(document.data, (*prefix, *inside)):
        named = path[:1] in (("dataset",), ("model",), ("method",)) and (len(path) == 1 or path[1] in ("card", "name"))
        if path and not named:
            yield path, value


def _problems_alone(path: Path, document: Document | None) -> list[str]:
    try:
        load(path, document=document)
    except RecipeError as error:
        return str(error).splitlines()
    return []


def _typed(document: Document, given: list[Document]) -> list[KeyPath]:
    """Return the key paths that the command line and the recipe's own file set for the method that is run.

    Of the file none where the command line names another method than its own; a run notes what is not used.
    """
    paths: list[KeyPath] = []
    for override in given:
        paths += [(*override.inside, key) for key, _ in items(override.data)] or [override.inside]
    if any(path in (("method",), ("method", "name")) for path in paths):
        return paths
    for key, value in document.data.items():
        paths += [(key, inner) for inner, _ in items(value)] or ([] if value is None else [(key,)])
    return paths


def is_for_gradients(override: str) -> bool:
    """Return whether an override `key.path=value` is for methods that train by gradients alone."""
    return override.partition("=")[0].partition(".")[0] in rules.BY_GRADIENTS


@contextlib.contextmanager
def placing(path: str, given: tuple[str, ...]) -> Iterator[None]:
    """Inside, blame the file at `path` for a wrong override, unless it is one that was `given` on the command line."""
    try:
        yield
    except RecipeError as error:
        keys, lines = tuple(text.partition("=")[0] for text in given), []
        for line in str(error).splitlines():
            place, _, rest = line.partition(": ")
            lines.append(f"{path}: {rest}" if place == COMMAND_LINE and not rest.startswith(keys) else line)
        raise RecipeError("\n".join(lines)) from error


def parts_from_published(key: str) -> bool:
    """Return whether another value at this dotted key makes published results no longer comparable."""
    return key.partition(".")[0] in _PUBLISHED_WITH and key != "dataset.quote"  # of pages, not of results


def first_record(resolved: Resolved) -> Record:
    """Return the record of a run that begins now: what is known of it before anything is loaded."""
    return Record(
        name=resolved.name,
        study=resolved.study,
        study_title=study_file.title_beside(Path(resolved.path)),
        method=resolved.recipe.method.name,
        seed=resolved.recipe.seed,
        started_at=utc_now(),
        recipe=RecipePart(
            path=resolved.path,
            as_written=secret_formats.remove_all(resolved.as_written),
            resolved=secret_formats.remove_all(resolved.recipe.model_dump(mode="json")),
            overrides=secret_formats.remove_all(list(resolved.overrides)),
            card_overrides=secret_formats.remove_all(resolved.card_overrides),
            made_cards={kind: secret_formats.remove_all(one.as_record()) for kind, one in resolved.made.items()},
            hash=resolved.hash,
            series_hash=resolved.series_hash,
        ),
        files=resolved.files,
    )


def load_card(kind: str, path: Path) -> DatasetCard | ModelCard:
    """Read and check one dataset or model card by itself. Raises RecipeError with a line for each problem."""
    document = yaml_loader.read(path, _shown(path))
    layers, problems = Layers(), Problems()
    layers.lay(document.data, (kind,), document)
    if kind == "model":
        model_paths.resolve_paths(layers)
        with problems.collect():
            named_cards.fill_family(layers)
        model = validate(ModelCard, layers.data[kind], layers, (kind,))
        problems.add(architecture.problems(model, layers))
        problems.raise_any()
        return model
    card = None
    with problems.collect():
        card = validate(DatasetCard, layers.data[kind], layers, (kind,))
    with problems.collect():
        validate(Presets, document.data.get("defaults", {}), layers, (kind, "defaults"))
    if card is not None:
        problems.add(rules.card_problems(card, layers))
    problems.raise_any()
    assert card is not None
    return card


def find_recipes(folder: Path = SHIPPED) -> list[Path]:
    """Return all runnable recipes below a folder, sorted; cards are not among them."""
    cards = {folder / name for name in CARD_FOLDERS.values()}
    return sorted(path for path in folder.glob("*/*.yaml") if path.parent not in cards)


def find_cards(kind: str, folder: Path | None = None) -> list[Path]:
    """Return all cards of a kind ("dataset", "model"), sorted: the shipped and included ones, or those of a folder."""
    if folder is None:
        return list(registry.files(CARD_FOLDERS[kind]).values())
    return sorted((folder / CARD_FOLDERS[kind]).glob("*.yaml"))


def _shown(path: Path) -> str:
    # Messages and records show short paths: relative to the working folder where that is possible.
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, RuntimeError):  # elsewhere; a link that leads to itself
        return str(path)


def _parse_overrides(overrides: tuple[str, ...]) -> list[Document]:
    parsed: list[Document] = []
    for text in overrides:
        dotted, equals, value = text.partition("=")
        key: KeyPath = tuple(dotted.split("."))
        if not equals or not all(key):
            raise RecipeError(f"{COMMAND_LINE}: {text!r} is not of the form key.path=value")
        if any(other.inside == key for other in parsed):
            raise RecipeError(f"{yaml_loader.joined(COMMAND_LINE, key)}: this key is given twice")
        parsed.append(yaml_loader.override(key, value, COMMAND_LINE))
    return parsed


def _lay_cards(
    path: Path, document: Document, given: list[Document], layers: Layers, problems: Problems, kinds: Iterable[str]
) -> tuple[dict[str, str], dict[str, MadeCard]]:
    """Lay the cards of these kinds; return their names, and those made, by kind. What can't be had is a problem."""
    names: dict[str, str] = {}
    made: dict[str, MadeCard] = {}
    for kind in kinds:
        with problems.collect():
            names[kind], own = _lay_card(kind, path, document, given, layers)
            made |= {kind: own} if own is not None else {}
    return names, made


def _lay_card(
    kind: str, path: Path, document: Document, given: list[Document], layers: Layers
) -> tuple[str, MadeCard | None]:
    """Lay the card that the recipe or the command line names, or the one made for it. Returns its name, and that."""
    named = _meant(kind, path, document, given)
    if named.card is not None:
        file = _find_card(kind, named.card, path, named.place)
        assert file is not None
        card = yaml_loader.read_shared(file, _shown(file))
        layers.lay(card.data, (kind,), card)
        return named.card, None
    layers.also[kind,] = named_cards.found_by(kind)
    made = named_cards.make(named)
    layers.lay(named_cards.as_read(made.card), (kind,), named_cards.document(named))
    layers.places[kind,] = (named.place, ())
    return named_cards.short_name(named.spec), made


def _meant(kind: str, path: Path, document: Document, given: list[Document]) -> Meant:
    """Return what the recipe or the command line means by its `model` or `dataset`."""
    chosen, place, file = document.data.get(kind), document.where((kind,)), path if document.numbered else None
    for override in given:
        if override.inside in ((kind,), (kind, "card")):
            chosen, place, file = override.data, override.where(()), None
    if chosen is None:
        raise RecipeError(f"{place}: this key is required: the name of a {kind} card, a path, or a name on the Hub")
    known = {card.stem for card in [*find_cards(kind), *find_cards(kind, path.resolve().parent.parent)]}
    name = chosen.get("card") if isinstance(chosen, dict) else chosen
    is_card = isinstance(name, str) and _find_card(kind, name, path, place) is not None
    starts = named_cards.starts_of(file)
    named = named_cards.meant(kind, chosen, place, starts=starts, cards=known, is_card=is_card)
    own = [override for override in given if override.inside[0] == kind and len(override.inside) > 1]
    # What names another goes first, so that the others are said of it.
    for override in sorted(own, key=lambda override: not named_cards.names_another(kind, override)):
        if named.card is None or named_cards.names_another(kind, override):
            named = named_cards.with_override(named, override, cards=known)
    return named


def _find_card(kind: str, name: str, recipe: Path, place: str) -> Path | None:
    """Return a card's file, or None. It is looked up among the files that exist: a name can't lead elsewhere.

    Cards beside the recipe's own study come first, so that a folder of one's own needs no copy of the shipped ones.
    Raises RecipeError for a card that is there and in an included folder.
    """
    own = recipe.resolve().parent.parent / CARD_FOLDERS[kind]
    with contextlib.suppress(OSError):
        if f"{name}.yaml" in os.listdir(own):
            beside = own / f"{name}.yaml"
            known = registry.files(CARD_FOLDERS[kind]).get(name) if registry.included() else None
            if known is not None and registry.is_included(known) and not beside.samefile(known):
                raise RecipeError(f"{place}: the {kind} card {name!r} is there twice: {beside} and {known}; rename one")
            return beside
    return registry.files(CARD_FOLDERS[kind]).get(name)


def _lay_defaults(layers: Layers) -> None:
    defaults = layers.get(("dataset", "defaults")) or {}
    limit, usual = layers.get(("model", "max_length")), Recipe.model_fields["max_length"].default
    # Before the check of the defaults, so that a wrong one is not told together with what follows from it.
    if isinstance(limit, int) and limit < usual:
        layers.repeat(("model", "max_length"), "max_length")
    validate(Presets, defaults, layers, ("dataset", "defaults"))
    for key in defaults:
        layers.repeat(("dataset", "defaults", key), key)
    if isinstance(limit, int) and limit < (defaults.get("max_length") or usual):
        layers.repeat(("model", "max_length"), "max_length")


def _lay_task_defaults(layers: Layers) -> None:
    """Put the task's own defaults where the card has none, as the objective of a task that has only one."""
    task = layers.get(("dataset", "task"))
    if task not in registry.names("tasks"):
        return
    defaults = registry.literals("tasks", task).get("DEFAULTS")
    for path, value in unused.leaves(defaults, ()) if defaults else ():
        part: dict[Any, Any] = layers.data
        for key in path[:-1]:
            part = part.setdefault(key, {})
        part.setdefault(path[-1], value)


def _lay_recipe(document: Document, layers: Layers) -> None:
    layers.drop_replaced(document.data.get("training"))
    for key, value in document.data.items():
        if key == "method":
            _lay_method(value, document, (key,), layers)
        elif key not in CARD_FOLDERS:
            layers.lay(value, (key,), document, (key,))


def _lay_overrides(given: list[Document], layers: Layers) -> None:
    training: dict[Any, Any] = {}
    for override in given:
        if override.inside[0] == "training":
            training |= dict(items(override.data)) if len(override.inside) == 1 else {override.inside[1]: override.data}
    layers.drop_replaced(training)
    for override in given:
        if override.inside == ("method",):
            _lay_method(override.data, override, (), layers)
        elif override.inside[0] not in CARD_FOLDERS:
            layers.lay(override.data, override.inside, override)


def _lay_method(value: Any, document: Document, inside: KeyPath, layers: Layers) -> None:
    """Lay a method. A bare name stands for a mapping with `name`; a named method replaces another and its options."""
    if isinstance(value, str):
        layers.data.pop("method", None)
        layers.lay({}, ("method",), document, inside)
        layers.lay(value, ("method", "name"), document, inside)
    else:
        if isinstance(value, dict) and "name" in value:
            layers.data.pop("method", None)
        layers.lay(value, ("method",), document, inside)


def _validate_method(layers: Layers, problems: Problems) -> Any:
    """Return the method's own options; None where not even its name is one, which the recipe's types say."""
    try:
        method = MethodChoice.model_validate(layers.data.get("method"))
    except ValidationError:
        return None
    try:
        module = registry.load("methods", method.name)
    except RecipeError as error:
        raise RecipeError(f"{layers.place(('method', 'name'))}: {error}") from error
    return validate_rest(module.Options, dict(method.model_extra or {}), layers, ("method",), problems)
