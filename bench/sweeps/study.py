"""A study: which runs are compared with one another, over which seeds, and how each method's settings are chosen.

    title: Full fine-tuning against LoRA
    metric: accuracy
    seeds: 5
    matrix: {recipe: sst2/bert_base_uncased-full, models: [bert_base_uncased, roberta_base], methods: [full, lora]}
    tune: {full: {training.learning_rate: [2e-5, 5e-5]}, lora: {training.learning_rate: [1e-4, 3e-4]}}

A study is a file of YAML that names recipes; it holds no results. Every run of it is a recipe with overrides and a
seed, and can be launched by hand. Does not import torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from bench.config import registry, resolve, validation, yaml_loader
from bench.config.fields import Distinct, Name, Strict, Text
from bench.config.layers import Layers
from bench.config.overrides import as_yaml, merged, products
from bench.config.recipe import Band
from bench.config.resolve import Resolved
from bench.errors import RecipeError, did_you_mean

Settings = dict[str, Any]
# A larger number is a seed that was meant.
MOST_SEEDS = 10_000
# How many seeds, counted from the recipe's own, or which ones.
Seeds = (
    Annotated[int, Field(gt=0, le=MOST_SEEDS)]
    | Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1), Distinct]
)
FILE = "study.yaml"
# Settings that are no way to train.
SCORED = ("seed", "limit", "dataset", "evaluation", "metrics", "published")


class Entry(Strict):
    """One system of the comparison. recipe: below `recipes/`, without its ending, or a file beside the study's.

    set: overrides. seeds: instead of the study's, in small too. mini: overrides of the small variant, on top of the
    study's own. published: where others found it, with these very models and data; not for the small variant.
    """

    recipe: Text
    set: Settings = Field(default_factory=dict)
    seeds: Seeds | None = None
    mini: Settings = Field(default_factory=dict)
    published: dict[Name, Band] = Field(default_factory=dict)


class Matrix(Strict):
    """Every model with every method, on one recipe. methods: names, or mappings with a method's options."""

    recipe: Text
    models: Annotated[tuple[Name, ...], Distinct] = ()
    methods: tuple[Name | Settings, ...] = ()
    set: Settings = Field(default_factory=dict)


class Mini(Strict):
    """What makes a study small enough for two CPU cores: other models, other data, less of everything.

    models, datasets: a card of the study -> the card in its place. set: overrides of every run. settings: those of each
    method's runs.
    """

    models: dict[str, Name] = Field(default_factory=dict)
    datasets: dict[str, Name] = Field(default_factory=dict)
    set: Settings = Field(default_factory=dict)
    settings: dict[Name, Settings] = Field(default_factory=dict)
    seeds: Seeds = 2


class Study(Strict):
    """A study as it is written. metric: by which systems are ranked, and by which settings are chosen.

    settings: method -> overrides of its runs. tune: method -> key -> values to choose among, on validation data.
    """

    title: Text
    metric: Text
    seeds: Seeds = 1
    runs: tuple[Entry, ...] = ()
    matrix: Matrix | None = None
    settings: dict[Name, Settings] = Field(default_factory=dict)
    tune: dict[Name, dict[str, Annotated[tuple[Any, ...], Field(min_length=2), Distinct]]] = Field(default_factory=dict)
    mini: Mini | None = None


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run: what is given to bench/run.py, and what comes of it."""

    path: Path
    overrides: tuple[str, ...]
    seed: int
    resolved: Resolved

    @property
    def folder_name(self) -> str:
        """As bench/run.py would call it."""
        return f"{self.resolved.name}--seed{self.seed}--{self.resolved.hash[:8]}"


@dataclass(frozen=True, kw_only=True)
class System:
    """What is compared: a recipe with its overrides, over seeds. candidates: overrides among which one is chosen.

    left_out: overrides for every run that this one's method can't use.
    """

    path: Path
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    resolved: Resolved
    candidates: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[str, ...] = ()

    def runs(self, chosen: tuple[str, ...] = ()) -> list[Planned]:
        """A run for each seed, with the settings that were chosen."""
        return [self._planned(merged(self.overrides, chosen), seed) for seed in self.seeds]

    def trials(self) -> dict[tuple[str, ...], Planned]:
        """A run for each candidate, on the first seed: it is scored on validation data alone, and not saved."""
        only = f"evaluation.splits={as_yaml([self.resolved.recipe.evaluation.validation])}"
        apart = (only, "evaluation.before=false", "save=false")
        own = (text for text in self.overrides if not text.startswith("published="))
        given = merged(tuple(own), apart)
        return {one: self._planned(merged(given, one), self.seeds[0]) for one in self.candidates}

    def _planned(self, overrides: tuple[str, ...], seed: int) -> Planned:
        resolved = resolve.load(self.path, overrides, seed)
        return Planned(path=self.path, overrides=overrides, seed=seed, resolved=resolved)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line adds. seeds: instead of the study's. sets: overrides for every run."""

    seeds: int | tuple[int, ...] | None = None
    sets: tuple[str, ...] = ()
    mini: bool = False


