"""A study: which systems are compared, over which seeds, and how each method's settings are tuned.

    title: Full fine-tuning against LoRA
    metric: accuracy
    seeds: 5
    matrix: {recipe: sst2/bert_base_uncased-full, models: [bert_base_uncased, roberta_base], methods: [full, lora]}
    tune: {full: {training.learning_rate: [2e-5, 5e-5]}, lora: {training.learning_rate: [1e-4, 3e-4]}}

A study is a YAML file that names recipes; it holds no results. Every run is a recipe with overrides and a seed, and can
be launched by hand. Loads no torch.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.config import descriptions, json_schema, registry, resolve, study_file, validation, yaml_loader
from bench.config.cards import NO_MODEL
from bench.config.fields import Distinct, InvalidKey, Name, Strict, Text
from bench.config.layers import Layers
from bench.config.overrides import as_yaml, merged, products
from bench.config.recipe import Band
from bench.config.resolve import Resolved
from bench.errors import RecipeError, did_you_mean
from bench.sweeps import parts
from bench.sweeps.parts import Folds, LabelCurve, Sizes
from bench.sweeps.search import Range, Search, Space, samples_of

Settings = dict[str, Any]
# A larger number is more likely meant as a seed.
MOST_SEEDS = 10_000
# Number of seeds, counting from the recipe's own, or a list of seeds.
Seeds = (
    Annotated[int, Field(gt=0, le=MOST_SEEDS)]
    | Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1), Distinct]
)
FILE = study_file.NAME
Variant = Literal["own", "as_published", "all"]
# Keys that define what is evaluated, so they can't be tuned.
EVALUATION_KEYS = ("seed", "limit", "data", "dataset", "evaluation", "metrics", "published")


class RunEntry(Strict):
    """One system of the comparison."""

    recipe: Text
    """A recipe below `recipes/`, without suffix, or a file beside the study's. Example: sst2/bert_base_uncased-full"""
    set: Settings = Field(default_factory=dict)
    """Overrides of the recipe's keys. Example: {training.learning_rate: 2e-5}"""
    seeds: Seeds | None = None
    """Seeds in place of the study's, also in the small variant. Example: [13, 14]"""
    mini: Settings = Field(default_factory=dict)
    """Overrides of the small variant, on top of the study's. Example: {training.steps: 20}"""
    published: dict[Name, Band] = Field(default_factory=dict)
    """Score ranges that others published for this model and data; not for the small variant.
    Example: {accuracy: {low: 0.9, high: 0.93, source: the paper's table 2}}"""
    published_before: dict[Name, Band] = Field(default_factory=dict)
    """Published score ranges before training; not for the small variant.
    Example: {accuracy: {low: 0.4, high: 0.6, source: the paper's table 2}}"""


class PublishedEntry(RunEntry):
    """One system as others ran it."""

    source: Text | None = None
    """Source of its settings, if not that of the variant. Example: appendix B of the paper"""
    but_for: tuple[Text, ...] = ()
    """Sentences on differences from theirs. Example: [two epochs instead of three]"""
    precision: Literal["float32", "fp16", "bf16"] | None = None
    """Their mixed precision, where it is not the variant's. Example: bf16"""


class Matrix(Strict):
    """Every model with every method, for one recipe."""

    recipe: Text
    """A recipe below `recipes/`, without suffix, or a file beside the study's. Example: sst2/bert_base_uncased-full"""
    models: Annotated[tuple[Text, ...], Distinct] = ()
    """Names of model cards, or on the Hub; without any, the recipe's. Example: [bert_base_uncased, roberta_base]"""
    methods: tuple[Name | Settings, ...] = ()
    """Names of methods, or mappings with a method's options; without any, the recipe's.
    Example: [full, {name: lora, config: {r: 8}}]"""
    set: Settings = Field(default_factory=dict)
    """Overrides of every run of the matrix. Example: {max_length: 128}"""


