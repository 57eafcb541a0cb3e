"""Jaccard index by sample: the overlap of predicted and reference label sets, averaged over examples."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """Rows of 0 and 1: mean over examples of |predicted and reference| / |predicted or reference|.

Where both sets are empty, jaccard_samples counts 1 and jaccard_samples_empty0 counts 0 (scikit-learn's
average="samples" with zero_division 1 and 0). Published numbers use either. A negative entry of a prediction
(no answer) counts as a wrong member of the predicted set, so that a row without an answer scores 0, also
against an empty reference. No examples give NaN.
"""
CITATION = """Godbole and Sarawagi 2004, "Discriminative Methods for Multi-labeled Classification", PAKDD."""
SIGNATURES = {
    "jaccard_samples": "jaccard_samples|empty:1|no_answer:wrong|v1",
    "jaccard_samples_empty0": "jaccard_samples_empty0|empty:0|no_answer:wrong|v1",
}


class Jaccard(evaluate.Metric):
    """Jaccard index by sample of multi-label classification."""

    reads = "predictions"
    configs = ("multilabel",)
    higher_is_better: ClassVar[dict[str, bool]] = {"jaccard_samples": True, "jaccard_samples_empty0": True}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        inputs = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": inputs, "references": inputs}),
        )

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 3]: the index with 1 for two empty sets, the same with 0, 1."""
        predicted, reference = _arrays(predictions, references, num_labels, multilabel=True)
        both = ((predicted == 1) & (reference == 1)).sum(axis=1)  # [examples]
        either = ((predicted != 0) | (reference != 0)).sum(axis=1)
        index = both / np.maximum(either, 1)
        return np.stack([np.where(either > 0, index, 1.0), index, np.ones(len(reference))], axis=1)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """Both means [...] from sums [..., 3]."""
        number = sums[..., 2]
        names = ("jaccard_samples", "jaccard_samples_empty0")
        means = [np.where(number > 0, sums[..., i] / np.maximum(number, 1), np.nan) for i in (0, 1)]
        return dict(zip(names, means, strict=True))

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: the index of an example lies anywhere between 0 and 1."""
        return {}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """The index of each example, [examples], with 1 and with 0 for two empty sets."""
        statistics = self.statistics(predictions, references, num_labels)
        return {"jaccard_samples": statistics[:, 0], "jaccard_samples_empty0": statistics[:, 1]}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, multilabel=True)
        sums = self.statistics(predictions, references, num_labels).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums, num_labels).items()}


def _arrays(
    predictions: ArrayLike, references: ArrayLike, num_labels: int, multilabel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64, [examples] or [examples, labels]; ValueError for a wrong shape, type or range.

    Every metric that reads label ids holds this text, as each must load alone; a test compares the copies.
    """
    num_examples = len(np.asarray(references))
    shape = (num_examples, num_labels) if multilabel else (num_examples,)
    arrays = []
    for what, array in (("prediction", np.asarray(predictions)), ("reference", np.asarray(references))):
        if num_examples == 0 and array.size == 0:
            array = np.zeros(shape, dtype=np.int64)
        if array.shape != shape or array.dtype.kind not in "biu":
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{what}s must be integers of shape {shape}, got {got}")
        highest = 1 if multilabel else num_labels - 1
        # A negative prediction stands for "no answer"; a negative reference is an error in the data.
        outside = array[(array > highest) | ((array < 0) & (what == "reference"))]
        if outside.size:
            raise ValueError(f"{what} {outside[0]} is out of range: expected 0 to {highest}")
        arrays.append(array.astype(np.int64))
    return arrays[0], arrays[1]


def _num_labels(predictions: ArrayLike, references: ArrayLike, multilabel: bool) -> int:
    """The width of a row, or the highest label id + 1."""
    if multilabel:
        return np.asarray(references).shape[-1]
    return int(max(np.max(predictions, initial=-1), np.max(references, initial=-1))) + 1
