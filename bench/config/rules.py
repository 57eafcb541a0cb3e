"""Rules of a recipe that span several keys and need no data: what each key means beside the others.

Each rule yields a line for each problem that it finds, with the place of the key to change.
"""

from collections.abc import Iterator
from typing import Any

from bench.config import also_rules, backend_rules, cards, contracts, loss_rules, registry, temperature_rules
from bench.config.cards import GENERATION_TASK, LM_EVAL, LM_EVAL_TASK, DatasetCard
from bench.config.data_part import FOLD
from bench.config.foreign_code import LIBRARY
from bench.config.layers import Layers
from bench.config.recipe import Head, Prompting, Recipe
from bench.config.training import Spans
from bench.config.yaml_loader import KeyPath
from bench.errors import RecipeError, did_you_mean

# READS of a task in the words of a sentence.
_KINDS = {"labels": "labels", "answers": "text answers", "numbers": "numbers", "tags": "tags of words"}
# Top-level keys of a recipe that are for methods that train by gradients.
BY_GRADIENTS = ("training", "checkpoints")
# The metric that `evaluation.extract` is for.
EXTRACTED = "extracted_match"


def problems(
    recipe: Recipe, options: Any, metric_names: tuple[str, ...], typed: list[KeyPath], layers: Layers
) -> Iterator[str]:
    """Yield the problems of keys that do not go together.

    typed: the key paths that the recipe's own file and the command line name; a card's defaults are for all methods.
    """
    plan = registry.load("methods", recipe.method.name).load_plan(options)
    yield from _objective_problems(recipe, layers)
    yield from _answering_problems(recipe, layers)
    yield from _metric_problems(recipe, metric_names, layers)
    yield from _split_problems(recipe, plan, layers)
    limit = recipe.model.max_length
    if limit is not None and recipe.max_length > limit:
        place = layers.place(("max_length",))
        yield f"{place}: {recipe.max_length} is more than the model's context of {limit} tokens"
    per_device, global_batch = recipe.training.per_device_batch, recipe.training.global_batch
    if isinstance(per_device, int) and global_batch % per_device:
        place = layers.place(("training", "global_batch"))
        yield f"{place}: {global_batch} is not a multiple of per_device_batch {per_device}"
    yield from _unused_training(recipe, plan, typed, layers)
    yield from _selection_problems(recipe, plan, layers)
    yield from _generation_problems(recipe, layers)
    yield from loss_rules.problems(recipe, layers)
    yield from temperature_rules.problems(recipe, metric_names, layers)
    yield from also_rules.problems(recipe, plan, layers)
    yield from backend_rules.problems(recipe, plan, layers)


def card_problems(card: DatasetCard, layers: Layers) -> Iterator[str]:
    """Yield the names of a task, clean-up steps and metrics that a dataset card gives and that do not exist."""
    if card.task not in registry.names("tasks"):
        hint = did_you_mean(card.task, registry.names("tasks"))
        yield f"{layers.place(('dataset', 'task'))}: there is no task {card.task!r}.{hint}"
    lists = {"clean": card.clean, "clean_if_installed": card.clean_if_installed}
    for key, number, name in ((key, *pair) for key, names in lists.items() for pair in enumerate(names)):
        if not cards.is_cleaning_step(name):
            place = layers.place(("dataset", key, number))
            yield f"{place}: there is no clean-up step {name!r}.{did_you_mean(name, cards.CLEANING_STEPS)}"
    for number, name in enumerate(card.metrics):
        if problem := _unusable_metric(name, card.multi_label):
            yield f"{layers.place(('dataset', 'metrics', number))}: {problem}"


def metrics_always(recipe: Recipe) -> Iterator[str]:
    """Yield the metrics that a recipe has whatever it names: loss of the reference, and what `extract` is for."""
    if recipe.dataset.task == GENERATION_TASK:
        yield "reference_loss"
        if recipe.evaluation.extract is not None:
            yield EXTRACTED


def is_defined(metric: str, recipe: Recipe) -> bool:
    """Return whether a metric can be computed from a recipe's answers."""
    return why_undefined(metric, recipe) is None


