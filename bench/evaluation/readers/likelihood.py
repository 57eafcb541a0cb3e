"""Reader of label likelihoods: predicts the label whose tokens are the likeliest after the prompt."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.config.recipe import Prompting
from bench.data.examples import Encoded, Feature
from bench.data.prompts.encode import prompt_identity
from bench.evaluation import likelihood, self_check
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.base import Checked
from bench.models.autocast import autocast


class LikelihoodReader:
    """Predicts the label whose tokens are the likeliest after the prompt.

    Scores are the softmax of the labels' log-likelihoods, after normalisation and calibration.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, prompting: Prompting, words: Sequence[str]):
        self.split, self.prompting = split, prompting
        self.autocast = partial(autocast, scoring.device, scoring.precision)
        options = {"pad_token_id": scoring.tokenizer.pad_token_id, "autocast": self.autocast}
        options |= {"budget": scoring.batch_tokens, "agree": self_check.first_reason, "checked": scoring.checked}
        options["shared"] = scoring.shared_prefix
        self.items = [_item(feature) for feature in split.features]
        make = scoring.scorer or likelihood.Scorer
        self.scorer = make(model, self.items, **options)
        self.batches = self.scorer.batches
        self.characters = np.array([len(word) for word in words])
        places: dict[likelihood.Item, int] = {}
        # With the same shots for all examples, these are the same few prompts.
        self.content_free = [
            [places.setdefault(_item(prompt), len(places)) for prompt in feature.get("content_free", ())]
            for feature in split.features
        ]
        self.content_free_scorer = make(model, list(places), **options) if places else None
        self._content_free_sums: dict[int, np.ndarray] = {}

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing the scorer with the plain path took."""
        return self.scorer.check_s + (self.content_free_scorer.check_s if self.content_free_scorer else 0.0)

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks of the scorer."""
        return [*self.scorer.notes, *(self.content_free_scorer.notes if self.content_free_scorer else [])]

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score one batch."""
        sums = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        self._score_content_free(numbers)
        return [self._answer(number, row_sums) for number, row_sums in zip(numbers, sums, strict=True)]

    def _score_content_free(self, numbers: list[int]) -> None:
        wanted = dict.fromkeys(place for number in numbers for place in self.content_free[number])
        missing = [place for place in wanted if place not in self._content_free_sums]
        if missing and self.content_free_scorer is not None:
            for place, answer in zip(missing, self.content_free_scorer.run(missing), strict=True):
                self._content_free_sums[place] = np.array(answer.sums)

    def scores(self, number: int, sums: np.ndarray) -> np.ndarray:
        """Turn log-likelihoods [labels] into probabilities [labels]."""
        logits = self._normalized(number, sums)
        places = self.content_free[number]
        if places:
            # The mean of the probabilities that each label gets without any content (Zhao et al. 2021).
            biases = [_softmax(self._normalized(number, self._content_free_sums[place])) for place in places]
            logits = logits - np.log(np.maximum(np.mean(biases, axis=0), np.finfo(float).tiny))
        return _softmax(logits)

    def _normalized(self, number: int, sums: np.ndarray) -> np.ndarray:
        if self.prompting.normalization == "tokens":
            return sums / np.array([len(ids) for ids in self.split.features[number]["continuation_ids"]])
        return sums / self.characters if self.prompting.normalization == "characters" else sums

    def _answer(self, number: int, sums: np.ndarray) -> Answer:
        scores = self.scores(number, sums)
        extra = {"log_likelihoods": sums.tolist(), **prompt_identity(self.split.features[number])}
        # Equally likely labels: the first one, as numpy's argmax gives it.
        return Answer(prediction=int(scores.argmax()), scores=scores.tolist(), extra=extra)

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Score examples again by one ordinary forward per answer, and compare."""
        fast = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        with self.autocast():
            plain = [np.array(likelihood.plain(model, self.items[number]).sums) for number in numbers]
        self._score_content_free(numbers)
        largest = max(float(np.abs(left - right).max()) for left, right in zip(fast, plain, strict=True))
        changed = sum(
            self.scores(number, left).argmax() != self.scores(number, right).argmax()
            for number, left, right in zip(numbers, fast, plain, strict=True)
        )
        return Checked(examples=len(numbers), largest=largest, changed=int(changed))


def _item(feature: Feature) -> likelihood.Item:
    return likelihood.Item(
        context=tuple(feature["prompt_ids"]), continuations=tuple(tuple(ids) for ids in feature["continuation_ids"])
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
