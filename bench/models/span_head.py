"""Models with a head for the two ends of an answer, also where transformers has none that fits a checkpoint."""

from typing import Any

import transformers
from transformers.modeling_layers import GenericForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_QUESTION_ANSWERING_MAPPING

AUTO_CLASS = "AutoModelForQuestionAnswering"


def register(config: Any) -> bool:
    """Give a decoder without such a class one, made of transformers' own parts; return whether it did, now or before.

    The class is known to AutoModelForQuestionAnswering from then on, in this process.
    """
    kind = type(config)
    if kind in MODEL_FOR_QUESTION_ANSWERING_MAPPING:
        return getattr(MODEL_FOR_QUESTION_ANSWERING_MAPPING[kind], "of_this_package", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        return False
    writer = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    family = next(item for item in writer.__mro__ if item.__name__.endswith("PreTrainedModel"))
    name = writer.__name__.replace("ForCausalLM", "ForQuestionAnswering")
    fields = {"base_model_prefix": writer.base_model_prefix, "config_class": kind, "of_this_package": True}
    made = type(name, (GenericForQuestionAnswering, family), fields)
    transformers.AutoModelForQuestionAnswering.register(kind, made, exist_ok=True)
    return True


def key_mapping(config: Any) -> dict[str, str]:
    """Return the body's names in a language model's checkpoint -> in the class with the head, as regular expressions.

    In transformers 5.23 Llama and Qwen, say, call it `model` there and `transformer` here; without this, every
    weight of the body would be missing, and be drawn at random. {} where both have one name.
    """
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or kind not in MODEL_FOR_QUESTION_ANSWERING_MAPPING:
        return {}
    writer, reader = MODEL_FOR_CAUSAL_LM_MAPPING[kind], MODEL_FOR_QUESTION_ANSWERING_MAPPING[kind]
    if writer.base_model_prefix == reader.base_model_prefix:
        return {}
    return {rf"^{writer.base_model_prefix}\.": f"{reader.base_model_prefix}."}