def why_undefined(metric: str, recipe: Recipe) -> str | None:
    """Return what a metric needs that the answers of this recipe do not have; None where it can be computed."""
    reads = registry.literals("metrics", metric)["reads"] if metric in registry.names("metrics") else None
    if reads == "scores" and recipe.objective == "text" and recipe.prompting.answer == "generate":
        return "needs probabilities, which generated answers do not have"
    if reads == "choices" and recipe.objective == "head":
        return "needs log-likelihoods of choices, which a task head does not have"
    return None


def _metric_problems(recipe: Recipe, metric_names: tuple[str, ...], layers: Layers) -> Iterator[str]:
    known: set[str] = set()
    source = "evaluation" if recipe.evaluation.metrics else "dataset"
    for number, name in enumerate(metric_names):
        place = layers.place((source, "metrics", number))
        if problem := _unusable_metric(name, recipe.dataset.multi_label) or _reads_other(name, recipe.dataset.task):
            yield f"{place}: {problem}"
        elif why := why_undefined(name, recipe):
            yield f"{place}: {name!r} {why}"
        elif name == EXTRACTED and recipe.evaluation.extract is None:
            yield f"{place}: {name!r} needs `evaluation.extract`: what part of an answer is compared"
        known.update(_value_names(name))
    if any(name.startswith(LIBRARY) for name in metric_names):
        return  # what a metric of the evaluate library returns is known when it has run
    best = recipe.training.best
    if best is not None and best not in known:
        yield f"{layers.place(('training', 'best'))}: no metric computes {best!r}.{did_you_mean(best, known)}"
    known.update(_values_of_labels(recipe, metric_names))
    bands = {("published", name): name for name in recipe.published}
    for path, name in {**bands, **{("published_before", name): name for name in recipe.published_before}}.items():
        if name not in known:
            yield f"{layers.place(path)}: no metric computes {name!r}.{did_you_mean(name, known)}"
    if recipe.published_before and not recipe.evaluation.before:
        yield f"{layers.place(('published_before',))}: nothing is scored before training (`evaluation.before: false`)"


def _values_of_labels(recipe: Recipe, metric_names: tuple[str, ...]) -> Iterator[str]:
    """Yield `<value>.<label>` for what metrics give for each label, where the card names these."""
    for name in metric_names:
        settings = registry.literals("metrics", name).get("settings", {}) if name in registry.names("metrics") else {}
        for value in settings:
            if value.endswith("_per_label"):
                yield from (f"{value}.{label}" for label in recipe.dataset.kept_labels)


def _unusable_metric(name: str, multi_label: bool) -> str | None:
    """Return why a metric can't be computed for such data, or None; those of the evaluate library are not looked at."""
    if name.startswith((LIBRARY, LM_EVAL)):
        return None
    try:
        configs = registry.literals("metrics", name)["configs"]
    except RecipeError as error:
        return str(error)
    if ("multilabel" if multi_label else "default") in configs:
        return None
    kind = "several labels" if multi_label else "one label"
    return f"metric {name!r} is not defined for data with {kind} per example"


def _reads_other(name: str, task: str) -> str | None:
    """Return why a metric does not fit a task's answers, or None."""
    if name.startswith(LM_EVAL) and task != LM_EVAL_TASK:
        return f"metric {name!r} is one of lm_eval's generate_until tasks alone"
    if name.startswith((LIBRARY, LM_EVAL)):
        return None
    declared, has = registry.literals("metrics", name), _reads(task)
    reads = declared["reads"]
    if declared.get("same_labels") and has == "choices":
        return f"metric {name!r} needs the same labels in all examples; task {task!r} has choices of a row's own"
    if reads == "choices" and has != "choices":
        return f"metric {name!r} is for choices of a row's own; task {task!r} has none"
    if reads == "likelihoods":
        return None if task == GENERATION_TASK else f"metric {name!r} is for task {GENERATION_TASK!r}"
    # The right one of a row's choices is a label too.
    wanted, has = registry.READ_BY.get(reads, "labels"), "labels" if has == "choices" else has
    if wanted == has:
        return None
    return f"metric {name!r} is for {_KINDS.get(wanted, wanted)}; task {task!r} has {_KINDS.get(has, has)}"


