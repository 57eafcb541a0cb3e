"""Metrics of answers in words: the official SQuAD rules, published values of sacrebleu, rouge-score and NLTK."""

import importlib
import inspect
import itertools
import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from bench.analysis.stats import intervals
from tests.helpers.cases import together

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("squad", "squad_v2", "bleu", "rouge", "meteor")
WORDS = ("The", "a", "10 a.m.", "10 am", "well-known", "Zürich", "“cat”", "cat", "cats", "sat", "on", "mat", "東京")


def metric_class(name):
    import evaluate  # it takes seconds, which collecting does without

    module = importlib.import_module(f"bench.metrics.{name}")
    (found,) = (item for item in vars(module).values() if inspect.isclass(item) and issubclass(item, evaluate.Metric))
    return found


@pytest.fixture
def make(tmp_path):
    """make(name) -> an instance that writes nothing outside of tmp_path."""
    return lambda name: metric_class(name)(keep_in_memory=True, cache_dir=str(tmp_path))


@pytest.fixture
def score(make):
    """score(name, answers, golds, ...) -> values."""
    return lambda name, answers, golds, **more: make(name).compute(predictions=answers, references=golds, **more)


def random_answers(seed, examples=40, unanswerable=0.3):
    """Answers, golds and probabilities of no answer; some answers are right, empty or missing, probabilities tie."""
    generator = np.random.default_rng(seed)

    def text():
        return " ".join(generator.choice(WORDS, size=generator.integers(1, 6)))

    answers, golds = [], []
    for _ in range(examples):
        number = 0 if generator.random() < unanswerable else generator.integers(1, 4)
        golds.append([text() for _ in range(number)])
        right = golds[-1][0] if number else ""
        kind = generator.choice(["right", "other", "empty", "missing"], p=[0.4, 0.4, 0.1, 0.1])
        answers.append({"right": right, "other": text(), "empty": "", "missing": None}[kind])
    return answers, golds, (generator.integers(0, 12, examples) / 12).tolist()


# ---------------------------------------------------------------- SQuAD: single answers

# Answer, gold, and what both versions give for it: (exact match, F1).
BOTH = [
    ("The cat", "cat", 1, 1),
    ("10 a.m.", "10 am", 1, 1),
    ("10\u00a0am", "10 am", 1, 1),
    ("it's", "its", 1, 1),
    ("well-known", "wellknown", 1, 1),
    # A hyphen is deleted, not replaced by a space: one word against two.
    ("well-known", "well known", 0, 0),
    # A curly quote, a dash and a full-width full stop are no ASCII punctuation.
    ("“cat”", "cat", 0, 0),
    ('"cat"', "cat", 1, 1),
    ("1939–1945", "19391945", 0, 0),
    ("1939-1945", "19391945", 1, 1),
    ("東京。", "東京", 0, 0),
    ("ZÜRICH", "zürich", 1, 1),
    # No Unicode normalisation: the same letters, written as letter and accent.
    ("Zu\u0308rich", "Zürich", 0, 0),
    # Articles go as whole words only, after the punctuation.
    ("theatre", "atre", 0, 0),
    ("a.", "cat", 0, 0),
    ("An hour", "hour", 1, 1),
    ("cat sat", "the cat sat on mat", 0, 2 * 2 / (2 + 4)),
    # A word counts as often as both have it.
    ("cat cat", "cat", 0, 2 * 1 / (2 + 1)),
    ("cat cat mat", "mat cat cat cat", 0, 2 * 3 / (3 + 4)),
    ("mat on cat", "cat on mat", 0, 1),
    ("", "cat", 0, 0),
]


