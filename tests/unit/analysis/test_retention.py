"""What was kept: the paired tests of right and wrong answers and of other scores, its share, and its tables."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.analysis import retention
from bench.analysis.stats.sums import Line
from bench.config import resolve
from bench.errors import DataError, RecipeError
from bench.records.record import Kept, RecipePart, Record, Retention
from bench.reporting import retention_table
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
TEXT = ("model=tiny_gpt2", "objective=text")


def answers(right):
    return [Line(prediction="a" if one else "b", reference="a", value=float(one)) for one in right]


def test_right_and_wrong_answers_are_compared_by_mcnemar():
    before = np.repeat([1, 1, 0, 0], [20, 9, 2, 9])
    after = np.repeat([1, 0, 1, 0], [20, 9, 2, 9])
    found = retention.kept("accuracy", answers(before), answers(after), ("a", "b"), multi_label=False)
    assert (found.lost, found.gained) == (9, 2)
    assert found.p == pytest.approx(binomtest(2, 11).pvalue)
    assert found.difference == pytest.approx(-7 / 40)
    assert found.low < found.difference < found.high
    assert "McNemar" in found.test


def test_other_scores_are_compared_by_approximate_randomisation():
    generator = np.random.default_rng(0)
    losses = generator.gamma(4, 5, size=40)
    before = [Line(prediction="", reference=[], loss=loss, tokens=10) for loss in losses]
    worse = [line._replace(loss=line.loss + 4) for line in before]
    found = retention.kept("perplexity", before, worse, (), multi_label=False)
    assert found.before == pytest.approx(math.exp(losses.sum() / 400))
    assert found.after == pytest.approx(found.before * math.exp(0.4))
    assert found.p < 0.01
    assert 0 < found.low < found.difference < found.high
    same = retention.kept("perplexity", before, before, (), multi_label=False)
    assert (same.difference, same.p) == (0, 1)


def test_a_score_that_is_not_defined_is_not_compared():
    lines = [Line(prediction=1.0, reference=float(number)) for number in range(4)]
    with pytest.raises(DataError, match="pearson is not defined before or after"):
        retention.kept("pearson", lines, lines, (), multi_label=False)


def kept(metric, before, after, **others):
    return Kept(metric=metric, before=before, after=after, difference=after - before, test="a test", **others)


def record_with(found):
    part = Retention(name="endings", data="endings", split="test", examples=40, fingerprint="f", kept=found)
    return Record(
        name="r", started_at="2026-01-01T00:00:00+00:00", recipe=RecipePart(path="x.yaml"), retention={"also": part}
    )


@together(
    "found, share, shown",
    [
        (kept("accuracy", 0.8, 0.6, low=-0.3, high=-0.1, p=0.0004, lost=9, gained=1), 0.75, "75.0 %"),
        (kept("perplexity", 10.0, 12.5, low=2.0, high=3.0, p=0.2), 0.8, "80.0 %"),
        (kept("accuracy", 0.0, 0.5, p=0.5), None, "–"),
        (kept("mcc", 0.5, 0.25, p=0.5), None, "–"),
    ],
)
def test_the_share_that_was_kept(found, share, shown):
    assert retention_table.share_kept(found) == (None if share is None else pytest.approx(share))
    table = retention_table.of_run(record_with(found))
    assert f"| {shown} |" in table
    assert ("9, 1" in table and "lt; 0.001" in table) == (found.lost == 9)


def test_what_could_not_be_compared_is_named():
    assert "Not compared (see the notes): endings" in retention_table.of_run(record_with(None))
    assert retention_table.of_run(record_with(None).model_copy(update={"retention": {}})) == ""


REFUSED = [
    (["evaluation.also=[endings]"], "evaluation.also: a task head answers with the labels of its own data alone"),
    ([*TEXT, "method=zero_shot", "evaluation.also=[endings]"], "method 'zero_shot' trains nothing"),
    ([*TEXT, "evaluation.before=false", "evaluation.also=[endings]"], "needs the scores before training"),
    ([*TEXT, "evaluation.also=[endings, endings]"], "evaluation.also.1: 'endings' is named twice"),
    ([*TEXT, "evaluation.also=[ending]"], "there is no dataset card 'ending'. Did you mean 'endings'"),
    ([*TEXT, "evaluation.also=[{perplexity: a.txt, dataset: endings}]"], "give either `dataset` or `perplexity`"),
    ([*TEXT, "evaluation.also=[5]"], "evaluation.also.0"),
    ([*TEXT, "evaluation.also=[null]"], "evaluation.also.0"),
    ([*TEXT, "evaluation.also=endings"], "evaluation.also"),
    ([*TEXT, "evaluation.also=['']"], "evaluation.also.0"),
    ([*TEXT, "evaluation.also=[{}]"], "give either `dataset` or `perplexity`"),
    ([*TEXT, "evaluation.also=[{dataset: endings, limit: 0}]"], "evaluation.also.0"),
    ([*TEXT, "evaluation.also=[{dataset: endings, limits: 3}]"], "evaluation.also.0.limits: unknown key. Did you"),
    ([*TEXT, "evaluation.also=[endings, {dataset: endings, limit: 3}]"], "'endings' is named twice"),
    (["model=tiny_t5", "objective=text", "evaluation.also=[{perplexity: a.txt}]"], "an encoder-decoder reads it"),
]


@together("overrides, sentence", REFUSED)
def test_what_can_not_be_scored_beside_is_refused(overrides, sentence):
    with pytest.raises(RecipeError) as refused:
        resolve.load(RECIPE, tuple(overrides))
    assert sentence in str(refused.value)


def test_also_is_part_of_the_hash_where_it_is_set():
    plain = resolve.load(RECIPE, TEXT).hash
    assert resolve.load(RECIPE, (*TEXT, "evaluation.also=[]")).hash == plain
    assert resolve.load(RECIPE, (*TEXT, "evaluation.also=[endings]")).hash != plain
