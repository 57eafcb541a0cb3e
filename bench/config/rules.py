"""Rules of a recipe that span several keys and need no data: what each key means beside the others."""

from typing import Any

from bench.config import cards, contracts, registry
from bench.config.cards import DatasetCard
from bench.config.layers import Layers
from bench.config.recipe import Head, Prompting, Recipe
from bench.config.training import Spans
from bench.config.yaml_loader import KeyPath
from bench.errors import RecipeError, did_you_mean

# Top-level keys of a recipe that are for methods that train by gradients.
BY_GRADIENTS = ("training", "checkpoints")


def check(recipe: Recipe, options: Any, metric_names: tuple[str, ...], layers: Layers) -> None:
    """Raises RecipeError, with its place, for keys that do not go together."""
    objectives = registry.literals("tasks", recipe.dataset.task)["OBJECTIVES"]
    if recipe.objective not in objectives:
        raise RecipeError(
            f"{layers.place(('objective',))}: task {recipe.dataset.task!r} has no objective {recipe.objective!r}; "
            f"it has {', '.join(objectives)}"
        )
    _check_objective(recipe, layers)
    _check_answering(recipe, layers)
    _check_metrics(recipe, metric_names, layers)
    _check_splits(recipe, registry.load("methods", recipe.method.name).load_plan(options), layers)
    limit = recipe.model.max_length
    if limit is not None and recipe.max_length > limit:
        place = layers.place(("max_length",))
        raise RecipeError(f"{place}: {recipe.max_length} is more than the model's context of {limit} tokens")
    per_device = recipe.training.per_device_batch
    if isinstance(per_device, int) and recipe.training.global_batch % per_device:
        raise RecipeError(
            f"{layers.place(('training', 'global_batch'))}: {recipe.training.global_batch} is not a multiple of "
            f"per_device_batch {per_device}"
        )


def check_card(card: DatasetCard, layers: Layers) -> None:
    """Raises RecipeError for a task, a clean-up step or a metric that a dataset card names and that is not there."""
    if card.task not in registry.names("tasks"):
        hint = did_you_mean(card.task, registry.names("tasks"))
        raise RecipeError(f"{layers.place(('dataset', 'task'))}: there is no task {card.task!r}.{hint}")
    for number, name in enumerate(card.clean):
        if not cards.is_cleaning_step(name):
            place = layers.place(("dataset", "clean", number))
            raise RecipeError(f"{place}: there is no clean-up step {name!r}.{did_you_mean(name, cards.CLEANING_STEPS)}")
    for number, name in enumerate(card.metrics):
        _metric_values(name, card.multi_label, layers.place(("dataset", "metrics", number)))


def is_defined(metric: str, recipe: Recipe) -> bool:
    """Whether a metric can be computed from these answers: text that is written has no probabilities."""
    written = recipe.objective == "text" and recipe.prompting.answer == "generate"
    return not written or metric.startswith("evaluate:") or registry.literals("metrics", metric)["reads"] != "scores"


def _check_metrics(recipe: Recipe, metric_names: tuple[str, ...], layers: Layers) -> None:
    known: set[str] = set()
    for number, name in enumerate(metric_names):
        path: KeyPath = (
            ("evaluation", "metrics", number) if recipe.evaluation.metrics else ("dataset", "metrics", number)
        )
        known.update(_metric_values(name, recipe.dataset.multi_label, layers.place(path)))
        _check_what_is_read(name, recipe.dataset.task, layers.place(path))
        if not is_defined(name, recipe):
            raise RecipeError(
                f"{layers.place(path)}: {name!r} needs probabilities, which generated answers do not have"
            )
    best, open_ended = recipe.training.best, any(name.startswith("evaluate:") for name in metric_names)
    if best is not None and best not in known and not open_ended:
        raise RecipeError(f"{layers.place(('training', 'best'))}: no metric gives {best!r}.{did_you_mean(best, known)}")
    for name in recipe.published:
        if name not in known and not open_ended:
            place = layers.place(("published", name))
            raise RecipeError(f"{place}: no metric gives {name!r}.{did_you_mean(name, known)}")


def _check_what_is_read(name: str, task: str, place: str) -> None:
    if name.startswith("evaluate:"):
        return
    in_words = _in_words(task)
    if (registry.literals("metrics", name)["reads"] == "answers") != in_words:
        kinds = ("labels", "answers in words")
        raise RecipeError(f"{place}: metric {name!r} is for {kinds[not in_words]}; task {task!r} has {kinds[in_words]}")


def _in_words(task: str) -> bool:
    return registry.literals("tasks", task)["READS"] == "answers"


def _check_splits(recipe: Recipe, plan: contracts.LoadPlan, layers: Layers) -> None:
    splits = recipe.dataset.split_names
    asked: list[tuple[KeyPath, str]] = [
        (("evaluation", "splits", number), name) for number, name in enumerate(recipe.evaluation.splits)
    ]
    asked += [(("limit", name), name) for name in recipe.limit]
    if recipe.training.evaluate_every is not None:
        asked.append((("evaluation", "validation"), recipe.evaluation.validation))
    if plan.trains != "nothing" or plan.shots:
        asked.append((("dataset", "splits"), "train"))
    for path, name in asked:
        if name not in splits:
            raise RecipeError(f"{layers.place(path)}: the data set has no split {name!r}.{did_you_mean(name, splits)}")


