"""spans.py: held exactly to a plain search through all pairs; nothing depends on batches, pads or their order."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch

from bench.errors import DivergedError, ScoreError
from bench.evaluation.spans import Candidates, best_answers, candidates, joined
from bench.models.losses import span_loss_sum
from tests.helpers.cases import together

WORDS = ("In", "May", "2008", "an", "earthquake", "of", "magnitude", "8.0", "struck", "Sichuan", "69,197", "dead")


# ---------------------------------------------------------------- the plain way, in loops


def best_pairs(start, end, low, high, n_best, longest):
    """[(score, start, end)]: every pair, sorted. Sums in float32."""
    pairs = []
    for first in range(low, high):
        for last in range(first, min(first + longest, high)):
            pairs.append((np.float32(start[first]) + np.float32(end[last]), first, last))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:n_best]


def plain_answers(logits, features, rows, n_best, longest, threshold):
    """[(text, score, null_score, [(text, score)])], from (start logits, end logits) of each feature."""
    answers = []
    for number, row in enumerate(rows):
        pool, nulls = [], []
        for place, (feature, (start, end)) in enumerate(zip(features, logits, strict=True)):
            if feature["example"] != number:
                continue
            nulls.append(start[feature["null"]] + end[feature["null"]])
            found = best_pairs(start, end, feature["context_start"], feature["context_end"], n_best, longest)
            for score, first, last in found:
                shift = feature["context_start"]
                span = (feature["offsets"][first - shift][0], feature["offsets"][last - shift][1])
                pool.append((-score, place, first, last, span))
        nbest, seen = [], set()
        for item in sorted(pool):
            if item[4] not in seen and item[4][0] < item[4][1]:
                seen.add(item[4])
                nbest.append((row["text"][slice(*item[4])], float(-item[0])))
        null, score = float(min(nulls)), nbest[0][1] if nbest else float(-min(pool)[0])
        none = threshold is not None and null - score > threshold
        answers.append(("" if none or not nbest else nbest[0][0], score, null, nbest[:n_best]))
    return answers


# ---------------------------------------------------------------- material


def context_of(draw, num_words):
    """(a text, offsets [words, 2])."""
    text, offsets = "", []
    for word in draw.choices(WORDS, k=num_words):
        text += " " if text else ""
        offsets.append((len(text), len(text) + len(word)))
        text += word
    return text, np.array(offsets, dtype=np.int32)


def examples(seed, num_rows=12, longest=40):
    """Rows and their windows; a context of some has several, which overlap."""
    draw = random.Random(seed)
    rows, features = [], []
    for number in range(num_rows):
        text, offsets = context_of(draw, draw.randint(1, longest))
        rows.append({"id": f"{number}", "text": text})
        size = draw.choice([5, 12, 100])
        question = draw.randint(0, 4)
        for start in range(0, len(offsets), max(size - 3, 1)):
            part = offsets[start : start + size]
            after = draw.randint(0, 2)
            features.append(
                {
                    "input_ids": [7] * (1 + question + len(part) + after),
                    "example": number,
                    "context_start": 1 + question,
                    "context_end": 1 + question + len(part),
                    "offsets": part,
                    "null": draw.choice([0, question + len(part) + after]),
                }
            )
            if start + size >= len(offsets):
                break
    return rows, features


def logits_of(features, seed, kind):
    """[(start logits, end logits)] of each feature, without pads."""
    made = np.random.default_rng(seed)
    drawn = []
    for feature in features:
        size = (2, len(feature["input_ids"]))
        if kind == "smooth":
            values = made.normal(0, 4, size)
        elif kind == "ties":
            # Few values, both zeros among them: most scores are equal to others.
            values = made.choice([-1.0, -0.0, 0.0, 0.5], size)
        else:
            values = made.normal(-6, 2, size) + 14 * (made.random(size) < 0.1)
        drawn.append(values.astype(np.float32))
    return drawn


def batch_of(features, logits, side="right", pad=0.0, dtype=torch.float32):
    """What `candidates` gets of some features in one batch."""
    width = max(len(feature["input_ids"]) for feature in features)
    tensors = torch.full((2, len(features), width), pad, dtype=dtype)
    firsts = []
    for place, values in enumerate(logits):
        firsts.append(0 if side == "right" else width - values.shape[1])
        tensors[:, place, firsts[-1] : firsts[-1] + values.shape[1]] = torch.from_numpy(values).to(dtype)
    return tensors, {
        "context_starts": [feature["context_start"] for feature in features],
        "context_ends": [feature["context_end"] for feature in features],
        "nulls": [feature["null"] for feature in features],
        "firsts": firsts,
    }


def found_in(features, logits, n_best=20, longest=30, **layout):
    (start, end), places = batch_of(features, logits, **layout)
    return candidates(start, end, **places, n_best=n_best, max_answer_length=longest)


def assert_same(one, two):
    for field in dataclasses.fields(Candidates):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def row_of(found, number):
    """[(score, start, end)] of one feature, without the empty places."""
    there = found.starts[number] >= 0
    return list(zip(*(part[number, there].tolist() for part in (found.scores, found.starts, found.ends)), strict=True))


# ---------------------------------------------------------------- candidates


@pytest.mark.parametrize("kind", ["smooth", "ties", "peaks"])
@together("n_best, longest", [(20, 30), (1, 30), (5, 1), (3, 7), (20, 2), (200, 500)])
def test_candidates_are_those_of_a_search_through_all_pairs(kind, n_best, longest):
    for seed in range(8):
        _, features = examples(seed)
        logits = logits_of(features, seed, kind)
        found = found_in(features, logits, n_best, longest)
        assert found.scores.shape == found.starts.shape == found.ends.shape == (len(features), n_best)
        for number, (feature, (start, end)) in enumerate(zip(features, logits, strict=True)):
            expected = best_pairs(start, end, feature["context_start"], feature["context_end"], n_best, longest)
            assert row_of(found, number) == [tuple(map(float, pair)) for pair in expected]
            assert np.isneginf(found.scores[number, len(expected) :]).all()
            assert found.null_scores[number] == start[feature["null"]] + end[feature["null"]]


def test_a_window_of_384_tokens():
    made = np.random.default_rng(5)
    features = [{"input_ids": [7] * 384, "context_start": 14, "context_end": 383, "null": 0}] * 6
    logits = [made.normal(0, 3, (2, 384)).astype(np.float32) for _ in features]
    found = found_in(features, logits)
    for number, (start, end) in enumerate(logits):
        assert row_of(found, number) == [tuple(map(float, pair)) for pair in best_pairs(start, end, 14, 383, 20, 30)]


@pytest.mark.parametrize("kind", ["smooth", "ties"])
@pytest.mark.parametrize("pad", [0.0, 1e4, float("nan"), float("-inf"), float("inf")])
def test_padding_side_batch_size_and_order_change_nothing(kind, pad):
    _, features = examples(3)
    logits = logits_of(features, 4, kind)
    whole = found_in(features, logits)
    assert_same(whole, found_in(features, logits, pad=pad))
    assert_same(whole, found_in(features, logits, side="left", pad=pad))
    for size in (1, 2, 5):
        numbers = list(range(len(features)))
        random.Random(size).shuffle(numbers)
        parts = []
        for place in range(0, len(numbers), size):
            some = numbers[place : place + size]
            side = "left" if place % 2 else "right"
            part = found_in([features[number] for number in some], [logits[number] for number in some], side=side)
            parts.append((some, part))
        assert_same(whole, joined(parts, len(features)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_added_in_float32(dtype):
    _, features = examples(6)
    exact = logits_of(features, 6, "smooth")
    rounded = [torch.from_numpy(values).to(dtype).float().numpy() for values in exact]
    assert_same(found_in(features, exact, dtype=dtype), found_in(features, rounded))


def test_logits_that_require_gradients_and_tensors_as_positions():
    _, features = examples(8)
    logits = logits_of(features, 8, "smooth")
    (start, end), places = batch_of(features, logits)
    places = {name: torch.tensor(values) for name, values in places.items()}
    assert_same(found_in(features, logits), candidates(start.requires_grad_(), end.requires_grad_(), **places))


def test_without_firsts_features_begin_in_the_first_column():
    _, features = examples(9)
    (start, end), places = batch_of(features, logits_of(features, 9, "smooth"))
    del places["firsts"]
    assert_same(found_in(features, logits_of(features, 9, "smooth")), candidates(start, end, **places))


def test_the_best_start_and_end_need_not_be_among_the_20_highest_of_each():
    # The high starts stand behind the high ends: the usual 20 x 20 hold no span at all.
    start, end = np.zeros((2, 60), dtype=np.float32)
    start[35:] = end[:25] = 5.0
    start[28], end[30] = 3.0, 3.0
    assert not any(first <= last for first in np.argsort(start)[-20:] for last in np.argsort(end)[-20:])
    feature = {"input_ids": [7] * 60, "context_start": 0, "context_end": 60, "null": 0}
    assert row_of(found_in([feature], [np.stack([start, end])], n_best=1), 0) == [(6.0, 28, 30)]


def test_the_usual_20_by_20_is_never_better():
    worse = 0
    for seed in range(60):
        start, end = np.random.default_rng(seed).normal(0, 3, (2, 300)).astype(np.float32)
        usual = [
            start[first] + end[last]
            for first in np.argsort(start)[-20:]
            for last in np.argsort(end)[-20:]
            if first <= last < first + 3
        ]
        feature = {"input_ids": [7] * 300, "context_start": 0, "context_end": 300, "null": 0}
        best = found_in([feature], [np.stack([start, end])], longest=3).scores[0, 0]
        assert best >= max(usual, default=-np.inf)
        worse += best > max(usual, default=-np.inf)
    assert 0 < worse < 60


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (torch.zeros(0, 5), torch.zeros(0, 5)),
        (torch.zeros(2, 0), torch.zeros(2, 0)),
        (torch.zeros(2, 5), torch.zeros(2, 4)),
        (torch.zeros(5), torch.zeros(5)),
    ],
)
def test_empty_or_unequal_logits_are_refused(start, end):
    with pytest.raises(ScoreError, match="no answers can be read from start logits of shape"):
        candidates(start, end, context_starts=[1, 1], context_ends=[2, 2], nulls=[0, 0])


@pytest.mark.parametrize("changes", [{"n_best": 0}, {"max_answer_length": 0}])
def test_no_candidates_are_refused(changes):
    with pytest.raises(ScoreError, match="all sizes at least 1"):
        candidates(torch.zeros(1, 5), torch.zeros(1, 5), context_starts=[1], context_ends=[2], nulls=[0], **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"context_ends": [6]},
        {"context_starts": [-1]},
        {"context_starts": [3], "context_ends": [3]},
        {"nulls": [5]},
        {"nulls": [-1]},
        {"firsts": [3]},
        {"firsts": [-1]},
    ],
)
def test_positions_outside_the_window_are_refused(changes):
    places = {"context_starts": [1], "context_ends": [4], "nulls": [0], **changes}
    with pytest.raises(ScoreError, match="is outside its window of at most 5 tokens"):
        candidates(torch.zeros(1, 5), torch.zeros(1, 5), **places)


def test_as_many_positions_as_windows():
    with pytest.raises(ScoreError, match="expected positions of 2 windows"):
        candidates(torch.zeros(2, 5), torch.zeros(2, 5), context_starts=[1], context_ends=[2], nulls=[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 3])
def test_logits_that_are_not_finite_are_refused(value, place):
    start = torch.zeros(2, 5)
    start[1, place] = value
    with pytest.raises(DivergedError, match="not finite"):
        candidates(torch.zeros(2, 5), start, context_starts=[1, 1], context_ends=[4, 4], nulls=[0, 0])


def test_each_window_must_come_back_once():
    _, features = examples(2)
    logits = logits_of(features, 2, "smooth")
    found = found_in(features[:2], logits[:2])
    for numbers in ([0, 0], [0, 2]):
        with pytest.raises(ScoreError, match="expected answers of 2 windows, got 2 answers of"):
            joined([(numbers, found)], 2)
    with pytest.raises(ScoreError, match="expected answers of 3 windows, got 2 answers of 2 windows"):
        joined([([0, 1], found)], 3)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("threshold", [None, 0.0, -2.5])
@pytest.mark.parametrize("kind", ["smooth", "ties", "peaks"])
def test_answers_are_those_of_the_plain_way(kind, threshold):
    empty = 0
    for seed in range(12):
        rows, features = examples(seed)
        logits = logits_of(features, seed, kind)
        n_best, longest = (20, 30) if seed % 2 else (3, 4)
        found = found_in(features, logits, n_best, longest)
        answers = best_answers(found, features, rows, null_score_diff_threshold=threshold)
        expected = plain_answers(logits, features, rows, n_best, longest, threshold)
        assert len(answers) == len(rows)
        for answer, (text, score, null, nbest) in zip(answers, expected, strict=True):
            assert (answer.text, answer.score, answer.null_score) == (text, score, null)
            assert [(span.text, span.score) for span in answer.nbest] == nbest
            assert answer.null_odds == null - score
            empty += text == ""
    assert (empty == 0) == (threshold is None)


def test_a_text_is_the_contexts_own_characters():
    rows, features = examples(1)
    answers = best_answers(found_in(features, logits_of(features, 1, "smooth")), features, rows)
    for answer, row in zip(answers, rows, strict=True):
        for span in answer.nbest:
            assert span.text == row["text"][span.start : span.end]
        assert answer.text == answer.nbest[0].text != ""


def window(offsets, example=0, null=0, first=1):
    return {
        "input_ids": [7] * (first + len(offsets)),
        "example": example,
        "context_start": first,
        "context_end": first + len(offsets),
        "offsets": np.array(offsets, dtype=np.int32),
        "null": null,
    }


def test_equal_scores_give_the_first_window_the_earlier_start_the_shorter_span():
    rows = [{"text": "a b c d e"}]
    features = [window([(0, 1), (2, 3), (4, 5)]), window([(4, 5), (6, 7), (8, 9)])]
    zeros = [np.zeros((2, 4), dtype=np.float32)] * 2
    (answer,) = best_answers(found_in(features, zeros), features, rows)
    assert [span.text for span in answer.nbest] == [
        *("a", "a b", "a b c", "b", "b c", "c"),
        # `c` was there already.
        *("c d", "c d e", "d", "d e", "e"),
    ]
    assert answer.score == answer.null_score == 0.0


def test_the_null_score_is_the_lowest_of_all_windows():
    rows, features = [{"text": "a b"}], [window([(0, 1)]), window([(2, 3)], null=1)]
    logits = [np.array([[3, 1], [3, 1]]), np.array([[9, 2], [9, 1.5]])]
    found = found_in(features, [values.astype(np.float32) for values in logits])
    (answer,) = best_answers(found, features, rows)
    assert (answer.text, answer.score, answer.null_score, answer.null_odds) == ("b", 3.5, 3.5, 0.0)
    assert answer.no_answer_probability == 0.5


@pytest.mark.parametrize(("threshold", "text"), [(None, "a"), (0.9, ""), (1.0, "a"), (1.1, "a"), (-5.0, "")])
def test_no_answer_where_the_difference_is_above_the_threshold(threshold, text):
    logits = [np.array([[2.0, 1.0], [1.0, 1.0]], dtype=np.float32)]
    features = [window([(0, 1)])]
    (answer,) = best_answers(found_in(features, logits), features, [{"text": "a"}], null_score_diff_threshold=threshold)
    assert (answer.text, answer.null_odds) == (text, 1.0)
    assert answer.no_answer_probability == pytest.approx(1 / (1 + math.exp(-1)))
    # Where there may be no answer, that has its share.
    assert answer.nbest[0].probability == pytest.approx(1.0 if threshold is None else 1 / (1 + math.e))


def test_probabilities_are_those_of_a_softmax_and_stay_finite():
    rows, features = examples(4)
    logits = [40 * values for values in logits_of(features, 4, "smooth")]
    found = found_in(features, logits)
    for threshold in (None, 0.0):
        for answer in best_answers(found, features, rows, null_score_diff_threshold=threshold):
            scores = [span.score for span in answer.nbest] + ([] if threshold is None else [answer.null_score])
            expected = torch.tensor(scores, dtype=torch.float64).softmax(0)[: len(answer.nbest)]
            assert [span.probability for span in answer.nbest] == pytest.approx(expected.tolist(), abs=1e-12)
            assert 0.0 <= answer.no_answer_probability <= 1.0


def test_what_stands_for_no_character_is_no_answer():
    rows, features = [{"text": "a  b"}], [window([(0, 1), (1, 1), (3, 4)])]
    logits = np.array([[0, 1, 9, 2], [0, 1, 9, 2]], dtype=np.float32)
    (answer,) = best_answers(found_in(features, [logits]), features, rows)
    assert (answer.text, answer.score) == ("  b", 11.0)
    (answer,) = best_answers(found_in(features, [logits], n_best=1), features, rows)
    assert (answer.text, answer.score, answer.nbest) == ("", 18.0, ())


def test_every_row_must_have_a_window():
    rows, features = examples(1)
    found = found_in(features, logits_of(features, 1, "smooth"))
    with pytest.raises(ScoreError, match="13 questions"):
        best_answers(found, features, [*rows, rows[0]])
    with pytest.raises(ScoreError, match="11 questions"):
        best_answers(found, features, rows[:-1])
    with pytest.raises(ScoreError, match=f"from {len(features)} windows: there are {len(features) - 1} features"):
        best_answers(found, features[:-1], rows)


def test_windows_of_a_row_need_not_stand_together():
    rows, features = examples(11)
    logits = logits_of(features, 11, "smooth")
    answers = best_answers(found_in(features, logits), features, rows)
    order = list(range(len(features)))
    random.Random(1).shuffle(order)
    mixed = [features[place] for place in order]
    assert best_answers(found_in(mixed, [logits[place] for place in order]), mixed, rows) == answers


# ---------------------------------------------------------------- loss


def test_the_loss_of_a_padded_batch_is_the_sum_of_single_ones():
    _, features = examples(2)
    logits = logits_of(features, 2, "smooth")
    made = random.Random(3)
    targets = [sorted(made.choices(range(values.shape[1]), k=2)) for values in logits]
    single = [
        sum(
            torch.nn.functional.cross_entropy(torch.from_numpy(part)[None], torch.tensor([target]))
            for part, target in zip(values, pair, strict=True)
        )
        / 2
        for values, pair in zip(logits, targets, strict=True)
    ]
    for side in ("left", "right"):
        for pad in (0.0, 1e4, float("nan")):
            (start, end), places = batch_of(features, logits, side=side, pad=pad)
            first = torch.tensor(places["firsts"])
            columns = torch.arange(start.shape[1])
            lengths = torch.tensor([values.shape[1] for values in logits])
            mask = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])
            begin, stop = (torch.tensor(values) + first for values in zip(*targets, strict=True))
            # As a tokenizer gives it, and as a truth value.
            for given in (mask, mask.long()):
                loss = span_loss_sum(start, end, begin, stop, given)
                assert loss.dtype == torch.float32
                torch.testing.assert_close(loss, torch.stack(single).sum(), rtol=1e-6, atol=1e-6)


def test_pads_get_no_gradient_and_the_loss_is_taken_in_float32():
    made = torch.Generator().manual_seed(1)
    start, end = (torch.randn(3, 6, generator=made).bfloat16().requires_grad_() for _ in range(2))
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    targets = torch.tensor([5, 2, 0]), torch.tensor([5, 3, 0])
    loss = span_loss_sum(start, end, *targets, mask)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, span_loss_sum(start.float(), end.float(), *targets, mask))
    loss.backward()
    for logits in (start, end):
        assert logits.grad.isfinite().all()
        assert (logits.grad[~mask] == 0).all()
        assert (logits.grad[:2][mask[:2]] != 0).all()