@dataclass(kw_only=True)
class Plan:
    """All systems of a sweep. metric: None for plain recipes. left_out: sentences on overrides that some can't use."""

    systems: list[System] = field(default_factory=list)
    metric: str | None = None
    left_out: list[str] = field(default_factory=list)


def load(path: Path) -> Study:
    """Reads and checks a study's file, or the one in a folder. Raises RecipeError with file, line and key."""
    path = path / FILE if path.is_dir() else path
    document = yaml_loader.read(path)
    layers = Layers()
    for key, value in document.data.items():
        layers.lay(value, (key,), document, (key,))
    found: Study = validation.validate(Study, document.data, layers, ())
    if not found.runs and found.matrix is None:
        raise RecipeError(f"{path}: a study needs `runs` or a `matrix`")
    return found


def find_studies(folder: Path = resolve.SHIPPED) -> list[Path]:
    """The files of all studies that are shipped, sorted."""
    return sorted(folder.glob(f"studies/*/{FILE}"))


def is_study(path: Path) -> bool:
    """Whether a path is a study's file or its folder; else it is a recipe, or a folder of recipes."""
    if path.is_dir():
        return (path / FILE).is_file()
    return path.name == FILE or (path.suffix == ".yaml" and _has_title(path))


def _has_title(path: Path) -> bool:
    # Whatever is wrong with the file is told by whoever reads it as a recipe.
    try:
        return "title" in yaml_loader.read(path).data
    except RecipeError:
        return False


def plan(paths: list[Path], asked: Asked) -> Plan:
    """The systems of studies and recipes. Raises RecipeError for what can't run: nothing is started before that."""
    found = Plan()
    for path in paths:
        if is_study(path):
            study = load(path)
            found.metric = found.metric or study.metric
            found.systems += _systems(study, path, asked)
        elif asked.mini:
            raise RecipeError(f"{path}: --mini is for studies, which say what is put in place of their models")
        else:
            found.systems += [
                _system(one, (), asked, asked.seeds or 1) for one in (_recipes(path) if path.is_dir() else [path])
            ]
    if not found.systems:
        raise RecipeError("there is nothing to run: give a study, recipes, or folders of recipes")
    found.left_out = _left_out(found.systems, asked)
    return found


def _left_out(systems: list[System], asked: Asked) -> list[str]:
    """Which overrides for every run are not given to which methods. Raises RecipeError for one that none can use."""
    methods = {
        text: [one.resolved.recipe.method.name for one in systems if text in one.left_out] for text in asked.sets
    }
    for text, without in methods.items():
        if len(without) == len(systems):
            resolve.load(systems[0].path, merged(systems[0].overrides, (text,)))
    pairs = ((text.partition("=")[0], name) for text, without in methods.items() for name in dict.fromkeys(without))
    return [f"{key} is left out for method {name}, which does not train by gradients" for key, name in pairs]


def check(path: Path, sets: tuple[str, ...] = ()) -> None:
    """Resolves every run of a study, and of its small variant. Raises RecipeError for one that can't run."""
    small = [True] if load(path).mini is not None else []
    for mini in (False, *small):
        for system in plan([path], Asked(sets=sets, mini=mini)).systems:
            system.trials()