class Mini(Strict):
    """The small variant of a study, for two CPU cores: other models and data, smaller settings."""

    models: dict[str, Name] = Field(default_factory=dict)
    """Model cards of the study, and what replaces them. Example: {bert_base_uncased: tiny_bert}"""
    datasets: dict[str, Name] = Field(default_factory=dict)
    """Dataset cards of the study, and what replaces them. Example: {sst2: reviews}"""
    set: Settings = Field(default_factory=dict)
    """Overrides of every run. Example: {max_length: 64}"""
    settings: dict[Name, Settings] = Field(default_factory=dict)
    """Overrides of a method's runs, by its name. Example: {lora: {training.learning_rate: 3e-3}}"""
    seeds: Seeds = 2
    """Number of seeds, or a list of them. Example: 3"""
    sizes: Sizes | None = None
    """Sizes of the label curve, in place of the study's. Example: [20, 60, all]"""

    @model_validator(mode="after")
    def _rising(self) -> "Mini":
        parts.check_sizes(self.sizes or ())
        return self


class PublishedVariant(Strict):
    """The study as others ran it, setting by setting, so that a result can be held against theirs."""

    source: Text
    """Source of their settings. Example: section 4 of the paper"""
    precision: Literal["float32", "fp16", "bf16"] | None = None
    """The mixed precision that they trained with. Example: fp16"""
    runs: Annotated[tuple[PublishedEntry, ...], Field(min_length=1)]
    """Their systems, with their settings. Example: [{recipe: sst2/bert_base_uncased-full}]"""
    settings: dict[Name, Settings] = Field(default_factory=dict)
    """Overrides of a method's runs, by its name. Example: {full: {training.epochs: 3}}"""
    seeds: Seeds = 1
    """Number of seeds, or a list of them. Example: 5"""
    mini: Mini = Mini()
    """Its small variant, whose models and data are the study's, and those that stand here.
    Example: {set: {training.steps: 20}}"""


class Study(Strict):
    """A study file."""

    title: Text
    """The title of the study, also of its report. Example: Full fine-tuning against LoRA"""
    metric: Text
    """The metric that ranks systems, and that selects settings in tuning. Example: accuracy"""
    seeds: Seeds = 1
    """Number of seeds, counting from the recipe's own, or a list of them. Example: [13, 14, 15]"""
    runs: tuple[RunEntry, ...] = ()
    """The systems that are compared. Example: [{recipe: sst2/bert_base_uncased-full}]"""
    matrix: Matrix | None = None
    """Every model with every method, for one recipe.
    Example: {recipe: sst2/bert_base_uncased-full, models: [bert_base_uncased, roberta_base], methods: [full, lora]}"""
    settings: dict[Name, Settings] = Field(default_factory=dict)
    """Overrides of a method's runs, by its name. Example: {lora: {training.learning_rate: 2e-4}}"""
    tune: dict[Name, Space] = Field(default_factory=dict)
    """Candidates of a method's keys, of which the best on validation data is taken: all combinations, or with `search`
    those that Optuna proposes, also of a range. Example: {full: {training.learning_rate: [2e-5, 5e-5]}}"""
    search: Search | None = None
    """Tuning by Optuna in place of all combinations. Example: {trials: 12}"""
    label_curve: LabelCurve | None = None
    """Every run on parts of the training split. Example: {sizes: [50, 100, 300, 1000, all]}"""
    folds: Folds | None = None
    """Every run once with each fold held out, for k-fold cross-validation. Example: {number: 5}"""
    mini: Mini | None = None
    """The small variant, for two CPU cores: `sweep --mini`. Example: {models: {bert_base_uncased: tiny_bert}}"""
    as_published: PublishedVariant | None = None
    """The variant with the settings of others: `sweep --variant as_published`.
    Example: {source: section 4 of the paper, runs: [{recipe: sst2/bert_base_uncased-full}]}"""

    @model_validator(mode="after")
    def _one_kind_of_parts(self) -> "Study":
        if self.label_curve is not None and self.folds is not None:
            raise InvalidKey("folds", "a label curve is scored on one test split, not on folds; remove one of the two")
        if self.mini is not None and self.mini.sizes is not None and self.label_curve is None:
            raise InvalidKey("mini.sizes", "needs `label_curve`, whose sizes these replace")
        return self


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run: the arguments of bench/run.py, and the resolved recipe."""

    path: Path
    overrides: tuple[str, ...]
    seed: int
    resolved: Resolved

    @property
    def folder_name(self) -> str:
        """The name of the run's folder, as bench/run.py chooses it."""
        return f"{self.resolved.name}--seed{self.seed}--{self.resolved.hash[:8]}"


