"""Builds batches: padding to the longest row, attention masks, labels, and batches of rows of similar length."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

IGNORED = -100  # torch's cross entropy leaves it out, as transformers' and TRL's losses do

Mask = npt.NDArray[np.bool_]


def length_mask(rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "right") -> Mask:
    """Return [rows, longest]: where a row has a token of its own when it is padded on that side."""
    counts = np.array([len(row) for row in rows])[:, None]
    columns = np.arange(counts.max())
    return columns < counts if side == "right" else columns >= counts.max() - counts


def pad(rows: Sequence[Sequence[int]], mask: Mask, value: int) -> torch.Tensor:
    """Return int64 [rows, longest]: the rows where `mask`, their `length_mask`, is true, and `value` elsewhere."""
    # Filled by NumPy: a tensor made of padded lists takes eight times as long, in each step of training.
    filled = np.full(mask.shape, value, dtype=np.int64)
    filled[mask] = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=sum(map(len, rows)))
    return torch.from_numpy(filled)


def pad_inputs(
    rows: Sequence[Sequence[int]], pad_token_id: int, side: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask, int64 [rows, longest].

    The mask comes from lengths, so a pad token inside a text is attended to.
    """
    return _inputs(rows, length_mask(rows, side), pad_token_id)


def _inputs(rows: Sequence[Sequence[int]], mask: Mask, pad_token_id: int) -> dict[str, torch.Tensor]:
    return {"input_ids": pad(rows, mask, pad_token_id), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def collate(features: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Return a batch of {"input_ids", "labels"}, and "token_type_ids" where features have them, padded on the right.

    Of features with "word_labels", a label or IGNORED for each token, these are the labels. A number as label that is
    IGNORED by chance is moved by one unit in the last place, else it would be no loss item in either engine's count. Of
    features with "pairs" see `collate_choices`.
    """
    if "pairs" in features[0]:
        return collate_choices(features, tokenizer)
    rows = [feature["input_ids"] for feature in features]
    mask = length_mask(rows)
    batch = _inputs(rows, mask, tokenizer.pad_token_id)
    if "word_labels" in features[0] and "labels" not in features[0]:
        batch["labels"] = pad([feature["word_labels"] for feature in features], mask, IGNORED)
    else:
        batch["labels"] = torch.tensor([feature["labels"] for feature in features])
    if batch["labels"].is_floating_point():
        labels = batch["labels"]
        batch["labels"] = torch.where(labels == IGNORED, torch.nextafter(labels, torch.zeros_like(labels)), labels)
    if "token_type_ids" in features[0]:
        batch["token_type_ids"] = pad([feature["token_type_ids"] for feature in features], mask, 0)
    return batch


def collate_choices(features: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Return a batch of {"pairs", "labels"}: input_ids, attention_mask ... [examples, choices, tokens].

    Where an example has fewer choices than another one, a single token of it fills their place, which is attended
    to, since a row without any has no hidden state: the loss leaves out rows of one token. labels: [examples].
    """
    most = max(len(feature["pairs"]) for feature in features)
    rows: list[Mapping[str, Any]] = []
    for feature in features:
        own = feature["pairs"]
        rows += [*own, *[{name: ids[:1] for name, ids in own[0].items()}] * (most - len(own))]
    batch = collate([{**row, "labels": 0} for row in rows], tokenizer)
    batch = {name: tensor.view(len(features), most, -1) for name, tensor in batch.items() if name != "labels"}
    return {**batch, "labels": torch.tensor([feature["labels"] for feature in features])}


def collate_answers(
    features: Sequence[Mapping[str, Any]], pad_token_id: int, decoder_start_token_id: int | None = None
) -> dict[str, torch.Tensor]:
    """Return a batch of {"input_ids", "token_labels"}, padded on the right: labels are int64 [batch, tokens].

    With a start token, for an encoder-decoder, decoder_input_ids too: the labels, one place later. Labels are padded by
    length, whatever their tokens: where the pad token is the end token, the end is still learned.
    """
    batch = pad_inputs([feature["input_ids"] for feature in features], pad_token_id)
    answers = [feature["token_labels"] for feature in features]
    labels = pad(answers, length_mask(answers), IGNORED)
    batch["labels"] = labels
    if decoder_start_token_id is None:
        # Nothing stands before the first token to predict it, so it is no loss item in either engine's count.
        labels[:, 0] = IGNORED
    else:
        start = torch.full((len(features), 1), decoder_start_token_id)
        known = labels.masked_fill(labels == IGNORED, pad_token_id)
        batch["decoder_input_ids"] = torch.cat([start, known[:, :-1]], dim=1)
    return batch


def grouped(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return row numbers, longest first, in batches whose number of rows times their longest row is within `budget`."""
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    batches: list[list[int]] = []
    for number in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches
