"""evaluation/ceilings.py: what right answers would score, and how many of them get no full marks."""

import numpy as np
import pytest

from bench.data.examples import per_row
from bench.evaluation.ceilings import ceilings
from bench.evaluation.metric_set import MetricSet

LONG = "the quick brown fox jumps over the lazy dog"


def found(names, golds):
    return ceilings(MetricSet(names, multi_label=False, num_labels=2), per_row(golds))


@pytest.mark.parametrize(
    ("metric", "name", "golds", "unrewardable", "value"),
    [
        ("bleu", "bleu", [["Paris"], ["1889"]], 2, 0),
        ("bleu", "bleu", [[LONG], ["Paris"]], 1, pytest.approx(100)),  # one corpus: the long one has the 4-grams
        ("bleu", "bleu", [["Paris", LONG]], 0, pytest.approx(100)),  # the second gold can be rewarded
        ("bleu", "bleu", [["北京是中国的首都城市"]], 1, 0),
        ("bleu_languages", "bleu_zh", [["北京是中国的首都城市"]], 0, pytest.approx(100)),
        ("rouge", "rouge1", [["北京"], ["Paris"], []], 1, 0.5),
        ("rouge", "rouge2", [["Paris"], ["New York"]], 1, 0.5),
        ("rouge_unicode", "rouge1_unicode", [["北京"], ["Paris"]], 0, 1),
        ("meteor", "meteor", [["Paris"]], 1, 0.5),
        ("meteor", "meteor", [[LONG]], 0, pytest.approx(1, abs=0.01)),
        ("squad", "squad_exact_match", [["Paris"], ["The"]], 0, 1),
        ("squad", "squad_f1", [["Paris"], ["The"]], 1, 0.5),
        ("squad_v2", "squad_v2_f1", [["Paris"], [], ["The"]], 0, 1),
        ("squad_v2", "squad_v2_HasAns_exact", [["Paris"], []], 0, 1),
    ],
)
def test_right_answers_are_scored(metric, name, golds, unrewardable, value):
    ceiling = found((metric,), golds)[name]
    assert ceiling.unrewardable == unrewardable
    assert ceiling.value == value
    assert ceiling.questions == sum(bool(texts) for texts in golds)


def test_labels_and_questions_without_answers_have_none():
    metrics = MetricSet(("accuracy",), multi_label=False, num_labels=2)
    assert ceilings(metrics, np.array([0, 1])) == {}
    assert found(("squad_v2", "bleu"), [[], []]) == {}
    assert "squad_v2_NoAns_f1" not in found(("squad_v2",), [["a"]])