@pytest.mark.parametrize(("answer", "gold", "exact", "f1"), BOTH, ids=lambda part: str(part))
def test_one_answer(answer, gold, exact, f1, score):
    first = score("squad", [answer], [[gold]])
    assert first == {"squad_exact_match": exact, "squad_f1": pytest.approx(f1), "squad_missing": 0}
    second = score("squad_v2", [answer], [[gold]])
    assert second["squad_v2_exact"] == second["squad_v2_HasAns_exact"] == exact
    assert second["squad_v2_f1"] == second["squad_v2_HasAns_f1"] == pytest.approx(f1)


@pytest.mark.parametrize(("answer", "gold"), [("The", "the"), ("...", "!"), ("", "a"), ("a", "The."), (" ", "An")])
def test_where_nothing_is_left_of_both_the_versions_differ(answer, gold, score):
    first = score("squad", [answer], [[gold]])
    assert (first["squad_exact_match"], first["squad_f1"]) == (1, 0)
    second = score("squad_v2", [answer], [[gold]])
    assert (second["squad_v2_HasAns_exact"], second["squad_v2_HasAns_f1"]) == (1, 1)


def test_exact_match_and_f1_may_come_from_different_golds(score):
    golds = [["cat sat on mat", "dog", "cat"]]
    assert score("squad", ["cat sat"], golds)["squad_f1"] == pytest.approx(2 * 2 / 6)
    # "The" equals the gold "a" when both are normalised, but shares no word with any.
    first = score("squad", ["The"], [["cat", "a"]])
    assert (first["squad_exact_match"], first["squad_f1"]) == (1, 0)
    # v2.0 leaves that gold out while another is left, so that the empty answer is wrong.
    second = score("squad_v2", ["The"], [["cat", "a"]])
    assert (second["squad_v2_exact"], second["squad_v2_f1"]) == (0, 0)


def test_a_missing_answer_counts_zero_and_is_counted(score):
    answers, golds = [None, "cat", None, ""], [["cat"], ["cat"], ["a"], ["dog"]]
    found = score("squad", answers, golds)
    assert found == {"squad_exact_match": 1 / 4, "squad_f1": 1 / 4, "squad_missing": 2}
    found = score("squad_v2", answers, [["cat"], ["cat"], [], []])
    assert found["squad_v2_missing"] == 2
    assert found["squad_v2_exact"] == 2 / 4
    assert (found["squad_v2_HasAns_f1"], found["squad_v2_HasAns_total"]) == (1 / 2, 2)
    # Silence is right where there is no answer, a missing prediction is not.
    assert (found["squad_v2_NoAns_f1"], found["squad_v2_NoAns_total"]) == (1 / 2, 2)


def test_questions_with_and_without_an_answer(score):
    answers, golds = ["", "cat", "The", "cat sat", "dog"], [[], [], [], ["cat"], ["dog", "puppy"]]
    assert score("squad_v2", answers, golds) == {
        "squad_v2_exact": pytest.approx((1 + 0 + 1 + 0 + 1) / 5),
        "squad_v2_f1": pytest.approx((1 + 0 + 1 + 2 / 3 + 1) / 5),
        "squad_v2_HasAns_exact": 1 / 2,
        "squad_v2_HasAns_f1": pytest.approx((2 / 3 + 1) / 2),
        "squad_v2_NoAns_exact": pytest.approx(2 / 3),
        "squad_v2_NoAns_f1": pytest.approx(2 / 3),
        "squad_v2_HasAns_total": 2,
        "squad_v2_NoAns_total": 3,
        "squad_v2_missing": 0,
    }
    only = score("squad_v2", ["cat"], [["cat"]])
    assert only["squad_v2_exact"] == 1
    assert np.isnan(only["squad_v2_NoAns_exact"])
    assert np.isnan(score("squad_v2", [""], [[]])["squad_v2_HasAns_f1"])


def test_v1_refuses_a_question_without_an_answer(score):
    with pytest.raises(ValueError, match="take the metric squad_v2"):
        score("squad", ["cat", ""], [["cat"], []])


# ---------------------------------------------------------------- SQuAD: a second implementation


