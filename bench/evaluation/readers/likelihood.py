"""Reader of label likelihoods: predicts the label whose tokens are the likeliest after the prompt."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.config.recipe import Prompting
from bench.data.examples import Encoded
from bench.evaluation import likelihood
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.base import Checked
from bench.models.autocast import autocast


class LikelihoodReader:
    """The answer whose tokens are the likeliest behind the prompt.

    scores: the softmax of the labels' log-likelihoods, after normalisation and calibration.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, prompting: Prompting, words: Sequence[str]):
        self.split, self.prompting = split, prompting
        self.autocast = partial(autocast, scoring.device, scoring.precision)
        options = {"pad_token_id": scoring.tokenizer.pad_token_id, "autocast": self.autocast}
        options["budget"] = scoring.batch_tokens
        self.items = [_item(feature) for feature in split.features]
        self.scorer = likelihood.Scorer(model, self.items, **options)
        self.batches = self.scorer.batches
        self.characters = np.array([len(word) for word in words])
        places: dict[likelihood.Item, int] = {}
        # Shots that are the same for all make the same few questions without content.
        self.contentless = [
            [places.setdefault(_item(empty), len(places)) for empty in feature.get("contentless", ())]
            for feature in split.features
        ]
        self.empty = likelihood.Scorer(model, list(places), **options) if places else None
        self._empty_scores: dict[int, np.ndarray] = {}

    @property
    def notes(self) -> list[str]:
        """Fallbacks of the scorer."""
        return [*self.scorer.notes, *(self.empty.notes if self.empty else [])]

    def read(self, numbers: list[int]) -> list[Answer]:
        """One batch of the scorer."""
        sums = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        self._read_contentless(numbers)
        return [self._answer(number, found) for number, found in zip(numbers, sums, strict=True)]

    def _read_contentless(self, numbers: list[int]) -> None:
        wanted = dict.fromkeys(place for number in numbers for place in self.contentless[number])
        missing = [place for place in wanted if place not in self._empty_scores]
        if missing and self.empty is not None:
            found = self.empty.run(missing)
            self._empty_scores |= {place: np.array(answer.sums) for place, answer in zip(missing, found, strict=True)}

    def scores(self, number: int, sums: np.ndarray) -> np.ndarray:
        """Log-likelihoods [labels] -> probabilities [labels]."""
        logits = self._normalized(number, sums)
        places = self.contentless[number]
        if places:
            # The mean of the probabilities that each label gets without any content (Zhao et al. 2021).
            empty = [_softmax(self._normalized(number, self._empty_scores[place])) for place in places]
            logits = logits - np.log(np.maximum(np.mean(empty, axis=0), np.finfo(float).tiny))
        return _softmax(logits)

    def _normalized(self, number: int, sums: np.ndarray) -> np.ndarray:
        if self.prompting.normalization == "tokens":
            return sums / np.array([len(rest) for rest in self.split.features[number]["rests"]])
        return sums / self.characters if self.prompting.normalization == "characters" else sums

    def _answer(self, number: int, sums: np.ndarray) -> Answer:
        scores = self.scores(number, sums)
        extra = {"log_likelihoods": sums.tolist(), "prompt_hash": self.split.features[number]["prompt_hash"]}
        # Equally likely labels: the first one, as numpy's argmax gives it.
        return Answer(prediction=int(scores.argmax()), scores=scores.tolist(), extra=extra)

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Scores examples again by one ordinary forward per answer."""
        fast = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        with self.autocast():
            plain = [np.array(likelihood.plain(model, self.items[number]).sums) for number in numbers]
        self._read_contentless(numbers)
        largest = max(float(np.abs(left - right).max()) for left, right in zip(fast, plain, strict=True))
        changed = sum(
            self.scores(number, left).argmax() != self.scores(number, right).argmax()
            for number, left, right in zip(numbers, fast, plain, strict=True)
        )
        return Checked(examples=len(numbers), largest=largest, changed=int(changed))


def _item(feature: dict[str, Any]) -> likelihood.Item:
    return likelihood.Item(
        context=tuple(feature["trunk"]), continuations=tuple(tuple(rest) for rest in feature["rests"])
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
