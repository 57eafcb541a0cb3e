"""Batches are, bit for bit, those of lists padded by hand."""

import random
from types import SimpleNamespace

import pytest
import torch

from bench.data import batching

PAD = 3
TOKENIZER = SimpleNamespace(pad_token_id=PAD)


def rows_of(seed, num_rows=9, longest=17):
    """Rows of unequal length, among them one of a single token; pad tokens are ordinary tokens in them."""
    chooser = random.Random(seed)
    lengths = [1, *(chooser.randint(1, longest) for _ in range(num_rows - 1))]
    return [[chooser.randrange(6) for _ in range(length)] for length in lengths]


def padded_by_hand(rows, value, side="right"):
    longest = max(map(len, rows))
    fills = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([fill + row if side == "left" else row + fill for row, fill in zip(rows, fills, strict=True)])


def assert_identical(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("seed", range(3))
def test_inputs_padded_on_either_side(side, seed):
    rows = rows_of(seed)
    expected = {
        "input_ids": padded_by_hand(rows, PAD, side),
        "attention_mask": padded_by_hand([[1] * len(row) for row in rows], 0, side),
    }
    assert_identical(batching.pad_inputs(rows, PAD, side), expected)
    as_tuples = [tuple(row) for row in rows]
    assert_identical(batching.pad_inputs(as_tuples, PAD, side), expected)


@pytest.mark.parametrize("labels", [[0, 2, 1], [[0, 1], [1, 1], [0, 0]], [0.5, 1.0, -2.0]])
def test_a_batch_of_a_head(labels):
    rows = rows_of(1, num_rows=3)
    types = [[len(row) % 2] * len(row) for row in rows]
    features = [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]
    expected = {
        "input_ids": padded_by_hand(rows, PAD),
        "attention_mask": padded_by_hand([[1] * len(row) for row in rows], 0),
        "labels": torch.tensor(labels),
    }
    assert_identical(batching.collate(features, TOKENIZER), expected)
    typed = [{**feature, "token_type_ids": row} for feature, row in zip(features, types, strict=True)]
    expected["token_type_ids"] = padded_by_hand(types, 0)
    assert_identical(batching.collate(typed, TOKENIZER), expected)


def test_a_batch_of_answers_of_a_decoder():
    rows = rows_of(2)
    answers = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in rows]
    features = [{"input_ids": row, "token_labels": answer} for row, answer in zip(rows, answers, strict=True)]
    labels = padded_by_hand(answers, -100)
    labels[:, 0] = -100
    expected = {
        "input_ids": padded_by_hand(rows, PAD),
        "attention_mask": padded_by_hand([[1] * len(row) for row in rows], 0),
        "labels": labels,
    }
    assert_identical(batching.collate_answers(features, PAD), expected)


def test_a_batch_of_answers_of_an_encoder_decoder():
    rows, answers = rows_of(3), rows_of(4, longest=5)
    features = [{"input_ids": row, "token_labels": answer} for row, answer in zip(rows, answers, strict=True)]
    start = torch.full((len(rows), 1), 5)
    expected = {
        "input_ids": padded_by_hand(rows, PAD),
        "attention_mask": padded_by_hand([[1] * len(row) for row in rows], 0),
        "labels": padded_by_hand(answers, -100),
        "decoder_input_ids": torch.cat([start, padded_by_hand(answers, PAD)[:, :-1]], dim=1),
    }
    assert_identical(batching.collate_answers(features, PAD, 5), expected)


def test_batches_of_rows_of_similar_length():
    lengths = [5, 1, 9, 4, 4]
    assert batching.grouped(lengths, 10) == [[2], [0, 3], [4, 1]]
    assert batching.grouped([50], 10) == [[0]], "a row that is longer than the budget is a batch of its own"
    assert batching.grouped([], 10) == []
