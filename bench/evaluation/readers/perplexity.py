"""Reader of running text: the loss of its tokens, window by window, by one forward pass each; nothing is generated."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.data.examples import Encoded
from bench.errors import DivergedError
from bench.evaluation import likelihood, self_check
from bench.evaluation.reader import Answer, Scoring
from bench.models.autocast import autocast


class PerplexityReader:
    """Scores the tokens of each window given those before it in the window; see `windows`."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.split = split
        items = [
            likelihood.Item(context=tuple(each["prompt_ids"]), continuations=(tuple(each["continuation_ids"]),))
            for each in split.features
        ]
        self.scorer = likelihood.Scorer(
            model,
            items,
            pad_token_id=scoring.tokenizer.pad_token_id,
            budget=scoring.batch_tokens,
            autocast=partial(autocast, scoring.device, scoring.precision),
            agree=self_check.first_reason,
            checked=scoring.checked,
            shared=scoring.shared_prefix,
        )
        self.batches = self.scorer.batches

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing the scorer with the plain path took."""
        return self.scorer.check_s

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks of the scorer."""
        return [note.replace("label", "window") for note in self.scorer.notes]

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score one batch. Raises DivergedError for a loss that is not finite."""
        answers = []
        for number, scored in zip(numbers, self.scorer.run(numbers), strict=True):
            if not math.isfinite(scored.sums[0]):
                raise DivergedError(
                    f"{self.split.name}: the loss of a text is not finite: weights are not finite, or fp16 overflows; "
                    "use bf16 or float32"
                )
            tokens = len(self.split.features[number]["continuation_ids"])
            answers.append(
                Answer(prediction="", scores=[], extra={"reference_nll": -scored.sums[0], "reference_tokens": tokens})
            )
        return answers


def windows(name: str, tokens: Sequence[int], size: int, first: int | None, limit: int | None) -> Encoded:
    """Cut a text into windows of `size` tokens that do not overlap; return them encoded, at most `limit`.

    first: the token that each window begins with, of a tokenizer that has one (bos); else a window's own first token is
    not scored. A last window of a single token that would not be scored is left out.
    """
    own = size - (first is not None)
    parts = [list(tokens[start : start + own]) for start in range(0, len(tokens), own)]
    features = []
    for part in parts[:limit]:
        context, scored = ([first], part) if first is not None else (part[:1], part[1:])
        if scored:
            features.append(
                {"input_ids": [*context, *scored], "prompt_ids": context, "continuation_ids": scored, "labels": []}
            )
    ids = tuple(f"{number:06}" for number in range(len(features)))
    return Encoded(name=name, ids=ids, features=features, truncated=0, in_words=True)