def _value_names(name: str) -> list[str]:
    """Return the names of the scalar values that a metric gives; none for one that is not the harness's own."""
    if name.startswith(LM_EVAL):
        return [name]
    return list(registry.literals("metrics", name)["higher_is_better"]) if name in registry.names("metrics") else []


def _reads(task: str) -> str:
    return str(registry.literals("tasks", task)["READS"])


def _in_words(task: str) -> bool:
    return _reads(task) == "answers"


def _has_choices(task: str) -> bool:
    return bool(registry.literals("tasks", task)["READS"] == "choices")


def _split_problems(recipe: Recipe, plan: contracts.LoadPlan, layers: Layers) -> Iterator[str]:
    splits = recipe.data.splits(recipe.dataset.split_names)
    yield from _fold_problems(recipe, layers)
    made = recipe.dataset.split_names
    for name in (name for name in recipe.limit if name not in made):
        yield f"{layers.place(('limit', name))}: the data set has no split {name!r}.{did_you_mean(name, made)}"
    needed: list[tuple[KeyPath, str]] = [
        (("evaluation", "splits", number), name) for number, name in enumerate(recipe.evaluation.splits)
    ]
    if recipe.training.evaluate_every is not None:
        needed.append((("evaluation", "validation"), recipe.evaluation.validation))
    # Shots of an lm_eval task are from where it says itself.
    if plan.trains != "nothing" or (plan.shots and recipe.dataset.source.kind != "lm_eval"):
        needed.append((("dataset", "splits"), "train"))
    for path, name in needed:
        if name not in splits:
            yield f"{layers.place(path)}: the data set has no split {name!r}.{did_you_mean(name, splits)}"


def _fold_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield folds of splits that are not there, and a fold that is held out and not scored."""
    part, made = recipe.data, recipe.dataset.split_names
    if part.folds is None:
        return
    for number, name in enumerate(part.fold_of):
        if name not in made:
            place = layers.place(("data", "fold_of", number))
            yield f"{place}: the data set has no split {name!r}.{did_you_mean(name, made)}"
    if "train" in made and "train" not in part.fold_of:
        yield f"{layers.place(('data', 'fold_of'))}: 'train' is not among them, and would not be used; add it"
    if FOLD in made:
        yield f"{layers.place(('data', 'folds'))}: the data set has a split {FOLD!r} of its own; rename that one"
    elif FOLD not in recipe.evaluation.splits:
        place = layers.place(("evaluation", "splits"))
        yield f"{place}: the fold that is held out is not scored; write splits: [{FOLD}] (`data.fold`)"


def _selection_problems(recipe: Recipe, plan: contracts.LoadPlan, layers: Layers) -> Iterator[str]:
    """Yield that a split which is scored would choose the best step too, unless the recipe says that it may."""
    evaluation, training = recipe.evaluation, recipe.training
    chooses = training.best is not None and plan.trains == "gradient"
    if chooses and evaluation.validation in evaluation.splits and not evaluation.allow_selection_on_test:
        yield (
            f"{layers.place(('evaluation', 'validation'))}: {evaluation.validation!r} is scored too, and would choose "
            f"the best step by {training.best!r}; name another split, or set evaluation.allow_selection_on_test: true, "
            "which marks the scores in record, report and tables"
        )


def _objective_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield what the task, the method and the model can't be asked for."""
    method, task, objective = recipe.method.name, recipe.dataset.task, recipe.objective
    place = layers.place(("objective",))
    of_task = registry.literals("tasks", task)["OBJECTIVES"]
    if objective not in of_task:
        yield f"{place}: task {task!r} has no objective {objective!r}; it has {', '.join(of_task)}"
        return
    of_method = registry.literals("methods", method)["OBJECTIVES"]
    if objective not in of_method:
        yield f"{place}: method {method!r} has no objective {objective!r}; set objective: {of_method[0]}"
        return
    if method == "tfidf" and _reads(task) != "labels":
        yield f"{place}: method 'tfidf' fits a classifier of texts; task {task!r} needs a method that trains a model"
        return
    if method == "probe" and _reads(task) in ("numbers", "tags"):
        yield f"{place}: method 'probe' fits a classifier of texts; task {task!r} needs method: head, or another one"
        return
    if recipe.spans != Spans() and not (task == cards.ANSWERS_TASK and objective == "head"):
        yield f"{layers.place(('spans',))}: `spans` is only for task question_answering with `objective: head`"
    smoothing = layers.place(("training", "label_smoothing"))
    if recipe.training.label_smoothing and task == cards.ANSWERS_TASK:
        yield f"{smoothing}: label smoothing is not supported for answer spans; remove it"
    elif recipe.training.label_smoothing and _reads(task) == "numbers":
        yield f"{smoothing}: label smoothing is not defined for numbers; remove it"
    elif recipe.training.label_smoothing and objective == "text":
        yield f"{smoothing}: label smoothing is only for `objective: head`; remove it"
    if objective == "head":
        if recipe.prompting != Prompting():
            yield f"{layers.place(('prompting',))}: `prompting` is only for `objective: text`"
        return
    if recipe.dataset.prompt is None and task != GENERATION_TASK:
        yield f"{layers.place(('dataset',))}: `objective: text` needs a `prompt` in the dataset card; this one has none"
    if recipe.head != Head():
        yield f"{layers.place(('head',))}: `head` is only for `objective: head`"
    if recipe.model.family == "encoder" and recipe.prompting.answer != "entailment":
        yield f"{place}: an encoder can't generate or score text; use a decoder, or objective: head"


