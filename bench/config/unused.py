"""Keys without effect beside the other keys of a recipe: every key is used always, or on a condition that stands here.

A key of the recipe's own file without effect is refused; one that a card, a study or the command line sets, or that the
command line leaves without effect, is noted in the record. A test walks the schema: a new key must be listed here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.config.cards import ANSWERS_TASK, NUMBERS_TASK
from bench.config.contracts import LoadPlan
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.config.yaml_loader import KeyPath, items


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts that decide which keys are used: the recipe, its options, and what its method trains."""

    recipe: Recipe
    options: Any
    plan: LoadPlan

    @property
    def writes(self) -> bool:
        """Return whether a language model answers in words."""
        return self.recipe.objective == "text"

    @property
    def read_splits(self) -> set[str]:
        """Return the splits that a run of this recipe reads; the training split whatever is trained, for baselines."""
        evaluation = self.recipe.evaluation
        validates = self.recipe.training.evaluate_every is not None and self.plan.trains == "gradient"
        validates |= evaluation.temperature is not None
        return {"train", *evaluation.splits, *([evaluation.validation] if validates else [])}


Reason = str | None
Condition = Callable[[Facts], Reason]


@dataclass(frozen=True, kw_only=True)
class Unused:
    """A key that is set and has no effect. reason: why, as part of a sentence. value: what it is set to."""

    path: KeyPath
    reason: str
    value: Any


def _unless(used: bool, reason: str) -> Reason:
    return None if used else reason


def _threshold(facts: Facts) -> Reason:
    recipe = facts.recipe
    if not recipe.dataset.multi_label:
        return "only multi-label data have a threshold (`multi_label: true` in the dataset card)"
    scored = not facts.writes or recipe.prompting.answer == "entailment"
    return _unless(scored, "written answers have no probability that a threshold could be held against")


def _warmup(facts: Facts) -> Reason:
    constant = facts.recipe.training.schedule == "constant"
    return _unless(not constant, "`schedule: constant` has no warm-up; write `schedule: constant_with_warmup`")


def _schedule(facts: Facts) -> Reason:
    training = facts.recipe.training
    promised = training.schedule == "constant_with_warmup" and training.warmup == 0
    return _unless(not promised, "`constant_with_warmup` needs `warmup`; without it, write `schedule: constant`")


def _template(facts: Facts) -> Reason:
    turns = facts.recipe.dataset.columns.messages is not None and facts.recipe.prompting.format == "chat"
    return _text(facts) or _unless(not turns, "conversations in a chat template have no other frame")


def _no_answer(facts: Facts) -> Reason:
    card = facts.recipe.dataset
    used = facts.writes and (card.multi_label or card.task == ANSWERS_TASK)
    return _unless(used, "only multi-label data and questions without an answer, with `objective: text`, have it")


def _question(facts: Facts) -> Reason:
    used = facts.writes and facts.recipe.prompting.answer != "entailment"
    return _unless(used, "only for `objective: text`, and not for `answer: entailment`, which reads `hypothesis`")


def _joint(facts: Facts) -> Reason:
    used = facts.writes and facts.recipe.prompting.format == "plain"
    return _unless(used, "it stands between question and answer only with `objective: text` and `format: plain`")


def _answer(kind: str) -> Condition:
    return lambda facts: _unless(
        facts.writes and facts.recipe.prompting.answer == kind, f"only for `objective: text` with `answer: {kind}`"
    )


def _model_dtype(facts: Facts) -> Reason:
    name = facts.recipe.method.name
    return _unless(
        facts.plan.frozen_body,
        f"method {name!r} trains float32 weights; set `mixed_precision` in the accelerate config instead",
    )


def _text(facts: Facts) -> Reason:
    return _unless(facts.writes, "only for `objective: text`")


def _mlp(facts: Facts) -> Reason:
    return _unless(facts.recipe.head.kind == "mlp", "only for `head.kind: mlp`")


def _tokens(facts: Facts) -> Reason:
    name = facts.recipe.method.name
    return _unless(facts.plan.trains != "texts", f"method {name!r} reads whole texts, and has no tokens of a model")


def _compute_dtype(facts: Facts) -> Reason:
    return _unless(getattr(facts.options, "quantized", True), "only for `quantized: true`")