def _metric_values(name: str, multi_label: bool, place: str) -> list[str]:
    """Names of the scalar values that a metric gives; [] for a metric of the evaluate library."""
    if name.startswith("evaluate:"):
        return []
    try:
        found = registry.literals("metrics", name)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from error
    if ("multilabel" if multi_label else "default") not in found["configs"]:
        kind = "several labels" if multi_label else "one label"
        raise RecipeError(f"{place}: metric {name!r} is not defined for data with {kind} per example")
    return list(found["higher_is_better"])


def _check_objective(recipe: Recipe, layers: Layers) -> None:
    """What the method and the model can be asked for."""
    method, objective = recipe.method.name, recipe.objective
    objectives = registry.literals("methods", method)["OBJECTIVES"]
    if objective not in objectives:
        place = layers.place(("objective",))
        raise RecipeError(f"{place}: method {method!r} has no objective {objective!r}; set objective: {objectives[0]}")
    in_words = _in_words(recipe.dataset.task)
    if recipe.spans != Spans() and not (in_words and objective == "head"):
        place = layers.place(("spans",))
        raise RecipeError(f"{place}: only the task question_answering with `objective: head` looks for spans")
    if recipe.training.label_smoothing and in_words:
        place = layers.place(("training", "label_smoothing"))
        raise RecipeError(f"{place}: the two ends of an answer are learned as they are, without label smoothing")
    if objective == "head":
        if recipe.prompting != Prompting():
            raise RecipeError(f"{layers.place(('prompting',))}: only a recipe with `objective: text` has a prompt")
        return
    if recipe.dataset.prompt is None:
        place = layers.place(("dataset",))
        raise RecipeError(f"{place}: `objective: text` needs a `prompt` in the dataset card; this one has none")
    if recipe.head != Head():
        raise RecipeError(f"{layers.place(('head',))}: only a recipe with `objective: head` has a task head")
    if recipe.training.label_smoothing:
        place = layers.place(("training", "label_smoothing"))
        raise RecipeError(f"{place}: label smoothing is for `objective: head`; answers are learned as they are")
    if recipe.model.family == "encoder" and recipe.prompting.answer != "entailment":
        place = layers.place(("objective",))
        raise RecipeError(f"{place}: an encoder can't write or score text; take a decoder, or objective: head")


def _check_answering(recipe: Recipe, layers: Layers) -> None:
    """Ways to answer that contradict the data, the method or one another."""
    if recipe.objective == "head":
        return
    asked, plain = recipe.prompting, Prompting()
    place = layers.place(("prompting", "answer"))
    if asked.answer != "generate" and _in_words(recipe.dataset.task):
        raise RecipeError(f"{place}: the answers to questions are free: they must be written, by `generate`")
    if asked.answer == "label_likelihood" and recipe.dataset.multi_label:
        raise RecipeError(
            f"{place}: texts with several labels need `generate` or `entailment`, not the likeliest label"
        )
    if asked.answer == "entailment" and recipe.method.name != "zero_shot":
        raise RecipeError(f"{place}: an NLI model judges one text by itself: entailment needs method: zero_shot")
    if asked.answer == "entailment" and asked.format != plain.format:
        raise RecipeError(f"{layers.place(('prompting', 'format'))}: an NLI model has no chat template")
    for key in ("normalization", "calibration"):
        if asked.answer != "label_likelihood" and getattr(asked, key) != getattr(plain, key):
            raise RecipeError(f"{layers.place(('prompting', key))}: only `answer: label_likelihood` has this")
    if asked.answer != "generate" and asked.max_new_tokens != plain.max_new_tokens:
        raise RecipeError(f"{layers.place(('prompting', 'max_new_tokens'))}: only `answer: generate` has this")
    if recipe.method.name == "few_shot" and "train" in recipe.evaluation.splits:
        place = layers.place(("evaluation", "splits"))
        raise RecipeError(f"{place}: the shots are drawn from 'train', so that split can't be scored too")


def check_training_is_used(recipe: Recipe, options: Any, typed: list[KeyPath], layers: Layers) -> None:
    """Raises RecipeError for what is said of a training or of its head, where the method can't use it.

    typed: the key paths that the recipe's own file and the command line name; a card's defaults are for all methods.
    """
    trains = registry.load("methods", recipe.method.name).load_plan(options).trains
    if trains == "gradient":
        return
    for path in typed:
        if path[0] in BY_GRADIENTS or (trains == "features" and path[0] == "head" and recipe.head != Head()):
            instead = "trains nothing" if trains == "nothing" else "trains nothing by gradients"
            place = layers.place(path)
            raise RecipeError(f"{place}: method {recipe.method.name!r} {instead} and can't use this; remove it")
