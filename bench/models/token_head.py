"""Models with a head for each token, also where transformers has none that fits a checkpoint."""

from typing import Any

import transformers
from transformers.modeling_layers import GenericForTokenClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)

AUTO_CLASS = "AutoModelForTokenClassification"


def register(config: Any) -> bool:
    """Give a decoder without such a class one, made of transformers' own parts; return whether it did, now or before.

    The class is known to AutoModelForTokenClassification from then on, in this process. Its body has the name that it
    has in a language model, so that every weight of a checkpoint is found.
    """
    kind = type(config)
    if kind in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return getattr(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[kind], "of_this_package", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        return False
    writer = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    family = next(item for item in writer.__mro__ if item.__name__.endswith("PreTrainedModel"))
    name = writer.__name__.replace("ForCausalLM", "ForTokenClassification").replace(
        "LMHeadModel", "ForTokenClassification"
    )
    fields = {"base_model_prefix": writer.base_model_prefix, "config_class": kind, "of_this_package": True}
    made = type(name, (GenericForTokenClassification, family), fields)
    transformers.AutoModelForTokenClassification.register(kind, made, exist_ok=True)
    return True
