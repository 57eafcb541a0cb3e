"""Token accuracy: the share of words with the reference's tag."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import entity_counts
from bench.metrics import _base


class TokenAccuracy(_base.TagMetric):
    """Accuracy of tags of words.

    Words with the reference's tag / words, of all sentences together. Most words are outside of entities, so that it is
    high for a model that finds none: read it beside the F1 of entities. Its interval is over sentences, whose words
    depend on one another. No words give NaN.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 8.3."
    reads = "tags"
    configs = ("default", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")
    higher_is_better: ClassVar[dict[str, bool]] = {"token_accuracy": True}
    settings: ClassVar[dict[str, str]] = {"token_accuracy": "words|v1"}

    def example_statistics(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [sentences, 2]: words with the reference's tag, and words."""
        return entity_counts.accuracy_rows(predictions, references)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return token_accuracy [...] from sums [..., 2]."""
        return {"token_accuracy": entity_counts.share(sums)}

    def signatures(self) -> dict[str, str]:
        """Return the settings, which no scheme moves."""
        return {name: f"{name}|{text}" for name, text in self.settings.items()}
