"""The base classes of metrics: the examples of docs/extending.md work as they stand, and mistakes are named."""

import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sklearn
import sklearn.metrics

from bench.config import contracts
from bench.metrics import _base

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
WITHIN_ONE, BALANCED = (next(text for text in EXAMPLES if name in text) for name in ("within_one", "balanced_accuracy"))


def instance(cls, tmp_path, config="default"):
    return cls(config_name=config, keep_in_memory=True, cache_dir=str(tmp_path))


def test_the_examples_are_short():
    assert all(len(text.splitlines()) < 20 for text in (WITHIN_ONE, BALANCED))


def test_the_example_of_a_mean_is_loaded_by_evaluate(tmp_path):
    (tmp_path / "within_one.py").write_text(WITHIN_ONE, encoding="utf-8")
    metric = evaluate.load(str(tmp_path / "within_one.py"), keep_in_memory=True, cache_dir=str(tmp_path))
    assert metric.compute(predictions=[0, 1, 4, -1, 2], references=[1, 1, 2, 0, 0]) == {"within_one": 2 / 5}
    assert metric.signatures() == {"within_one": "within_one|no_answer:wrong|v1"}
    assert np.isnan(metric._compute([], [])["within_one"])
    assert isinstance(metric, contracts.AdditiveMetric)
    (share,) = metric.proportions(np.array([2.0, 5.0])).values()
    assert share == (2, 5)
    assert metric.per_example([0, 2], [1, 0], 3)["within_one"].tolist() == [1, 0]


def test_the_example_of_scikit_learn_is_loaded_by_evaluate(tmp_path):
    (tmp_path / "balanced.py").write_text(BALANCED, encoding="utf-8")
    metric = evaluate.load(str(tmp_path / "balanced.py"), keep_in_memory=True, cache_dir=str(tmp_path))
    predictions, references = [0, 1, 1, -1, 2], [0, 0, 1, 2, 2]
    expected = sklearn.metrics.balanced_accuracy_score(references, predictions)
    assert metric.compute(predictions=predictions, references=references) == {"balanced_accuracy": expected}
    signature = f"balanced_accuracy|sklearn:balanced_accuracy_score|scikit-learn:{sklearn.__version__}|v1"
    assert metric.signatures() == {"balanced_accuracy": signature}
    assert np.isnan(metric._compute([], [])["balanced_accuracy"])
    assert isinstance(metric, contracts.Metric)
    assert not isinstance(metric, contracts.AdditiveMetric)
    with pytest.raises(ValueError, match="prediction 7 is out of range: expected 0 to 2"):
        metric.compute(predictions=[7], references=[0], num_labels=3)


class Top(_base.SklearnMetric):
    """A function that reads probabilities and takes an option."""

    reads = "scores"
    configs = ("default",)
    higher_is_better = {"top_2": True}  # noqa: RUF012
    options = {"k": 2, "labels": [0, 1, 2]}  # noqa: RUF012
    function = sklearn.metrics.top_k_accuracy_score


def test_a_function_of_probabilities_with_options(tmp_path):
    metric = instance(Top, tmp_path)
    scores, references = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [1, 0]
    assert metric.compute(predictions=scores, references=references) == {"top_2": 0.5}
    assert "|k:2|labels:[0, 1, 2]|" in metric.signatures()["top_2"]
    with pytest.raises(ValueError, match=r"2\.5 is not a probability"):
        metric.compute(predictions=[[2.5, 0, 0]], references=[0])


def test_what_a_subclass_lacks_is_named(tmp_path):
    class Unsigned(_base.MeanMetric):
        reads, configs, higher_is_better = "predictions", ("default",), {"right": True}

    with pytest.raises(ValueError, match="Unsigned has no signature of right: add `settings`"):
        instance(Unsigned, tmp_path)

    class Scoreless(Unsigned):
        settings = {"right": "v1"}  # noqa: RUF012

    with pytest.raises(NotImplementedError, match="Scoreless needs a method example_score or example_scores"):
        instance(Scoreless, tmp_path).compute(predictions=[0], references=[0])

    class F2(_base.LabelCountsMetric):
        reads, configs, higher_is_better = "predictions", ("default",), {"f2_macro": True}
        settings = {"f2_macro": "v1"}  # noqa: RUF012

    with pytest.raises(ValueError, match="'f2_macro' is not f1, precision or recall with _macro"):
        instance(F2, tmp_path).compute(predictions=[0], references=[0])

    class Formula(_base.AdditiveMetric):
        reads, configs, higher_is_better = "predictions", ("default",), {}

    with pytest.raises(TypeError, match="abstract"):
        instance(Formula, tmp_path)
