"""Turns start and end logits into answers that are spans of a context."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.data.examples import Feature
from bench.errors import DivergedError, ScoreError
from bench.models.losses import NOTHING


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The best spans of some features, best first, as [features, n_best]; padded with -inf, -1 and -1.

    scores: float32, start logit + end logit. starts, ends: int32 tokens, counted from the feature's first token; the
    end is part of the span. null_scores: float32 [features], both logits at the null position.
    """

    scores: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    null_scores: np.ndarray


class Span(NamedTuple):
    """An answer: the context's characters [start, end).

    probability: its share of the softmax over the n-best, and over "no answer" where that may be the answer.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class BestAnswer:
    """The answer to one example, "" for none. score: of its best span, even where the answer is none.

    null_score: of no answer, the lowest of its windows.
    """

    text: str
    score: float
    null_score: float
    nbest: tuple[Span, ...]

    @property
    def null_odds(self) -> float:
        """Return null_score - score, to compare with a threshold: the higher, the less likely there is an answer."""
        return self.null_score - self.score

    @property
    def no_answer_probability(self) -> float:
        """Return the probability of "no answer" against the best span alone: the logistic function of `null_odds`."""
        odds = self.null_odds
        return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


@torch.no_grad()
def candidates(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    *,
    context_starts: Sequence[int] | torch.Tensor,
    context_ends: Sequence[int] | torch.Tensor,
    nulls: Sequence[int] | torch.Tensor,
    n_best: int = 20,
    max_answer_length: int = 30,
    firsts: Sequence[int] | torch.Tensor | None = None,
) -> Candidates:
    """Return the `n_best` best of all spans that lie in the context and have at most `max_answer_length` tokens.

    The usual scripts look at the 20 best starts with the 20 best ends only; this finds the best of all pairs. Equal
    scores (float32): the earlier start, then the shorter span.

    logits: [features, tokens], padded on either side, on any device. context_starts, context_ends (behind the last),
    nulls: as the features have them, counted from a feature's first token; firsts: the column in which each feature
    begins (default: 0). Raises ScoreError for shapes that do not fit or positions outside the logits, DivergedError for
    logits of the context or the null position that are not finite.
    """
    shape = tuple(start_logits.shape)
    if len(shape) != 2 or 0 in shape or tuple(end_logits.shape) != shape or n_best < 1 or max_answer_length < 1:
        raise ScoreError(
            f"no answers can be read from start logits of shape {list(shape)} and end logits of shape "
            f"{list(end_logits.shape)} (n_best {n_best}, max_answer_length {max_answer_length}): both must be "
            "[features, tokens], and all sizes at least 1"
        )
    given = [[0] * shape[0] if firsts is None else firsts, context_starts, context_ends, nulls]
    first, inside, null = _placed([torch.as_tensor(item, device=start_logits.device) for item in given], shape)
    start, end = start_logits.float(), end_logits.float()
    null_scores = (start.gather(1, null) + end.gather(1, null))[:, 0]
    start, end = start.masked_fill(~inside, NOTHING), end.masked_fill(~inside, NOTHING)
    finite = (start.isfinite() & end.isfinite()) == inside
    if not (finite.all() and null_scores.isfinite().all()):
        raise DivergedError("logits of answer spans are not finite: weights are not finite, or fp16 overflows")
    scores, starts, ends = _best_pairs(start, end, n_best, min(max_answer_length, shape[1]))
    missing = scores == NOTHING
    return Candidates(
        scores=_filled(scores, n_best, NOTHING),
        starts=_filled((starts - first).masked_fill(missing, -1).int(), n_best, -1),
        ends=_filled((ends - first).masked_fill(missing, -1).int(), n_best, -1),
        null_scores=null_scores.cpu().numpy(),
    )


def _placed(given: Sequence[torch.Tensor], shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn positions (of features' first tokens, context starts, context ends, null positions) into columns of logits.

    Returns first columns [features, 1], a mask of the context [features, tokens], null columns [features, 1].
    """
    if any(item.shape != shape[:1] for item in given):
        raise ScoreError(
            f"expected positions of {shape[0]} windows, as there are logits; got {[len(item) for item in given]}"
        )
    first, low, high, null = given
    low, high, null = (item.long()[:, None] + first[:, None] for item in (low, high, null))
    first = first.long()[:, None]
    fits = (first >= 0) & (first <= low) & (low < high) & (high <= shape[1]) & (first <= null) & (null < shape[1])
    if not fits.all():
        raise ScoreError(f"a context or a null position is outside its window of at most {shape[1]} tokens")
    columns = torch.arange(shape[1], device=first.device)
    return first, (columns >= low) & (columns < high), null


