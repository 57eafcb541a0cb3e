"""chrF equals sacrebleu's; matches, extractions and losses of references follow their definitions."""

import json
import math
import random

import numpy as np
import pytest
from pydantic import ValidationError
from sacrebleu.metrics import CHRF

from bench.analysis.stats import chrf as formulas
from bench.analysis.stats.sums import Line, tally
from bench.config.extraction import Extract
from bench.data.examples import per_row
from bench.evaluation.metric_set import MetricSet, Predictions
from tests.helpers.cases import together

WORDS = ["the", "eggs", "are", "grey", "(hi)", "No.", "żółć", "日本語", "x", "!", "it's"]


def texts(seed, number=40):
    rng = random.Random(seed)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(0, 9))) for _ in range(number)]
    return [text or "x" for text in made]


def predictions(written, golds, extra=()):
    return Predictions(
        ids=tuple(f"e{number:03d}" for number in range(len(written))),
        predictions=per_row(written),
        references=per_row(golds),
        scores=np.empty((len(written), 0)),
        extra=tuple(extra),
    )


def set_of(*names, extract=None):
    return MetricSet(names, multi_label=False, num_labels=0, extract=extract)


def test_chrf_is_sacrebleus():
    written, first, second = texts(1), texts(2), texts(3)
    written[3], written[4] = "", first[4]
    for references in ([first], [first, second]):
        golds = [list(each) for each in zip(*references, strict=True)]
        values = set_of("chrf").values(predictions(written, golds))
        for name, order in formulas.WORD_ORDERS.items():
            expected = CHRF(word_order=order).corpus_score(written, references).score
            assert values[name] == pytest.approx(expected, abs=1e-9)
            lines = [Line(text, gold) for text, gold in zip(written, golds, strict=True)]
            assert tally(name, lines, (), multi_label=False).score == pytest.approx(expected, abs=1e-9)
        for number in (0, 3, 4):
            alone = tally("chrf", [Line(written[number], golds[number])], (), multi_label=False).score
            assert alone == pytest.approx(CHRF().sentence_score(written[number], golds[number]).score, abs=1e-9)


def test_chrf_has_an_interval_and_leaves_out_what_has_no_gold():
    golds = [[text] for text in texts(2)]
    golds[0] = []
    scores = set_of("chrf").scores(predictions(texts(1), golds))
    assert scores["chrf"].low < scores["chrf"].value < scores["chrf"].high
    assert scores["chrf_left_out"].value == 1
    assert "nc:6|nw:2" in scores["chrf_plus_plus"].signature


def test_exact_match_knows_white_space_only():
    written = ["a  b", " a b\n", "A b", "", None]
    values = set_of("exact_match").values(predictions(written, [["c", "a b"]] * 5))
    assert values["exact_match"] == 2 / 5


NUMBERS = [
    ("gsm8k_number", "so 3 + 4 = 7.\n#### 7", "7"),
    ("gsm8k_number", "#### 1,234.", "1234"),
    ("gsm8k_number", "#### -5 and #### 6", "-5"),
    ("gsm8k_number", "the answer is 7", None),
    ("last_number", "first 3, then $1,200.", "1200"),
    ("last_number", "none.", None),
    ("last_number", "it is 5.", "5"),
    ("letter", "The answer is (C).", "C"),
    ("letter", "B) the blue one", "B"),
    ("letter", "A dog barks", None),
    ("letter", "I think so.\nD", "D"),
    ("letter", "Options:\nA. foo\nB. bar\nA is too small.\nThe answer is (B).", "B"),
    ("letter", "I, for one, say (C)\nThe answer is C", "C"),
    ("letter", "A. The answer is A? It is too small.\nSo the answer is (D).", "D"),
    ("worked_answer", "#### 1,000\nThe answer is: 1,000", "1000"),
    ("worked_answer", "#### 7", "7"),
    ("worked_answer", "#### 7\nThe answer is: 8", "8"),
    ("worked_answer", "the answer is 3, or so.\nThe answer is:\n4 #### 5", "4"),
    ("worked_answer", "The answer is:", None),
    ("worked_answer", "it is 3", None),
]
# What stands behind "The answer is: ", and the part.
WORKED = {
    "12.": "12", "1,000": "1000", "1,200.50.": "1200.5", "12. So we are done": "12", "12, since": "12", "007": "7",
    "12,000 dollars": "12000", "3 km/h": "3", ".5": "0.5", "-.5": "-0.5", "-$5": "-5", "$-5$": "-5", "\\$5": "5",
    "−5": "-5", "+3": "3", "-0": "0", "50\\%": "50", "1/2": "1/2", "1/2. So": "1/2", "3\\sqrt{2}": "3\\sqrt{2}",
    "3 \\sqrt{2}": "3\\sqrt{2}", "2^5": "2^5", "5 x": "5x", "10:30": "10:30", "5 ab^2": "5ab^2", "1 and 2": "1and2",
    "1, 2": "1,2", "1,2": "1,2", "$\\frac{1}{2}$.": "\\frac{1}{2}", "x = 5": "x=5", "(1, 2)": "(1,2)", "5!": "5!",
    "2\\text{ cm}": "2\\text{cm}",
}  # fmt: skip
NUMBERS += [("worked_answer", f"#### 9\nThe answer is: {said}", part) for said, part in WORKED.items()]


