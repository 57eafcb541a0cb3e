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


# Where a label is certain, the derivative of a power below 1 of what is left to it would not be finite.
LEAST_DOUBT = 1e-12


def class_loss_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    gamma: float | None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy of labels [items] under logits [items, labels], each weighed by its label's weight.

    weights: [labels], None for 1. gamma: of the focal loss, the factor (1 - p)^gamma of each item's cross-entropy, with
    the probability p of its label (Lin et al. 2017, arXiv:1708.02002, equation 5, without smoothing); None for no
    factor. Summed over items, in float32.
    """
    logits = logits.float()
    if gamma is None:
        return torch.nn.functional.cross_entropy(
            logits, labels, weight=weights, reduction="sum", label_smoothing=label_smoothing
        )
    right = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return _focal(right, gamma, None if weights is None else weights[labels])


def binary_loss_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    gamma: float | None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the binary cross-entropy of entries [examples, labels] of 0 and 1; positive ones weigh `weights` [labels].

    gamma: see `class_loss_sum`; p is then the probability of the entry as it is. Summed over entries, in float32.
    """
    logits, target = logits.float(), labels.float()
    if gamma is None:
        target = target * (1 - label_smoothing) + label_smoothing / 2
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="sum")
    right = torch.nn.functional.logsigmoid(torch.where(labels == 1, logits, -logits))
    return _focal(right, gamma, None if weights is None else torch.where(labels == 1, weights, 1.0))


def _focal(log_likelihoods: torch.Tensor, gamma: float, weights: torch.Tensor | None) -> torch.Tensor:
    doubt = (-torch.expm1(log_likelihoods)).clamp(min=LEAST_DOUBT)  # 1 - p, exact for p near 1
    parts = -(doubt**gamma) * log_likelihoods
    return (parts if weights is None else weights * parts).sum()


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
