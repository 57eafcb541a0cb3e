"""Summed losses of language models and of span heads; the caller divides by the items of the whole step."""

import torch

from bench.data.batching import IGNORED


def answer_loss_sum(logits: torch.Tensor, labels: torch.Tensor, *, shifted: bool) -> torch.Tensor:
    """Return the negative log-likelihood of the labels [batch, tokens], summed, in float32.

    logits: [batch, tokens, vocabulary]. shifted: a decoder's logits at a place are those of the next token; an
    encoder-decoder's are those of the label at the same place.
    """
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    # Only where there is a label: a vocabulary is wide, and most tokens belong to the prompt.
    wanted = labels != IGNORED
    return summed_loss(logits[wanted], labels[wanted])


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of labels [items] under logits [items, vocabulary], summed, in float32."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


NOTHING = float("-inf")


def choice_loss_sum(
    logits: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy over each example's own choices, summed over examples, in float32.

    logits, present: [examples, choices]; where `present` is false there is no choice. labels: [examples]. Smoothing
    moves that share of the target to the uniform distribution over the choices that there are (Szegedy et al. 2016).
    """
    log_likelihoods = logits.float().masked_fill(~present, NOTHING).log_softmax(-1)
    right = log_likelihoods.gather(-1, labels[:, None])[:, 0]
    uniform = log_likelihoods.masked_fill(~present, 0).sum(-1) / present.sum(-1)
    return -((1 - label_smoothing) * right + label_smoothing * uniform).sum()


def span_loss_sum(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    start_positions: torch.Tensor,
    end_positions: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return (cross-entropy of start + of end) / 2, as in BERT's run_squad.py; summed over features, in float32.

    logits: [features, tokens]. positions: [features]. mask: [features, tokens], true for real tokens: the softmax is
    over these alone, so that pads change nothing.
    """
    real = mask.bool()
    losses = [
        summed_loss(logits.float().masked_fill(~real, NOTHING), positions)
        for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
    ]
    return (losses[0] + losses[1]) / 2