def _best_pairs(
    start: torch.Tensor, end: torch.Tensor, n_best: int, longest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (scores, starts, ends) [features, up to n_best] of all pairs with start <= end < start + longest.

    logits [features, tokens], -inf where nothing may begin or end. Exact in two steps: a start's best pair takes the
    highest end in the band behind it, and none of the n best pairs has a start whose best pair is beaten by n others.
    """
    width = start.shape[1]
    reach, highest = 1, end
    # The maximum over a band twice as long, until it is as long as an answer.
    while reach < longest:
        step = min(reach, longest - reach)
        highest = torch.cat([torch.maximum(highest[:, :-step], highest[:, step:]), highest[:, -step:]], dim=1)
        reach += step
    starts = _ranked(start + highest, n_best).sort(dim=1).values
    ends = starts[:, :, None] + torch.arange(longest, device=start.device)
    padded = torch.nn.functional.pad(end, (0, longest - 1), value=NOTHING)
    pairs = start.gather(1, starts)[:, :, None] + padded.gather(1, ends.flatten(1)).view_as(ends)
    pairs, ends = pairs.flatten(1), ends.flatten(1)
    best = _ranked(pairs, n_best)
    return pairs.gather(1, best), starts.gather(1, best // longest), ends.gather(1, best).clamp(max=width - 1)


def _ranked(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the columns of each row's highest scores, the first of equal ones before the others.

    `topk` alone leaves the order of equal scores open, and half precision has many. Score and column make one whole
    number: the bits of a float, the sign turned round, are in the order of floats (0.0 is added for -0.0 to be 0.0).
    """
    width = scores.shape[1]
    bits = (scores + 0.0).view(torch.int32)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = (order << 32) + torch.arange(width - 1, -1, -1, device=scores.device)
    best = keys.topk(min(count, width), dim=1).values
    return width - 1 - (best & 0xFFFFFFFF)


def _filled(values: torch.Tensor, count: int, value: float) -> np.ndarray:
    return torch.nn.functional.pad(values, (0, count - values.shape[1]), value=value).cpu().numpy()


def joined(parts: Iterable[tuple[Sequence[int], Candidates]], num_features: int) -> Candidates:
    """Join the candidates of batches, each with the numbers of its features, in the order of features.

    Raises ScoreError when a feature is missing or comes twice.
    """
    batches = list(parts)
    numbers = np.array([number for some, _ in batches for number in some], dtype=np.int64)
    if len(numbers) != num_features or not np.array_equal(np.sort(numbers), np.arange(num_features)):
        raise ScoreError(
            f"expected answers of {num_features} windows, got {len(numbers)} answers of "
            f"{len(set(numbers.tolist()))} windows"
        )
    order = np.argsort(numbers)
    names = ("scores", "starts", "ends", "null_scores")
    return Candidates(**{name: np.concatenate([getattr(part, name) for _, part in batches])[order] for name in names})


def best_answers(
    candidates: Candidates,
    features: Sequence[Feature],
    rows: Sequence[Mapping[str, Any]],
    *,
    null_score_diff_threshold: float | None = None,
) -> list[BestAnswer]:
    """Return the answer to each row: the best span of all its windows, in the characters of its text.

    null_score_diff_threshold: None where every question has an answer (SQuAD v1.1); else there is none where
    null_score - score is above it (v2.0). Equal scores: the first window, the earlier start, the shorter span. A span
    that two windows share counts once; one without visible characters is no answer.

    candidates: of all `features`, in their order. Raises ScoreError when they are not as many, or a row has no feature.
    """
    owners = np.array([feature["example"] for feature in features], dtype=np.int64)
    if len(candidates.scores) != len(features) or not np.array_equal(np.unique(owners), np.arange(len(rows))):
        raise ScoreError(
            f"answers to {len(rows)} questions can't be read from {len(candidates.scores)} windows: there are "
            f"{len(features)} features, of {len(np.unique(owners))} questions"
        )
    null_scores = np.full(len(rows), np.inf, dtype=np.float32)
    np.minimum.at(null_scores, owners, candidates.null_scores)
    spans = _characters(candidates, features)
    # Stable: a row's windows, and a window's candidates, stay in their order where scores are equal.
    order = np.lexsort((-candidates.scores.ravel(), np.repeat(owners, candidates.scores.shape[1])))
    per_row = np.split(order, np.cumsum(np.bincount(owners) * candidates.scores.shape[1])[:-1])
    scores, starts, ends = candidates.scores.ravel(), spans[..., 0].ravel(), spans[..., 1].ravel()
    answers = []
    for row, mine, null in zip(rows, per_row, null_scores.tolist(), strict=True):
        ranked = zip(scores[mine].tolist(), starts[mine].tolist(), ends[mine].tolist(), strict=True)
        chosen = _distinct(ranked, candidates.scores.shape[1])
        # All candidates are white space: the score is that of the best one.
        score = chosen[0][0] if chosen else float(scores[mine[0]])
        may_be_none = null_score_diff_threshold is not None
        nbest = _spans(row["text"], chosen, null if may_be_none else None)
        is_none = null_score_diff_threshold is not None and null - score > null_score_diff_threshold
        text = "" if is_none or not nbest else nbest[0].text
        answers.append(BestAnswer(text=text, score=score, null_score=null, nbest=nbest))
    return answers


def _distinct(ranked: Iterable[tuple[float, int, int]], count: int) -> list[tuple[float, int, int]]:
    """Return the first `count` (score, start, end) that are not empty, each span once."""
    chosen: dict[tuple[int, int], tuple[float, int, int]] = {}
    for score, start, end in ranked:
        if start < end and (start, end) not in chosen:
            chosen[start, end] = score, start, end
            if len(chosen) == count:
                break
    return list(chosen.values())


def _spans(context: str, chosen: Sequence[tuple[float, int, int]], null_score: float | None) -> tuple[Span, ...]:
    """Return the chosen (score, start, end) with texts and probabilities."""
    highest = max([score for score, _, _ in chosen[:1]] + ([] if null_score is None else [null_score]), default=0.0)
    weights = [math.exp(score - highest) for score, _, _ in chosen]
    total = sum(weights) + (0.0 if null_score is None else math.exp(null_score - highest))
    return tuple(
        Span(context[start:end], start, end, score, weight / total)
        for (score, start, end), weight in zip(chosen, weights, strict=True)
    )


def _characters(candidates: Candidates, features: Sequence[Feature]) -> np.ndarray:
    """Return [features, n_best, 2]: start and end characters in the text; equal where there is no span."""
    places = np.zeros((*candidates.scores.shape, 2), dtype=np.int64)
    for number, feature in enumerate(features):
        there = candidates.starts[number] >= 0
        offsets, first = feature["offsets"], feature["context_start"]
        places[number, there, 0] = offsets[candidates.starts[number, there] - first, 0]
        places[number, there, 1] = offsets[candidates.ends[number, there] - first, 1]
    return places