def _gradients(facts: Facts) -> Reason:
    return _unless(facts.plan.trains == "gradient", f"method {facts.recipe.method.name!r} takes no training steps")


def _kept(facts: Facts) -> Reason:
    saved = facts.recipe.checkpoints
    return _unless(
        saved.every_steps is not None or saved.every_minutes is not None,
        "no checkpoint is written: `every_steps` and `every_minutes` are null",
    )


# Key -> why it is not used, or None where it is. What stands at a key covers all keys below it.
CONDITIONS: dict[str, Condition] = {
    "dataset.metrics": lambda facts: _unless(not facts.recipe.evaluation.metrics, "`evaluation.metrics` replaces it"),
    "dataset.prompt": _template,
    "dataset.normalization": _text,
    "dataset.prompt.joint": _joint,
    "dataset.prompt.template": _question,
    "dataset.prompt.instruction": _question,
    "dataset.prompt.separator": _question,
    "dataset.prompt.none": _no_answer,
    "dataset.prompt.decimals": lambda facts: _unless(
        facts.writes and facts.recipe.dataset.task == NUMBERS_TASK, "only for numbers, with `objective: text`"
    ),
    "dataset.prompt.hypothesis": _answer("entailment"),
    "dataset.prompt.content_free": lambda facts: _unless(
        facts.writes and facts.recipe.prompting.calibration == "content_free", "only for `calibration: content_free`"
    ),
    "model.weights": lambda facts: _unless(
        facts.plan.weights is None, f"method {facts.recipe.method.name!r} takes {facts.plan.weights} weights"
    ),
    "model.subfolder": lambda facts: _unless(facts.recipe.model.package is not None, "only for a model of a `package`"),
    "model.revision": lambda facts: _unless(
        facts.recipe.model.id is not None and facts.recipe.model.package is None, "only for a model with an `id`"
    ),
    "model.tokenizer.revision": lambda facts: _unless(
        facts.recipe.model.tokenizer.train is None, "the tokenizer is trained (`tokenizer.train`)"
    ),
    "model.tokenizer.vocab_size": lambda facts: _unless(
        facts.recipe.model.tokenizer.train is not None, "only for a tokenizer that is trained (`tokenizer.train`)"
    ),
    "model.dtype": _model_dtype,
    "method.compute_dtype": _compute_dtype,
    "max_length": _tokens,
    "data.train_examples": lambda facts: _unless(
        facts.plan.trains != "nothing" or facts.plan.shots > 0,
        f"method {facts.recipe.method.name!r} learns from no examples",
    ),
    "evaluation.batch_tokens": _tokens,
    "head.hidden": _mlp,
    "head.dropout": _mlp,
    "head.norm": _mlp,
    "training.warmup": _warmup,
    "training.schedule": _schedule,
    "training.schedule_per": lambda facts: _unless(
        facts.recipe.training.schedule != "constant", "`schedule: constant` has one rate for all epochs"
    ),
    "checkpoints.keep": _kept,
    "evaluation.threshold": _threshold,
    "speed.compile": _gradients,
}
# Held by the rules of `bench.config.rules`, by a type's own checks, or by what is known only when data are read.
ELSEWHERE = frozenset({
    "limit", "data.train_subset_seed", "data.folds", "data.fold", "data.fold_of",
    "head.kind", "prompting.format", "prompting.answer", "prompting.normalization", "prompting.calibration",
    "prompting.max_new_tokens", "prompting.date", "prompting.chat_template_kwargs", "prompting.fallback_label",
    "prompting.untrained_head", "training.loss_on",
    "evaluation.also", "evaluation.extract", "evaluation.temperature", "evaluation.backend", "evaluation.server",
    "evaluation.served_model", "evaluation.backend_sample", "evaluation.backend_options",
    "training.label_smoothing", "training.loss", "training.class_weights",
    "training.activation_offload",
    "training.best", "training.early_stopping", "spans", "method.peft", "method.config", "method.dtype",
})  # fmt: skip
# Used in every run that gets as far as that. A part of `speed` that is off is off; `evaluation.validation` is also
# where a study tunes settings.
ALWAYS = frozenset({
    "trackers", "dataset.quote",
    "dataset.task", "dataset.source", "dataset.licence", "dataset.homepage", "dataset.columns", "dataset.labels",
    "dataset.multi_label", "dataset.splits", "dataset.divide", "dataset.other_sources", "dataset.filters",
    "dataset.clean", "dataset.clean_if_installed", "dataset.leakage", "dataset.defaults", "dataset.scheme", "model.id",
    "model.package",
    "model.family", "model.licence", "model.architecture", "model.tokenizer.id", "model.tokenizer.train",
    "model.tokenizer.chat_template", "model.max_length", "model.attention", "model.trust_remote_code",
    "method.name", "method.blocks", "method.shots", "method.draw", "method.quantized", "method.pooling", "method.C",
    "method.max_iter", "method.quant_type", "method.double_quant", "method.storage", "method.final_norm", "objective",
    "training.engine", "training.global_batch", "training.per_device_batch", "training.epochs", "training.steps",
    "training.min_steps",
    "training.minutes", "training.learning_rate", "training.optimizer", "training.weight_decay", "training.clip_norm",
    "training.group_by_length",
    "training.gradient_checkpointing", "training.log_every", "training.evaluate_every", "evaluation.before",
    "evaluation.splits", "evaluation.validation", "evaluation.allow_selection_on_test",
    "evaluation.sharded",
    "evaluation.metrics", "speed.padding_free", "speed.answer_logits", "speed.token_cache", "speed.keep_memory",
    "speed.expandable_segments", "speed.drop_copies", "speed.sharded_load", "speed.shared_prefix",
    "checkpoints.every_steps", "checkpoints.every_minutes", "seed", "save", "published", "published_before",
    "as_published",
})  # fmt: skip


