"""Builds batches: padding to the longest row, masks, answers and their labels, groups of rows of like length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

IGNORED = -100  # torch's cross entropy leaves it out, as transformers' and TRL's losses do


def collate_answers(
    features: Sequence[dict[str, Any]], pad_token_id: int, decoder_start_token_id: int | None = None
) -> dict[str, torch.Tensor]:
    """Pads {"input_ids", "token_labels"} on the right, into input_ids, attention_mask and labels [batch, tokens].

    With a start token, for an encoder-decoder, decoder_input_ids too: the labels, one place later. The mask comes from
    lengths, and what is no label is no label whatever its token: where pad is the end token, the end is still learned.
    """
    ids = _filled([feature["input_ids"] for feature in features], pad_token_id)
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
    labels = _filled([feature["token_labels"] for feature in features], IGNORED)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if decoder_start_token_id is None:
        # Nothing stands before the first token to predict it, so it is no loss item in either engine's count.
        labels[:, 0] = IGNORED
    else:
        start = torch.full((len(features), 1), decoder_start_token_id)
        known = labels.masked_fill(labels == IGNORED, pad_token_id)
        batch["decoder_input_ids"] = torch.cat([start, known[:, :-1]], dim=1)
    return batch


def _filled(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def grouped(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row numbers, longest first, in groups whose number of rows times its longest row is within the budget."""
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    found: list[list[int]] = []
    for number in order:
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= budget:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def collate(features: Sequence[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pads to the longest on the right; the mask comes from lengths, so a pad token inside a text stays real."""
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    mask = np.arange(lengths.max()) < lengths[:, None]
    batch = {
        "input_ids": _padded([feature["input_ids"] for feature in features], mask, tokenizer.pad_token_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.tensor([feature["labels"] for feature in features]),
    }
    if "token_type_ids" in features[0]:
        batch["token_type_ids"] = _padded([feature["token_type_ids"] for feature in features], mask, 0)
    return batch


def _padded(rows: Sequence[Sequence[int]], mask: np.ndarray, value: int) -> torch.Tensor:
    # Filled by NumPy: a tensor per row takes eight times as long, in each step of training.
    filled = np.full(mask.shape, value, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return torch.from_numpy(filled)