def _answering_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield ways to answer that contradict the data, the method or one another."""
    if recipe.objective == "head":
        return
    yield from _fallback_problems(recipe, layers)
    prompting, plain = recipe.prompting, Prompting()
    place = layers.place(("prompting", "answer"))
    if _has_choices(recipe.dataset.task):
        yield from _choice_problems(recipe, layers)
        return
    if recipe.dataset.task == LM_EVAL_TASK:
        if prompting.normalization != plain.normalization or prompting.calibration != plain.calibration:
            yield f"{layers.place(('prompting',))}: `normalization` and `calibration` are not for written answers"
        return
    if prompting.answer != "generate" and _in_words(recipe.dataset.task):
        yield f"{place}: answers to questions are free text; set answer: generate"
    if prompting.format != "chat" and prompting.chat_template_kwargs:
        yield f"{layers.place(('prompting', 'chat_template_kwargs'))}: only for `format: chat`"
    if prompting.answer != "generate" and _reads(recipe.dataset.task) == "numbers":
        how = "the likelihood of an answer" if prompting.answer == "label_likelihood" else "entailment"
        yield f"{place}: {how} is not defined for numbers, of which there is no list; set answer: generate"
    if prompting.answer == "label_likelihood" and recipe.dataset.multi_label:
        yield f"{place}: multi-label data need `generate` or `entailment`; the likeliest label is a single one"
    if prompting.answer == "entailment" and recipe.method.name != "zero_shot":
        yield f"{place}: entailment is zero-shot only; set method: zero_shot"
    if prompting.answer == "entailment" and prompting.format != plain.format:
        yield f"{layers.place(('prompting', 'format'))}: an NLI model has no chat template"
    for key in ("normalization", "calibration"):
        if prompting.answer != "label_likelihood" and getattr(prompting, key) != getattr(plain, key):
            yield f"{layers.place(('prompting', key))}: only for `answer: label_likelihood`"
    if prompting.answer != "generate" and prompting.max_new_tokens != plain.max_new_tokens:
        yield f"{layers.place(('prompting', 'max_new_tokens'))}: only for `answer: generate`"
    yield from _frame_and_shot_problems(recipe, layers)


def _fallback_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield a label for unreadable answers where none is read, and a new head where an answer has none."""
    prompting, card = recipe.prompting, recipe.dataset
    label, place = prompting.fallback_label, layers.place(("prompting", "fallback_label"))
    if label is not None and (prompting.answer != "generate" or _reads(card.task) != "labels" or card.multi_label):
        yield f"{place}: only for `answer: generate` where each example has one label"
    elif label is not None and card.labels and label not in card.labels:
        yield f"{place}: there is no label {label!r}.{did_you_mean(label, card.labels)}"
    if prompting.untrained_head and prompting.answer != "entailment":
        yield f"{layers.place(('prompting', 'untrained_head'))}: only for `answer: entailment`"