def unused(facts: Facts, set_keys: Iterable[tuple[KeyPath, Any]]) -> Iterator[Unused]:
    """Yield those of the keys that have no effect in a recipe. set_keys: (key path, value) as somebody set them.

    A key that is set to its default asks for nothing else than no key would, and is passed over.
    """
    for path, value in set_keys:
        reason = _reason(facts, path)
        if reason is not None and value != _default(path):
            yield Unused(path=path, reason=reason, value=value)


def without_effect(facts: Facts, resolved: dict[str, Any]) -> frozenset[str]:
    """Return all keys of a resolved recipe without effect, set or not, dotted."""
    return frozenset(".".join(map(str, path)) for path, _ in leaves(resolved, ()) if _reason(facts, path) is not None)


def leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (key path, value) of all values inside of nested mappings; lists are values."""
    inner = items(value) if isinstance(value, dict) else []
    if not inner:
        yield path, value
    for key, child in inner:
        yield from leaves(child, (*path, key))


def sentence(key: Unused, layers: Layers) -> str:
    """Return a refusal: the place of the key, and why it has no effect."""
    return f"{layers.place(key.path)}: has no effect: {key.reason}; remove it"


def note(key: Unused) -> str:
    """Return a note for the record of a run that goes on without the key."""
    return f"{'.'.join(map(str, key.path))}: {key.value} has no effect: {key.reason}"


def _reason(facts: Facts, path: KeyPath) -> Reason:
    if path[0] == "limit" and len(path) > 1 and path[1] in facts.recipe.dataset.split_names:
        name = str(path[1])
        if name in facts.recipe.data.fold_of and facts.recipe.data.folds is not None:
            return None
        return _unless(name in facts.read_splits, f"the split {name!r} is neither trained on, scored nor validated on")
    for depth in range(len(path), 0, -1):
        condition = CONDITIONS.get(".".join(map(str, path[:depth])))
        if condition is not None and (reason := condition(facts)) is not None:
            return reason
    return None


def _default(path: KeyPath) -> Any:
    """Return what a key is where nobody sets it; a value of its own where that can't be told."""
    model: Any = Recipe
    for depth, key in enumerate(path):
        field = getattr(model, "model_fields", {}).get(key)
        if field is None:
            return _UNKNOWN
        if depth == len(path) - 1:
            return _UNKNOWN if field.is_required() else field.get_default(call_default_factory=True)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return _UNKNOWN


_UNKNOWN = object()