@dataclass(frozen=True, kw_only=True)
class System:
    """A system: a recipe with overrides, over seeds. candidates: overrides to tune among; else `search` in a space.

    left_out: overrides for every run that this system's method does not support.
    """

    path: Path
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    resolved: Resolved
    candidates: tuple[tuple[str, ...], ...] = ()
    space: Space = field(default_factory=dict)
    search: Search | None = None
    left_out: tuple[str, ...] = ()

    def runs(self, chosen: tuple[str, ...] = ()) -> list[PlannedRun]:
        """Return a run for each seed, with the tuned settings."""
        return [self._planned(merged(self.overrides, chosen), seed) for seed in self.seeds]

    def trials(self) -> dict[tuple[str, ...], PlannedRun]:
        """Return a run for each candidate."""
        return {one: self.trial(one) for one in self.candidates}

    def trial(self, settings: tuple[str, ...]) -> PlannedRun:
        """Return a run with these settings and the first seed, scored only on validation data and not saved."""
        only = f"evaluation.splits={as_yaml([self.resolved.recipe.evaluation.validation])}"
        apart: tuple[str, ...] = (only, "evaluation.before=false", "save=false")
        # A trial is scored on what chose its best step: it only chooses in its turn, and is in no table.
        apart += ("evaluation.allow_selection_on_test=true",) if self.resolved.recipe.training.best is not None else ()
        own = (text for text in self.overrides if not text.startswith(("published=", "published_before=")))
        given = merged(tuple(own), apart)
        return self._planned(merged(given, settings), self.seeds[0])

    def _planned(self, overrides: tuple[str, ...], seed: int) -> PlannedRun:
        resolved = resolve.load(self.path, overrides, seed)
        return PlannedRun(path=self.path, overrides=overrides, seed=seed, resolved=resolved)


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """Options of a sweep from the command line. seeds: instead of the study's. sets: overrides for every run.

    variant: the study's own settings, those of others (`as_published`), or both.
    """

    seeds: int | tuple[int, ...] | None = None
    sets: tuple[str, ...] = ()
    mini: bool = False
    variant: Variant = "own"


