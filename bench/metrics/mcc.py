"""Matthews correlation coefficient for any number of labels (R_K)."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """With s examples, c of them correct, t_k references and p_k predictions of label k,
R_K = (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)). Where the denominator is 0 (all
predictions, or all references, are one label) it is 0, as in scikit-learn.

Predictions and references are label ids. All negative predictions (no answer) together are one more predicted
label that is no example's reference: their number squared enters the sum over p_k^2, and their product with
t_k is 0.
"""
CITATION = """Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient",
Computational Biology and Chemistry 28, 367-374.
"""
SIGNATURES = {"mcc": "mcc|undefined:0|no_answer:own_label|v1"}


class Mcc(evaluate.Metric):
    """Matthews correlation coefficient of single-label classification."""

    reads = "predictions"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"mcc": True}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        inputs = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": inputs, "references": inputs}),
        )

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 2 + 2 x labels]: correct, no answer, one-hot prediction, one-hot reference."""
        predicted, reference = _arrays(predictions, references, num_labels, multilabel=False)
        labels = np.arange(num_labels)
        has_label = [predicted[:, None] == labels, reference[:, None] == labels]  # [examples, labels] each
        single = [(predicted == reference)[:, None], (predicted < 0)[:, None]]
        return np.concatenate(single + has_label, axis=1, dtype=float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """mcc [...] from sums [..., 2 + 2 x labels]."""
        correct, unanswered = sums[..., 0], sums[..., 1]
        predicted, reference = np.split(sums[..., 2:], 2, axis=-1)  # [..., labels]
        number = reference.sum(-1)
        covariance = correct * number - (predicted * reference).sum(-1)
        predicted_variance = number**2 - (predicted**2).sum(-1) - unanswered**2
        reference_variance = number**2 - (reference**2).sum(-1)
        product = predicted_variance * reference_variance
        return {"mcc": np.where(product > 0, covariance / np.sqrt(np.where(product > 0, product, 1.0)), 0.0)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: a correlation is not a share."""
        return {}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """None: not a mean over examples."""
        return {}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, multilabel=False)
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
