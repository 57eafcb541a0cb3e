"""Decoders with a task head, also where transformers has no class with one, or one that misses a checkpoint's body.

A class that is missing is made of transformers' own parts (`transformers.modeling_layers`): the body, and a linear
layer `score` on the last real token of each text (classification) or on all tokens (tags), or `qa_outputs` for the two
ends of an answer. What it saves are plain weights under those names.
"""

from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from bench.models import choice_head
from bench.models.library_internals import transformers_internals

# Auto class -> the classes that it knows, the part that makes one of a body, and the end of their names.
HEADS: dict[str, tuple[Any, type, str]] = {
    "AutoModelForSequenceClassification": (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        GenericForSequenceClassification,
        "ForSequenceClassification",
    ),
    "AutoModelForTokenClassification": (
        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        GenericForTokenClassification,
        "ForTokenClassification",
    ),
    "AutoModelForQuestionAnswering": (
        MODEL_FOR_QUESTION_ANSWERING_MAPPING,
        GenericForQuestionAnswering,
        "ForQuestionAnswering",
    ),
}


def register(auto_class: str, config: Any) -> bool:
    """Give a decoder without a class with this head one; return whether it did, now or before.

    The class is known to the auto class from then on, in this process. False for any other auto class, but for multiple
    choice, see `choice_head`.
    """
    if auto_class == choice_head.AUTO_CLASS:
        is_made = register(base_class(auto_class), config)
        choice_head.register(config)
        return is_made
    if auto_class not in HEADS:
        return False
    known, part, ending = HEADS[auto_class]
    kind = type(config)
    if kind in known:
        return is_own(known[kind])
    source = _source(config)
    if source is None:
        return False
    family = _family(source)
    name = f"{source.__name__.removesuffix('ForCausalLM').removesuffix('Model')}{ending}"
    fields = {"base_model_prefix": _body_name(source), "config_class": kind, "of_this_package": True}
    made = type(name, (part, family), fields)
    getattr(transformers, auto_class).register(kind, made, exist_ok=True)
    return True


def base_class(auto_class: str) -> str:
    """Return the auto class that makes what another one builds on: choices are scored by a classifier of one output."""
    return "AutoModelForSequenceClassification" if auto_class == choice_head.AUTO_CLASS else auto_class


def is_own(kind: Any) -> bool:
    """Return whether a class of models, or a model's, was made here, so that plain transformers does not know it."""
    return bool(getattr(kind, "of_this_package", False))


def key_mapping(auto_class: str, config: Any) -> dict[str, str]:
    """Return the body's names in a language model's checkpoint -> in the class with the head, as regular expressions.

    In transformers 5.23 Llama and Qwen, say, call it `model` there and `transformer` in the class for questions;
    without this, every weight of the body would be missing, and be drawn at random. {} where both have one name.
    """
    kind, auto_class = type(config), base_class(auto_class)
    if auto_class not in HEADS or kind not in MODEL_FOR_CAUSAL_LM_MAPPING or kind not in HEADS[auto_class][0]:
        return {}
    writer, reader = _body_name(MODEL_FOR_CAUSAL_LM_MAPPING[kind]), _body_name(HEADS[auto_class][0][kind])
    return {} if writer == reader else {rf"^{writer}\.": f"{reader}."}


def body_name(auto_class: str, config: Any) -> str:
    """Return the name of the body in the class that an auto class makes of a config, which it must know."""
    auto_class = base_class(auto_class)
    known = HEADS[auto_class][0] if auto_class in HEADS else MODEL_FOR_CAUSAL_LM_MAPPING
    return _body_name(known[type(config)])


def name_body(model: Any) -> None:
    """Let a model find its own body, which the classes of Llama 4 that write look for under another name."""
    name = _body_name(type(model))
    if not hasattr(model, model.base_model_prefix) and isinstance(getattr(model, name, None), PreTrainedModel):
        model.base_model_prefix = name


def how_to_load(model: Any) -> str | None:
    """Return, as a line of Python, how plain transformers gets a saved model; None where its auto class knows it.

    `folder` is where the model is saved.
    """
    kind = type(model)
    if issubclass(kind, choice_head.ChoiceScores):
        kind = choice_head.scores_of(kind)
    if not is_own(kind) or kind.__module__ != __name__:
        return None
    parts = (*kind.__mro__[1:3], kind.config_class)
    part, family, config = (item.__name__ for item in parts)
    imports = (f"from {item.__module__} import {item.__name__}" for item in parts)
    fields = f'{{"base_model_prefix": "{kind.base_model_prefix}", "config_class": {config}}}'
    made = f'kind = type("{kind.__name__}", ({part}, {family}), {fields})'
    return "; ".join([*imports, made, "model = kind.from_pretrained(folder)"])


def _source(config: Any) -> Any:
    """Return the class whose names a made one follows: the language model, or else the body; None for no decoder."""
    kind = type(config)
    if config.is_encoder_decoder:
        return None
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    # A text part that no class writes with by itself, as Qwen3-VL's.
    return MODEL_MAPPING[kind] if kind in MODEL_MAPPING and config.model_type.endswith("_text") else None


def _family(source: Any) -> Any:
    return next(item for item in source.__mro__ if item.__name__.endswith("PreTrainedModel"))


def _body_name(kind: Any) -> str:
    """Return the name that a class has its body under, which its own `base_model_prefix` may not say (Llama 4)."""
    prefix = str(kind.base_model_prefix)
    tied = transformers_internals.tied_weights(kind)
    if not tied or any(name.startswith(f"{prefix}.") for name in tied):
        return prefix or "model"
    return tied[0].split(".")[0]
