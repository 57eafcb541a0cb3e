"""The jobs of `scripts/stub_gpu_check forecast`: shipped recipes alone, with other settings, on texts as they come.

    Job.of("sst2/llama32_1b-lora training.optimizer=sgd precision=fp16")

A job's name is its recipe's, and what is changed: keys of the recipe, and three of the measurement's own. precision: as
of the launcher. texts: whose lengths the texts have; without it all are as long as the recipe reads. segments: `fixed`
for the allocator without its expandable segments, which a run switches on.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.config import recipe_names, registry, resolve
from bench.config.resolve import Resolved
from bench.errors import SetupError

PRECISIONS, SEGMENTS = ("bf16", "fp16", "no"), ("expandable", "fixed")
# Tokens of texts by BERT's tokenizer, at each twentieth of them, from the shortest to the longest: 1,200 reviews of
# IMDB, 4,000 phrases of SST-2, 2,000 questions with their passages of SQuAD. Samples, counted once.
TEXTS = {
    "reviews": (
        13, 88, 121, 150, 161, 172, 180, 193, 206, 218, 231, 248, 272, 302, 333, 369, 420, 497, 599, 769, 1509,
    ),
    "phrases": (3, 4, 4, 5, 6, 6, 7, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 33, 65),
    "passages": (
        42, 62, 77, 90, 100, 109, 116, 123, 130, 138, 145, 150, 157, 165, 174, 186, 199, 212, 227, 267, 367,
    ),
}  # fmt: skip
# Steps on texts of many lengths.
VARIED_STEPS = 12
# What of a recipe decides its memory: a row is of these settings.
DECIDES: dict[str, Any] = {
    "model": {"architecture", "attention", "dtype", "family"},
    "method": True,
    "head": True,
    "objective": True,
    "max_length": True,
    "speed": True,
    "dataset": {"task", "labels", "multi_label"},
    "prompting": {"answer", "max_new_tokens"},
    "training": {
        "engine", "optimizer", "weight_decay", "clip_norm", "per_device_batch", "global_batch", "loss_on",
        "label_smoothing", "gradient_checkpointing", "activation_offload",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement; its name says all of it."""

    recipe: str
    overrides: tuple[str, ...] = ()
    precision: str = "bf16"
    texts: str | None = None
    segments: str = "expandable"

    @classmethod
    def of(cls, name: str) -> "Job":
        """Return the job of a name. Raises SetupError for a value that there is not."""
        recipe, *changes = name.split()
        own: dict[str, Any] = {}
        for key, values in (("precision", PRECISIONS), ("texts", tuple(TEXTS)), ("segments", SEGMENTS)):
            found = [item for item in changes if item.startswith(f"{key}=")]
            if found:
                own[key] = found[-1].partition("=")[2]
                if own[key] not in values:
                    raise SetupError(f"{found[-1]!r}: {key} is one of {', '.join(values)}")
            changes = [item for item in changes if item not in found]
        return cls(recipe=recipe, overrides=tuple(changes), **own)

    def load(self) -> Resolved:
        """Return the recipe with its changes and random weights, which are as large as any."""
        return resolve.load(resolve.SHIPPED / f"{self.recipe}.yaml", ("model.weights=random", *self.overrides))


def settings(given: Resolved) -> str:
    """Return a short hash of what of a recipe decides its memory; a key at its default does not count."""
    parts = (
        given.recipe.model_dump_json(include=DECIDES, exclude_defaults=True),
        given.options.model_dump_json(exclude_defaults=True),
    )
    shown = given.recipe.method.name + "".join(parts)
    return hashlib.sha256(shown.encode()).hexdigest()[:12]


def names() -> list[str]:
    """Return the shipped recipes that a forecast is for: trained by gradients, of a model of its true size."""
    found = []
    for path in sorted([*resolve.SHIPPED.glob("*/*.yaml"), *resolve.SHIPPED.glob("studies/*/*.yaml")]):
        if path.parent.name in ("datasets", "models", "studies") or path.name == recipe_names.STUDY:
            continue
        given = resolve.load(path)
        plan = registry.load("methods", given.recipe.method.name).load_plan(given.options)
        if plan.trains == "gradient" and not given.model_name.startswith("tiny_"):
            found.append(path.relative_to(resolve.SHIPPED).with_suffix("").as_posix())
    return found


# Shipped recipes without a row, with the reason. None: each has one.
NOT_MEASURED: dict[str, str] = {}
# What runs may set otherwise than the shipped recipes: these are in bf16, most of them padding-free, of two optimizers.
SETTINGS = (
    "precision=fp16",
    "precision=no",
    "speed.padding_free=false",
    "speed.padding_free=false precision=fp16",
    "speed.padding_free=false precision=no",
    "training.optimizer=adamw_torch",
    "training.optimizer=adamw_bnb_8bit",
    "training.optimizer=paged_adamw_32bit",
    "training.optimizer=paged_adamw_8bit",
    "training.optimizer=adafactor",
    "training.optimizer=sgd",
)
OF_ADAPTERS = ("precision=fp16", "speed.padding_free=false")  # the recipe's own optimizer is paged
# An encoder with dropout, a decoder of which all weights are trained, and adapters over 4-bit weights, recomputed.
CHANGED = {
    "sst2/bert_base_uncased-full": SETTINGS,
    "sst2/llama32_1b-full": SETTINGS,
    "imdb/mistral_7b_v03-text_qlora_12gib": OF_ADAPTERS,
}
OTHER_SETTINGS = tuple(f"{recipe} {changes}" for recipe, several in CHANGED.items() for changes in several)
# Full and adapters, recomputed and not, packed and padded (the encoder-decoder).
AS_THEY_COME = (
    "sst2/bert_base_uncased-full texts=phrases",
    "squad/bert_base_uncased-full texts=passages",
    "imdb/distilbert_base_uncased-full texts=reviews",
    "imdb/flan_t5_base-text_full texts=reviews",
    "sst2/llama32_1b-lora texts=phrases",
    "imdb/llama32_1b-full_24gib texts=reviews",
    "imdb/mistral_7b_v03-text_qlora_12gib texts=reviews",
)
# Without expandable segments too: torch's default, which no run here has.
FIXED = (AS_THEY_COME[0], AS_THEY_COME[1], AS_THEY_COME[2], AS_THEY_COME[4])
LENGTHS_MIXED = (
    *(f"{name} segments=expandable" for name in AS_THEY_COME),
    *(f"{name} segments=fixed" for name in FIXED),
)


def lengths_of(texts: str, count: int, most: int) -> list[int]:
    """Return so many lengths in tokens, drawn as those of `texts` lie, and cut at `most`; the same in each call."""
    places = np.random.default_rng(0).random(count) * (len(TEXTS[texts]) - 1)
    drawn = np.interp(places, range(len(TEXTS[texts])), TEXTS[texts])
    return [int(length) for length in np.minimum(drawn, most)]