def _recipes(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.yaml"))
    if not found:
        raise RecipeError(f"{folder}: there are no recipes in this folder")
    return found


def _systems(study: Study, path: Path, asked: Asked) -> Iterator[System]:
    shown, folder = str(path), path if path.is_dir() else path.parent
    _check_budgets(study, shown)
    if asked.mini and study.mini is None:
        raise RecipeError(f"{shown}: this study has no `mini` variant")
    used: set[str] = set()
    for entry in [*study.runs, *_cells(study.matrix)]:
        at = _find(entry.recipe, folder, shown)
        overrides = _overrides(entry.set)
        with resolve.placing(shown, ()):
            first = resolve.load(at, overrides)
        method = first.recipe.method.name
        used.add(method)
        shared = study.settings.get(method, {})
        overrides += _overrides({key: value for key, value in shared.items() if key not in entry.set})
        if asked.mini:
            overrides = _in_small(study, shown, first, overrides, entry)
        elif not any(resolve.parts_from_published(text.partition("=")[0]) for text in asked.sets):
            overrides += _bands(entry)
        usual = study.mini.seeds if asked.mini and study.mini else study.seeds
        seeds = asked.seeds or entry.seeds or usual
        with resolve.placing(shown, asked.sets):
            system = _system(at, overrides, asked, seeds)
        yield _tuned(system, study, shown, asked)
    unknown = sorted({*study.settings, *study.tune} - used)
    if unknown:
        raise RecipeError(f"{shown}: settings are given for {unknown[0]!r}, which no run of this study uses")


def _check_budgets(study: Study, shown: str) -> None:
    """A method that may choose among more settings has an unfair advantage; what is scored is no setting."""
    for key in {key for grid in study.tune.values() for key in grid if key.partition(".")[0] in SCORED}:
        raise RecipeError(f"{shown}: tune: {key} decides what is scored or drawn, so its values can't be chosen among")
    if study.metric not in registry.directions():
        hint = did_you_mean(study.metric, registry.directions())
        raise RecipeError(f"{shown}: metric: there is no {study.metric!r}.{hint}")
    sizes = {method: len(_candidates(grid)) for method, grid in study.tune.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{method} has {size}" for method, size in sizes.items())
        raise RecipeError(f"{shown}: tune: each method must choose among equally many settings, but {told}")


def _candidates(grid: dict[str, tuple[Any, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(products([f"{key}={','.join(map(as_yaml, values))}" for key, values in grid.items()]))


def _cells(matrix: Matrix | None) -> Iterator[Entry]:
    if matrix is None:
        return
    for model in matrix.models or (None,):
        for method in matrix.methods or (None,):
            named = {"model": model, "method": method}
            yield Entry(recipe=matrix.recipe, set={k: v for k, v in named.items() if v is not None} | matrix.set)


def _find(name: str, folder: Path, shown: str) -> Path:
    """A recipe beside the study's file, or below `recipes/`."""
    known = {f"{path.parent.name}/{path.stem}": path for path in resolve.find_recipes()}
    known |= {path.stem: path for path in folder.glob("*.yaml") if path.name != FILE}
    if name not in known:
        raise RecipeError(f"{shown}: there is no recipe {name!r:.100}.{_near(name, known)}")
    return known[name]


def _near(name: str, known: Any) -> str:
    hint = did_you_mean(name, known)
    return hint if "mean" in hint else " Name it as <folder>/<file>, without .yaml."


def _overrides(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={as_yaml(value)}" for key, value in settings.items())


def _bands(entry: Entry) -> tuple[str, ...]:
    found = {name: band.model_dump() for name, band in entry.published.items()}
    return _overrides({"published": found} if found else {})


def _in_small(study: Study, shown: str, first: Resolved, overrides: tuple[str, ...], entry: Entry) -> tuple[str, ...]:
    """The overrides of a run's small variant: another model and other data first, then what is smaller about them."""
    mini = study.mini
    assert mini is not None
    swapped: Settings = {}
    for kind, name, known in (
        ("model", first.model_name, mini.models),
        ("dataset", first.dataset_name, mini.datasets),
    ):
        if name not in known:
            raise RecipeError(f"{shown}: mini: there is no {kind} in place of {name!r}")
        swapped[kind] = known[name]
    last = swapped | mini.set | mini.settings.get(first.recipe.method.name, {}) | entry.mini
    taken = set(last) | {f"{kind}." for kind in swapped}
    kept = [text for text in overrides if not _is_replaced(text.partition("=")[0], taken)]
    return (*kept, *_overrides(last))


def _is_replaced(key: str, taken: set[str]) -> bool:
    return key in taken or f"{key.partition('.')[0]}." in taken


def _system(path: Path, overrides: tuple[str, ...], asked: Asked, seeds: int | tuple[int, ...]) -> System:
    others = tuple(text for text in asked.sets if not resolve.is_for_gradients(text))
    left_out: tuple[str, ...] = ()
    if others != asked.sets and not resolve.load(path, merged(overrides, others)).by_gradients:
        left_out = tuple(text for text in asked.sets if text not in others)
    overrides = merged(overrides, others if left_out else asked.sets)
    resolved = resolve.load(path, overrides)
    start = resolved.recipe.seed
    numbers = tuple(range(start, start + seeds)) if isinstance(seeds, int) else seeds
    return System(path=path, overrides=overrides, seeds=numbers, resolved=resolved, left_out=left_out)


def _tuned(system: System, study: Study, shown: str, asked: Asked) -> System:
    """With the candidates among which its settings are chosen; what learns must have some where others do."""
    method = system.resolved.recipe.method.name
    if not study.tune:
        return system
    if method not in study.tune:
        if system.resolved.by_gradients:
            raise RecipeError(
                f"{shown}: tune: settings are chosen for {', '.join(study.tune)}, but not for {method}; give each "
                "method that learns equally many"
            )
        return system
    if system.resolved.recipe.evaluation.validation in system.resolved.recipe.evaluation.splits:
        raise RecipeError(f"{shown}: tune: settings are chosen on validation data, which must not be scored as well")
    twice = sorted({text.partition("=")[0] for text in asked.sets} & set(study.tune[method]))
    if twice:
        raise RecipeError(f"--set {twice[0]}: the study chooses this setting itself, on validation data")
    return replace(system, candidates=_candidates(study.tune[method]))
