"""F1 of the positive label: of two labels the second; of more, the mean over all labels but the first."""

from typing import ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.metrics import _base


class F1Positive(_base.LabelCountsMetric):
    """F1 of single-label classification without the first label, which stands for the absence of what is looked for.

    Of two labels it is the F1 of the second, as scikit-learn with average="binary", pos_label=1 and zero_division=0:
    so GLUE scores MRPC and QQP, and TweetEval irony. Of more it is the mean F1 of all labels but the first: so
    SemEval-2016 task 6 and TweetEval score stance, over `against` and `favor`, with `none` in the first place.

    Predictions and references are label ids; no answer (a negative prediction) adds to no label's predicted number.
    """

    source = (
        "van Rijsbergen 1979, Information Retrieval, chapter 7. GLUE: Wang et al. 2019, arXiv:1804.07461. Stance: "
        "Mohammad et al. 2016, SemEval-2016 Task 6, S16-1003. TweetEval: Barbieri et al. 2020, arXiv:2010.12421."
    )
    reads = "predictions"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"f1_positive": True}
    settings: ClassVar[dict[str, str]] = {"f1_positive": "labels:all_but_first|zero_division:0|no_answer:no_label|v1"}

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return f1_positive [...] from sums [..., 3 x labels]."""
        return {"f1_positive": formulas.label_value("f1_macro")(formulas.without_first_label(sums))}