@dataclass(kw_only=True)
class Plan:
    """All systems of a sweep. metric: None for plain recipes. left_out: messages on overrides not given to some."""

    systems: list[System] = field(default_factory=list)
    metric: str | None = None
    left_out: list[str] = field(default_factory=list)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file."""
    return {"$schema": json_schema.DIALECT, **descriptions.schema_of(Study)}


def load(path: Path) -> Study:
    """Read and validate a study file, or the one in a folder. Raises RecipeError with file, line and key."""
    path = path / FILE if path.is_dir() else path
    document = yaml_loader.read(path)
    layers = Layers()
    for key, value in document.data.items():
        layers.lay(value, (key,), document, (key,))
    study: Study = validation.validate(Study, document.data, layers, ())
    if not study.runs and study.matrix is None:
        raise RecipeError(f"{path}: a study needs `runs` or a `matrix`")
    return study


def find_studies(folder: Path = resolve.SHIPPED) -> list[Path]:
    """Return the files of all studies in a folder of recipes, sorted."""
    return sorted(folder.glob(f"studies/*/{FILE}"))


def is_study(path: Path) -> bool:
    """Return whether a path is a study file or its folder, rather than a recipe or a folder of recipes."""
    if path.is_dir():
        return (path / FILE).is_file()
    return path.name == FILE or (path.suffix == ".yaml" and _has_title(path))


def _has_title(path: Path) -> bool:
    # Errors of the file are reported when it is read as a recipe.
    try:
        return "title" in yaml_loader.read(path).data
    except RecipeError:
        return False


def _kind(path: Path) -> str:
    """Return what a path is that is no study, in words; of a folder also the studies below it."""
    if not path.is_dir():
        return "a recipe"
    below = " ".join(str(file.parent) for file in sorted(path.glob(f"*/{FILE}")))
    return f"a folder{f'; its studies are: {below}' if below else ' of recipes'}"


def plan(paths: list[Path], request: SweepRequest) -> Plan:
    """Return the systems of studies and recipes. Raises RecipeError for any invalid run, before anything starts."""
    sweep = Plan()
    for path in paths:
        if is_study(path):
            study = load(path)
            sweep.metric = sweep.metric or study.metric
            for variant in _variants(study, path, request):
                sweep.systems += _systems(variant, path, request)
        elif request.mini:
            raise RecipeError(f"{path}: --mini needs a study, which defines its mini variant; this is {_kind(path)}")
        elif request.variant != "own":
            raise RecipeError(f"{path}: --variant {request.variant} needs a study; this is {_kind(path)}")
        else:
            sweep.systems += [
                _system(one, (), request, request.seeds or 1) for one in (_recipes(path) if path.is_dir() else [path])
            ]
    if not sweep.systems:
        raise RecipeError("nothing to run: pass a study, recipes, or folders of recipes")
    sweep.left_out = _left_out(sweep.systems, request)
    return sweep


def _left_out(systems: list[System], request: SweepRequest) -> list[str]:
    """Return messages on overrides not given to some methods. Raises RecipeError for one that no method supports."""
    methods = {
        text: [one.resolved.recipe.method.name for one in systems if text in one.left_out] for text in request.sets
    }
    for text, without in methods.items():
        if len(without) == len(systems):
            resolve.load(systems[0].path, merged(systems[0].overrides, (text,)))
    pairs = ((text.partition("=")[0], name) for text, without in methods.items() for name in dict.fromkeys(without))
    return [f"{key} is ignored for method {name}, which does not train by gradients" for key, name in pairs]


def check(path: Path, sets: tuple[str, ...] = ()) -> None:
    """Resolve every run of a study and of its variants. Raises RecipeError for an invalid one."""
    study = load(path)
    small = [True] if study.mini is not None else []
    variant: Variant = "own" if study.as_published is None else "all"
    for mini in (False, *small):
        for system in plan([path], SweepRequest(sets=sets, mini=mini, variant=variant)).systems:
            system.trials()


def _recipes(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise RecipeError(f"{folder}: no recipes in this folder")
    return paths


def _variants(study: Study, path: Path, request: SweepRequest) -> list[Study]:
    """Return the study with its own settings, with those of others, or both, as the request says."""
    of_others = study.as_published
    if request.variant == "own":
        return [study]
    if of_others is None:
        raise RecipeError(f"{path}: this study defines no variant `as_published`")
    runs = tuple(
        entry.model_copy(
            update={"source": entry.source or of_others.source, "precision": entry.precision or of_others.precision}
        )
        for entry in of_others.runs
    )
    mini, swapped = of_others.mini, study.mini or Mini()
    mini = mini.model_copy(
        update={
            "models": swapped.models | mini.models,
            "datasets": swapped.datasets | mini.datasets,
            "seeds": mini.seeds if "seeds" in mini.model_fields_set else of_others.seeds,
        }
    )
    changed = {"runs": runs, "settings": of_others.settings, "seeds": of_others.seeds, "mini": mini}
    published = study.model_copy(
        update=changed | {"matrix": None, "tune": {}, "search": None, "label_curve": None, "folds": None}
    )
    return [published] if request.variant == "as_published" else [study, published]


def _systems(study: Study, path: Path, request: SweepRequest) -> Iterator[System]:
    shown, folder = str(path), path if path.is_dir() else path.parent
    _check_budgets(study, shown)
    if request.mini and study.mini is None:
        raise RecipeError(f"{shown}: this study defines no `mini` variant")
    used: set[str] = set()
    for entry in [*study.runs, *_matrix_entries(study.matrix)]:
        at = _find(entry.recipe, folder, shown)
        overrides = _overrides(entry.set)
        with resolve.placing(shown, ()):
            first = resolve.load(at, overrides)
        method = first.recipe.method.name
        used.add(method)
        shared = study.settings.get(method, {})
        overrides += _overrides({key: value for key, value in shared.items() if key not in entry.set})
        changed: Settings = {}
        bands: tuple[str, ...] = ()
        if request.mini:
            changed = _mini_settings(study, shown, first, entry)
            overrides = _with_mini_settings(overrides, changed)
        elif not any(resolve.parts_from_published(text.partition("=")[0]) for text in request.sets):
            bands = _published_overrides(entry)
        if isinstance(entry, PublishedEntry):
            overrides += _mark_as_published(entry, first, changed, request.sets)
        usual = study.mini.seeds if request.mini and study.mini else study.seeds
        seeds = request.seeds or entry.seeds or usual
        for part in _parts(study, shown, request, at, overrides):
            with resolve.placing(shown, request.sets):
                # A published result is of all the data.
                system = _system(at, (*overrides, *(part or bands)), request, seeds)
            yield _tuned(system, study, shown, request)
    unknown = sorted({*study.settings, *study.tune} - used)
    if unknown:
        raise RecipeError(f"{shown}: settings for method {unknown[0]!r}, which no run of this study uses")


def _parts(
    study: Study, shown: str, request: SweepRequest, at: Path, overrides: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Return the overrides of each part of the data that a run is repeated on: [()] where the study has none."""
    curve, sizes = study.label_curve, study.mini.sizes if request.mini and study.mini else None
    if curve is not None and sizes is not None:
        curve = LabelCurve(sizes=sizes)
    if curve is None and study.folds is None:
        return [()]
    taken = next((text for text in request.sets if text.partition("=")[0].partition(".")[0] == "data"), None)
    if taken is not None:
        kind = "label_curve" if curve is not None else "folds"
        raise RecipeError(f"{taken}: `{kind}` of {shown} sets this key for each run; leave it out")
    with resolve.placing(shown, request.sets):
        first = resolve.load(at, overrides)
    return parts.overrides_of(curve, study.folds, first, shown)