def normalised(text):
    """The four steps one after the other, character by character and word by word."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    parts = re.split(r"(\w+)", text)
    return " ".join("".join(" " if part in ("a", "an", "the") else part for part in parts).split())


def official(answer, golds, version):
    """(exact match, F1) of one answer, from precision and recall of words."""
    if version == 2:
        golds = [gold for gold in golds if normalised(gold)] or [""]
    best = [0.0, 0.0]
    for gold in golds:
        predicted, expected = normalised(answer).split(), normalised(gold).split()
        common = sum(min(predicted.count(word), expected.count(word)) for word in set(predicted))
        f1 = 0.0
        if version == 2 and not (predicted and expected):
            f1 = float(predicted == expected)
        elif common:
            precision, recall = common / len(predicted), common / len(expected)
            f1 = 2 * precision * recall / (precision + recall)
        best = [max(best[0], float(predicted == expected)), max(best[1], f1)]
    return best


@pytest.mark.parametrize("seed", range(4))
def test_squad_equals_a_second_implementation(seed, make):
    for name, version, unanswerable in (("squad", 1, 0), ("squad_v2", 2, 0.4)):
        answers, golds, _ = random_answers(seed, unanswerable=unanswerable)
        expected = [[0, 0] if a is None else official(a, g, version) for a, g in zip(answers, golds, strict=True)]
        found = make(name).per_example(answers, golds)
        assert 0 < np.mean(expected) < 1
        exact = "squad_exact_match" if version == 1 else "squad_v2_exact"
        np.testing.assert_array_equal(found[exact], np.array(expected)[:, 0])
        np.testing.assert_allclose(found[f"{name}_f1"], np.array(expected)[:, 1], atol=1e-12)


# ---------------------------------------------------------------- SQuAD v2.0: thresholds


def brute_force(answers, golds, probabilities):
    """Every threshold tried: name -> (best value, lowest threshold with it)."""
    found = {}
    lowest = -1.0 if 0 in probabilities else 0.0
    for number, name in enumerate(("exact", "f1")):
        tried = {}
        for threshold in (lowest, *sorted(set(probabilities))):
            points = 0.0
            for answer, gold, probability in zip(answers, golds, probabilities, strict=True):
                if answer is None:
                    continue
                kept = probability <= threshold
                if gold:
                    points += official(answer, gold, 2)[number] if kept else 0
                else:
                    points += not (kept and answer)
            tried[threshold] = round(points / len(answers), 9)
        best = max(tried.values())
        found[name] = (best, min(threshold for threshold, value in tried.items() if value == best))
    return found


@together("seed", range(12))
def test_best_values_equal_a_search_over_all_thresholds(seed, score):
    answers, golds, probabilities = random_answers(seed)
    if seed % 2:
        probabilities = np.random.default_rng(seed).random(len(answers)).tolist()  # no two alike
    found = score("squad_v2", answers, golds, no_answer_probabilities=probabilities)
    for name, (value, threshold) in brute_force(answers, golds, probabilities).items():
        assert found[f"squad_v2_best_{name}"] == pytest.approx(value, abs=1e-8)
        assert found[f"squad_v2_best_{name}_thresh"] == threshold


@together("seed", range(9))
def test_the_threshold_of_a_record_is_on_the_scale_of_the_recipe(seed, make):
    """Log-odds: as spans.null_score_diff_threshold they keep and drop the answers that the best probability does."""
    metric = make("squad_v2")
    answers, golds, _ = random_answers(seed)
    odds = np.random.default_rng(seed).normal(scale=(0.5, 5, 12)[seed % 3], size=len(answers))
    odds = np.abs(odds) if seed == 4 else odds  # no answer is the likelier everywhere
    probabilities = 1 / (1 + np.exp(-odds))
    by_probability = metric.compute(predictions=answers, references=golds, no_answer_probabilities=probabilities)
    tuned = metric.tuned_values(answers, golds, probabilities)
    for name in ("exact", "f1"):
        value, threshold = f"squad_v2_best_{name}", f"squad_v2_best_{name}_thresh"
        assert tuned[value] == by_probability[value]
        np.testing.assert_array_equal(odds <= tuned[threshold], probabilities <= by_probability[threshold])
        assert np.abs(odds - tuned[threshold]).min() > 1e-9
    assert all("threshold:null_score_diff,nats" in metric.signatures()[name] for name in tuned)


def test_thresholds_lie_half_way_between_answers(make):
    golds = [["cat"], [], ["mat"], []]
    odds = np.array([-3.0, 1.5, 0.5, 4.0])
    tuned = make("squad_v2").tuned_values(["cat", "dog", "mat", "sat"], golds, 1 / (1 + np.exp(-odds)))
    assert tuned["squad_v2_best_exact"] == 1
    assert tuned["squad_v2_best_exact_thresh"] == pytest.approx(1.0)
    # None is kept, and all are.
    tuned = make("squad_v2").tuned_values(["dog"] * 4, golds, 1 / (1 + np.exp(-odds)))
    assert tuned["squad_v2_best_f1_thresh"] == pytest.approx(-4.0)
    tuned = make("squad_v2").tuned_values(["cat", "cat"], [["cat"]] * 2, [0.5, 0.5])
    assert tuned["squad_v2_best_f1_thresh"] == pytest.approx(1.0)
    tuned = make("squad_v2").tuned_values(["cat"], [["cat"]], [1.0])
    assert tuned["squad_v2_best_f1_thresh"] == 1e6
    tuned = make("squad_v2").tuned_values(["cat", "dog"], [["cat"], []], [0.0, 1.0])
    assert -36 <= tuned["squad_v2_best_f1_thresh"] <= 36


def test_a_known_threshold(score):
    answers, golds = ["cat", "dog", "mat", "sat"], [["cat"], [], ["mat"], []]
    inputs = {"no_answer_probabilities": [0.1, 0.6, 0.5, 0.9]}
    found = score("squad_v2", answers, golds, **inputs)
    assert (found["squad_v2_best_exact"], found["squad_v2_best_exact_thresh"]) == (1, 0.5)
    # The default threshold of 1 keeps every answer.
    assert found["squad_v2_exact"] == score("squad_v2", answers, golds)["squad_v2_exact"] == 1 / 2
    at_best = score("squad_v2", answers, golds, **inputs, no_answer_threshold=0.5)
    assert at_best["squad_v2_exact"] == at_best["squad_v2_f1"] == 1
    # A probability equal to the threshold is not above it.
    assert score("squad_v2", answers, golds, **inputs, no_answer_threshold=0.1)["squad_v2_HasAns_exact"] == 1 / 2
    assert score("squad_v2", answers, golds, **inputs, no_answer_threshold=0)["squad_v2_HasAns_f1"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_values_at_a_threshold_are_those_of_emptied_answers(seed, score):
    answers, golds, probabilities = random_answers(seed)
    inputs = {"no_answer_probabilities": probabilities, "no_answer_threshold": 0.5}
    emptied = [
        "" if answer is not None and probability > 0.5 else answer
        for answer, probability in zip(answers, probabilities, strict=True)
    ]
    got, expected = score("squad_v2", answers, golds, **inputs), score("squad_v2", emptied, golds)
    assert emptied != answers
    assert {name: got[name] for name in expected} == pytest.approx(expected)


def test_when_keeping_no_answer_at_all_is_best(score):
    found = score("squad_v2", ["cat", "dog"], [[], ["puppy"]], no_answer_probabilities=[0.2, 0.3])
    assert (found["squad_v2_best_f1"], found["squad_v2_best_f1_thresh"]) == (1 / 2, 0)
    # With a probability of 0, the threshold 0 would keep that answer.
    found = score("squad_v2", ["cat", "dog"], [[], ["puppy"]], no_answer_probabilities=[0.0, 0.3])
    assert (found["squad_v2_best_f1"], found["squad_v2_best_f1_thresh"]) == (1 / 2, -1)


def test_a_kept_article_is_wrong_in_the_search_as_in_the_official_script(score):
    found = score("squad_v2", ["the"], [[]], no_answer_probabilities=[0.5])
    assert found["squad_v2_exact"] == 1
    assert (found["squad_v2_best_exact"], found["squad_v2_best_exact_thresh"]) == (1, 0)
    # Keeping the right answer means to keep "the" as well, which loses that point.
    found = score("squad_v2", ["the", "cat"], [[], ["cat"]], no_answer_probabilities=[0.5, 0.5])
    assert (found["squad_v2_exact"], found["squad_v2_best_exact"]) == (1, 1 / 2)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([0.5], r"must have the shape \(2,\), got \(1,\)"),
        ([0.5, 1.5], "1.5 is not a probability; log-odds"),
        ([-3.0, 0.5], "-3.0 is not a probability"),
        ([np.nan, 0.5], "nan is not a probability"),
    ],
)
def test_what_is_no_probability_is_refused(wrong, sentence, score):
    with pytest.raises(ValueError, match=sentence):
        score("squad_v2", ["cat", ""], [["cat"], []], no_answer_probabilities=wrong)


def test_a_threshold_without_probabilities_is_refused(score):
    with pytest.raises(ValueError, match=r"no_answer_threshold 0\.5 needs no_answer_probabilities"):
        score("squad_v2", ["cat"], [["cat"]], no_answer_threshold=0.5)


# ---------------------------------------------------------------- BLEU

ANSWERS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
STREAMS = [
    ["The dog bit the man.", "It was not unexpected.", "The man bit him first."],
    ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."],
]


def test_bleu_gives_the_values_of_sacrebleus_documents(score):
    golds = [list(texts) for texts in zip(*STREAMS, strict=True)]
    found = score("bleu", ANSWERS, golds)
    assert found["bleu"] == pytest.approx(48.530827, abs=5e-7)
    assert found["bleu_tokenize_none"] == pytest.approx(49.1919566, abs=5e-8)
    assert found["bleu_left_out"] == 0
    # The first reference of the first answer taken away: the section on a variable number of references.
    golds[0] = golds[0][1:]
    found = score("bleu", ANSWERS, golds)
    assert found["bleu"] == pytest.approx(29.44, abs=0.005)


@pytest.mark.parametrize("seed", range(4))
def test_bleu_equals_sacrebleus_corpus_score_for_unequal_numbers_of_golds(seed, score):
    answers, golds, _ = random_answers(seed)
    kept = [(answer or "", texts) for answer, texts in zip(answers, golds, strict=True) if texts]
    assert len({len(texts) for _, texts in kept}) > 1
    # sacrebleu wants streams of equal length, with None where an example has no further reference.
    streams = list(itertools.zip_longest(*(texts for _, texts in kept)))
    found = score("bleu", answers, golds)
    for name, tokenizer in (("bleu", "13a"), ("bleu_tokenize_none", "none")):
        theirs = BLEU(tokenize=tokenizer)
        expected = theirs.corpus_score([answer for answer, _ in kept], streams).score
        assert found[name] == pytest.approx(expected, abs=1e-9)
        assert expected > 1
        assert str(theirs.get_signature()) in metric_class("bleu")().signatures()[name]
    assert found["bleu_left_out"] == len(golds) - len(kept)


def test_bleu_of_a_missing_answer_is_that_of_an_empty_one(score):
    golds = [["the cat sat on the mat"], ["the dog sat on the mat"]]
    missing = score("bleu", ["the cat sat on the mat", None], golds)
    assert missing == score("bleu", ["the cat sat on the mat", ""], golds)
    # Every n-gram matches, but half of the expected length is not there: exp(1 - 12 / 6).
    assert missing["bleu"] == pytest.approx(100 * np.exp(-1))


def test_bleu_of_nothing_but_questions_without_an_answer(score):
    found = score("bleu", ["", "cat"], [[], []])
    assert np.isnan(found["bleu"])
    assert found["bleu_left_out"] == 2


# ---------------------------------------------------------------- ROUGE


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        # Cases of rouge-score's own tests.
        ("testing", ["testing one two"], {"rouge1": 1 / 2}),
        ("testing one", ["testing one two"], {"rouge1": 4 / 5, "rouge2": 2 / 3, "rougeL": 4 / 5}),
        ("testing two", ["testing one two"], {"rougeL": 4 / 5}),
        ("text first", ["first text", "first something"], {"rouge1": 1, "rouge2": 0, "rougeL": 1 / 2}),
        ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", ["w1 w2 w3 w4 w5"], {"rougeLsum": 2 * 0.8 * 0.4 / (0.8 + 0.4)}),
        ("Second sentence.\nFirst Sentence.", ["First sentence.\nSecond Sentence."], {"rougeLsum": 1}),
        ("Second sentence. First Sentence.", ["First sentence. Second Sentence."], {"rougeLsum": 1 / 2}),
        ("/", ["w1 w2 w3 w4 w5"], {"rouge1": 0, "rougeLsum": 0}),
        # Stems of words of more than three letters.
        ("jumping horses", ["jump horse"], {"rouge1": 1, "rouge2": 1, "rougeL": 1, "rougeLsum": 1}),
        # The best gold is chosen for each value by itself.
        ("w1 w2 w3", ["w1 w2", "w3 w2 w1"], {"rouge1": 1, "rouge2": 2 / 3, "rougeL": 4 / 5}),
        # Only a-z and digits make words.
        ("東京", ["東京"], {"rouge1": 0, "rougeL": 0}),
        ("Zürich", ["Z rich"], {"rouge1": 1}),
    ],
)
def test_rouge_of_one_answer(answer, golds, expected, score):
    found = score("rouge", [answer], [golds])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def longest_common(first, second):
    """Length of the longest common subsequence, by trying every subset of the first."""
    for length in range(len(first), 0, -1):
        for chosen in itertools.combinations(first, length):
            rest = iter(second)
            if all(word in rest for word in chosen):
                return length
    return 0


def test_rouge_is_the_plain_mean_of_its_definition(score):
    generator = np.random.default_rng(5)
    answers, golds = (
        [" ".join(generator.choice(list("xyzuvw"), size=generator.integers(1, 8))) for _ in range(30)] for _ in range(2)
    )

    def f_measure(answer, gold, size):
        grams = [
            Counter(zip(*(text.split()[start:] for start in range(size)), strict=False)) for text in (answer, gold)
        ]
        total = sum(sum(counts.values()) for counts in grams)
        return 2 * sum((grams[0] & grams[1]).values()) / total if total else 0

    def of_subsequence(answer, gold):
        words = answer.split(), gold.split()
        return 2 * longest_common(*words) / sum(map(len, words))

    pairs = list(zip(answers, golds, strict=True))
    expected = {
        "rouge1": np.mean([f_measure(*pair, 1) for pair in pairs]),
        "rouge2": np.mean([f_measure(*pair, 2) for pair in pairs]),
        "rougeL": np.mean([of_subsequence(*pair) for pair in pairs]),
    }
    got = []
    for seed in (0, 1):
        np.random.seed(seed)  # the package's aggregator would read this generator
        got.append(score("rouge", answers, [[gold] for gold in golds]))
    assert {name: got[0][name] for name in expected} == pytest.approx(expected)
    assert got[0] == got[1]


# ---------------------------------------------------------------- METEOR


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        # NLTK's documented values that need no synonyms.
        ("The cat sat on the mat", ["The cat sat on the mat"], 0.9977),
        ("on the mat sat the cat", ["The cat sat on the mat"], 0.5),
        ("The cat was sat on the mat", ["The cat sat on the mat"], 0.9654),
        ("creates or updates a virtual machine scale set", ["create or update a vm set"], 0.7806),
        ("John loves Mary", ["The candidate has no alignment to any of the references"], 0),
        ("non matching hypothesis", ["this is a cat"], 0),
        (
            "It is a guide to action which ensures that the military always obeys the commands of the party",
            [
                "It is a guide to action that ensures that the military will forever heed Party commands",
                "It is the guiding principle which guarantees the military forces always being under the command "
                "of the Party",
                "It is the practical guide for the army always to heed the directions of the party",
            ],
            0.6944,
        ),
        # One run of all words: 1 - 0.5 / words^3.
        ("cat", ["cat"], 1 - 0.5),
        ("東京 タワー", ["東京 タワー"], 1 - 0.5 / 2**3),
        ("cat sat", ["dog", "cat sat"], 1 - 0.5 / 2**3),
        ("cat", ["cat sat"], (1 - 0.5) * (1 * 0.5) / (0.9 * 1 + 0.1 * 0.5)),
    ],
)
def test_meteor_of_one_answer(answer, golds, expected, score):
    assert score("meteor", [answer], [golds])["meteor"] == pytest.approx(expected, abs=5e-5)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["rouge", "meteor"])
def test_a_mean_over_questions_of_which_some_have_no_answer(name, make):
    answers = ["", "  ", "cat", None, "", None]
    golds = [[], [], [], [], ["cat"], ["cat"]]
    for values in make(name).per_example(answers, golds).values():
        assert values.tolist() == [1, 1, 0, 0, 0, 0]
    assert all("no_gold:1_if_empty" in signature for signature in make(name).signatures().values())


def test_signatures_hold_what_moves_the_number(make):
    squad, bleu = make("squad").signatures(), make("bleu").signatures()
    assert "|0-1|text:lower,no_ascii_punctuation,no_articles|golds:max|missing:0|" in squad["squad_f1"]
    assert "|0-100|nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:" in bleu["bleu"]
    assert "|tok:none|" in bleu["bleu_tokenize_none"]
    assert "|stemmer:porter|" in make("rouge").signatures()["rougeLsum"]
    assert "tuned_on:these_examples" in make("squad_v2").signatures()["squad_v2_best_f1"]


def data_of(name, seed):
    return random_answers(seed, unanswerable=0 if name == "squad" else 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_sums_over_drawn_examples_equal_values_of_the_drawn_texts(name, make):
    metric = make(name)
    answers, golds, _ = data_of(name, 1)
    statistics = metric.statistics(answers, golds)
    generator = np.random.default_rng(0)
    for _ in range(5):
        drawn = generator.integers(len(answers), size=len(answers))
        by_sums = metric.values(statistics[drawn].sum(0))
        directly = metric.compute(predictions=[answers[i] for i in drawn], references=[golds[i] for i in drawn])
        assert {key: float(value) for key, value in by_sums.items()} == pytest.approx(directly)


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_by_sums_is_that_of_recomputed_texts(name, make):
    metric = make(name)
    answers, golds, _ = data_of(name, 2)
    by_sums = intervals.bootstrap(metric.statistics(answers, golds), metric.values, draws=1000)
    directly = intervals.bootstrap_examples(metric._compute, answers, golds, draws=100)
    for value in metric.higher_is_better:
        low, high = by_sums[value]
        assert low < high
        # Other draws, and fewer: the ends agree within a fourth of the width.
        assert np.abs(np.subtract(directly[value], (low, high))).max() < (high - low) / 4


@pytest.mark.parametrize("name", NAMES)
@together("seed", range(3))
def test_the_order_of_examples_and_golds_is_of_no_account(name, seed, score):
    answers, golds, probabilities = data_of(name, seed)
    order = np.random.default_rng(seed).permutation(len(answers))
    more, shuffled = {}, {}
    if name == "squad_v2":
        more, shuffled = (
            {"no_answer_probabilities": found} for found in (probabilities, np.array(probabilities)[order])
        )
    expected = score(name, answers, golds, **more)
    got = score(name, [answers[i] for i in order], [golds[i][::-1] for i in order], **shuffled)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_are_no_texts_is_refused(name, make):
    metric = make(name)
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        metric.statistics(["cat"], [["cat"], ["dog"]])
    with pytest.raises(ValueError, match="prediction 1 must be a text, or None where it is missing, got 3"):
        metric.statistics(["cat", 3], [["cat"], ["dog"]])
    with pytest.raises(ValueError, match="reference 0 must be a list of texts, got 'cat'"):
        metric.statistics(["cat"], ["cat"])
    with pytest.raises(ValueError, match="reference 0 must be a list of texts, got 2"):
        metric.statistics(["cat"], [2])
    with pytest.raises(ValueError, match="reference 1 holds an empty text"):
        metric.statistics(["cat", ""], [["cat"], [""]])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_answer_may_stand_first(name, score):
    # evaluate looks only at the first text of a batch.
    golds = [["cat sat on mat"], ["dog sat on mat"]]
    first, last = (score(name, answers, golds[::step]) for answers, step in ((["x", None], 1), ([None, "x"], -1)))
    assert first == pytest.approx(last, nan_ok=True)


# ---------------------------------------------------------------- other scripts

SCRIPTS = {
    "Chinese": "北京是中国的首都城市",
    "Japanese": "東京は日本の首都です",
    "Thai": "กรุงเทพมหานครเป็นเมืองหลวง",
    "Russian": "Москва столица России сегодня",
    "Greek": "Η Αθήνα είναι η πρωτεύουσα",
    "Hindi": "नई दिल्ली भारत की राजधानी है",
    "Arabic": "القاهرة هي عاصمة جمهورية مصر",
    "Korean": "서울은 대한민국의 수도 입니다",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_right_answers_in_other_scripts_have_full_marks(script, score):
    text = SCRIPTS[script]
    assert score("rouge", [text], [[text]])["rouge1"] == 0
    found = score("rouge_unicode", [text], [[text]])
    assert found == {"rouge1_unicode": 1, "rouge2_unicode": 1, "rougeL_unicode": 1}
    assert score("bleu_languages", [text], [[text]])["bleu_char"] == pytest.approx(100)
    part = score("rouge_unicode", [text[: len(text) // 2]], [[text]])["rouge1_unicode"]
    assert 0.3 < part < 0.9


def test_words_of_rouge_in_any_script(score):
    found = score("rouge_unicode", ["ZÜRICH Strasse", "naïve café"], [["Zürich Straße"], ["naive café"]])
    assert found["rouge1_unicode"] == pytest.approx((1 + 1 / 2) / 2)
    # Beside Chinese characters, Latin words stay words.
    assert score("rouge_unicode", ["GPT模型"], [["gpt 模型"]])["rouge1_unicode"] == 1
    assert score("rouge_unicode", ["GPT模型"], [["模型"]])["rouge1_unicode"] == pytest.approx(0.8)
    plain, other = "The cat sat on the mat.", "the cat sat on a mat"
    assert score("rouge_unicode", [plain], [[other]])["rouge1_unicode"] == pytest.approx(
        score("rouge", [plain], [[other]])["rouge1"]
    )


def test_bleu_by_other_tokenisers_is_sacrebleus(score):
    answers, golds = ["北京是中国的首都城市", "le chat s'est assis"], [["北京是中国首都"], ["le chat est assis là"]]
    found = score("bleu_languages", answers, golds)
    for name, tokenizer in (("bleu_intl", "intl"), ("bleu_zh", "zh"), ("bleu_char", "char")):
        expected = BLEU(tokenize=tokenizer).corpus_score(answers, [[texts[0] for texts in golds]]).score
        assert found[name] == pytest.approx(expected)
