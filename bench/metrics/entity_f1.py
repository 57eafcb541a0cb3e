"""Entity F1, precision and recall of tagged words, as seqeval computes them."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.metrics import _base

MICRO = ("entity_f1", "entity_precision", "entity_recall")


class EntityF1(_base.TagMetric):
    """F1, precision and recall of the entities that tags mark: right where type and both ends are.

    Predictions and references are lists of tags, one for each word. Config "default": entities as in the CoNLL
    evaluation, seqeval's default mode, in which an I- that follows no word of its type begins an entity. A config with
    the name of a scheme: seqeval's strict mode, in which only what the scheme allows is an entity.

    F1 = 2 x right entities / (predicted entities + reference entities).

    entity_f1, entity_precision and entity_recall count the entities of all types together (micro), as the CoNLL
    evaluation does; entity_f1_macro is the mean F1 of the types that a prediction or a reference has. Zero divided by
    zero is 0, so that all four are 0 where neither side has any entity: nothing was found. seqeval has 0 for three of
    them there, and NaN for its macro average, a mean of no type. `..._per_type` is of each type, in the order of their
    names; NaN for one that neither side has.
    """

    source = (
        "Tjong Kim Sang and De Meulder 2003, Introduction to the CoNLL-2003 Shared Task, W03-0419; Nakayama 2018, "
        "seqeval: A Python framework for sequence labeling evaluation."
    )
    reads = "tags"
    configs = ("default", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")
    higher_is_better: ClassVar[dict[str, bool]] = {
        "entity_f1": True,
        "entity_precision": True,
        "entity_recall": True,
        "entity_f1_macro": True,
    }
    settings: ClassVar[dict[str, str]] = {
        **dict.fromkeys(MICRO, "micro|zero_division:0|v1"),
        "entity_f1_macro": "macro:types_present|zero_division:0|v1",
        **dict.fromkeys([f"{name}_per_type" for name in MICRO], "zero_division:0|absent:undefined|v1"),
    }

    def example_statistics(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [sentences, 3 x types]: entities in both, in the prediction, in the reference."""
        return self.entity_rows(predictions, references)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the values [...], and those of each type [..., types], from sums [..., 3 x types]."""
        found = {name: formulas.entity_value(name)(sums) for name in self.higher_is_better}
        _, predicted, reference = np.split(sums, 3, axis=-1)
        for name in MICRO:
            each = formulas.label_value(f"{name.split('_')[1]}_per_label")(sums)
            found[f"{name}_per_type"] = np.where(predicted + reference > 0, each, np.nan)
        return found