def _frame_and_shot_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield what no way to answer allows: a date without a template, and shots out of a split that is scored."""
    if recipe.prompting.format != "chat" and recipe.prompting.date != Prompting().date:
        yield f"{layers.place(('prompting', 'date'))}: only for `format: chat`, whose template may write the date"
    if recipe.method.name == "few_shot" and "train" in recipe.evaluation.splits:
        place = layers.place(("evaluation", "splits"))
        yield f"{place}: the shots are drawn from 'train', so that split can't be scored too"


def _choice_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield ways to answer that multiple choice does not have."""
    prompting, plain = recipe.prompting, Prompting()
    if prompting.answer != "label_likelihood":
        place = layers.place(("prompting", "answer"))
        yield f"{place}: multiple choice is scored by the likelihood of each choice; set answer: label_likelihood"
    if prompting.normalization != plain.normalization:
        place = layers.place(("prompting", "normalization"))
        yield f"{place}: of multiple choice it is a key of the dataset card; set dataset.normalization"
    if prompting.calibration != plain.calibration:
        place = layers.place(("prompting", "calibration"))
        yield f"{place}: not for multiple choice, whose choices are other ones for each text"
    if prompting.max_new_tokens != plain.max_new_tokens:
        yield f"{layers.place(('prompting', 'max_new_tokens'))}: only for `answer: generate`"
    yield from _frame_and_shot_problems(recipe, layers)


def _generation_problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield keys for texts that are to be written, where nothing, or nothing of that kind, is."""
    loss_on, place = recipe.training.loss_on, layers.place(("training", "loss_on"))
    if recipe.dataset.task != GENERATION_TASK:
        if loss_on != "answer" and (why := _why_answer_alone(recipe)) is not None:
            yield f"{place}: {loss_on}: {why}; set answer"
        if recipe.evaluation.extract is not None:
            extract = layers.place(("evaluation", "extract"))
            yield f"{extract}: only for texts that are written (task {GENERATION_TASK!r})"
        return
    if loss_on == "assistant" and recipe.dataset.columns.messages is None:
        yield f"{place}: these rows are a prompt and its answer, not conversations (`columns.messages`); set answer"
    if loss_on != "answer" and recipe.model.family == "encoder_decoder":
        yield f"{place}: an encoder-decoder learns what it writes, the answer alone; set loss_on: answer"


def _why_answer_alone(recipe: Recipe) -> str | None:
    """Return why a task with answers of its own can have nothing but these in the loss, as asked; None where it can."""
    if recipe.objective == "head":
        return "a task head learns labels, and no tokens are in its loss"
    if recipe.training.loss_on == "assistant":
        return f"only task {GENERATION_TASK!r} has conversations"
    if recipe.dataset.source.kind == "lm_eval":
        return "of a task of lm_eval the right answer is learned, as it is scored"
    if recipe.model.family == "encoder_decoder":
        return "an encoder-decoder learns what it writes, the answer alone"
    return None


def _unused_training(recipe: Recipe, plan: contracts.LoadPlan, typed: list[KeyPath], layers: Layers) -> Iterator[str]:
    """Yield what is said of a training or of its head, where the method can't use it."""
    if plan.trains == "gradient":
        return
    replaces_head = plan.trains in ("features", "texts") and recipe.head != Head()
    training = "is not trained" if plan.trains == "nothing" else "is not trained by gradients"
    for path in typed:
        if path[0] in BY_GRADIENTS or (path[0] == "head" and replaces_head):
            place = layers.place(path)
            yield f"{place}: method {recipe.method.name!r} {training} and can't use this; remove it"
