"""Models with a head that scores (context, choice) pairs, also where transformers has none for multiple choice."""

from typing import Any

import transformers
from transformers.modeling_outputs import MultipleChoiceModelOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

AUTO_CLASS = "AutoModelForMultipleChoice"


class ChoiceScores:
    """Mixin for transformers' classes: pairs come as they are, or in groups of the choices of an example.

    One class for both: training needs groups, scoring and counting of operations need pairs.
    """

    of_this_package = True
    takes_groups = False

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        """Return logits [examples, choices] of ids [examples, choices, tokens], or [pairs, 1] of [pairs, tokens]."""
        groups = input_ids.shape[:-1] if input_ids.dim() > 2 else (len(input_ids), 1)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **options}
        flat = {name: self._flat(value) for name, value in given.items() if value is not None}
        logits = super().forward(**flat).logits  # type: ignore[misc]
        return MultipleChoiceModelOutput(logits=logits.view(groups))

    def _flat(self, value: Any) -> Any:
        if getattr(value, "dim", int)() < 2:
            return value
        rows = value.flatten(0, -2)
        return rows[:, None] if self.takes_groups else rows


def scores_of(kind: type[ChoiceScores]) -> Any:
    """Return the class that a class for choices was made of, which its saved weights are of."""
    return kind.__mro__[kind.__mro__.index(ChoiceScores) + 1]


def register(config: Any) -> None:
    """Let AutoModelForMultipleChoice build a model that takes pairs in groups, from now on, in this process.

    From transformers' class for multiple choice where there is one, else from that for classification, with one output:
    saved, it is a model of this class, by whose name plain transformers loads it. Nothing where there is neither.
    """
    kind = type(config)
    known = MODEL_FOR_MULTIPLE_CHOICE_MAPPING.get(kind, None)
    if getattr(known, "of_this_package", False):
        return
    base = known
    if known is None:
        if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            return
        base = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[kind]
    fields = {"takes_groups": known is not None, "config_class": kind, "__module__": __name__}
    made = type(base.__name__, (ChoiceScores, base), fields)
    transformers.AutoModelForMultipleChoice.register(kind, made, exist_ok=True)