@together("name, text, expected", NUMBERS)
def test_extractions(name, text, expected):
    assert Extract(name=name).of(text) == expected


def test_a_part_of_a_right_answer_is_wrong():
    metrics = set_of("extracted_match", extract=Extract(name="worked_answer"))
    for gold, written in (("1/2", "1"), ("3\\sqrt{2}", "3"), ("-$5", "5"), ("1 and 2", "1")):
        for one, other in ((gold, written), (written, gold), (gold, gold)):
            golds = [[f"The answer is: {one}"]]
            value = metrics.values(predictions([f"The answer is: {other}."], golds))["extracted_match"]
            assert value == float(one == other), (one, other)


def test_extractions_by_a_pattern():
    own = Extract(name="colour", pattern=r"colour: (\w+)|painted (\w+)")
    assert [own.of(text) for text in ("colour: red", "painted blue", "grey", None)] == ["red", "blue", None, None]
    last = Extract(name="colour", pattern=r"colour: (\w+)", take="last")
    assert last.of("colour: red, colour: blue") == "blue"


REFUSED = [
    ({"name": "gsm8k_nmber"}, "Did you mean 'gsm8k_number'"),
    ({"name": "own", "pattern": "(unclosed"}, "is not a regular expression"),
    ({"name": "own", "pattern": "no group"}, "has no group"),
    ({"name": "letter", "pattern": "(x)"}, "has a pattern already"),
    ({"name": "letter", "take": "last"}, "only for a `pattern` of your own"),
]


@together("given, message", REFUSED)
def test_extractions_that_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Extract.model_validate(given)


def test_extracted_match_reads_both_sides():
    written = ["it is 7\n#### 7", "#### 8", "no number"]
    golds = [["3 + 4 = 7.\n#### 7"], ["#### 9"], ["#### 1"]]
    metrics = set_of("extracted_match", extract=Extract(name="gsm8k_number"))
    scores = metrics.scores(predictions(written, golds))
    assert (scores["extracted_match"].value, scores["extracted_nothing"].value) == (1 / 3, 1 / 3)
    assert "extract:gsm8k_number" in scores["extracted_match"].signature
    assert not metrics.higher_is_better("extracted_nothing")


def test_the_loss_of_references_is_weighted_by_tokens():
    extra = [{"reference_nll": 6.0, "reference_tokens": 2}, {"reference_nll": 1.0, "reference_tokens": 8}]
    scored = predictions(["a", "b"], [["a"], ["c"]], extra)
    metrics = set_of("reference_loss", "exact_match")
    scores = metrics.scores(scored)
    assert scores["reference_loss"].value == pytest.approx(0.7)
    assert scores["perplexity"].value == pytest.approx(math.exp(0.7))
    assert scores["reference_tokens"].value == 10
    assert scores["reference_loss"].low < 0.7 < scores["reference_loss"].high
    # A constant answer has no likelihood.
    assert set(metrics.values(predictions(["a", "a"], [["a"], ["c"]]))) == {"exact_match"}
    lines = [Line("a", ["a"], None, each["reference_nll"], each["reference_tokens"]) for each in extra]
    assert json.dumps(tally("perplexity", lines, (), multi_label=False).score) == json.dumps(math.exp(0.7))
