"""Batches of examples whose answer a language model learns to write, and the loss on that answer."""

from collections.abc import Sequence
from typing import Any

import torch

IGNORED = -100  # torch's cross entropy leaves it out, as transformers' and TRL's losses do


def collate_answers(
    features: Sequence[dict[str, Any]], pad_token_id: int, decoder_start_token_id: int | None = None
) -> dict[str, torch.Tensor]:
    """Pads {"input_ids", "token_labels"} on the right, into input_ids, attention_mask and labels [batch, tokens].

    With a start token, for an encoder-decoder, decoder_input_ids too: the labels, one place later. The mask comes from
    lengths, and what is no label is no label whatever its token: where pad is the end token, the end is still learned.
    """
    ids = _padded([feature["input_ids"] for feature in features], pad_token_id)
    lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
    labels = _padded([feature["token_labels"] for feature in features], IGNORED)
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


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def answer_loss_sum(logits: torch.Tensor, labels: torch.Tensor, *, shifted: bool) -> torch.Tensor:
    """Negative log-likelihood of the labels [batch, tokens], summed, in float32.

    logits: [batch, tokens, vocabulary]. shifted: a decoder's logits at a place are those of the next token; an
    encoder-decoder's are those of the label at the same place.
    """
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    # Only where there is a label: a vocabulary is wide, and most tokens belong to the prompt.
    wanted = labels != IGNORED
    return summed_loss(logits[wanted], labels[wanted])


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of labels [items] under logits [items, vocabulary], summed, in float32."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