def _check_budgets(study: Study, shown: str) -> None:
    """Raise RecipeError unless all methods have equally many candidates, and none changes what is evaluated."""
    for key in {key for grid in study.tune.values() for key in grid if key.partition(".")[0] in EVALUATION_KEYS}:
        raise RecipeError(f"{shown}: tune: {key} can't be tuned, since it changes what is evaluated or sampled")
    if study.metric not in registry.directions():
        hint = did_you_mean(study.metric, registry.directions())
        raise RecipeError(f"{shown}: metric: unknown metric {study.metric!r}.{hint}")
    if study.search is not None:
        if not study.tune:
            raise RecipeError(f"{shown}: search: needs `tune`, the settings of each method that are searched")
        return  # every system has as many trials
    for method, grid in study.tune.items():
        for key in (key for key, values in grid.items() if isinstance(values, Range)):
            raise RecipeError(
                f"{shown}: tune.{method}.{key}: a range needs `search`; without it, write a list of values"
            )
    sizes = {method: len(_candidates(grid)) for method, grid in study.tune.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{method} has {size}" for method, size in sizes.items())
        raise RecipeError(f"{shown}: tune: all methods need the same number of candidate settings, but {counts}")


def _candidates(grid: Space) -> tuple[tuple[str, ...], ...]:
    lists = {key: values for key, values in grid.items() if not isinstance(values, Range)}
    return tuple(products([f"{key}={','.join(map(as_yaml, values))}" for key, values in lists.items()]))


def _matrix_entries(matrix: Matrix | None) -> Iterator[RunEntry]:
    if matrix is None:
        return
    for model in matrix.models or (None,):
        for method in matrix.methods or (None,):
            named = {"model": model, "method": method}
            yield RunEntry(recipe=matrix.recipe, set={k: v for k, v in named.items() if v is not None} | matrix.set)


def _find(name: str, folder: Path, shown: str) -> Path:
    """Return the path of a recipe beside the study file, or below `recipes/`."""
    known = _shipped_recipes() | {path.stem: path for path in folder.glob("*.yaml") if path.name != FILE}
    if name not in known:
        raise RecipeError(f"{shown}: unknown recipe {name!r:.100}.{_hint(name, known)}")
    return known[name]


@functools.cache
def _shipped_recipes() -> dict[str, Path]:
    """Return <folder>/<file> -> path; every entry of every study asks."""
    return {f"{path.parent.name}/{path.stem}": path for path in resolve.find_recipes()}


def _hint(name: str, known: Any) -> str:
    hint = did_you_mean(name, known)
    return hint if "mean" in hint else " Name it as <folder>/<file>, without .yaml."


def _overrides(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={as_yaml(value)}" for key, value in settings.items())


def _published_overrides(entry: RunEntry) -> tuple[str, ...]:
    bands = {"published": entry.published, "published_before": entry.published_before}
    return _overrides(
        {key: {name: band.model_dump() for name, band in each.items()} for key, each in bands.items() if each}
    )


def _mark_as_published(
    entry: PublishedEntry, first: Resolved, changed: Settings, sets: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the override that says whose settings a run has, and which ones of them are others here.

    changed: settings of the small variant. sets: overrides from the command line.
    """
    before = {"model": f" for {first.model_name}", "dataset": f" for {first.dataset_name}"}
    texts = {key: value if isinstance(value, str) else as_yaml(value) for key, value in changed.items()}
    texts |= dict(text.partition("=")[::2] for text in sets)
    but_for = [f"{key}: {text}{before.get(key, '')}" for key, text in texts.items()]
    mark = {"source": entry.source, "precision": entry.precision, "but_for": [*entry.but_for, *but_for]}
    return _overrides({"as_published": mark})


def _mini_settings(study: Study, shown: str, first: Resolved, entry: RunEntry) -> Settings:
    """Return the settings of a run's mini variant: first another model and other data, then smaller settings."""
    mini = study.mini
    assert mini is not None
    swapped: Settings = {}
    for kind, name, known in (
        ("model", first.model_name, mini.models),
        ("dataset", first.dataset_name, mini.datasets),
    ):
        if name == NO_MODEL and kind == "model":
            continue
        if name not in known:
            raise RecipeError(f"{shown}: mini: no replacement for the {kind} {name!r}")
        swapped[kind] = known[name]
    return swapped | mini.set | mini.settings.get(first.recipe.method.name, {}) | entry.mini


def _with_mini_settings(overrides: tuple[str, ...], last: Settings) -> tuple[str, ...]:
    """Return the overrides, of which those of the other model and data are gone, and then the small variant's own."""
    taken = set(last) | {"model.", "dataset."}
    kept = [text for text in overrides if not _is_replaced(text.partition("=")[0], taken)]
    return (*kept, *_overrides(last))


def _is_replaced(key: str, taken: set[str]) -> bool:
    return key in taken or f"{key.partition('.')[0]}." in taken


def _system(path: Path, overrides: tuple[str, ...], request: SweepRequest, seeds: int | tuple[int, ...]) -> System:
    others = tuple(text for text in request.sets if not resolve.is_for_gradients(text))
    left_out: tuple[str, ...] = ()
    if others != request.sets and not resolve.load(path, merged(overrides, others)).by_gradients:
        left_out = tuple(text for text in request.sets if text not in others)
    overrides = merged(overrides, others if left_out else request.sets)
    resolved = resolve.load(path, overrides)
    start = resolved.recipe.seed
    numbers = tuple(range(start, start + seeds)) if isinstance(seeds, int) else seeds
    return System(path=path, overrides=overrides, seeds=numbers, resolved=resolved, left_out=left_out)


def _tuned(system: System, study: Study, shown: str, request: SweepRequest) -> System:
    """Return the system with its tuning candidates; if one method is tuned, all that learn must be."""
    method = system.resolved.recipe.method.name
    if not study.tune:
        return system
    if method not in study.tune:
        if system.resolved.by_gradients:
            raise RecipeError(
                f"{shown}: tune: candidates for {', '.join(study.tune)}, but none for {method}; give every method that "
                "learns the same number of candidates"
            )
        return system
    evaluation = system.resolved.recipe.evaluation
    if evaluation.validation in evaluation.splits and not evaluation.allow_selection_on_test:
        raise RecipeError(
            f"{shown}: tune: the validation split selects settings, so it must not be evaluated as well, unless "
            "evaluation.allow_selection_on_test: true marks the scores"
        )
    twice = sorted({text.partition("=")[0] for text in request.sets} & set(study.tune[method]))
    if twice:
        raise RecipeError(f"--set {twice[0]}: the study tunes this setting on validation data")
    space = study.tune[method]
    if study.search is None:
        return replace(system, candidates=_candidates(space))
    if study.search.prune != "none" and system.resolved.recipe.training.evaluate_every is None:
        raise RecipeError(
            f"{shown}: search.prune: {study.search.prune}: a trial of {method} is scored once, at its end; set "
            "training.evaluate_every, or prune: none"
        )
    searched = replace(system, space=space, search=study.search)
    with resolve.placing(shown, request.sets):
        for settings in samples_of(space):
            searched.trial(settings)
    return searched
